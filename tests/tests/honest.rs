//! What is not in the file is counted: sent = recorded + lost, wherever one looks.

use std::time::Duration;

use kuberewind_tests::traffic::{Rate, number_of, numbered, send, write_pcap};
use kuberewind_tests::{Recorder, VethPair, data_dir, window};
use rustix::process::Signal;

const SENT: u32 = 30_000;

/// A recorder that is held up cannot empty its ring, and the kernel drops what finds no room.
#[test]
fn what_a_ring_lost_is_counted_in_status_and_in_every_export_also_after_a_restart() {
    let (pair, data, out) = (VethPair::new(1500), data_dir(), tempfile::tempdir().unwrap());
    let pcap = out.path().join("burst.pcap");
    write_pcap(&pcap, (0..SENT).map(|number| numbered(number, 1400)));
    let report = out.path().join("report.json");
    let small = ["--set", "tap.ringMemory=1MiB"];
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &small);

    recorder.program().signal(Signal::STOP);
    send(&pair.sender, VethPair::INTERFACE, &pcap, Rate::PerSecond(50_000));
    recorder.program().signal(Signal::CONT);

    let kept_now = || {
        let file = window(data.path(), 3, &["--report", &report.display().to_string()]);
        let numbers = file.packets().filter_map(|packet| number_of(packet.data));
        u64::try_from(numbers.filter(|number| *number < SENT).count()).unwrap()
    };
    let status = recorder.wait_status("the loss", Duration::from_secs(10), |s| s.lost() > 0);
    let kept = kept_now();
    assert_eq!(recorder.status().lost(), status.lost());
    assert!(status.losses["ring"] + status.losses["ring-memory"] == status.lost(), "{status:?}");
    // The kernel's own chatter (router solicitations and the like) may be lost too.
    let lost = status.lost();
    assert!((u64::from(SENT)..=u64::from(SENT) + 20).contains(&(kept + lost)), "{kept} + {lost}");
    assert_eq!(reported(&report), lost);

    recorder.stop_by(Signal::TERM);
    assert_eq!(kept_now(), kept);
    assert_eq!(reported(&report), lost, "after the recorder has gone");
}

/// The losses of a report, added up.
fn reported(report: &std::path::Path) -> u64 {
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let losses = report["nodes"][0]["losses"].as_array().unwrap();
    losses.iter().map(|loss| loss["packets"].as_u64().unwrap()).sum()
}
