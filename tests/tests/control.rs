//! Stopped, started again, and followed live.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use kuberewind_tests::traffic::{number_of, numbered, send_frame};
use kuberewind_tests::{CaptureFile, Recorder, VethPair, data_dir, kuberewind, succeed, wait_for};
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(5);

#[test]
fn what_is_sent_while_stopped_is_not_recorded_also_after_a_restart() {
    let (pair, data) = (VethPair::new(1500), data_dir());
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
    let send = |number| send_frame(&pair.sender, VethPair::INTERFACE, &numbered(number, 100));
    let switch = |to: &str| {
        let mut command = kuberewind();
        succeed(command.args(["pcapdump", to, "--local", "--data-dir"]).arg(data.path()));
    };
    send(1);
    switch("stop");
    recorder.wait_status("the stop", SOON, |status| !status.recording);
    send(2);
    assert_eq!(numbers(&recorder.window(&[])), [1]);
    recorder.stop_by(Signal::TERM);

    let recorder = Recorder::spawn(data.path(), &[pair.receiver.name()], &[]);
    recorder.wait_status("an answer", SOON, |status| !status.recording);
    send(3);
    switch("start");
    recorder.wait_status("the start", SOON, |status| {
        status.recording && status.namespace(pair.receiver.name()).is_some()
    });
    send(4);
    assert_eq!(numbers(&recorder.window(&[])), [1, 4]);
}

#[test]
fn a_disabled_recorder_waits_for_its_start() {
    let (pair, data) = (VethPair::new(1500), data_dir());
    let disabled = ["--set", "pcapdump.enabled=false"];
    let recorder = Recorder::spawn(data.path(), &[pair.receiver.name()], &disabled);
    recorder.wait_status("an answer", SOON, |status| !status.recording);
    let mut command = kuberewind();
    succeed(command.args(["pcapdump", "start", "--local", "--data-dir"]).arg(data.path()));
    recorder.wait_status("the start", SOON, |status| {
        status.recording && status.namespace(pair.receiver.name()).is_some()
    });
    send_frame(&pair.sender, VethPair::INTERFACE, &numbered(1, 100));
    assert_eq!(numbers(&recorder.window(&[])), [1]);
}

#[test]
fn followed_into_tshark_a_packet_shows_within_two_seconds() {
    let (pair, data) = (VethPair::new(1500), data_dir());
    let _recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
    let tshark = Followed::start(data.path());
    // The first one shows that it follows at all, however long the two programs take to start.
    let deadline = Duration::from_secs(20);
    wait_for("tshark to show the first packet", deadline, || {
        send_frame(&pair.sender, VethPair::INTERFACE, &numbered(1, 100));
        tshark.shown(Duration::from_secs(1), 1)
    });

    send_frame(&pair.sender, VethPair::INTERFACE, &numbered(2, 100));
    let sent = Instant::now();
    let shown = tshark.shown(Duration::from_secs(2), 2);

    assert!(shown.is_some(), "not shown after {:?}", sent.elapsed());
}

/// `pcapdump --local --follow --dest - | tshark -r -`.
struct Followed {
    children: [Child; 2],
    lines: Receiver<String>,
}

impl Followed {
    fn start(data_dir: &std::path::Path) -> Self {
        let mut pcapdump = kuberewind();
        pcapdump.args(["pcapdump", "--local", "--follow", "--dest", "-", "--data-dir"]);
        let pcapdump = pcapdump.arg(data_dir).stdout(Stdio::piped()).stdin(Stdio::null());
        let mut pcapdump = pcapdump.spawn().expect("pcapdump");
        let mut tshark = Command::new("tshark");
        tshark.args(["-n", "-l", "-r", "-", "-T", "fields", "-e", "eth.src"]);
        tshark.stdin(pcapdump.stdout.take().expect("a pipe")).stdout(Stdio::piped());
        let mut tshark = tshark.spawn().expect("tshark; run `cargo xtask setup`");
        // tshark's lines --> the test; ends with tshark.
        let (send, lines) = mpsc::channel();
        let out = BufReader::new(tshark.stdout.take().expect("a pipe"));
        thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|l| send.send(l)));
        Self { children: [pcapdump, tshark], lines }
    }

    /// Waits for the frame of this number.
    fn shown(&self, within: Duration, number: u32) -> Option<()> {
        let frame = numbered(number, 0);
        let source = frame[6..12].iter().map(|byte| format!("{byte:02x}"));
        let source = source.collect::<Vec<_>>().join(":");
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.lines.recv_timeout(left).ok()? == source {
                return Some(());
            }
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn numbers(file: &CaptureFile) -> Vec<u32> {
    file.packets().filter_map(|packet| number_of(packet.data)).collect()
}
