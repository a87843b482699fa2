//! tcpdump beside the recorder.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{CaptureFile, Netns, Program, wait_until};

/// How much of the file's end is searched for the last frame.
const TAIL: u64 = 1 << 20;

/// tcpdump on one interface, writing to a file of its own.
#[derive(Debug)]
pub struct Tcpdump {
    program: Program,
    file: PathBuf,
    _dir: TempDir,
}

impl Tcpdump {
    /// Starts it and waits until it listens. Its kernel ring is 64 MiB, large enough for half a
    /// second at full load; `-U` writes each packet at once, so that the file shows how far it is.
    pub fn start(netns: &Netns, interface: &str) -> Self {
        Self::spawn(netns.exec("tcpdump").args(["-U", "-B", "65536"]), interface)
    }

    /// As tcpdump does by itself (a ring of 2 MiB, writing when its buffer is full), but with these
    /// arguments.
    pub fn start_plain(netns: &Netns, interface: &str, arguments: &[&str]) -> Self {
        Self::spawn(netns.exec("tcpdump").args(arguments), interface)
    }

    fn spawn(command: &mut Command, interface: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("tcpdump.pcap");
        command.args(["-i", interface, "-n", "-Z", "root"]);
        command.args(["--time-stamp-precision", "nano", "-w"]).arg(&file);
        let mut program = Program::start(command);
        program.wait_to_say("listening on", Duration::from_secs(10));
        Self { program, file, _dir: dir }
    }

    /// The process.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Its file so far.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Waits until `frame` is near the end of its file: SIGTERM makes it forget what is still in its
    /// ring.
    pub fn wait_to_hold(&self, frame: &[u8], within: Duration) {
        wait_until("tcpdump to write the last frame", within, || {
            let end = tail(&self.file);
            end.windows(frame.len()).any(|window| window == frame)
        });
    }

    /// Waits for the last frame, stops, and gives what it has; panics when it lost a packet.
    pub fn stop_after(mut self, last: &[u8]) -> CaptureFile {
        self.wait_to_hold(last, Duration::from_secs(30));
        let dropped = self.stop();
        assert_eq!(dropped, 0, "tcpdump lost packets itself: nothing to compare with");
        CaptureFile::read(&self.file)
    }

    /// Stops it and gives how many packets it says the kernel dropped.
    pub fn stop(&mut self) -> u64 {
        self.program.signal(Signal::TERM);
        self.program.ended(Duration::from_secs(10));
        let said = self.program.said();
        let dropped = said.lines().find_map(|line| line.strip_suffix(" dropped by kernel"));
        let number = dropped.and_then(|line| line.split(' ').next()?.parse().ok());
        number.unwrap_or_else(|| panic!("tcpdump does not say what it lost:\n{said}"))
    }
}

fn tail(path: &Path) -> Vec<u8> {
    let mut end = Vec::new();
    let Ok(mut file) = File::open(path) else { return end };
    let len = file.metadata().map_or(0, |metadata| metadata.len());
    let read = file.seek(SeekFrom::Start(len.saturating_sub(TAIL)));
    let _ = read.and_then(|_| file.read_to_end(&mut end));
    end
}
