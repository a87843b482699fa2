//! A disk that fails, a thread that stands still, namespaces that come and go: what is not recorded
//! is said, the recorder stays, and goes on by itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kuberewind_tests::traffic::{Rate, number_of, numbered, send, send_frame, write_pcap};
use kuberewind_tests::{
    Churn, Holdings, LoopDisk, Program, Recorder, StallingDisk, VethPair, data_dir, kuberewind,
    output, succeed, wait_until, window,
};
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(15);
/// What stands still for ten seconds is said to be stuck.
const STUCK: Duration = Duration::from_secs(25);

fn health(data: &Path) -> String {
    let mut curl = Command::new("curl");
    curl.args(["-s", "--unix-socket"]).arg(data.join("agent.sock"));
    succeed(curl.arg("http://localhost/healthz"))
}

fn exit_code_of_status(data: &Path) -> Option<i32> {
    let mut status = kuberewind();
    output(status.args(["status", "--local", "--data-dir"]).arg(data)).status.code()
}

fn poke(pair: &VethPair) {
    send_frame(&pair.sender, VethPair::INTERFACE, &numbered(1, 100));
}

#[test]
fn a_disk_that_stands_still_is_noticed_and_caught_up_with() {
    let (pair, disk) = (VethPair::new(1500), LoopDisk::new(64_000_000, 100_000_000));
    let data = disk.path().join("d");
    let settings = ["--set", "pcapdump.maxSize=30MB", "--set", "pcapdump.minFree=0B"];
    let recorder = Recorder::start(&data, &[&pair.receiver], &settings);
    poke(&pair);
    let before = recorder.wait_status("a packet", SOON, |status| status.packets > 0);

    disk.freeze();
    poke(&pair);
    wait_until("healthz to say so", STUCK, || health(&data).contains("write to the disk"));
    assert_eq!(exit_code_of_status(&data), Some(3));
    disk.thaw();

    wait_until("healthz to be ok", SOON, || health(&data) == "ok\n");
    assert_eq!(exit_code_of_status(&data), Some(0));
    let after = recorder.wait_status("the packet", SOON, |status| status.packets > before.packets);
    assert_eq!(after.lost(), 0, "what waited was not lost");
}

#[test]
fn a_disk_that_stands_still_most_of_the_time_costs_no_packet() {
    const PACKETS: u32 = 180_000;
    let (pair, mut disk) = (VethPair::new(1500), StallingDisk::new(800_000_000));
    let (data, out) = (disk.path().join("d"), tempfile::tempdir().unwrap());
    let settings = ["--set", "pcapdump.maxSize=600MB", "--set", "pcapdump.minFree=0B"];
    let recorder = Recorder::start(&data, &[&pair.receiver], &settings);
    let pcap = out.path().join("some.pcap");
    write_pcap(&pcap, (0..PACKETS).map(|number| numbered(number, 1000)));

    disk.stall(Duration::from_millis(900), Duration::from_millis(20));
    send(&pair.sender, VethPair::INTERFACE, &pcap, Rate::PerSecond(30_000));
    disk.go();

    let status = recorder.wait_status("all of them", SOON, |status| {
        status.packets + status.lost() >= u64::from(PACKETS)
    });
    assert_eq!(status.lost(), 0, "{:?}", status.losses);
    let exported = window(&data, 0, &[]);
    let numbers: BTreeSet<u32> =
        exported.packets().filter_map(|packet| number_of(packet.data)).collect();
    assert_eq!(numbers.len(), PACKETS as usize);
}

#[test]
fn a_device_with_less_room_than_it_says_costs_packets_and_not_what_is_held() {
    let (pair, disk) = (VethPair::new(1500), LoopDisk::new(100_000_000, 22_000_000));
    let (data, out) = (disk.path().join("d"), tempfile::tempdir().unwrap());
    let settings = ["--set", "pcapdump.maxSize=60MB", "--set", "pcapdump.minFree=0B"];
    let recorder = Recorder::start(&data, &[&pair.receiver], &settings);
    let pcap = out.path().join("some.pcap");
    write_pcap(&pcap, (0..40_000).map(|number| numbered(number, 1000)));
    send(&pair.sender, VethPair::INTERFACE, &pcap, Rate::PerSecond(10_000));
    let failing = recorder.wait_status("the loss", SOON, |status| status.losses["disk"] > 0);
    wait_until("healthz to say so", STUCK, || {
        poke(&pair);
        health(&data).contains("nothing could be written")
    });
    assert_eq!(exit_code_of_status(&data), Some(3));
    let held = window(&data, 3, &[]).packets().count() as u64;
    assert!(held >= failing.packets / 10 * 7, "{held} of {} are there", failing.packets);

    disk.really(200_000_000);
    wait_until("healthz to be ok", SOON, || {
        poke(&pair);
        health(&data) == "ok\n"
    });
    recorder.wait_status("packets again", SOON, |status| status.packets > failing.packets);
    assert_eq!(recorder.stop_by(Signal::TERM).code(), Some(0));
    window(&data, 3, &[]);
}

/// Stops one thread of a process, and only that one, for as long as it lives.
fn hold_thread(pid: u32, name: &str) -> Program {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let mut tasks = tasks.map(|task| task.path());
    let called = |task: &std::path::PathBuf| {
        fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    let task = tasks.find(called).unwrap_or_else(|| panic!("no thread {name}"));
    let task = task.file_name().unwrap().to_str().unwrap().to_owned();
    // PTRACE_SEIZE, PTRACE_INTERRUPT; the thread goes on when its tracer ends.
    let script = "import ctypes, sys, time\n\
        libc = ctypes.CDLL(None, use_errno=True)\n\
        libc.ptrace.argtypes = [ctypes.c_long] * 4\n\
        assert libc.ptrace(0x4206, int(sys.argv[1]), 0, 0) == 0, ctypes.get_errno()\n\
        assert libc.ptrace(0x4207, int(sys.argv[1]), 0, 0) == 0, ctypes.get_errno()\n\
        print('held', flush=True)\n\
        time.sleep(1000)\n";
    let mut program = Program::start(Command::new("python3").args(["-c", script, &task]));
    program.wait_to_say("held", SOON);
    program
}

#[test]
fn a_thread_that_stands_still_is_noticed_whichever_it_is() {
    for (thread, said) in
        [("capture-0", "a capture thread"), ("store-writer", "a write to the disk")]
    {
        let (pair, data) = (VethPair::new(1500), data_dir());
        let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
        assert_eq!(health(data.path()), "ok\n");
        let held = hold_thread(recorder.program().id(), thread);
        poke(&pair);
        wait_until("healthz to say so", STUCK, || health(data.path()).contains(said));
        assert_eq!(exit_code_of_status(data.path()), Some(3), "{thread}");
        drop(held);
        wait_until("healthz to be ok", SOON, || health(data.path()) == "ok\n");
        recorder.wait_status("the packet", SOON, |status| status.packets > 0);
    }
}

#[test]
fn a_hundred_namespaces_come_and_go_and_nothing_is_left_of_them() {
    let (churn, data) = (Churn::new(10), data_dir());
    let recorder = Recorder::spawn(data.path(), &churn.names(), &[]);
    recorder.wait_status("an answer", SOON, |_| true);
    churn.turn(&recorder);
    let before = Holdings::of(recorder.program());
    for _ in 0..10 {
        churn.turn(&recorder);
    }
    let none = |holdings: Holdings| Holdings { resident: 0, ..holdings };
    wait_until(&format!("as much as before: {before:?}"), SOON, || {
        none(Holdings::of(recorder.program())) == none(before)
    });
    let after = Holdings::of(recorder.program());
    assert!(after.resident < before.resident + 8_000_000, "{before:?} {after:?}");
    assert_eq!(after.rings, 0);
}
