//! How fast streams become a file, beside `cp` and `mergecap`, by turns; and what becomes of it when
//! one stream in ten is damaged; then what it costs to show one view of each connection, beside all:
//! `cargo run --release -p kuberewind-export --example merge_bench [STREAMS] [MB] [DIR] [ROUNDS]`

mod ends;

use std::error::Error;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use kuberewind_export::wire::{Received, Sender};
use kuberewind_export::{
    Destination, Export, Format, Input, Place, Report, Survey, SurveyLimits, write,
};
use kuberewind_packet::pcapng::PacketBlock;
use kuberewind_packet::{Interface, NetnsId, Owner, PacketStream, Span, Timestamp, WindowAccount};

use ends::Ends;

/// Packets of 1500 bytes that hardly compress, a little apart in time, from a generator.
struct Generated {
    interfaces: Vec<Interface>,
    account: WindowAccount,
    left: usize,
    time: u64,
    random: u64,
    data: Vec<u8>,
}

impl Generated {
    fn new(node: usize, packets: usize, size: usize) -> Self {
        let node = format!("n{node}");
        let name = "eth0".to_owned();
        let (owner, netns) = (Owner::Host, NetnsId(1));
        Self {
            interfaces: vec![Interface { node: node.clone(), owner, netns, name }],
            account: WindowAccount::new(node, Span::ALL),
            left: packets,
            time: 1_795_382_705_000_000_000,
            random: packets as u64,
            data: vec![0; size],
        }
    }
}

impl PacketStream for Generated {
    type Error = std::convert::Infallible;

    fn advance(&mut self) -> Result<bool, Self::Error> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(false) };
        self.left = left;
        for chunk in self.data.chunks_exact_mut(8) {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            chunk.copy_from_slice(&self.random.to_le_bytes());
        }
        self.time += self.random % 20_000;
        Ok(true)
    }

    #[expect(clippy::cast_possible_truncation, reason = "packets are short")]
    fn packet(&self) -> PacketBlock<'_> {
        PacketBlock {
            interface: 0,
            timestamp: Timestamp::from_nanos(self.time),
            original_len: self.data.len() as u32,
            data: &self.data,
        }
    }

    fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    fn account(&self) -> &WindowAccount {
        &self.account
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let streams: usize = args.next().map_or(Ok(20), |arg| arg.parse())?;
    let megabytes: usize = args.next().map_or(Ok(1000), |arg| arg.parse())?;
    let parent = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let rounds: usize = args.next().map_or(Ok(3), |arg| arg.parse())?;
    for size in [64, 1500] {
        let dir = tempfile::tempdir_in(&parent)?;
        let packets = megabytes * 1_000_000 / (size + 32) / streams;
        println!("{streams} streams of {packets} packets of {size} bytes");
        compare(dir.path(), streams, packets, size, rounds)?;
        let dir = tempfile::tempdir_in(&parent)?;
        views(dir.path(), streams, packets, size, rounds)?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn compare(
    dir: &Path,
    streams: usize,
    packets: usize,
    size: usize,
    rounds: usize,
) -> Result<(), Box<dyn Error>> {
    let mut wires = Vec::new();
    let mut parts = Vec::new();
    for node in 0..streams {
        let wire = dir.join(format!("{node}.wire"));
        let mut sender = Sender::new(BufWriter::new(File::create(&wire)?), true)?;
        let mut generated = Generated::new(node, packets, size);
        sender.send(&mut generated)?;
        sender.finish(generated.account())?;
        let part = dir.join(format!("{node}.pcapng"));
        export([Generated::new(node, packets, size)], &part)?;
        wires.push(wire);
        parts.push(part);
    }
    let [out, copy, merged] = ["out", "copy", "merged"].map(|name| dir.join(name));
    let mut runs = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        let _ = std::fs::remove_file(&out); // an export overwrites nothing
        runs[0].push(measure(|| export(open(&wires)?, &out).map(drop))?);
        runs[1].push(measure(|| run(Command::new("cp").arg(&out).arg(&copy)))?);
        let mut mergecap = Command::new("mergecap");
        mergecap.arg("-w").arg(&merged).args(&parts);
        runs[2].push(measure(|| run(&mut mergecap))?);
    }
    let megabytes = out.metadata()?.len() as f64 / 1e6;
    let names = ["kuberewind, from wire files", "cp of the result", "mergecap"];
    let [ours, ..] = runs.each_ref().map(|runs| median(runs, |run| run.wall));
    let [ours_busy, ..] = runs.each_ref().map(|runs| median(runs, |run| run.busy));
    for (name, runs) in names.iter().zip(&runs) {
        let (wall, busy) = (median(runs, |run| run.wall), median(runs, |run| run.busy));
        println!(
            "  {name:28} {wall:6.2} s  {:6.0} MB/s  CPU {:5.0} ns/packet; to ours: wall {:.2}, CPU {:.2}",
            megabytes / wall,
            busy * 1e9 / (streams * packets) as f64,
            wall / ours,
            busy / ours_busy,
        );
    }
    println!("  at most {} MB of memory, by all so far", peak_memory()?);
    damaged(dir, &wires, &parts, packets)
}

/// Streams of connections that are recorded at both ends, with all views in the file, and with one.
fn views(
    dir: &Path,
    streams: usize,
    packets: usize,
    size: usize,
    rounds: usize,
) -> Result<(), Box<dyn Error>> {
    let wires: Vec<_> = (0..streams).map(|node| dir.join(format!("{node}.wire"))).collect();
    for (node, wire) in wires.iter().enumerate() {
        let mut sender = Sender::new(BufWriter::new(File::create(wire)?), true)?;
        let mut ends = Ends::new(node, streams, packets, size);
        sender.send(&mut ends)?;
        sender.finish(ends.account())?;
    }
    let out = dir.join("out");
    let limits = SurveyLimits::default().shared_by(streams);
    let mut runs = [const { Vec::new() }; 4];
    let mut left_out = 0;
    for _ in 0..rounds {
        let mut surveys = Vec::new();
        runs[0].push(measure(|| open(&wires)?.iter_mut().try_for_each(drain))?);
        runs[1].push(measure(|| {
            let survey = |stream: &mut Received<_>| Survey::of(stream, limits, dir);
            surveys = open(&wires)?.iter_mut().map(survey).collect::<Result<_, _>>()?;
            Ok(())
        })?);
        let _ = std::fs::remove_file(&out);
        runs[2].push(measure(|| export(open(&wires)?, &out).map(drop))?);
        let _ = std::fs::remove_file(&out);
        runs[3].push(measure(|| {
            let report = export_surveyed(open(&wires)?, surveys.into_iter().map(Some), &out)?;
            left_out = report.vantage.map_or(0, |vantage| vantage.left_out.packets);
            Ok(())
        })?);
    }
    let all = streams * packets;
    println!("  connections recorded at both ends: {left_out} of {all} packets are left out");
    let all = f64::from(u32::try_from(all)?);
    let names =
        ["read and checked", "the same, and surveyed", "merged, all views", "merged, one view"];
    for (at, (name, own)) in names.iter().zip(&runs).enumerate() {
        let (wall, busy) = (median(own, |run| run.wall), median(own, |run| run.busy));
        let base = &runs[at & !1];
        println!(
            "  {name:28} {wall:6.2} s  CPU {:5.0} ns/packet; to all views: wall {:.2}, CPU {:.2}",
            busy * 1e9 / all,
            wall / median(base, |run| run.wall),
            busy / median(base, |run| run.busy),
        );
    }
    println!("  at most {} MB of memory, by all so far", peak_memory()?);
    Ok(())
}

fn drain<S: PacketStream>(stream: &mut S) -> Result<(), Box<dyn Error>> {
    while stream.advance()? {
        std::hint::black_box(stream.packet());
    }
    Ok(())
}

/// Of every ten streams one is cut in its middle or has a byte changed there: each of them must be
/// named, and the others be whole.
fn damaged(
    dir: &Path,
    wires: &[PathBuf],
    parts: &[PathBuf],
    packets: usize,
) -> Result<(), Box<dyn Error>> {
    let chosen: Vec<usize> = (0..wires.len()).step_by(10).collect();
    for (turn, at) in chosen.iter().enumerate() {
        for path in [&wires[*at], &parts[*at]] {
            damage(path, turn % 2 == 0)?;
        }
    }
    let out = dir.join("damaged");
    let report = export(open(wires)?, &out)?;
    let named = report.nodes.iter().filter(|node| node.failure.is_some());
    let named: Vec<_> = named.map(|node| node.account.node.clone()).collect();
    let expected: Vec<_> = chosen.iter().map(|at| format!("n{at}")).collect();
    let whole = report.nodes.iter().filter(|node| node.account.packets == packets as u64).count();
    if named != expected || whole < wires.len() - chosen.len() {
        return Err(format!("damaged {expected:?}, named {named:?}, {whole} whole").into());
    }
    println!(
        "  {} of {} damaged: named all, {whole} streams whole, {} of {} packets in the file",
        chosen.len(),
        wires.len(),
        report.packets,
        wires.len() * packets,
    );
    let mut mergecap = Command::new("mergecap");
    let done = mergecap.arg("-w").arg(dir.join("damaged-mergecap")).args(parts).output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    println!("  mergecap then: {}, {}", done.status, said.lines().next().unwrap_or("says nothing"));
    Ok(())
}

fn damage(path: &Path, cut: bool) -> Result<(), Box<dyn Error>> {
    let mut bytes = std::fs::read(path)?;
    let middle = bytes.len() / 2;
    if cut {
        bytes.truncate(middle);
    } else {
        bytes[middle] ^= 0xff;
    }
    Ok(std::fs::write(path, bytes)?)
}

fn open(wires: &[PathBuf]) -> Result<Vec<Received<BufReader<File>>>, Box<dyn Error>> {
    let buffered = |wire: &PathBuf| -> std::io::Result<_> {
        Ok(BufReader::with_capacity(8 << 10, File::open(wire)?))
    };
    wires.iter().map(|wire| Ok(Received::open(buffered(wire)?)?)).collect()
}

/// The most main memory that this process has had, in MB: `VmHWM` (proc(5)).
fn peak_memory() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes: u64 =
        line.and_then(|line| line.split_whitespace().next()).unwrap_or("0").parse()?;
    Ok(kibibytes * 1024 / 1_000_000)
}

fn export<S: PacketStream>(
    streams: impl IntoIterator<Item = S>,
    path: &Path,
) -> Result<Report, Box<dyn Error>> {
    export_surveyed(streams, std::iter::repeat_with(|| None), path)
}

fn export_surveyed<S: PacketStream>(
    streams: impl IntoIterator<Item = S>,
    surveys: impl IntoIterator<Item = Option<Survey>>,
    path: &Path,
) -> Result<Report, Box<dyn Error>> {
    let export = Export {
        window: Span::ALL,
        id: String::new(),
        program: "bench".to_owned(),
        owner: None,
        tls: kuberewind_export::TlsParts::default(),
        unreachable: Vec::new(),
        notes: Vec::new(),
    };
    let place = Place::File(path.to_owned());
    let destination = Destination { place, format: Format::Pcapng };
    let inputs = streams.into_iter().zip(surveys).enumerate();
    let inputs = inputs.map(|(at, (stream, survey))| Input {
        node: format!("n{at}"),
        stream,
        fetch: None,
        survey,
    });
    Ok(write(&export, inputs, &destination, |_| ControlFlow::Continue(()))?)
}

fn run(command: &mut Command) -> Result<(), Box<dyn Error>> {
    if command.status()?.success() { Ok(()) } else { Err(format!("{command:?} failed").into()) }
}

/// Seconds that something took.
struct Run {
    wall: f64,
    busy: f64,
}

fn measure(work: impl FnOnce() -> Result<(), Box<dyn Error>>) -> Result<Run, Box<dyn Error>> {
    let (start, before) = (Instant::now(), processor_seconds()?);
    work()?;
    Ok(Run { wall: start.elapsed().as_secs_f64(), busy: processor_seconds()? - before })
}

fn median(runs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
    let mut values: Vec<_> = runs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Of this process and its children so far, in the kernel or not: the four times in
/// `/proc/self/stat`, in hundredths of a second. Says more than the clock on a busy machine.
fn processor_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let behind_name = stat.rsplit_once(") ").ok_or("no name in /proc/self/stat")?.1;
    let times = behind_name.split(' ').skip(11).take(4).map(str::parse::<u32>);
    Ok(f64::from(times.sum::<Result<u32, _>>()?) / 100.0)
}
