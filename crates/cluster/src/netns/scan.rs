//! A look at the node's `/proc`, at little cost when it is taken again and again.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kuberewind_packet::NetnsId;
use rustix::fs::{AtFlags, Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::cgroup::membership;
use super::{Namespaces, Place, PodProcess, Whose, settle};

/// A process that is no pod's may yet be put into a pod's control group while it is this young.
const UNDECIDED: Duration = Duration::from_secs(5);
/// One process in so many is read again at every look, whatever was known: moves that nobody
/// expected are noticed in the end.
const SLICES: u32 = 64;
/// What the kernel counts process start times in; the same on every architecture that we build for.
const TICKS_PER_SECOND: u64 = 100;
/// The node's first process.
const NODE: u32 = 1;
/// Longest text read of one file: the cgroup file of a process with every controller is under 4 KiB.
const LONGEST: usize = 64 * 1024;

/// Why `/proc` could not be read at all.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// Without the node's own namespace nothing tells a pod's from it.
    #[error(
        "find the node's network namespace: read {path}: {source} (needs CAP_SYS_PTRACE and the host's /proc)"
    )]
    Node {
        /// `/host/proc/1/ns/net`.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The node's `/proc` itself.
    #[error("find the pods' processes: read {path}: {source} (is the host's /proc mounted there?)")]
    Proc {
        /// The directory or file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Looks for the pods' processes, and remembers what it need not read again.
///
/// A look lists `/proc` and reads the processes that are new since the last one. The directory entry's
/// inode number tells a reused process number from the old one without a system call.
pub struct Scanner {
    proc: PathBuf,
    node: PathBuf,
    look_up: LookUp,
    known: HashMap<u32, Known>,
    looks: u32,
}

/// Tells the network namespace of a process, which takes a right that the looking itself does not.
type LookUp = Box<dyn Fn(u32) -> io::Result<NetnsId> + Send>;

#[derive(Debug)]
struct Known {
    inode: u64,
    started: u64,
    process: Kind,
}

#[derive(Debug)]
enum Kind {
    /// A pod's.
    Pod(Whose, NetnsId),
    /// Nobody's whom we look for.
    Other,
    /// We may not read it.
    Unreadable,
}

impl fmt::Debug for Scanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { proc, known, looks, .. } = self;
        f.debug_struct("Scanner")
            .field("proc", proc)
            .field("known", known)
            .field("looks", looks)
            .finish()
    }
}

impl Scanner {
    /// `proc` is where the node's own `/proc` is mounted: `/host/proc` in a pod. `look_up` tells the
    /// network namespace of a process there.
    pub fn new(
        proc: impl Into<PathBuf>,
        look_up: impl Fn(u32) -> io::Result<NetnsId> + Send + 'static,
    ) -> Self {
        let proc = proc.into();
        let node = proc.join("1/ns/net");
        Self { proc, node, look_up: Box::new(look_up), known: HashMap::new(), looks: 0 }
    }

    /// Looks once. Processes that end meanwhile are left out.
    pub fn look(&mut self) -> Result<Namespaces, ScanError> {
        let node = self.node()?;
        let now = self.uptime()?;
        let listed = self.list()?;
        let mut before = std::mem::take(&mut self.known);
        self.known.reserve(listed.len());
        for (pid, inode) in listed {
            let old = before.remove(&pid).filter(|known| known.inode == inode);
            let kept = old.filter(|known| !self.is_due(pid, known, now, node.netns));
            if let Some(known) = kept.or_else(|| self.read(pid, inode)) {
                self.known.insert(pid, known);
            }
        }
        self.looks = self.looks.wrapping_add(1);
        let pods = settle(self.processes(now), node.netns, |pid| self.netns_path(pid));
        let is_unreadable = |known: &&Known| matches!(known.process, Kind::Unreadable);
        let unreadable = self.known.values().filter(is_unreadable).count();
        Ok(Namespaces { node, pods, unreadable })
    }

    fn is_due(&self, pid: u32, known: &Known, now: u64, node: NetnsId) -> bool {
        let undecided = match &known.process {
            Kind::Pod(_, netns) => *netns == node,
            Kind::Other => age(known.started, now) < UNDECIDED,
            Kind::Unreadable => false,
        };
        undecided || pid % SLICES == self.looks % SLICES
    }

    fn processes(&self, now: u64) -> impl Iterator<Item = PodProcess> {
        self.known.iter().filter_map(move |(&pid, known)| match &known.process {
            Kind::Pod(whose, netns) => {
                let age = age(known.started, now);
                Some(PodProcess { pid, age, whose: whose.clone(), netns: *netns })
            }
            Kind::Other | Kind::Unreadable => None,
        })
    }

    fn netns_path(&self, pid: u32) -> PathBuf {
        self.proc.join(format!("{pid}/ns/net"))
    }

    fn node(&self) -> Result<Place, ScanError> {
        let path = self.node.clone();
        match (self.look_up)(NODE) {
            Ok(netns) => Ok(Place { netns, path }),
            Err(source) => Err(ScanError::Node { path, source }),
        }
    }

    /// Ticks since the node started.
    fn uptime(&self) -> Result<u64, ScanError> {
        let path = self.proc.join("uptime");
        let read = std::fs::read_to_string(&path).and_then(|text| {
            parse_uptime(&text).ok_or_else(|| io::Error::other(format!("`{text}` is no time")))
        });
        read.map_err(|source| ScanError::Proc { path, source })
    }

    /// Every process: its number and the inode of its directory.
    fn list(&self) -> Result<Vec<(u32, u64)>, ScanError> {
        self.try_list()
            .map_err(|errno| ScanError::Proc { path: self.proc.clone(), source: errno.into() })
    }

    fn try_list(&self) -> Result<Vec<(u32, u64)>, Errno> {
        let dir = open_dir(&self.proc, OFlags::RDONLY)?;
        let mut buffer = Vec::with_capacity(32 * 1024);
        let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
        let mut listed = Vec::with_capacity(self.known.len() + 16);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_str().ok();
            if let Some(pid) = name.and_then(|name| name.parse().ok()) {
                listed.push((pid, entry.ino()));
            }
        }
        Ok(listed)
    }

    /// None: the process ended.
    fn read(&self, pid: u32, inode: u64) -> Option<Known> {
        match self.try_read(pid) {
            Ok((started, process)) => Some(Known { inode, started, process }),
            Err(Errno::ACCESS | Errno::PERM) => {
                Some(Known { inode, started: 0, process: Kind::Unreadable })
            }
            Err(_) => None,
        }
    }

    /// What is read through one descriptor of the process's directory is of one and the same process:
    /// it outlives neither the process nor its number. If it still lives once its namespace was looked
    /// up by its number, nobody else had that number.
    fn try_read(&self, pid: u32) -> Result<(u64, Kind), Errno> {
        let dir = open_dir(&self.proc.join(pid.to_string()), OFlags::PATH)?;
        let started = parse_start(&read_text(&dir, "stat")?).ok_or(Errno::INVAL)?;
        let found = membership(&read_text(&dir, "cgroup")?);
        let whose = match (found.pod_uid, found.container) {
            _ if found.monitor => None,
            (Some(uid), _) => Some(Whose::Pod(uid)),
            (None, id) => id.map(Whose::Container),
        };
        let Some(whose) = whose else { return Ok((started, Kind::Other)) };
        let netns = (self.look_up)(pid)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))?;
        rustix::fs::statat(&dir, "stat", AtFlags::empty())?;
        Ok((started, Kind::Pod(whose, netns)))
    }
}

fn open_dir(path: &Path, how: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, how | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn read_text(dir: impl AsFd, name: &str) -> Result<String, Errno> {
    let file = rustix::fs::openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = vec![0; 4096];
    let mut filled = 0;
    loop {
        let read = rustix::io::read(&file, &mut text[filled..])?;
        filled += read;
        if read == 0 || filled >= LONGEST {
            break;
        }
        if filled == text.len() {
            text.resize(2 * filled, 0);
        }
    }
    text.truncate(filled);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn age(started: u64, now: u64) -> Duration {
    Duration::from_millis(now.saturating_sub(started).saturating_mul(1000 / TICKS_PER_SECOND))
}

/// `12345.67 23456.78` → ticks.
fn parse_uptime(text: &str) -> Option<u64> {
    let (seconds, hundredths) = text.split_whitespace().next()?.split_once('.')?;
    let ticks = seconds.parse::<u64>().ok()?.checked_mul(TICKS_PER_SECOND)?;
    ticks.checked_add(hundredths.parse().ok()?)
}

/// Field 22 of `/proc/PID/stat`; the command's name before it may hold blanks and parentheses.
fn parse_start(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 1234 99";
        for name in ["sleep", "a b", "x) S 1 2 (y"] {
            assert_eq!(parse_start(&format!("77 ({name}) {rest}")), Some(1234), "{name}");
        }
        assert_eq!(parse_start("77 (sleep) S 1"), None);
    }

    #[test]
    fn a_proc_that_is_not_there_is_named_with_what_it_needs() {
        let nobody = |_| Err(io::ErrorKind::NotFound.into());
        let error = Scanner::new("/nowhere", nobody).look().unwrap_err().to_string();
        assert!(error.contains("/nowhere/1/ns/net"), "{error}");
        assert!(error.contains("CAP_SYS_PTRACE"), "{error}");
    }

    #[test]
    fn ages_never_go_below_zero() {
        assert_eq!(age(200, 100), Duration::ZERO);
        assert_eq!(age(100, 350), Duration::from_millis(2500));
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "\\PC*") {
            parse_uptime(&text);
            parse_start(&text);
        }
    }
}
