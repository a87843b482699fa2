//! What is not in the file is counted: sent = recorded + lost, wherever one looks.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kuberewind_tests::traffic::{Rate, number_of, numbered, send, send_frame, write_pcap};
use kuberewind_tests::{
    Recorder, SmallDisk, VethPair, data_dir, kuberewind, output, succeed, wait_until, window,
};
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

/// A recorder that cannot write says so to whoever asks, and goes on by itself once it can.
#[test]
fn a_recorder_that_records_nothing_for_want_of_disk_says_so_and_goes_on_when_there_is_room() {
    let (pair, disk) = (VethPair::new(1500), SmallDisk::new(40_000_000));
    let (data, ballast) = (disk.path().join("d"), disk.path().join("ballast"));
    fs::write(&ballast, vec![1; 37_000_000]).unwrap();
    let recorder = Recorder::start(&data, &[&pair.receiver], &["--set", "pcapdump.minFree=20MB"]);
    let within = Duration::from_secs(10);
    let try_some = |number| send_frame(&pair.sender, VethPair::INTERFACE, &numbered(number, 100));

    try_some(1);
    let full = recorder.wait_status("the loss", within, |status| status.losses["disk"] > 0);
    wait_until("healthz to fail", within, || health(&data).contains("pcapdump.minFree"));
    assert_eq!(exit_code_of_status(&data), Some(3));

    fs::remove_file(&ballast).unwrap();
    wait_until("healthz to be ok", within, || health(&data) == "ok\n");
    try_some(2);
    recorder.wait_status("packets again", within, |status| status.packets > full.packets);
    assert_eq!(exit_code_of_status(&data), Some(0));
    recorder.stop_by(Signal::TERM);
}

fn health(data: &Path) -> String {
    let mut curl = Command::new("curl");
    curl.args(["-s", "--unix-socket"]).arg(data.join("agent.sock"));
    succeed(curl.arg("http://localhost/healthz"))
}

fn exit_code_of_status(data: &Path) -> Option<i32> {
    let mut status = kuberewind();
    output(status.args(["status", "--local", "--data-dir"]).arg(data)).status.code()
}

/// The losses of a report, added up.
fn reported(report: &Path) -> u64 {
    let report: serde_json::Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    let losses = report["nodes"][0]["losses"].as_array().unwrap();
    losses.iter().map(|loss| loss["packets"].as_u64().unwrap()).sum()
}
