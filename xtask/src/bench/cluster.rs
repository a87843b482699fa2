//! What a cluster costs: an agent with many idle pods, and an export of all that three nodes hold.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kuberewind_tests::cluster::{Cluster, Pod};
use kuberewind_tests::{Holdings, Program, succeed, target_dir, wait_for};
use serde_json::Value;

use super::figures::{head, median, number, row};
use super::options::Options;
use super::prepare;
use crate::step;

const NODES: u8 = 3;
/// So long an agent without traffic is watched.
const IDLE: Duration = Duration::from_secs(20);
const WITHIN: Duration = Duration::from_mins(2);

/// Measures and prints.
pub(super) fn run(arguments: &[&str]) -> Result<()> {
    let mut options = Options::parse(arguments)?;
    let pods: u32 = options.take("--pods", 250)?;
    let rounds: u32 = options.take("--rounds", 3)?;
    let megabytes: u64 = options.take("--megabytes", 500)?;
    let build = options.take("--build", true)?;
    options.end()?;
    prepare(build, &[("kuberewind-store", "hour")])?;
    idle(pods);
    export(rounds, megabytes)
}

/// One node with so many pods that do nothing.
fn idle(count: u32) {
    let cluster = Cluster::start(1);
    let made = Instant::now();
    let pods: Vec<Pod> =
        (0..count).map(|number| cluster.pod("n1", "idle", &format!("idle-{number}"))).collect();
    let made = made.elapsed() / count.max(1);
    let settings = "headless=true,pcapdump.minFree=0B,tap.namespaces={idle}";
    let began = Instant::now();
    cluster.expect(0, &["tap", "--set", settings]);
    let recorded = || recorded(&cluster).filter(|recorded| *recorded >= u64::from(count));
    wait_for("every pod to be recorded", WITHIN, recorded);
    let attached = began.elapsed();
    let before = cluster.cpu_time("n1");
    std::thread::sleep(IDLE);
    let busy = cluster.cpu_time("n1").saturating_sub(before);
    let Holdings { descriptors, threads, rings, resident } = cluster.holdings("n1");
    head(
        &["pods"],
        &[
            "`tap` to all recorded",
            "making a pod",
            "MB",
            "descriptors",
            "threads",
            "rings",
            "CPU %",
        ],
    );
    row(&[
        count.to_string(),
        format!("{:.2} s", attached.as_secs_f64()),
        format!("{} ms", made.as_millis()),
        format!("{:.0}", number(resident) / 1e6),
        descriptors.to_string(),
        threads.to_string(),
        rings.to_string(),
        format!("{:.2}", 100.0 * busy.as_secs_f64() / IDLE.as_secs_f64()),
    ]);
    drop(pods);
}

/// How many pods the cluster says that it records.
fn recorded(cluster: &Cluster) -> Option<u64> {
    let done = cluster.kuberewind(&["status", "--json"]);
    let status: Value = serde_json::from_slice(&done.stdout).ok()?;
    Some(status[0]["status"]["pods"]["recorded"].as_array()?.len() as u64)
}

/// All that three nodes hold, beside `cp` of the file.
fn export(rounds: u32, megabytes: u64) -> Result<()> {
    let cluster = Cluster::start(NODES);
    for node in 1..=NODES {
        let mut hour = Command::new(target_dir().join("release/examples/hour"));
        let data = cluster.data(&format!("n{node}"));
        fs::create_dir_all(&data)?;
        step::run(hour.arg(data).arg(megabytes.to_string()))?;
    }
    let settings = "headless=true,pcapdump.minFree=0B,pcapdump.maxSize=4GB,pcapdump.maxTime=2h";
    cluster.expect(0, &["tap", "--set", settings]);
    let file = cluster.dir().join("all.pcapng");
    let copy = cluster.dir().join("copy.pcapng");
    let mut walls = Vec::new();
    let (mut copies, mut most, mut held) = (Vec::new(), 0, 0);
    for _ in 0..rounds {
        let _ = (fs::remove_file(&file), fs::remove_file(&copy));
        let began = Instant::now();
        let export = Program::start(&mut cluster.command(&["pcapdump", "--dest", "all.pcapng"]));
        most = most.max(watch(export)?);
        walls.push(began.elapsed().as_secs_f64());
        let agents = (1..=NODES).map(|node| cluster.holdings(&format!("n{node}")).resident);
        held = held.max(agents.max().unwrap_or_default());
        let began = Instant::now();
        succeed(Command::new("cp").arg(&file).arg(&copy));
        copies.push(began.elapsed().as_secs_f64());
    }
    let bytes = number(file.metadata().context("the export")?.len()) / 1e6;
    head(
        &["export"],
        &["MB in the file", "wall s", "MB/s", "`cp` s", "command line, peak MB", "agent, MB"],
    );
    row(&[
        format!("{NODES} nodes"),
        format!("{bytes:.0}"),
        format!("{:.2}", median(walls.iter().copied())),
        format!("{:.0}", bytes / median(walls.iter().copied())),
        format!("{:.2}", median(copies)),
        format!("{:.0}", number(most) / 1e6),
        format!("{:.0}", number(held) / 1e6),
    ]);
    Ok(())
}

/// Until it has ended well; the most memory that it had, in bytes.
fn watch(mut program: Program) -> Result<u64> {
    let path = format!("/proc/{}/status", program.id());
    let mut most = 0;
    let ended = loop {
        most = most.max(peak(Path::new(&path)).unwrap_or(0));
        if let Some(ended) = program.has_ended() {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    ensure!(ended.success(), "pcapdump: {ended}\n{}", program.said());
    Ok(most)
}

/// `VmHWM`; none of one that has just ended.
fn peak(status: &Path) -> Option<u64> {
    let text = fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}
