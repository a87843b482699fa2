//! Go's toolchain, which Debian has only in an old version.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where it is: in the tests' Python environment below cargo's target directory, or installed.
pub fn go(target: &Path) -> PathBuf {
    let own = target.join("venv/bin/go");
    if own.exists() { own } else { "go".into() }
}

/// `go build` of one source file, with what it compiled before at hand; needs no network.
pub fn go_build(target: &Path, flags: &[&str], source: &Path, program: &Path) -> Command {
    let mut command = Command::new(go(target));
    command.arg("build").args(flags).arg("-o").arg(program).arg(source);
    command.env("GOCACHE", target.join("tmp/go")).env("GO111MODULE", "off");
    command.env("CGO_ENABLED", "0");
    command
}
