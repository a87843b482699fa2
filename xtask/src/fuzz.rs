//! Hostile input for everything that reads what comes from outside, each target in a process of its
//! own: what ends the process is found, too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use kuberewind_tests::target_dir;

use crate::step;

/// What only the binary reads is fuzzed by a test of the binary's.
const OF_THE_BINARY: [&str; 5] = ["values", "set", "settings", "query", "duration"];

/// `[TARGET] [--time 1m]`: all targets, a minute each.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let (mut only, mut seconds) = (None, 60);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match *argument {
            "--time" => seconds = time(arguments.next().context("--time wants a time")?)?,
            name => only = Some(name),
        }
    }
    for_seconds(seconds, only)
}

/// `90s`, `5m` or `1h`.
fn time(text: &str) -> Result<u64> {
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => bail!("{text}: write a time like 90s, 5m or 1h"),
    };
    Ok(number.parse::<u64>().with_context(|| format!("{text}: no number"))? * unit)
}

/// Each target, or only this one, for so long; fails if any finds something, after all have run.
pub(crate) fn for_seconds(seconds: u64, only: Option<&str>) -> Result<()> {
    step::run(&mut step::cargo(&["build", "--package", "kuberewind-fuzz"]))?;
    let program = target_dir().join("debug/kuberewind-fuzz");
    let listed = Command::new(&program).output().context("list the targets")?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let wanted = |name: &&str| only.is_none_or(|only| only == *name);
    let dir = target_dir().join("fuzz");
    let mut found = Vec::new();
    let mut count = 0;
    for name in listed.lines().filter(wanted) {
        let mut feed = Command::new(&program);
        feed.args([name, &seconds.to_string()]).arg(&dir);
        note(name, feed, &dir, &mut found)?;
        count += 1;
    }
    for name in OF_THE_BINARY.into_iter().filter(wanted) {
        let test = ["test", "-q", "-p", "kuberewind", "--bin", "kuberewind", "fuzz::for_long"];
        let mut feed = step::cargo(&test);
        feed.args(["--", "--ignored", "--nocapture"]);
        feed.env("KUBEREWIND_FUZZ_SECONDS", seconds.to_string());
        feed.env("KUBEREWIND_FUZZ_TARGET", name).env("KUBEREWIND_FUZZ_DIR", &dir);
        note(name, feed, &dir, &mut found)?;
        count += 1;
    }
    ensure!(count > 0, "no such target; there are:\n{listed}{}", OF_THE_BINARY.join("\n"));
    ensure!(found.is_empty(), "found something: {}", found.join(", "));
    Ok(())
}

/// Runs one, and keeps the input with which it ended if it did not end well.
fn note(name: &str, mut feed: Command, dir: &Path, found: &mut Vec<String>) -> Result<()> {
    let status = feed.status().with_context(|| format!("feed {name}"))?;
    if !status.success() {
        // One that was only too much for a check is there under its own name already.
        let (last, kept) = (current(name), dir.join(format!("{name}.last")));
        let _ = fs::copy(last, &kept);
        found.push(format!("{name} ({status}; see {})", kept.display()));
    }
    Ok(())
}

/// Where a target's process keeps its current input.
fn current(name: &str) -> PathBuf {
    Path::new("/dev/shm").join(format!("kuberewind-fuzz-{name}.current"))
}
