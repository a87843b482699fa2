//! The recorder under fire for as long as one likes: a flood under the eyes of a watcher, kills at
//! random moments, namespaces that come and go. Prints what it came to; fails where a promise broke.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kuberewind_tests::traffic::{Flood, Rate, number_of, numbered, start_sending, write_pcap};
use kuberewind_tests::{
    CaptureFile, Churn, Holdings, Recorder, VethPair, data_dir, pcapdump, segments, watch, window,
};
use rustix::process::Signal;

use crate::{setup, step};

const MAX_SIZE: u64 = 100_000_000;
/// Of each minute of soaking: kills, and namespaces that come and go.
const KILLS: u32 = 20;
const NAMESPACES: u32 = 200;
const AT_A_TIME: u32 = 20;

/// `[--minutes N]`: five if not told otherwise.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let minutes = match arguments {
        [] => 5,
        ["--minutes", number] => number.parse().with_context(|| format!("--minutes {number}"))?,
        _ => bail!("usage: cargo xtask soak [--minutes N]"),
    };
    step::need_root("soak")?;
    setup::run()?;
    // With the checks of a development build: they panic where a release would count wrongly.
    step::run(&mut step::cargo(&["build", "--package", "kuberewind"]))?;
    println!("\n{:<34} {}", "soak", format_args!("{minutes} min"));
    flood(Duration::from_secs(u64::from(minutes) * 30))?;
    kills(minutes * KILLS)?;
    churn(minutes * NAMESPACES)
}

fn row(what: &str, figure: impl std::fmt::Display) {
    println!("{what:<34} {figure}");
}

/// As many packets as go over the cable, for so long.
fn flood(time: Duration) -> Result<()> {
    let (pair, data, out) = (VethPair::new(1500), data_dir(), tempfile::tempdir()?);
    let size = format!("pcapdump.maxSize={}MB", MAX_SIZE / 1_000_000);
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &["--set", &size]);
    let pcap = out.path().join("flood.pcap");
    write_pcap(&pcap, (0..5_000).map(|number| numbered(number, 1000)));
    let mut flood = Flood::start(&pair.sender, VethPair::INTERFACE, &pcap);
    // What grows only at first has grown by now: rings, buffers, the directory.
    flood.go_on_for(time / 5);
    let before = Holdings::of(recorder.program());
    let pid = recorder.program().id();
    let (mut exports, mut too_late) = (0, 0);
    let most = watch(data.path(), pid, || {
        let end = Instant::now() + time;
        while Instant::now() < end {
            flood.go_on_for(Duration::from_secs(5).min(time));
            if export_of_a_second(data.path(), out.path()) {
                exports += 1;
            } else {
                too_late += 1;
            }
        }
    });
    drop(flood);
    let (status, after) = (recorder.status(), Holdings::of(recorder.program()));
    row("flood", format_args!("{time:.0?}"));
    row("  packets stored, lost", format_args!("{}, {:?}", status.packets, status.losses));
    row("  most bytes seen of maxSize", format_args!("{} of {MAX_SIZE}", most.larger));
    row("  exports meanwhile, too late", format_args!("{exports}, {too_late}"));
    row("  before", format_args!("{before:?}"));
    row("  after", format_args!("{after:?}"));
    ensure!(most.larger <= MAX_SIZE && most.length <= MAX_SIZE, "maxSize was exceeded: {most:?}");
    ensure!(after.descriptors <= before.descriptors + 2, "descriptors leak");
    ensure!(after.resident <= before.resident + 16_000_000, "memory grows");
    Ok(())
}

/// Whether there was still something of the last second when it was read: at such a rate all that may be
/// held can be half a second.
fn export_of_a_second(data: &Path, out: &Path) -> bool {
    let file = out.join("second.pcapng");
    let dest = file.display().to_string();
    let done = pcapdump(data, &["--time", "1s", "--allow-partial", "--dest", &dest]);
    let said = String::from_utf8_lossy(&done.stderr);
    match done.status.code() {
        Some(0) => {
            CaptureFile::read(&file);
            std::fs::remove_file(&file).expect("remove an export");
            true
        }
        Some(1) if said.contains("deleted to keep within pcapdump.maxSize") => false,
        _ => panic!("pcapdump: {}\n{said}", done.status),
    }
}

/// `kill -9` at moments from a few packets to a second after the start.
fn kills(count: u32) -> Result<()> {
    let (pair, data, out) = (VethPair::new(1500), data_dir(), tempfile::tempdir()?);
    let pcap = out.path().join("load.pcap");
    let packets = 900_000.max(count * 15_000);
    write_pcap(&pcap, (0..packets).map(|number| numbered(number, 100)));
    let load = Rate::PerSecond(10_000);
    let mut sender = start_sending(&pair.sender, VethPair::INTERFACE, &pcap, load);
    for kill in 0..count {
        let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
        let enough = u64::from(kill.wrapping_mul(2_654_435_761) % 9_000) + 1;
        let soon = Duration::from_secs(30);
        recorder.wait_status("load", soon, |status| status.packets >= enough);
        recorder.stop_by(Signal::KILL);
    }
    sender.assert_running();
    drop(sender);
    let exported = window(data.path(), 3, &[]);
    let mut seen = BTreeSet::new();
    let all = exported.packets().filter_map(|packet| number_of(packet.data));
    let doubled = all.filter(|number| !seen.insert(*number)).count();
    let read = readable(data.path());
    row("kills", count);
    row("  packets exported, doubled", format_args!("{}, {doubled}", seen.len()));
    row("  segments read, packets in them", format_args!("{}, {}", read.0, read.1));
    ensure!(doubled == 0, "{doubled} packets are doubled");
    Ok(())
}

/// Segments, and the packets in them.
fn readable(data: &Path) -> (usize, usize) {
    let segments = segments(data);
    let packets = segments.iter().map(|segment| CaptureFile::read(segment).packets().count());
    (segments.len(), packets.sum())
}

fn churn(count: u32) -> Result<()> {
    let (churn, data) = (Churn::new(AT_A_TIME as usize), data_dir());
    let recorder = Recorder::spawn(data.path(), &churn.names(), &[]);
    recorder.wait_status("an answer", Duration::from_secs(10), |_| true);
    churn.turn(&recorder);
    let before = Holdings::of(recorder.program());
    let began = Instant::now();
    let let_go = (0..count.div_ceil(AT_A_TIME)).map(|_| churn.turn(&recorder)).max();
    let took = began.elapsed();
    std::thread::sleep(Duration::from_secs(1));
    let after = Holdings::of(recorder.program());
    row("namespaces come and gone", format_args!("{count} in {took:.0?}"));
    row("  let go after at most", format_args!("{:.1?}", let_go.unwrap_or_default()));
    row("  before", format_args!("{before:?}"));
    row("  after", format_args!("{after:?}"));
    ensure!(after.descriptors <= before.descriptors, "descriptors leak");
    ensure!(after.threads <= before.threads, "threads leak");
    ensure!(after.rings == 0, "rings leak");
    ensure!(after.resident <= before.resident + 16_000_000, "memory grows");
    Ok(())
}
