//! How fast streams become a file, beside `cp` and `mergecap`:
//! `cargo run --release -p kuberewind-export --example merge_bench [STREAMS] [MB] [DIR]`

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use kuberewind_export::wire::{Received, Sender};
use kuberewind_export::{Destination, Export, Format, Input, Place, write};
use kuberewind_packet::pcapng::PacketBlock;
use kuberewind_packet::{Interface, NetnsId, Owner, PacketStream, Span, Timestamp, WindowAccount};

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
    for size in [64, 1500] {
        let dir = tempfile::tempdir_in(&parent)?;
        let packets = megabytes * 1_000_000 / (size + 32) / streams;
        println!("{streams} streams of {packets} packets of {size} bytes");
        compare(dir.path(), streams, packets, size)?;
    }
    Ok(())
}

fn compare(dir: &Path, streams: usize, packets: usize, size: usize) -> Result<(), Box<dyn Error>> {
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
    let total = streams * packets;
    let out = dir.join("out.pcapng");
    measure("kuberewind, from wire files", total, &out, || {
        let opened = wires.iter().map(|wire| Ok(Received::open(File::open(wire)?)?));
        export(opened.collect::<Result<Vec<_>, Box<dyn Error>>>()?, &out)
    })?;
    let copy = dir.join("copy.pcapng");
    measure("cp of the result", total, &copy, || run(Command::new("cp").arg(&out).arg(&copy)))?;
    let merged = dir.join("merged.pcapng");
    measure("mergecap", total, &merged, || {
        run(Command::new("mergecap").arg("-w").arg(&merged).args(&parts))
    })
}

fn export<S: PacketStream>(
    streams: impl IntoIterator<Item = S>,
    path: &Path,
) -> Result<(), Box<dyn Error>> {
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
    let inputs =
        streams.into_iter().map(|stream| Input { node: String::new(), stream, fetch: None });
    write(&export, inputs, &destination, |_| ControlFlow::Continue(()))?;
    Ok(())
}

fn run(command: &mut Command) -> Result<(), Box<dyn Error>> {
    if command.status()?.success() { Ok(()) } else { Err(format!("{command:?} failed").into()) }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn measure(
    what: &str,
    packets: usize,
    file: &Path,
    work: impl FnOnce() -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let (start, before) = (Instant::now(), processor_seconds()?);
    work()?;
    let (seconds, busy) = (start.elapsed().as_secs_f64(), processor_seconds()? - before);
    let megabytes = file.metadata()?.len() as f64 / 1e6;
    let rate = megabytes / seconds;
    let each = busy * 1e9 / packets as f64;
    println!("  {what:28} {seconds:6.2} s  {rate:6.0} MB/s  CPU {each:5.0} ns/packet");
    Ok(())
}

/// Of this process and its children so far, in the kernel or not: the four times in
/// `/proc/self/stat`, in hundredths of a second. Says more than the clock on a busy machine.
fn processor_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let behind_name = stat.rsplit_once(") ").ok_or("no name in /proc/self/stat")?.1;
    let times = behind_name.split(' ').skip(11).take(4).map(str::parse::<u32>);
    Ok(f64::from(times.sum::<Result<u32, _>>()?) / 100.0)
}
