//! Wireshark's own command line lists our interfaces and captures from them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kuberewind_tests::traffic::{numbered, send_frame};
use kuberewind_tests::{Recorder, VethPair, data_dir, kuberewind, succeed};
use rustix::process::Signal;

/// A recorder with so many numbered packets in it.
fn recorder_with(packets: u32, pair: &VethPair, data: &Path) -> Recorder {
    let room = ["--set", "pcapdump.minFree=1MB"];
    let recorder = Recorder::start(data, &[&pair.receiver], &room);
    for number in 0..packets {
        send_frame(&pair.sender, VethPair::INTERFACE, &numbered(number, 100));
    }
    recorder.wait_status("the packets", Duration::from_secs(10), |status| {
        status.packets >= u64::from(packets)
    });
    recorder
}

/// tshark with a home of its own, in which kuberewind is installed.
struct Shark {
    home: tempfile::TempDir,
}

impl Shark {
    fn with(data: &Path) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let shark = Self { home };
        let mut install = kuberewind();
        install.args(["extcap", "--install", "--data-dir"]).arg(data);
        let said = succeed(shark.at_home(&mut install));
        assert!(said.contains("wireshark/extcap/kuberewind"), "{said}");
        shark
    }

    fn at_home<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let home = self.home.path();
        command
            .env("HOME", home)
            .env("XDG_CONFIG_HOME", home.join(".config"))
            .env_remove("KUBECONFIG")
            .env_remove("WIRESHARK_EXTCAP_DIR")
    }

    fn run(&self, arguments: &[&str]) -> String {
        succeed(self.at_home(Command::new("tshark").args(arguments)))
    }
}

#[test]
fn tshark_lists_the_recording_and_reads_it() {
    let (pair, data) = (VethPair::new(1500), data_dir());
    let recorder = recorder_with(30, &pair, data.path());
    let shark = Shark::with(data.path());

    let listed = shark.run(&["-D"]);
    assert!(listed.contains("kuberewind-local (kuberewind: this machine's recording)"), "{listed}");
    assert!(!listed.contains("kuberewind-cluster"), "there is no kubeconfig: {listed}");

    let ten =
        shark.run(&["-i", "kuberewind-local", "-c", "10", "-T", "fields", "-e", "frame.number"]);
    assert_eq!(ten.lines().count(), 10, "{ten}");
    let all =
        shark.run(&["-i", "kuberewind-local", "-f", "udp", "-T", "fields", "-e", "frame.number"]);
    assert_eq!(all.lines().count(), 30, "{all}");
    let none =
        shark.run(&["-i", "kuberewind-local", "-f", "tcp", "-T", "fields", "-e", "frame.number"]);
    assert_eq!(none.lines().count(), 0, "{none}");
    assert!(recorder.stop_by(Signal::TERM).success());
}

#[test]
fn following_goes_on_with_packets_as_they_come() {
    let (pair, data) = (VethPair::new(1500), data_dir());
    let recorder = recorder_with(5, &pair, data.path());
    let shark = Shark::with(data.path());
    let option = "extcap.kuberewind_local.follow:true";
    let mut tshark = Command::new("tshark");
    tshark.args([
        "-o",
        option,
        "-i",
        "kuberewind-local",
        "-c",
        "20",
        "-T",
        "fields",
        "-e",
        "frame.number",
    ]);
    shark.at_home(&mut tshark).stdout(std::process::Stdio::piped());
    let tshark = tshark.spawn().expect("tshark");
    // Until it has its twenty there is something to see.
    let (ended, end) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn(move || {
        let output = tshark.wait_with_output();
        let _ = ended.send(());
        output
    });
    for number in 5.. {
        send_frame(&pair.sender, VethPair::INTERFACE, &numbered(number, 100));
        match end.recv_timeout(Duration::from_millis(100)) {
            Ok(()) => break,
            Err(_) => assert!(number < 600, "tshark does not end"),
        }
    }
    let output = waiting.join().unwrap().expect("tshark");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 20);
    assert!(recorder.stop_by(Signal::TERM).success());
}
