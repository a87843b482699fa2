//! Manual pages and completions, as packages have them.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Output};

fn kuberewind(arguments: &[&str]) -> Output {
    let mut command = assert_cmd::Command::cargo_bin("kuberewind").unwrap();
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    output
}

fn text(output: Output) -> String {
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that `--help` shows.
fn commands() -> BTreeSet<String> {
    let help = text(kuberewind(&["--help"]));
    let (_, list) = help.split_once("Commands:\n").unwrap();
    let list = list.split("\n\n").next().unwrap();
    let is_name = |word: &&str| word.starts_with(|c: char| c.is_ascii_lowercase());
    let line = |line: &str| line.strip_prefix("  ")?.split(' ').next().map(str::to_owned);
    list.lines().filter_map(line).filter(|word| is_name(&word.as_str())).collect()
}

#[test]
fn each_command_has_a_page_and_hidden_ones_have_none() {
    let dir = tempfile::tempdir().unwrap();
    kuberewind(&["man", dir.path().to_str().unwrap()]);
    let entries = fs::read_dir(dir.path()).unwrap();
    let pages: BTreeSet<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let commands = commands();
    assert!(commands.contains("check") && commands.contains("tap"), "{commands:?}");
    for command in commands.iter().filter(|command| *command != "help") {
        assert!(pages.contains(&format!("kuberewind-{command}.1")), "{command} in {pages:?}");
    }
    for hidden in ["agent", "extcap", "man"] {
        assert!(!pages.contains(&format!("kuberewind-{hidden}.1")), "{hidden} in {pages:?}");
    }
    for page in pages {
        let text = fs::read_to_string(dir.path().join(&page)).unwrap();
        assert!(text.contains(".TH") && text.contains(".SH NAME"), "{page}: {text}");
    }
}

#[test]
fn every_shell_has_completions_of_every_command() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let script = text(kuberewind(&["completion", shell]));
        for command in commands() {
            assert!(script.contains(&command), "{command} in the script for {shell}");
        }
    }
}

#[test]
fn bash_completes_commands_flags_and_their_values() {
    let script = text(kuberewind(&["completion", "bash"]));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kuberewind.bash");
    fs::write(&file, script).unwrap();
    let complete = |words: &[&str]| {
        let program = format!(
            "source {}; COMP_WORDS=({}); COMP_CWORD={}; _kuberewind kuberewind '{}' ''; echo \"${{COMPREPLY[*]}}\"",
            file.display(),
            words.join(" "),
            words.len() - 1,
            words.last().unwrap(),
        );
        let output = Command::new("bash").args(["--norc", "-c", &program]).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        text(output).split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete(&["kuberewind", "pca"]), ["pcapdump"]);
    assert_eq!(complete(&["kuberewind", "check", "--loc"]), ["--local"]);
    let listed = complete(&["kuberewind", "\"\""]);
    assert!(listed.contains(&"check".to_owned()), "{listed:?}");
    for hidden in ["agent", "extcap", "man"] {
        assert!(!listed.contains(&hidden.to_owned()), "{hidden} in {listed:?}");
    }
}
