//! Programs: run to their end, or kept running beside the test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::wait_for;

/// Cargo's target directory that the running program was built in.
pub fn target_dir() -> PathBuf {
    let own = std::env::current_exe().expect("the path of this program");
    own.ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").exists())
        .unwrap_or_else(|| panic!("{} lies in no target directory of cargo", own.display()))
        .to_owned()
}

/// Python with the modules that `cargo xtask setup` installs.
pub fn python() -> String {
    target_dir().join("venv/bin/python").display().to_string()
}

static UNDER_TEST: OnceLock<PathBuf> = OnceLock::new();

/// Makes [`kuberewind`] another build than the one beside the running program; to be called once.
pub fn use_build(path: PathBuf) {
    UNDER_TEST.set(path).expect("the build is chosen once");
}

/// `kuberewind` as it was built for the running program: beside it, or one folder up for a test.
pub fn kuberewind() -> Command {
    Command::new(UNDER_TEST.get_or_init(built_beside))
}

fn built_beside() -> PathBuf {
    let own = std::env::current_exe().expect("the path of this program");
    let built = own.ancestors().skip(1).take(2).map(|dir| dir.join("kuberewind"));
    let path = built.into_iter().find(|path| path.is_file());
    path.expect("kuberewind is not built: run `cargo build -p kuberewind` first")
}

/// Runs to the end whatever comes of it; panics when it cannot be started.
pub fn output(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask setup`", named(command)))
}

/// Runs to the end and gives standard output; panics when it fails.
pub fn succeed(command: &mut Command) -> String {
    let output = output(command);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn named(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// A program that runs beside the test; what it says goes to a file. Killed when dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    name: String,
    log: PathBuf,
    _log_dir: TempDir,
}

impl Program {
    /// Starts it.
    pub fn start(command: &mut Command) -> Self {
        let log_dir = tempfile::tempdir().expect("a temporary directory");
        let log = log_dir.path().join("log");
        let out = File::create(&log).expect("a log file");
        let errors = out.try_clone().expect("a log file");
        let child =
            command.stdin(Stdio::null()).stdout(out).stderr(errors).spawn().unwrap_or_else(
                |error| panic!("{}: {error}; run `cargo xtask setup`", named(command)),
            );
        Self { child, name: format!("{command:?}"), log, _log_dir: log_dir }
    }

    /// Its process number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until it has said `text`.
    pub fn wait_to_say(&mut self, text: &str, within: Duration) {
        wait_for(&format!("`{text}` from {}", self.name), within, || {
            let said = self.said();
            self.assert_running();
            said.contains(text).then_some(())
        });
    }

    /// Panics with what it said when it has ended.
    pub fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().expect("the state of a child") {
            panic!("{} has ended: {status}\n{}", self.name, self.said());
        }
    }

    /// How it ended, if it has.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the state of a child")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.id()).ok().and_then(Pid::from_raw).expect("a process number");
        kill_process(pid, signal).unwrap_or_else(|error| panic!("signal {}: {error}", self.name));
    }

    /// Waits until it has ended.
    pub fn ended(&mut self, within: Duration) -> ExitStatus {
        wait_for(&format!("the end of {}", self.name), within, || {
            self.child.try_wait().expect("the state of a child")
        })
    }

    /// Its main memory in bytes: `VmRSS`.
    pub fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most main memory that it has had, in bytes: `VmHWM`.
    pub fn peak_resident(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, what: &str) -> u64 {
        let path = format!("/proc/{}/status", self.id());
        let status = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let line = status.lines().find_map(|line| line.strip_prefix(what));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kibibytes.expect("kilobytes of memory") * 1024
    }

    /// CPU time of all its threads by the scheduler's own clock (`sum_exec_runtime`, to the
    /// nanosecond; ticks are too coarse for short runs).
    pub fn cpu_time(&self) -> Duration {
        let tasks = PathBuf::from(format!("/proc/{}/task", self.id()));
        let tasks = fs::read_dir(&tasks).unwrap_or_else(|e| panic!("{}: {e}", tasks.display()));
        tasks.flatten().filter_map(|task| run_time(&task.path())).sum()
    }
}

fn run_time(task: &Path) -> Option<Duration> {
    let text = fs::read_to_string(task.join("schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let said = self.said();
        if std::thread::panicking() && !said.is_empty() {
            eprintln!("--- {}\n{said}", self.name);
        }
    }
}
