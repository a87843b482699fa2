//! Follows network namespaces that appear and vanish.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kuberewind_packet::NetnsId;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::CaptureError;
use crate::namespaces::{NetnsSpec, Target, inhabited};
use crate::opener::Opener;

/// How often a namespace that lost its name is looked for among the processes, and a path is looked
/// at. Names in `/run/netns` and processes need no looking: the kernel tells.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Follows namespaces by the names that users gave them, on a thread of its own.
#[derive(Debug)]
pub struct NetnsWatch {
    wake: Arc<OwnedFd>,
    thread: JoinHandle<()>,
}

impl NetnsWatch {
    /// Calls back with all targets, and with a line about each that is not there: once at the start,
    /// and then whenever either changes.
    ///
    /// A name counts once a namespace is mounted on it. When it vanishes, its namespace stays a
    /// target until the last process in it has ended. A process's namespace ends with the process.
    pub fn start(
        specs: Vec<NetnsSpec>,
        opener: Opener,
        mut on_change: impl FnMut(Vec<Target>, Vec<String>) + Send + 'static,
    ) -> Result<Self, CaptureError> {
        let failed =
            |source| CaptureError::Start { what: "the watch over network namespaces", source };
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| failed(error.into()))?;
        let wake = Arc::new(wake);
        let mounts = Mounts::open().map_err(failed)?;
        let (stop, mut sights) = (Arc::clone(&wake), Sights::new(specs, opener));
        let watch = move || {
            let mut told = None;
            loop {
                let seen = sights.look();
                if told.as_ref() != Some(&seen) {
                    on_change(seen.0.clone(), seen.1.clone());
                    told = Some(seen);
                }
                if wait(&stop, &mounts, &sights) == Woken::Stop {
                    return;
                }
            }
        };
        let thread =
            thread::Builder::new().name("netns-watch".to_owned()).spawn(watch).map_err(failed)?;
        Ok(Self { wake, thread })
    }

    /// Ends the thread. The callback is not called again.
    pub fn stop(self) {
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        if self.thread.join().is_err() {
            tracing::error!("the watch over network namespaces panicked");
        }
    }
}

/// The table of mounts, which the kernel tells changes of (not inotify: it tells of the file before
/// the namespace is mounted on it).
#[derive(Debug)]
pub(crate) struct Mounts(File);

impl Mounts {
    pub(crate) fn open() -> io::Result<Self> {
        let mounts = Self(File::open("/proc/self/mountinfo")?);
        mounts.reread()?;
        Ok(mounts)
    }

    /// A change is told once, to who has read the table since the last.
    pub(crate) fn reread(&self) -> io::Result<String> {
        let mut table = &self.0;
        let mut bytes = Vec::new();
        table.rewind()?;
        table.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Waits for a change, or until `stop` is written to; `false` for the latter.
    pub(crate) fn wait(&self, stop: &OwnedFd) -> bool {
        let changed = PollFlags::PRI | PollFlags::ERR;
        let mut polled =
            [PollFd::new(stop, PollFlags::IN), PollFd::from_borrowed_fd(self.0.as_fd(), changed)];
        // Interrupted or out of memory: whoever waited looks again, which does no harm.
        let _ = rustix::event::poll(&mut polled, None);
        polled[0].revents().is_empty()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    Look,
    Stop,
}

/// Waits until something may have changed.
fn wait(stop: &OwnedFd, mounts: &Mounts, sights: &Sights) -> Woken {
    let changed = PollFlags::PRI | PollFlags::ERR;
    let mut polled =
        vec![PollFd::new(stop, PollFlags::IN), PollFd::from_borrowed_fd(mounts.0.as_fd(), changed)];
    polled.extend(sights.lives().map(|process| PollFd::new(process, PollFlags::IN)));
    let timeout = sights.must_look_again().then_some(LOOK_AGAIN);
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    // Interrupted or out of memory: look again, which does no harm.
    let _ = rustix::event::poll(&mut polled, timeout.as_ref());
    if !polled[0].revents().is_empty() {
        return Woken::Stop;
    }
    if !polled[1].revents().is_empty() && mounts.reread().is_err() {
        tracing::warn!("cannot read /proc/self/mountinfo");
    }
    Woken::Look
}

/// What is looked for, and what was there at the last look.
#[derive(Debug)]
struct Sights {
    all: Vec<Sight>,
    opener: Opener,
}

#[derive(Debug)]
struct Sight {
    spec: NetnsSpec,
    /// Held open for as long as a process lives; its number may then name another.
    life: Option<OwnedFd>,
    ended: bool,
    there: Option<Target>,
    /// Why it is not there.
    problem: Option<String>,
    /// Namespaces that lost this name and in which processes still live.
    nameless: Vec<Target>,
}

impl Sights {
    fn new(specs: Vec<NetnsSpec>, opener: Opener) -> Self {
        let unique: BTreeSet<NetnsSpec> = specs.into_iter().collect();
        Self { all: unique.into_iter().map(Sight::new).collect(), opener }
    }

    /// The processes whose end is waited for.
    fn lives(&self) -> impl Iterator<Item = &OwnedFd> {
        self.all.iter().filter_map(|sight| sight.life.as_ref())
    }

    /// Whether something can change without the kernel telling.
    fn must_look_again(&self) -> bool {
        self.all
            .iter()
            .any(|sight| matches!(sight.spec, NetnsSpec::Path(_)) || !sight.nameless.is_empty())
    }

    fn look(&mut self) -> (Vec<Target>, Vec<String>) {
        for sight in &mut self.all {
            sight.look(&self.opener);
        }
        self.look_for_nameless();
        let missing = self.all.iter().filter(|sight| sight.targets().next().is_none());
        let problems = missing.filter_map(|sight| sight.problem.clone()).collect();
        let targets = self.all.iter().flat_map(Sight::targets).cloned();
        let mut known = BTreeSet::new();
        (targets.filter(|target| known.insert(target.netns)).collect(), problems)
    }

    /// The only look at every process of the machine, and only while a namespace has no name.
    fn look_for_nameless(&mut self) {
        if self.all.iter().all(|sight| sight.nameless.is_empty()) {
            return;
        }
        let inhabited = inhabited(&self.opener);
        for sight in &mut self.all {
            sight.nameless.retain_mut(|target| match inhabited.get(&target.netns) {
                Some(path) => {
                    // Kept while it leads there: a change would be told for nothing.
                    if !still_leads_to(target, &self.opener) {
                        target.path.clone_from(path);
                    }
                    true
                }
                None => false,
            });
        }
    }
}

fn still_leads_to(target: &Target, opener: &Opener) -> bool {
    let spec = NetnsSpec::Path(PathBuf::from(&target.path));
    spec.find(opener).is_ok_and(|found| found.netns == target.netns)
}

impl Sight {
    fn new(spec: NetnsSpec) -> Self {
        Self { spec, life: None, ended: false, there: None, problem: None, nameless: Vec::new() }
    }

    fn targets(&self) -> impl Iterator<Item = &Target> {
        self.there.iter().chain(&self.nameless)
    }

    /// Looks whether it is there, and if not, why.
    fn look(&mut self, opener: &Opener) {
        if let NetnsSpec::Pid(pid) = self.spec {
            self.follow(pid);
            if self.ended {
                self.there = None;
                self.problem = Some(format!("network namespace {pid}: the process has ended"));
                return;
            }
        }
        let found = self.spec.find(opener);
        let netns = found.as_ref().ok().map(|target| target.netns);
        if let Some(before) = self.there.take()
            && Some(before.netns) != netns
        {
            self.lose(before);
        }
        self.nameless.retain(|target| Some(target.netns) != netns);
        match found {
            Ok(target) => (self.there, self.problem) = (Some(target), None),
            Err(error) => self.problem = Some(error.to_string()),
        }
    }

    /// Holds on to the process, so that another with its number is not taken for it.
    fn follow(&mut self, pid: u32) {
        if let Some(life) = &self.life {
            let mut polled = [PollFd::new(life, PollFlags::IN)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let ended = rustix::event::poll(&mut polled, Some(&now));
            if ended.is_ok_and(|count| count > 0) {
                (self.ended, self.life) = (true, None);
            }
        } else if !self.ended {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            self.life = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
            self.ended = self.life.is_none();
        }
    }

    /// The name no longer leads there.
    fn lose(&mut self, target: Target) {
        let known = |netns: NetnsId| self.nameless.iter().any(|other| other.netns == netns);
        if !matches!(self.spec, NetnsSpec::Pid(_)) && !known(target.netns) {
            self.nameless.push(target);
        }
    }
}
