//! Figures beside peers: each by turns with its peer within one run, so that a machine that is busy
//! with something else is so for both; medians and ratios, never single times.

mod capture;
mod cluster;
mod export;
mod figures;
mod options;
mod overhead;
mod peers;

use anyhow::Result;
use kuberewind_tests::{target_dir, use_build};

use crate::{setup, step};

/// `bench capture`, `bench overhead`, `bench export` or `bench cluster`; none when `what` is something else.
pub(crate) fn run(what: &str, arguments: &[&str]) -> Option<Result<()>> {
    match what {
        "capture" => Some(capture::run(arguments)),
        "overhead" => Some(overhead::run(arguments)),
        "export" => Some(export::run(arguments)),
        "cluster" => Some(cluster::run(arguments)),
        _ => None,
    }
}

/// Everything that a bench runs, in release builds; with `build` unset, as it was built last.
fn prepare(build: bool, examples: &[(&str, &str)]) -> Result<()> {
    step::need_root("bench")?;
    setup::run()?;
    use_build(target_dir().join("release/kuberewind"));
    if !build {
        return Ok(());
    }
    step::run(&mut step::cargo(&["build", "--release", "--package", "kuberewind"]))?;
    for (package, example) in examples {
        let build = ["build", "--release", "--package", package, "--example", example];
        step::run(&mut step::cargo(&build))?;
    }
    Ok(())
}
