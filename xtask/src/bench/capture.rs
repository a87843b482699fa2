//! What recording loses and costs, beside tcpdump, dumpcap and the limit, on the same cable with the
//! same packets.
//!
//! What is counted as cost is the time of the recorder's own threads by the scheduler's clock
//! (`/proc/PID/task/*/schedstat`), from before the first packet until it is idle again. A packet that
//! crosses a veth pair is delivered, and copied into the rings, in the softirq of the sender; sender
//! and recorder are pinned to different CPUs, so that this work counts for no recorder.
//!
//! What was sent is what the interface's own counters say.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{self, Command};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use kuberewind_tests::traffic::{Iperf, Rate, numbered, send_again, write_pcap};
use kuberewind_tests::{Program, VethPair, succeed};
use tempfile::TempDir;

use super::figures::{head, median, nanos_each, number, row};
use super::options::Options;
use super::peers::{Peer, Taken};
use super::prepare;

/// Ethernet, IPv4 and UDP heads of the packets sent.
const HEADS: usize = 14 + 20 + 8;
/// A file of so many packets is sent again and again.
const FILE_PACKETS: u32 = 10_000;
const SENDER_CPU: usize = 0;
const RECORDER_CPU: usize = 1;

const SIZES: [(&str, Size); 4] = [
    ("64", Size::Frame(64)),
    ("512", Size::Frame(512)),
    ("1500", Size::Frame(1500)),
    ("gso", Size::Gso),
];
const PACES: [(&str, bool); 2] = [("fixed", false), ("maximum", true)];
const LOADS: [(&str, bool); 2] = [("quiet", false), ("busy", true)];
const PEERS: [(&str, Peer); 6] = [
    ("limit", Peer::Limit),
    ("tcpdump", Peer::Tcpdump),
    ("tcpdump64", Peer::Tcpdump64),
    ("dumpcap", Peer::Dumpcap),
    ("kuberewind", Peer::Kuberewind),
    ("kuberewind-tls", Peer::KuberewindTls),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// UDP in frames of so many bytes.
    Frame(usize),
    /// TCP in super-packets of up to 64 KiB.
    Gso,
}

struct Settings {
    rounds: u32,
    seconds: u32,
    /// The fixed rate of frames.
    per_second: u32,
    peers: Vec<Peer>,
}

/// Measures and prints.
pub(super) fn run(arguments: &[&str]) -> Result<()> {
    let mut options = Options::parse(arguments)?;
    let settings = Settings {
        rounds: options.take("--rounds", 3)?,
        seconds: options.take("--seconds", 3)?,
        per_second: options.take("--pps", 100_000)?,
        peers: options.choose("--recorders", &PEERS)?,
    };
    let sizes = options.choose("--sizes", &SIZES)?;
    let paces = options.choose("--rates", &PACES)?;
    let loads = options.choose("--machine", &LOADS)?;
    let build = options.take("--build", true)?;
    options.end()?;
    if thread::available_parallelism()?.get() <= RECORDER_CPU {
        bail!("sender and recorder want a CPU each, and here is one");
    }
    prepare(build, &[("kuberewind-capture", "drain")])?;
    pin(process::id(), SENDER_CPU); // what sends inherits it
    let Settings { rounds, seconds, per_second, .. } = &settings;
    println!(
        "\n{rounds} rounds by turns of {seconds} s; fixed: {per_second} frames/s, 2 Gbit/s of TCP"
    );
    head(
        &["bytes", "rate", "machine", "recorder"],
        &["CPU ns/packet", "rounds", "ratio", "stored/s", "sent", "stored", "lost", "peak MB"],
    );
    let mut unaccounted = 0;
    for size in sizes {
        for &flat_out in &paces {
            for &busy in &loads {
                unaccounted += Case { size, flat_out, busy }.compare(&settings)?;
            }
        }
    }
    if unaccounted > 0 {
        bail!("kuberewind cannot say what became of {unaccounted} packets");
    }
    println!("\nkuberewind: sent = stored + lost, in every run");
    Ok(())
}

/// What is sent, and on what machine.
#[derive(Clone, Copy, Debug)]
struct Case {
    size: Size,
    flat_out: bool,
    busy: bool,
}

/// One run.
#[derive(Clone, Debug)]
struct Run {
    cpu: Duration,
    seconds: f64,
    sent: u64,
    taken: Taken,
    peak: u64,
}

impl Run {
    fn lost(&self) -> u64 {
        self.taken.lost.values().sum()
    }

    /// Of those that it stored: what is lost costs it nothing.
    fn nanos(&self) -> f64 {
        nanos_each(self.cpu, self.taken.stored)
    }
}

impl Case {
    /// By turns; how many packets of ours nobody knows of.
    fn compare(self, settings: &Settings) -> Result<u64> {
        let pair = VethPair::new(1500);
        still_neighbours(&pair);
        let source = Source::new(self, settings)?;
        let mut runs = vec![Vec::new(); settings.peers.len()];
        for _ in 0..settings.rounds {
            for (peer, runs) in settings.peers.iter().zip(&mut runs) {
                runs.push(measure(*peer, &pair, &source, self.busy));
            }
        }
        let of = |peer| settings.peers.iter().position(|known| *known == peer);
        let base = of(Peer::Tcpdump64).map(|at| median(runs[at].iter().map(Run::nanos)));
        for (peer, runs) in settings.peers.iter().zip(&runs) {
            self.print(*peer, runs, base);
        }
        let ours = [Peer::Kuberewind, Peer::KuberewindTls].into_iter().filter_map(of);
        let missing = |run: &Run| run.sent.abs_diff(run.taken.stored + run.lost());
        Ok(ours.flat_map(|at| &runs[at]).map(missing).sum())
    }

    fn print(self, peer: Peer, runs: &[Run], base: Option<f64>) {
        let nanos = median(runs.iter().map(Run::nanos));
        let rounds = runs.iter().map(|run| format!("{:.0}", run.nanos())).collect::<Vec<_>>();
        let sum = |field: fn(&Run) -> u64| runs.iter().map(field).sum::<u64>();
        let per_second = median(runs.iter().map(|run| number(run.taken.stored) / run.seconds));
        let mut lost = BTreeMap::<&str, u64>::new();
        for (cause, packets) in runs.iter().flat_map(|run| &run.taken.lost) {
            *lost.entry(cause).or_default() += packets;
        }
        let lost: Vec<_> = lost.iter().filter(|(_, packets)| **packets > 0).collect();
        let lost: Vec<_> =
            lost.iter().map(|(cause, packets)| format!("{packets} {cause}")).collect();
        row(&[
            name(&SIZES, self.size).to_owned(),
            name(&PACES, self.flat_out).to_owned(),
            name(&LOADS, self.busy).to_owned(),
            peer.name().to_owned(),
            format!("{nanos:.0}"),
            rounds.join(" "),
            base.map_or_else(String::new, |base| format!("{:.2}", nanos / base)),
            format!("{per_second:.0}"),
            sum(|run| run.sent).to_string(),
            sum(|run| run.taken.stored).to_string(),
            if lost.is_empty() { "0".to_owned() } else { lost.join(", ") },
            (runs.iter().map(|run| run.peak).max().unwrap_or_default() / 1_000_000).to_string(),
        ]);
    }
}

fn name<T: Copy + PartialEq>(all: &[(&'static str, T)], one: T) -> &'static str {
    all.iter().find(|(_, known)| *known == one).map_or("", |(name, _)| name)
}

/// Nobody asks for an address while packets are counted: recorders differ in what they think of ARP.
fn still_neighbours(pair: &VethPair) {
    let ends = [
        (&pair.sender, &pair.receiver, VethPair::RECEIVER),
        (&pair.receiver, &pair.sender, VethPair::SENDER),
    ];
    for (netns, other, addresses) in ends {
        let path = format!("/sys/class/net/{}/address", VethPair::INTERFACE);
        let mac = succeed(other.exec("cat").arg(&path));
        for address in addresses {
            let neighbour = ["neigh", "replace", address, "lladdr", mac.trim(), "nud", "permanent"];
            netns.ip(&[&neighbour[..], &["dev", VethPair::INTERFACE]].concat());
        }
    }
}

/// What sends.
enum Source {
    Frames { _dir: TempDir, pcap: PathBuf, rate: Rate, times: u32 },
    Tcp { seconds: String, rate: &'static str },
}

impl Source {
    fn new(case: Case, settings: &Settings) -> Result<Self> {
        let Settings { seconds, per_second, .. } = *settings;
        let Size::Frame(size) = case.size else {
            let rate = if case.flat_out { "0" } else { "2G" };
            return Ok(Self::Tcp { seconds: seconds.to_string(), rate });
        };
        let dir = tempfile::tempdir()?;
        let pcap = dir.path().join("packets.pcap");
        write_pcap(&pcap, (0..FILE_PACKETS).map(|number| numbered(number, size - HEADS)));
        let rate = if case.flat_out { Rate::TopSpeed } else { Rate::PerSecond(per_second) };
        // At top speed as many as in twice the time: about as long.
        let times =
            (seconds * per_second).div_ceil(FILE_PACKETS) * if case.flat_out { 2 } else { 1 };
        Ok(Self::Frames { _dir: dir, pcap, rate, times })
    }

    fn send(&self, pair: &VethPair) {
        match self {
            Self::Frames { pcap, rate, times, .. } => {
                send_again(&pair.sender, VethPair::INTERFACE, pcap, *rate, *times);
            }
            Self::Tcp { seconds, rate } => {
                let server = Iperf::start(&pair.receiver);
                let [address, _] = VethPair::RECEIVER;
                server.burst(&pair.sender, address, &["--time", seconds, "--bitrate", rate]);
            }
        }
    }
}

fn measure(peer: Peer, pair: &VethPair, source: &Source, busy: bool) -> Run {
    // What the last one left to the kernel to write is not to stall this one's disk.
    succeed(&mut Command::new("sync"));
    let before = crossed(pair);
    let recording = peer.start(&pair.receiver);
    pin(recording.program().id(), RECORDER_CPU);
    let spinner = busy.then(|| {
        let spinner = Program::start(Command::new("sh").args(["-c", "while :; do :; done"]));
        pin(spinner.id(), RECORDER_CPU);
        spinner
    });
    let started = recording.program().cpu_time();
    let clock = Instant::now();
    source.send(pair);
    let seconds = clock.elapsed().as_secs_f64();
    let cpu = cpu_time_when_idle(recording.program()).saturating_sub(started);
    drop(spinner);
    let peak = recording.program().peak_resident();
    let sent = crossed(pair) - before;
    Run { cpu, seconds, sent, taken: recording.finish(sent), peak }
}

/// Packets in and out of the receiving end so far.
fn crossed(pair: &VethPair) -> u64 {
    let name = VethPair::INTERFACE;
    let count = |way: &str| {
        let path = format!("/sys/class/net/{name}/statistics/{way}_packets");
        let said = succeed(pair.receiver.exec("cat").arg(path));
        said.trim().parse::<u64>().expect("a counter")
    };
    count("rx") + count("tx")
}

/// Idle: less than 1 % of a CPU over one and a half seconds, longer than tcpdump's read timeout.
fn cpu_time_when_idle(recorder: &Program) -> Duration {
    const LOOK: Duration = Duration::from_millis(1500);
    let mut last = recorder.cpu_time();
    loop {
        thread::sleep(LOOK);
        let now = recorder.cpu_time();
        if now.saturating_sub(last) < LOOK / 100 {
            return now;
        }
        last = now;
    }
}

fn pin(process: u32, cpu: usize) {
    let (process, cpu) = (process.to_string(), cpu.to_string());
    succeed(Command::new("taskset").args(["--all-tasks", "--cpu-list", "--pid", &cpu, &process]));
}
