//! Bounds that hold at every moment: of the disk and of the memory.

use std::time::Duration;

use kuberewind_packet::pcapng::packet_block_len;
use kuberewind_tests::traffic::{Flood, numbered, send_frame, write_pcap};
use kuberewind_tests::{
    CaptureFile, Recorder, VethPair, data_dir, kuberewind, succeed, watch, window,
};
use rustix::process::Signal;

const MAX_SIZE: u64 = 50_000_000;
/// What the recorder of one network namespace may take of the main memory, rings included.
const MAX_RESIDENT: u64 = 128_000_000;

#[test]
fn a_minute_of_flood_never_takes_more_than_max_size_and_fills_nine_tenths_of_it() {
    let (pair, data, out) = (VethPair::new(1500), data_dir(), tempfile::tempdir().unwrap());
    let arguments = ["--set", "pcapdump.maxSize=50MB", "--set", "pcapdump.timeInterval=1m"];
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &arguments);
    let pid = recorder.program().id();
    let pcap = out.path().join("flood.pcap");
    write_pcap(&pcap, (0..5_000).map(|number| numbered(number, 1000)));

    let most = watch(data.path(), pid, || {
        let mut flood = Flood::start(&pair.sender, VethPair::INTERFACE, &pcap);
        flood.go_on_for(Duration::from_mins(1));
    });

    assert!(most.length <= MAX_SIZE && most.larger <= MAX_SIZE, "more than {MAX_SIZE}: {most:?}");
    let status = recorder.status();
    assert!(status.bytes_held <= MAX_SIZE, "{} bytes held", status.bytes_held);
    assert!(status.packets * 1000 > 3 * MAX_SIZE, "only {} packets", status.packets);
    let held = packet_bytes(&window(data.path(), 0, &["--allow-partial"]));
    assert!(held >= MAX_SIZE / 10 * 9, "only {held} bytes of packets");
    let resident = recorder.program().resident();
    assert!(resident < MAX_RESIDENT, "{resident} bytes resident after the flood");
}

/// Each bound holds from the moment at which it was set.
#[test]
fn max_size_holds_while_it_is_shrunk_and_grown_live_and_across_restarts_under_load() {
    let (pair, data, out) = (VethPair::new(1500), data_dir(), tempfile::tempdir().unwrap());
    let pcap = out.path().join("flood.pcap");
    write_pcap(&pcap, (0..5_000).map(|number| numbered(number, 1000)));
    let mut flood = Flood::start(&pair.sender, VethPair::INTERFACE, &pcap);
    let start = |size: &str| {
        let size = format!("pcapdump.maxSize={size}");
        Recorder::start(data.path(), &[&pair.receiver], &["--set", &size])
    };
    let mut holds = |recorder: &Recorder, bound: u64| {
        let pid = recorder.program().id();
        let most = watch(data.path(), pid, || flood.go_on_for(Duration::from_secs(4)));
        assert!(most.length <= bound && most.larger <= bound, "more than {bound}: {most:?}");
        assert!(most.larger >= bound / 10 * 8, "{bound} is not made use of: {most:?}");
    };
    let mut recorder = start("50MB");
    flood_until_full(&recorder, 45_000_000);
    holds(&recorder, 50_000_000);
    for (live, restarted) in [(20_000_000u64, 40_000_000u64), (45_000_000, 16_000_000)] {
        let mut set = kuberewind();
        set.args(["config", "set", &format!("pcapdump.maxSize={}KB", live / 1000), "--local"]);
        succeed(set.arg("--data-dir").arg(data.path()));
        flood_until_full(&recorder, live / 10 * 9);
        holds(&recorder, live);
        recorder.stop_by(Signal::KILL);
        recorder = start(&format!("{}KB", restarted / 1000));
        flood_until_full(&recorder, restarted / 10 * 9);
        holds(&recorder, restarted);
    }
}

fn flood_until_full(recorder: &Recorder, bytes: u64) {
    let soon = Duration::from_mins(1);
    recorder.wait_status("the bound to be reached", soon, |status| status.bytes_held >= bytes);
}

#[test]
fn one_namespace_is_recorded_in_128_megabytes() {
    let (pair, data) = (VethPair::new(1500), data_dir());
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
    send_frame(&pair.sender, VethPair::INTERFACE, &numbered(1, 100));
    recorder.window(&[]);
    let resident = recorder.program().resident();
    assert!(resident < MAX_RESIDENT, "{resident} bytes resident");
}

fn packet_bytes(file: &CaptureFile) -> u64 {
    let lens = file.packets().map(|p| u32::try_from(p.data.len()).expect("a packet's length"));
    lens.map(|len| packet_block_len(len) as u64).sum()
}
