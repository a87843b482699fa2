//! `kuberewind check --local` on the machine that runs the tests, which takes root.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up has failed")]

use std::path::Path;
use std::process::{Command, Output};

use assert_cmd::cargo::CommandCargoExt as _;
use serde_json::Value;

fn check(dir: &Path, without: Option<&str>) -> (Output, Vec<Value>) {
    let program = Command::cargo_bin("kuberewind").unwrap();
    let mut command = match without {
        None => Command::new(program.get_program()),
        Some(capability) => {
            let mut command = Command::new("setpriv");
            command.args(["--bounding-set", &format!("-{capability}")]);
            command.arg(program.get_program());
            command
        }
    };
    command.args(["check", "--local", "-o", "json", "--set", "pcapdump.minFree=1MB"]);
    command.args(["--set", "pcapdump.maxSize=50MB"]);
    let output = command.arg("--data-dir").arg(dir).output().unwrap();
    let findings = serde_json::from_slice(&output.stdout);
    let findings = findings.unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output, findings)
}

fn states<'a>(findings: &'a [Value], topic: &str) -> Vec<&'a str> {
    let of = findings.iter().filter(|finding| finding["topic"] == topic);
    of.map(|finding| finding["state"].as_str().unwrap()).collect()
}

#[test]
fn root_is_hindered_by_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (output, findings) = check(&dir.path().join("not/yet"), None);
    assert_eq!(output.status.code(), Some(0), "{findings:#?}");
    for topic in ["rights", "kernel", "capture", "recorder"] {
        assert_eq!(states(&findings, topic), ["ok"], "{topic} in {findings:#?}");
    }
    assert_eq!(states(&findings, "TLS"), ["ok", "ok"], "{findings:#?}");
}

#[test]
fn without_net_raw_nothing_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let (output, findings) = check(dir.path(), Some("net_raw"));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(states(&findings, "rights"), ["blocks"]);
    assert_eq!(states(&findings, "capture"), ["blocks"]);
    let rights = findings.iter().find(|finding| finding["topic"] == "rights").unwrap();
    assert_eq!(rights["found"], "CAP_NET_RAW is missing");
    assert_eq!(rights["hinders"], "recording");
}

#[test]
fn without_sys_ptrace_only_tls_and_foreign_namespaces_are_missed() {
    let dir = tempfile::tempdir().unwrap();
    let (output, findings) = check(dir.path(), Some("sys_ptrace"));
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(states(&findings, "rights"), ["warning"]);
    assert_eq!(states(&findings, "TLS"), ["ok", "warning"]);
    assert_eq!(states(&findings, "capture"), ["ok"]);
}
