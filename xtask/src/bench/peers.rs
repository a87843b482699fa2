//! Who records: kuberewind, its peers, and the limit.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use kuberewind_tests::judges::capinfos;
use kuberewind_tests::{Netns, Program, Recorder, Tcpdump, VethPair, data_dir, target_dir};
use rustix::process::Signal;
use tempfile::TempDir;

/// One of those that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// A ring that is read to nowhere: nothing can cost less.
    Limit,
    /// tcpdump with the buffer that it takes by itself (2 MiB).
    Tcpdump,
    /// tcpdump with 64 MiB.
    Tcpdump64,
    /// tcpdump that keeps 96 bytes of each packet.
    TcpdumpHeads,
    /// dumpcap with the buffer that it takes by itself (2 MiB).
    Dumpcap,
    /// Ours.
    Kuberewind,
    /// Ours, TLS secrets included.
    KuberewindTls,
    /// Ours, with every probe: secrets, and plaintext of all that is recorded.
    KuberewindProbes,
}

/// What a recorder has.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken {
    pub(super) stored: u64,
    pub(super) lost: BTreeMap<String, u64>,
}

/// A recorder at work on the receiving end of a cable.
pub(super) enum Recording {
    Limit(Program),
    Tcpdump(Tcpdump),
    Dumpcap(Program, PathBuf, TempDir),
    Kuberewind(Recorder, TempDir),
}

impl Peer {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Limit => "to nowhere",
            Self::Tcpdump => "tcpdump",
            Self::Tcpdump64 => "tcpdump -B 65536",
            Self::TcpdumpHeads => "tcpdump -s 96",
            Self::Dumpcap => "dumpcap",
            Self::Kuberewind => "kuberewind",
            Self::KuberewindTls => "kuberewind, tap.tls=true",
            Self::KuberewindProbes => "kuberewind, tap.tls=true, tap.tlsPlaintext",
        }
    }

    /// Starts it and waits until it records.
    pub(super) fn start(self, netns: &Netns) -> Recording {
        let tcpdump = |arguments: &[&str]| {
            Recording::Tcpdump(Tcpdump::start_plain(netns, VethPair::INTERFACE, arguments))
        };
        match self {
            Self::Tcpdump => tcpdump(&[]),
            Self::Tcpdump64 => tcpdump(&["-B", "65536"]),
            Self::TcpdumpHeads => tcpdump(&["-B", "65536", "-s", "96"]),
            Self::Limit => Recording::limit(netns),
            Self::Dumpcap => Recording::dumpcap(netns),
            Self::Kuberewind => Recording::kuberewind(netns, "tap.tls=false"),
            Self::KuberewindTls => Recording::kuberewind(netns, "tap.tls=true"),
            Self::KuberewindProbes => {
                Recording::kuberewind(netns, "tap.tls=true,tap.tlsPlaintext[0].regex=.")
            }
        }
    }
}

const START: Duration = Duration::from_secs(10);
/// A disk that stalls longer than this is no disk to measure on.
const DISK: Duration = Duration::from_secs(30);

impl Recording {
    fn limit(netns: &Netns) -> Self {
        let drain = target_dir().join("release/examples/drain");
        let mut program = Program::start(Command::new(drain).args([netns.name(), "3600"]));
        program.wait_to_say("reads", START);
        Self::Limit(program)
    }

    fn dumpcap(netns: &Netns) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("dumpcap.pcapng");
        let mut command = netns.exec("dumpcap");
        command.args(["-q", "-i", VethPair::INTERFACE, "-w"]).arg(&file);
        let mut program = Program::start(&mut command);
        program.wait_to_say("File:", START);
        Self::Dumpcap(program, file, dir)
    }

    fn kuberewind(netns: &Netns, tls: &str) -> Self {
        let data = data_dir();
        let settings = ["--set", "pcapdump.maxSize=4GB", "--set", tls];
        Self::Kuberewind(Recorder::start(data.path(), &[netns], &settings), data)
    }

    pub(super) fn program(&self) -> &Program {
        match self {
            Self::Limit(program) | Self::Dumpcap(program, ..) => program,
            Self::Tcpdump(tcpdump) => tcpdump.program(),
            Self::Kuberewind(recorder, _) => recorder.program(),
        }
    }

    /// Stops it, once it is idle, and says what it has of the `sent` packets.
    pub(super) fn finish(self, sent: u64) -> Taken {
        match self {
            Self::Limit(program) => drained(&program.said()),
            Self::Tcpdump(mut tcpdump) => {
                let lost = BTreeMap::from([("kernel".to_owned(), tcpdump.stop())]);
                Taken { stored: capinfos(tcpdump.file()).packets, lost }
            }
            Self::Dumpcap(mut program, file, _dir) => {
                program.signal(Signal::INT);
                program.ended(START);
                let lost = BTreeMap::from([("kernel".to_owned(), dropped(&program.said()))]);
                Taken { stored: capinfos(&file).packets, lost }
            }
            Self::Kuberewind(recorder, _data) => {
                // Idle is also who waits for the disk.
                let end = Instant::now() + DISK;
                let status = loop {
                    let status = recorder.status();
                    if status.packets + status.lost() >= sent || Instant::now() > end {
                        break status;
                    }
                    thread::sleep(Duration::from_millis(100));
                };
                Taken { stored: status.packets, lost: status.losses }
            }
        }
    }
}

/// `drain`'s last line so far: `12 packets, 768 bytes, 0 lost`.
fn drained(said: &str) -> Taken {
    let line = said.lines().rfind(|line| line.contains(" packets, "));
    let number = |place| -> Option<u64> { line?.split(' ').nth(place)?.parse().ok() };
    let lost = BTreeMap::from([("ring".to_owned(), number(4).unwrap_or_default())]);
    Taken { stored: number(0).unwrap_or_default(), lost }
}

/// `Packets received/dropped on interface 'eth0': 10/2 (pcap:2/dumpcap:0/flushed:0/ps_ifdrop:0)`
fn dropped(said: &str) -> u64 {
    let line = said.lines().find(|line| line.contains("received/dropped on interface"));
    let counts = line.and_then(|line| line.split("': ").nth(1)?.split(' ').next());
    let dropped = counts.and_then(|counts| counts.split_once('/')?.1.parse().ok());
    dropped.unwrap_or_else(|| panic!("dumpcap does not say what it lost:\n{said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_peers_say_of_their_losses_is_read() {
        let said = "Capturing on 'eth0'\nFile: /tmp/x\n\
            Packets received/dropped on interface 'eth0': 10/2 (pcap:2/dumpcap:0/flushed:0)\n";
        assert_eq!(dropped(said), 2);
        let said = "reads\n1 packets, 64 bytes, 0 lost\n12 packets, 768 bytes, 3 lost\n";
        let taken = drained(said);
        assert_eq!((taken.stored, taken.lost["ring"]), (12, 3));
    }
}
