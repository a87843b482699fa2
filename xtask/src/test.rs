//! Everything that must hold.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Result, bail};

use crate::{fuzz, setup, step};

/// The crate whose tests need the machine to themselves.
const WHOLE_SYSTEM: &str = "kuberewind-tests";

/// Each fuzz target is fed for so long, with other input each time.
const FUZZ_SECONDS: u64 = 3;

/// Format, lints, and all tests; fails if any of them does.
pub(crate) fn run() -> Result<()> {
    let started = Instant::now();
    step::need_root("test")?;
    setup::run()?;
    step::run(&mut step::cargo(&["fmt", "--all", "--check"]))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    step::run(&mut step::cargo(&clippy))?;
    // The tests of the whole system run the binary, which cargo does not build for them.
    step::run(&mut step::cargo(&["build", "--workspace"]))?;
    let mut tally = Tally::default();
    let passed = run_tests(&mut tally)?;
    fuzz::for_seconds(FUZZ_SECONDS, None)?;
    let minutes = started.elapsed().as_secs_f64() / 60.0;
    println!("\n{tally}, {minutes:.1} min");
    if !passed {
        bail!("tests failed");
    }
    Ok(())
}

/// With nextest where it is installed; else, and for examples in the docs, with cargo's own runner.
fn run_tests(tally: &mut Tally) -> Result<bool> {
    let runs: &[&[&str]] = if has_nextest() {
        &[&["nextest", "run", "--workspace"], &["test", "--workspace", "--doc"]]
    } else {
        &[
            &["test", "--workspace", "--exclude", WHOLE_SYSTEM, "--no-fail-fast"],
            &["test", "-p", WHOLE_SYSTEM, "--no-fail-fast", "--", "--test-threads=1"],
        ]
    };
    let mut passed = true;
    for run in runs {
        passed &= step::run_and_read(&mut step::cargo(run), |line| tally.add(line))?;
    }
    Ok(passed)
}

fn has_nextest() -> bool {
    let mut version: Command = step::cargo(&["nextest", "--version"]);
    let version = version.stdout(Stdio::null()).stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}

/// Tests, as the closing lines of nextest and of cargo's own runner count them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Tally {
    fn add(&mut self, line: &str) {
        let closes = line.starts_with("test result:")
            || line.trim_start().starts_with("Summary [") && line.contains(" run: ");
        if closes {
            self.passed += before(line, "passed");
            self.failed += before(line, "failed") + before(line, "timed out");
            self.skipped += before(line, "skipped") + before(line, "ignored");
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { passed, failed, skipped } = self;
        write!(f, "{} tests: {passed} passed, {failed} failed, {skipped} skipped", passed + failed)
    }
}

/// The number that stands before a word.
fn before(line: &str, word: &str) -> u64 {
    let number = line.split_once(&format!(" {word}")).and_then(|(head, _)| head.rsplit(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_lines_of_both_runners_are_counted() {
        let mut tally = Tally::default();
        tally.add("     Summary [  12.301s] 45 tests run: 43 passed (1 slow), 2 failed, 1 skipped");
        tally.add("test result: ok. 3 passed; 0 failed; 4 ignored; 0 measured; 0 filtered out");
        tally.add("        PASS [   0.016s] kuberewind-packet nothing_is_passed");
        assert_eq!(tally, Tally { passed: 46, failed: 2, skipped: 5 });
        assert_eq!(tally.to_string(), "48 tests: 46 passed, 2 failed, 5 skipped");
    }
}
