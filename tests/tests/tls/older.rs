//! What opens connections whose handshakes are not recorded any more is in the export.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use kuberewind_packet::Timestamp;
use kuberewind_tests::{Program, pcapdump, python};

use crate::judge::unhex;
use crate::lab::{End, Lab, NGINX, WITHIN, other_end, source};

/// Each segment, a second long, is gone some seconds later.
const SHORT: &str = "pcapdump.maxTime=6s,pcapdump.timeInterval=1s";

#[test]
fn hellos_and_secrets_of_connections_that_go_on_outlive_their_packets_and_the_recorder() {
    let mut lab = Lab::with(&["--set", SHORT]);
    let _nginx = lab.nginx();
    let (closed, kept) = (lab.files.path("closed.keys"), lab.files.path("kept.keys"));
    let mut client = lab.exec(End::Peer, &python());
    client.arg(source("kept_alive.py")).args([other_end(End::Peer), &NGINX.to_string()]);
    let mut client = Program::start(client.args([&closed, &kept]));
    client.wait_to_say("ready", WITHIN);
    lab.wait_for_connections(3);

    wait_for_eviction(&lab);
    let sent = Sent::within(&lab, "2s");
    sent.assert_opens(&kept);
    sent.assert_has_nothing_of(&closed);

    lab.kill_recorder();
    Sent::within(&lab, "3s").assert_opens(&kept);

    lab.start_recorder();
    wait_for_eviction(&lab);
    Sent::within(&lab, "2s").assert_opens(&kept);
    lab.kill_recorder();
    Sent::within(&lab, "3s").assert_opens(&kept);
    client.assert_running();
}

/// Until nothing is held of what is held now.
fn wait_for_eviction(lab: &Lab) {
    let now = Timestamp::now();
    let gone = Duration::from_mins(1);
    lab.recorder().wait_status("all held packets to go", gone, |status| {
        status.oldest.is_some_and(|oldest| oldest > now)
    });
}

/// An export, and the lines of its key log.
struct Sent {
    bytes: Vec<u8>,
    lines: Vec<String>,
}

impl Sent {
    fn within(lab: &Lab, time: &str) -> Self {
        let file = lab.files.path("older.pcapng");
        let _ = fs::remove_file(&file);
        let dest = file.display().to_string();
        let done = pcapdump(lab.data_dir(), &["--time", time, "--dest", &dest]);
        let said = String::from_utf8_lossy(&done.stderr);
        let bytes = fs::read(&file).unwrap_or_else(|error| panic!("{error}\n{said}"));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        // A block's first line stands behind its header.
        let beginnings = ["CLIENT_", "SERVER_"];
        let line = |text: &str| {
            let at = beginnings.iter().find_map(|beginning| text.find(beginning))?;
            Some(text[at..].to_owned())
        };
        let lines = text.lines().filter_map(line).collect();
        Self { bytes, lines }
    }

    /// Hellos and secrets of all connections in a client's own key log.
    fn assert_opens(&self, log: &Path) {
        let lines = lines(log);
        for line in lines.iter().filter(|line| !line.starts_with("EXPORTER")) {
            assert!(self.lines.contains(line), "{line} of {} lines", self.lines.len());
        }
        let randoms = randoms(&lines);
        assert_eq!(randoms.len(), 2);
        for random in randoms {
            // The hello itself, in a packet that leads into the connection.
            let random = unhex(random);
            assert!(has(&self.bytes, &random), "no hello with {random:02x?}");
        }
    }

    fn assert_has_nothing_of(&self, log: &Path) {
        let lines = lines(log);
        for random in randoms(&lines) {
            assert!(!self.lines.iter().any(|line| line.contains(random)), "{random} is sent");
        }
    }
}

fn has(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

fn lines(log: &Path) -> Vec<String> {
    let text = fs::read_to_string(log).expect("a key log");
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

fn randoms(lines: &[String]) -> BTreeSet<&str> {
    lines.iter().filter_map(|line| line.split(' ').nth(1)).collect()
}
