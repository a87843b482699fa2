//! CPU time per packet beside tcpdump, on the same cable with the same packets.
//!
//! What is counted is the time of the recorder's own threads by the scheduler's clock
//! (`/proc/PID/task/*/schedstat`), from before the first packet until it is idle again. A packet that
//! crosses a veth pair is delivered, and copied into the rings, in the softirq of the sender; sender
//! and recorder are pinned to different CPUs, so that this work counts for neither recorder.

use std::path::Path;
use std::process::{self, Command};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kuberewind_tests::judges::capinfos;
use kuberewind_tests::traffic::{Rate, numbered, send_again, write_pcap};
use kuberewind_tests::{
    Program, Recorder, Tcpdump, VethPair, data_dir, succeed, target_dir, use_build,
};

use crate::{setup, step};

const SIZES: [usize; 2] = [64, 1500];
/// Ethernet, IPv4 and UDP heads of the packets sent.
const HEADS: usize = 14 + 20 + 8;
/// A file of so many packets is sent again and again.
const FILE_PACKETS: u32 = 10_000;
const SENDER_CPU: usize = 0;
const RECORDER_CPU: usize = 1;

struct Options {
    rounds: u32,
    packets: u32,
    per_second: u32,
}

impl Options {
    fn parse(arguments: &[&str]) -> Result<Self> {
        let mut options = Self { rounds: 5, packets: 500_000, per_second: 100_000 };
        for pair in arguments.chunks(2) {
            let &[name, value] = pair else { bail!("{} wants a number", pair[0]) };
            let number = value.parse().with_context(|| format!("{name} {value}"))?;
            match name {
                "--rounds" => options.rounds = number,
                "--packets" => options.packets = number,
                "--pps" => options.per_second = number,
                _ => bail!("unknown option {name}; there are --rounds, --packets and --pps"),
            }
        }
        Ok(options)
    }
}

/// Measures and prints.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let options = Options::parse(arguments)?;
    step::need_root("bench")?;
    setup::run()?;
    step::run(&mut step::cargo(&["build", "--release", "--package", "kuberewind"]))?;
    use_build(target_dir().join("release/kuberewind"));
    let pinned = thread::available_parallelism()?.get() > RECORDER_CPU;
    if pinned {
        pin(process::id(), SENDER_CPU); // tcpreplay inherits it
    }
    println!(
        "\nns of CPU per packet: {} packets at {}/s, {} rounds by turns{}",
        options.packets,
        options.per_second,
        options.rounds,
        if pinned { "" } else { "; one CPU only: softirq time is counted too" },
    );
    println!(
        "{:>5} {:<10} {:>7}  {:<40} {:>10} {:>10} {:>7}",
        "bytes", "", "median", "rounds", "sent", "stored", "lost"
    );
    SIZES.into_iter().try_for_each(|size| compare(size, &options, pinned))
}

fn compare(size: usize, options: &Options, pinned: bool) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let pcap = dir.path().join("packets.pcap");
    write_pcap(&pcap, (0..FILE_PACKETS).map(|number| numbered(number, size - HEADS)));
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let pair = VethPair::new(1500);
        let bench = Bench { pair: &pair, pcap: &pcap, options, pinned };
        theirs.push(bench.tcpdump());
        ours.push(bench.kuberewind());
    }
    let theirs = print(size, "tcpdump", &theirs);
    let ours = print(size, "kuberewind", &ours);
    println!("{size:>5} ratio      {:>7.2}", ours / theirs);
    Ok(())
}

/// One run.
struct Run {
    nanos_per_packet: f64,
    sent: u64,
    stored: u64,
    lost: u64,
}

struct Bench<'a> {
    pair: &'a VethPair,
    pcap: &'a Path,
    options: &'a Options,
    pinned: bool,
}

impl Bench<'_> {
    fn tcpdump(&self) -> Run {
        let mut tcpdump = Tcpdump::start_buffered(&self.pair.receiver, VethPair::INTERFACE);
        let (sent, cpu) = self.measure(tcpdump.program());
        let lost = tcpdump.stop();
        Run {
            nanos_per_packet: per(cpu, sent),
            sent,
            stored: capinfos(tcpdump.file()).packets,
            lost,
        }
    }

    fn kuberewind(&self) -> Run {
        let data = data_dir();
        let size = ["--set", "pcapdump.maxSize=4GB"];
        let recorder = Recorder::start(data.path(), &[&self.pair.receiver], &size);
        let (sent, cpu) = self.measure(recorder.program());
        let status = recorder.status();
        Run { nanos_per_packet: per(cpu, sent), sent, stored: status.packets, lost: status.lost() }
    }

    /// Sends, waits until the recorder is idle, and gives what was sent and the CPU time it took.
    fn measure(&self, recorder: &Program) -> (u64, Duration) {
        if self.pinned {
            pin(recorder.id(), RECORDER_CPU);
        }
        let before = recorder.cpu_time();
        let rate = Rate::PerSecond(self.options.per_second);
        let times = self.options.packets.div_ceil(FILE_PACKETS);
        let sent = send_again(&self.pair.sender, VethPair::INTERFACE, self.pcap, rate, times);
        (sent, cpu_time_when_idle(recorder).saturating_sub(before))
    }
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

#[expect(clippy::cast_precision_loss, reason = "packets are far fewer than 2^52")]
fn per(time: Duration, packets: u64) -> f64 {
    time.as_secs_f64() * 1e9 / packets as f64
}

/// Prints the runs of one recorder and gives their median.
fn print(size: usize, name: &str, runs: &[Run]) -> f64 {
    let mut nanos: Vec<_> = runs.iter().map(|run| run.nanos_per_packet).collect();
    let rounds = nanos.iter().map(|nanos| format!("{nanos:.0}")).collect::<Vec<_>>().join(" ");
    nanos.sort_by(f64::total_cmp);
    let median = nanos.get(nanos.len() / 2).copied().unwrap_or_default();
    let sum = |field: fn(&Run) -> u64| runs.iter().map(field).sum::<u64>();
    let (sent, stored, lost) = (sum(|r| r.sent), sum(|r| r.stored), sum(|r| r.lost));
    println!("{size:>5} {name:<10} {median:>7.0}  {rounds:<40} {sent:>10} {stored:>10} {lost:>7}");
    median
}
