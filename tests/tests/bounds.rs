//! Bounds that hold at every moment: of the disk and of the memory.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use kuberewind_packet::pcapng::packet_block_len;
use kuberewind_tests::traffic::{Flood, numbered, send_frame, write_pcap};
use kuberewind_tests::{CaptureFile, DirUsage, Recorder, VethPair, data_dir, usage, window};

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

#[test]
fn one_namespace_is_recorded_in_128_megabytes() {
    let (pair, data) = (VethPair::new(1500), data_dir());
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
    send_frame(&pair.sender, VethPair::INTERFACE, &numbered(1, 100));
    recorder.window(&[]);
    let resident = recorder.program().resident();
    assert!(resident < MAX_RESIDENT, "{resident} bytes resident");
}

/// The most that `dir` took, by each measure, while `action` ran: looked at every few milliseconds.
fn watch(dir: &Path, pid: u32, action: impl FnOnce()) -> DirUsage {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = DirUsage::default();
            while !done.load(Ordering::Relaxed) {
                most = most.max(usage(dir, Some(pid)));
                thread::park_timeout(Duration::from_millis(3));
            }
            most
        });
        let _stop = StopOnDrop(&done);
        action();
        done.store(true, Ordering::Relaxed);
        watcher.join().expect("the watcher")
    })
}

/// Ends the watcher also when the action panics, so that the panic comes out.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn packet_bytes(file: &CaptureFile) -> u64 {
    let lens = file.packets().map(|p| u32::try_from(p.data.len()).expect("a packet's length"));
    lens.map(|len| packet_block_len(len) as u64).sum()
}
