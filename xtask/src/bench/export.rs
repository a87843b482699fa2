//! What windows, exports and merges cost: what a window reads of the disk, an export beside `cp` of the
//! same bytes, and a merge beside mergecap.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kuberewind_tests::{Netns, Program, Recorder, data_dir, succeed, target_dir};

use super::figures::{head, median, number, row};
use super::options::Options;
use super::prepare;
use crate::step;

/// Measures and prints.
pub(super) fn run(arguments: &[&str]) -> Result<()> {
    let mut options = Options::parse(arguments)?;
    let rounds: u32 = options.take("--rounds", 5)?;
    let megabytes: u64 = options.take("--megabytes", 1000)?;
    let build = options.take("--build", true)?;
    options.end()?;
    prepare(build, &[("kuberewind-store", "hour"), ("kuberewind-export", "merge_bench")])?;
    hour(rounds, megabytes)?;
    merge(rounds)
}

/// An hour on disk: five minutes of it, and all of it.
fn hour(rounds: u32, megabytes: u64) -> Result<()> {
    let data = data_dir();
    let mut record = Command::new(target_dir().join("release/examples/hour"));
    step::run(record.arg(data.path()).arg(megabytes.to_string()))?;
    let netns = Netns::new("silent");
    let bounds = ["--set", "pcapdump.maxSize=8GB", "--set", "pcapdump.maxTime=2h"];
    let recorder = Recorder::start(data.path(), &[&netns], &bounds);
    let out = tempfile::tempdir()?;
    println!(
        "\n{rounds} rounds; an hour of {megabytes} MB, packets of 1468 bytes that do not compress"
    );
    window(&recorder, out.path())?;
    all(&recorder, out.path(), rounds)
}

fn window(recorder: &Recorder, dir: &Path) -> Result<()> {
    head(&["window"], &["MB in the file", "MB read by the recorder", "ratio"]);
    for (name, since, until) in
        [("5 min", "35m", "30m"), ("1 min", "20m", "19m"), ("10 s", "10m10s", "10m")]
    {
        let file = dir.join("window.pcapng");
        let before = bytes_read(recorder.program())?;
        export(recorder, &file, &["--since", since, "--until", until])?;
        let read = bytes_read(recorder.program())? - before;
        let written = file.metadata()?.len();
        fs::remove_file(&file)?;
        let megabytes = |bytes: u64| format!("{:.2}", number(bytes) / 1e6);
        let ratio = number(read) / number(written);
        row(&[name.to_owned(), megabytes(written), megabytes(read), format!("{ratio:.3}")]);
    }
    Ok(())
}

/// What it asked to read so far (`rchar`): of the disk, and a few requests.
fn bytes_read(program: &Program) -> Result<u64> {
    let io = fs::read_to_string(format!("/proc/{}/io", program.id()))?;
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.context("no rchar in /proc/PID/io")?.parse().context("rchar")
}

fn export(recorder: &Recorder, file: &Path, arguments: &[&str]) -> Result<()> {
    let dest = file.display().to_string();
    let done = recorder.pcapdump(&[&["--dest", &dest], arguments].concat());
    ensure!(file.exists(), "no export: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

struct Run {
    wall: Duration,
    busy: Duration,
}

fn all(recorder: &Recorder, dir: &Path, rounds: u32) -> Result<()> {
    let (file, copy) = (dir.join("all.pcapng"), dir.join("copy.pcapng"));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let _ = fs::remove_file(&file);
        let _ = fs::remove_file(&copy);
        let agent = recorder.program().cpu_time();
        let mut run = measure(|| export(recorder, &file, &[]))?;
        run.busy += recorder.program().cpu_time().saturating_sub(agent);
        ours.push(run);
        theirs.push(measure(|| {
            succeed(Command::new("cp").arg(&file).arg(&copy));
            Ok(())
        })?);
    }
    let bytes = number(file.metadata()?.len());
    head(
        &["all of it, on the same disk"],
        &["wall s", "CPU s", "MB/s", "speed to cp's", "CPU to cp's"],
    );
    let wall = |runs: &[Run]| median(runs.iter().map(|run| run.wall.as_secs_f64()));
    let busy = |runs: &[Run]| median(runs.iter().map(|run| run.busy.as_secs_f64()));
    for (name, runs) in [("pcapdump and the recorder", &ours), ("cp of the result", &theirs)] {
        row(&[
            name.to_owned(),
            format!("{:.2}", wall(runs)),
            format!("{:.2}", busy(runs)),
            format!("{:.0}", bytes / 1e6 / wall(runs)),
            format!("{:.2}", wall(&theirs) / wall(runs)),
            format!("{:.1}", busy(runs) / busy(&theirs)),
        ]);
    }
    Ok(())
}

fn measure(work: impl FnOnce() -> Result<()>) -> Result<Run> {
    let (start, before) = (Instant::now(), children_time()?);
    work()?;
    Ok(Run { wall: start.elapsed(), busy: children_time()?.saturating_sub(before) })
}

/// CPU time of the children that have ended: `cutime` and `cstime`, in hundredths of a second.
fn children_time() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let behind_name = stat.rsplit_once(") ").context("no name in /proc/self/stat")?.1;
    let times = behind_name.split(' ').skip(13).take(2).map(str::parse::<u64>);
    Ok(Duration::from_millis(times.sum::<Result<u64, _>>()? * 10))
}

/// 260 MB in 20 and in 200 files, in memory.
fn merge(rounds: u32) -> Result<()> {
    let dir = tempfile::tempdir_in("/dev/shm")?;
    for streams in ["20", "200"] {
        let mut bench = Command::new(target_dir().join("release/examples/merge_bench"));
        step::run(bench.args([streams, "260"]).arg(dir.path()).arg(rounds.to_string()))?;
    }
    Ok(())
}
