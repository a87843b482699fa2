//! The recorder under test, and what it answers.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use kuberewind_packet::{Owner, Timestamp};
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::{CaptureFile, Netns, Program, kuberewind, output, wait_for};

const START: Duration = Duration::from_secs(10);
const STOP: Duration = Duration::from_secs(10);

/// A new data directory. Its path is short, since a socket lies in it.
pub fn data_dir() -> TempDir {
    tempfile::Builder::new().prefix("kr-").tempdir().expect("a temporary directory")
}

/// A running `kuberewind tap --local`. Killed when dropped.
#[derive(Debug)]
pub struct Recorder {
    program: Program,
    data_dir: PathBuf,
}

impl Recorder {
    /// Records these namespaces and waits until it does. `arguments` are added to the command line.
    pub fn start(data_dir: &Path, namespaces: &[&Netns], arguments: &[&str]) -> Self {
        let names: Vec<_> = namespaces.iter().map(|netns| netns.name()).collect();
        let recorder = Self::spawn(data_dir, &names, arguments);
        recorder.wait_to_record(&names)
    }

    /// Starts it without waiting. The namespaces need not be there yet.
    pub fn spawn(data_dir: &Path, namespaces: &[&str], arguments: &[&str]) -> Self {
        let mut command = kuberewind();
        command.args(["tap", "--local", "--data-dir"]).arg(data_dir);
        for name in namespaces {
            command.args(["--netns", name]);
        }
        let program = Program::start(command.args(arguments));
        Self { program, data_dir: data_dir.to_owned() }
    }

    fn wait_to_record(mut self, namespaces: &[&str]) -> Self {
        wait_for("the recorder to record", START, || {
            self.program.assert_running();
            let status = status(&self.data_dir)?;
            let all = namespaces.iter().all(|name| status.namespace(name).is_some());
            (status.recording && all).then_some(())
        });
        self
    }

    /// The process.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// What it says of itself.
    pub fn status(&self) -> Status {
        status(&self.data_dir).expect("a recorder that answers")
    }

    /// Waits until what it says of itself satisfies `condition`.
    pub fn wait_status(
        &self,
        what: &str,
        within: Duration,
        mut condition: impl FnMut(&Status) -> bool,
    ) -> Status {
        wait_for(what, within, || status(&self.data_dir).filter(|status| condition(status)))
    }

    /// `kuberewind pcapdump --local …` against it.
    pub fn pcapdump(&self, arguments: &[&str]) -> Output {
        pcapdump(&self.data_dir, arguments)
    }

    /// Everything that it holds, complete. Panics when the export's exit code is not 0.
    pub fn window(&self, arguments: &[&str]) -> CaptureFile {
        window(&self.data_dir, 0, arguments)
    }

    /// Sends a signal, and waits until it has ended.
    pub fn stop_by(mut self, signal: Signal) -> ExitStatus {
        self.program.signal(signal);
        self.program.ended(STOP)
    }
}

/// `kuberewind pcapdump --local --data-dir DIR …`, run to its end.
pub fn pcapdump(data_dir: &Path, arguments: &[&str]) -> Output {
    let mut command: Command = kuberewind();
    command.args(["pcapdump", "--local", "--data-dir"]).arg(data_dir);
    output(command.args(arguments))
}

/// Exports as `.pcapng` what `arguments` ask for, and reads it back. Panics when the exit code is not
/// `code`.
pub fn window(data_dir: &Path, code: i32, arguments: &[&str]) -> CaptureFile {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("window.pcapng");
    let file_argument = file.display().to_string();
    let done = pcapdump(data_dir, &[&["--dest", &file_argument], arguments].concat());
    let said = String::from_utf8_lossy(&done.stderr);
    let answer = String::from_utf8_lossy(&done.stdout);
    assert_eq!(done.status.code(), Some(code), "pcapdump {arguments:?}\n{said}\n{answer}");
    CaptureFile::read(&file)
}

/// The stretches of the first node that a report of an export names as missing since a recorder was killed.
pub fn crashes(report: &Value) -> Vec<Range<Timestamp>> {
    let gaps = report["nodes"][0]["gaps"].as_array().expect("gaps");
    let crashes = gaps.iter().filter(|gap| gap["cause"] == "crash");
    let time = |gap: &Value, key: &str| gap[key].as_str().expect("a time").parse().expect("a time");
    crashes.map(|gap| time(gap, "from")..time(gap, "to")).collect()
}

/// `kuberewind status --local --json`; none when no recorder answers.
pub fn status(data_dir: &Path) -> Option<Status> {
    let mut command = kuberewind();
    let done = output(command.args(["status", "--local", "--json", "--data-dir"]).arg(data_dir));
    // 0: recording; 3: some or all of it is not, and the answer says what.
    matches!(done.status.code(), Some(0 | 3)).then(|| {
        serde_json::from_slice(&done.stdout).unwrap_or_else(|error| {
            panic!("status: {error}\n{}", String::from_utf8_lossy(&done.stdout))
        })
    })
}

/// Namespaces of which nobody has decided yet.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Undecided {
    /// How many.
    pub namespaces: u64,
    /// Their packets.
    pub packets: u64,
}

/// What `status --json` says.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Whether it records.
    pub recording: bool,
    /// Packets recorded since it started.
    pub packets: u64,
    /// Packets lost, by cause.
    pub losses: BTreeMap<String, u64>,
    /// Bytes that the data directory takes.
    pub bytes_held: u64,
    /// The oldest packet that is held.
    pub oldest: Option<Timestamp>,
    /// The newest.
    pub newest: Option<Timestamp>,
    /// What is recorded.
    pub namespaces: Vec<Namespace>,
    /// What waits until it is known whether it is to be recorded.
    pub undecided: Undecided,
    /// What is not as it should be.
    pub problems: Vec<String>,
    /// TLS, where it is looked at.
    pub tls: Option<Tls>,
}

/// What is seen of TLS.
#[derive(Clone, Debug, Deserialize)]
pub struct Tls {
    /// Connections that began since the recorder started.
    pub handshakes: u64,
    /// Of these, those whose secrets are known.
    pub covered: u64,
    /// Secrets that were seen.
    pub secrets: u64,
    /// Secrets that were lost on the way from the kernel.
    pub lost: u64,
    /// Where secrets come from.
    pub libraries: Vec<Library>,
    /// What probes of plaintext see, where they are asked for.
    pub plaintext: Option<Plaintext>,
}

/// What probes of plaintext see.
#[derive(Clone, Debug, Deserialize)]
pub struct Plaintext {
    /// Files with probes.
    pub files: Vec<String>,
}

/// A file with probes in it.
#[derive(Clone, Debug, Deserialize)]
pub struct Library {
    /// As a process that uses it sees it.
    pub path: String,
    /// How many recorded processes use it.
    pub processes: usize,
}

impl Status {
    /// A network namespace by the name that it was asked for.
    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.iter().find(|namespace| match &namespace.owner {
            Owner::Netns(owner) => owner == name,
            Owner::Host | Owner::Pod(_) => false,
        })
    }

    /// Whether secrets are read from a file that recorded processes use.
    pub fn has_probes_in(&self, path: &str) -> bool {
        let libraries = self.tls.iter().flat_map(|tls| &tls.libraries);
        // `libgnutls.so.30` is a link to `libgnutls.so.30.34.3`.
        let longer = format!("{path}.");
        let is_it = |found: &str| found.ends_with(path) || found.contains(&longer);
        libraries.into_iter().any(|library| is_it(&library.path) && library.processes > 0)
    }

    /// All packets that were lost.
    pub fn lost(&self) -> u64 {
        self.losses.values().sum()
    }
}

/// A recorded network namespace.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Namespace {
    /// Whose it is.
    pub owner: Owner,
    /// Its interfaces that packets came from.
    pub interfaces: Vec<Interface>,
}

impl Namespace {
    /// An interface by its name.
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.name == name)
    }
}

/// A recorded interface.
#[derive(Clone, Debug, Deserialize)]
pub struct Interface {
    /// The kernel's name for it.
    pub name: String,
    /// Packets recorded.
    pub packets: u64,
}
