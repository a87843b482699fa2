//! Outsiders that read what we wrote. If they cannot, we are wrong.

use std::path::Path;
use std::process::Command;

use crate::{output, python, succeed};

/// Has every judge read a file, and asserts that all count `packets` and none complains.
pub fn read_by_all(path: &Path, packets: u64) {
    let file = path.display();
    assert_eq!(capinfos(path).packets, packets, "capinfos on {file}");
    assert_eq!(tshark(path, &["-T", "fields", "-e", "frame.number"]).len() as u64, packets);
    assert_eq!(tcpdump_lines(path), packets, "tcpdump on {file}");
    assert_eq!(mergecap_lines(path), packets, "mergecap on {file}");
    assert_eq!(scapy_count(path), packets, "scapy on {file}");
}

/// What capinfos says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capinfos {
    /// How many packets.
    pub packets: u64,
    /// Whether each is stamped no earlier than the one before.
    pub strictly_ordered: bool,
}

/// Asks capinfos.
pub fn capinfos(path: &Path) -> Capinfos {
    let said = quiet(Command::new("capinfos").args(["-M", "-c", "-o"]).arg(path));
    let field = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no `{name}` in\n{said}")).trim().to_owned()
    };
    Capinfos {
        packets: field("Number of packets:").parse().expect("a count"),
        strictly_ordered: matches!(&*field("Strict time order:"), "True" | "Unknown"),
    }
}

/// The lines that `tshark -n -r PATH …` prints.
pub fn tshark(path: &Path, arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new("tshark");
    let said = succeed(command.args(["-n", "-r"]).arg(path).args(arguments));
    said.lines().map(str::to_owned).collect()
}

fn tcpdump_lines(path: &Path) -> u64 {
    let mut command = Command::new("tcpdump");
    let said = succeed(command.args(["-n", "-t", "-q", "-e", "-r"]).arg(path));
    said.lines().filter(|line| !line.starts_with(char::is_whitespace)).count() as u64
}

/// mergecap merges it with itself; half of what comes out is what went in.
fn mergecap_lines(path: &Path) -> u64 {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let merged = dir.path().join("merged.pcapng");
    quiet(Command::new("mergecap").arg("-w").arg(&merged).args([path, path]));
    capinfos(&merged).packets / 2
}

fn scapy_count(path: &Path) -> u64 {
    let program = "import sys\n\
        from scapy.utils import RawPcapReader\n\
        print(sum(1 for packet in RawPcapReader(sys.argv[1])))";
    scapy(program, path).trim().parse().expect("a count")
}

/// Runs a Python program that may import scapy, with the path as its argument.
pub fn scapy(program: &str, path: &Path) -> String {
    succeed(Command::new(python()).args(["-c", program]).arg(path))
}

/// Success, and not a word on standard error (but Wireshark's about running as root).
fn quiet(command: &mut Command) -> String {
    let done = output(command);
    let errors = String::from_utf8_lossy(&done.stderr);
    let complaints = errors.lines().filter(|line| !line.contains("Running as user \"root\""));
    let complaints: Vec<_> = complaints.collect();
    assert!(done.status.success() && complaints.is_empty(), "{command:?}\n{complaints:#?}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}
