//! Keeps probes attached to what recorded processes run, on a thread of its own.
//!
//! The kernel tells when a recorded process executes a program, and when its dynamic loader has mapped
//! libraries; a regular look finds what neither tells: a process that enters a namespace, a loader that
//! is not known yet.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::panic::catch_unwind;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use kuberewind_packet::{NetnsId, Owner};
use kuberewind_tls::ObjectPath;
use libbpf_rs::Link;

use super::detach::Detacher;
use super::find::{Finding, Hook, Place, inspect};
use super::kernel::{Programs, Told};
use super::processes::{FileId, Mapping, Processes};
use super::share::{Full, Room, SHARE as OF_ONE_NAMESPACE, Shares};
use super::status::{LibraryStatus, UnsupportedStatus};

/// How often everything is looked at, when that costs little.
const LOOK: Duration = Duration::from_secs(2);
/// A look at everything takes at most one part in so many of the time.
const SHARE: u32 = 50;
/// When a program with a loader that was not known is looked at again: it maps libraries meanwhile.
const AGAIN: [Duration; 4] = [
    Duration::from_millis(2),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(250),
];
/// How long probes stay in a file that no process uses.
const KEPT: Duration = Duration::from_mins(1);
/// After what time a file in which something failed is tried again.
const RETRY: Duration = Duration::from_secs(30);
/// Files with probes. Each costs the kernel some memory, and each process that runs it a page.
const ROOM: Room = Room { of_all: 1024, of_one: 256 };
/// Files that are remembered.
const MAX_FILES: usize = 16_384;

const DENIED: &str = "open the programs and libraries of some processes: permission denied (needs \
    CAP_SYS_PTRACE, CAP_SYS_ADMIN and no AppArmor profile that forbids it)";

/// What the thread is told.
#[derive(Debug)]
pub(crate) enum Order {
    /// These namespaces are recorded.
    Targets(BTreeMap<NetnsId, Owner>),
    /// A recorded process may have mapped something new.
    Look(u32),
    /// Connections have shown where a file's library keeps the client's random.
    Learned(u32, ObjectPath),
    /// The end.
    Stop,
}

/// What the thread shows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sight {
    pub(crate) libraries: Vec<LibraryStatus>,
    pub(crate) unsupported: Vec<UnsupportedStatus>,
    pub(crate) loaders: usize,
    pub(crate) problems: Vec<String>,
    /// How many orders to record other namespaces were obeyed, up to what runs in these.
    pub(crate) obeyed: u64,
}

/// Where the thread shows it.
pub(crate) type Shown = Arc<Mutex<Sight>>;

/// A file that recorded processes run code from.
#[derive(Debug)]
struct Known {
    path: String,
    /// Where it was met first.
    netns: NetnsId,
    finding: Finding,
    /// For the detacher: dropped, they are detached, which takes its time.
    links: Vec<Link>,
    /// Places of which is not known yet where the client's random is.
    puzzles: Vec<Puzzle>,
    problem: Option<String>,
    used: Instant,
    studied: Instant,
}

/// A probe that is attached anew once more is known.
#[derive(Debug)]
struct Puzzle {
    number: u32,
    place: Place,
    file: File,
    /// Which of the links it is.
    link: usize,
}

/// A recorded process.
#[derive(Debug)]
struct Life {
    netns: NetnsId,
    /// Of its mappings; while it stays the same there is nothing new.
    hash: u64,
    files: Vec<FileId>,
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Watch {
    processes: Processes,
    programs: Programs,
    targets: BTreeMap<NetnsId, Owner>,
    files: HashMap<FileId, Known>,
    lives: HashMap<u32, Life>,
    again: BTreeSet<(Instant, u32)>,
    shares: Shares,
    detacher: Detacher,
    /// The number that the last puzzle was given.
    numbered: u32,
    hasher: RandomState,
    problem: Option<String>,
    /// Whether files of processes may not be opened.
    denied: bool,
    /// Orders to record other namespaces.
    ordered: u64,
    /// Of these, how many came before the last look at everything.
    obeyed: u64,
    shown: Shown,
}

impl Watch {
    pub(crate) fn new(processes: Processes, programs: Programs, shown: Shown) -> Self {
        Self {
            processes,
            programs,
            targets: BTreeMap::new(),
            files: HashMap::new(),
            lives: HashMap::new(),
            again: BTreeSet::new(),
            shares: Shares::default(),
            detacher: Detacher::default(),
            numbered: 0,
            hasher: RandomState::new(),
            problem: None,
            denied: false,
            ordered: 0,
            obeyed: 0,
            shown,
        }
    }

    /// Works until it is told to stop; then all probes are gone.
    pub(crate) fn run(mut self, orders: &Receiver<Order>) {
        self.obey(orders);
        let files = self.files.drain().map(|(_, known)| known);
        self.detacher.detach(files.flat_map(|known| known.links));
        self.detacher.finish();
    }

    fn obey(&mut self, orders: &Receiver<Order>) {
        let mut next_look = Instant::now() + LOOK;
        loop {
            let due = self.again.first().map_or(next_look, |(due, _)| next_look.min(*due));
            let mut pids = BTreeSet::new();
            let mut targets = None;
            let first = orders.recv_timeout(due.saturating_duration_since(Instant::now()));
            if matches!(first, Err(RecvTimeoutError::Disconnected)) {
                return;
            }
            // One look for all that is said of a process.
            for order in first.into_iter().chain(orders.try_iter()) {
                match order {
                    Order::Targets(new) => {
                        targets = Some(new);
                        self.ordered += 1;
                    }
                    Order::Look(pid) => drop(pids.insert(pid)),
                    Order::Learned(number, path) => self.solve(number, path),
                    Order::Stop => return,
                }
            }
            if let Some(targets) = targets {
                self.targets = targets;
                next_look = Instant::now();
            }
            pids.extend(self.take_due());
            for pid in pids {
                self.look(pid);
            }
            if next_look <= Instant::now() {
                let began = Instant::now();
                self.look_at_all();
                self.obeyed = self.ordered;
                next_look = Instant::now() + LOOK.max(began.elapsed() * SHARE);
            }
            self.show();
        }
    }

    fn take_due(&mut self) -> Vec<u32> {
        let later = self.again.split_off(&(Instant::now(), 0));
        std::mem::replace(&mut self.again, later).into_iter().map(|(_, pid)| pid).collect()
    }

    /// Finds new processes and new files, and forgets those that have gone.
    fn look_at_all(&mut self) {
        let pids = match self.processes.all() {
            Ok(pids) => pids,
            Err(error) => {
                self.problem = Some(format!("list processes: {error}"));
                return;
            }
        };
        self.problem = None;
        self.denied = false;
        self.forget_failed();
        let alive: BTreeSet<u32> = pids.iter().copied().collect();
        self.lives.retain(|pid, _| alive.contains(pid));
        for (pid, netns) in pids.iter().zip(self.processes.netns(&pids)) {
            self.look_into(*pid, netns);
        }
        self.detach_unused();
    }

    /// Attaches to what a process runs, if it is recorded.
    fn look(&mut self, pid: u32) {
        let netns = self.processes.netns(&[pid]).pop().flatten();
        self.look_into(pid, netns);
    }

    fn look_into(&mut self, pid: u32, netns: Option<NetnsId>) {
        let netns = netns.filter(|netns| self.targets.contains_key(netns));
        let (Some(netns), Ok(mappings)) = (netns, self.processes.mappings(pid)) else {
            self.lives.remove(&pid);
            return;
        };
        let hash = self.hasher.hash_one(&mappings);
        if self.lives.get(&pid).is_some_and(|life| (life.netns, life.hash) == (netns, hash)) {
            return;
        }
        let loaders = self.loaders();
        let met = mappings.iter().filter_map(|mapping| self.meet(pid, netns, mapping));
        let files = met.collect();
        // Files that had to wait are met at a later look.
        let hash = if self.shares.allow(netns, Instant::now()) { hash } else { 0 };
        self.lives.insert(pid, Life { netns, hash, files });
        if self.loaders() > loaders {
            let now = Instant::now();
            self.again.extend(AGAIN.map(|delay| (now + delay, pid)));
        }
    }

    fn loaders(&self) -> usize {
        let places = self.files.values().flat_map(|known| &known.finding.places);
        places.filter(|place| place.hook == Hook::Loader).count()
    }

    /// Opens a file and, if it is new, looks into it and attaches what fits.
    fn meet(&mut self, pid: u32, netns: NetnsId, mapping: &Mapping) -> Option<FileId> {
        // Processes end while we look.
        let opened = self.processes.open(pid, mapping);
        self.denied |= opened.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied);
        let file = opened.ok()?;
        let id = FileId::of(&file).ok()?;
        if let Some(known) = self.files.get_mut(&id) {
            known.used = Instant::now();
            return Some(id);
        }
        if self.files.len() >= MAX_FILES {
            self.forget_harmless();
        }
        let now = Instant::now();
        if !self.shares.allow(netns, now) {
            return None;
        }
        let began = Shares::clock();
        let known = self.study(&file, netns, mapping);
        self.files.insert(id, known);
        self.shares.add(netns, now, Shares::clock().saturating_sub(began));
        Some(id)
    }

    fn study(&mut self, file: &File, netns: NetnsId, mapping: &Mapping) -> Known {
        let mut known = Known {
            path: mapping.path.clone(),
            netns,
            finding: Finding::default(),
            links: Vec::new(),
            puzzles: Vec::new(),
            problem: None,
            used: Instant::now(),
            studied: Instant::now(),
        };
        let Ok(copy) = file.try_clone() else { return known };
        // What is no ELF file has no TLS library that we know.
        match catch_unwind(|| inspect(copy)) {
            Ok(finding) => known.finding = finding.unwrap_or_default(),
            Err(_) => known.problem = Some(format!("look into {}: failed", mapping.path)),
        }
        if known.finding.places.is_empty() {
            return known;
        }
        if let Some(why) = self.is_too_many(netns) {
            known.problem = Some(format!("attach to {}: {why}", mapping.path));
            return known;
        }
        for place in known.finding.places.clone() {
            let number = self.next_number();
            match self.programs.attach(place, file, Told { file: number, random: None }) {
                Ok(link) => known.links.push(link),
                Err(error) => {
                    known.problem = Some(format!("attach to {}: {error}", mapping.path));
                    continue;
                }
            }
            if place.hook.asks_where_the_random_is()
                && let Ok(file) = file.try_clone()
            {
                known.puzzles.push(Puzzle { number, place, file, link: known.links.len() - 1 });
            }
        }
        known
    }

    /// Why another file with probes would be too much.
    fn is_too_many(&self, netns: NetnsId) -> Option<String> {
        let probed = self.files.values().filter(|known| !known.links.is_empty());
        Some(match ROOM.check(probed.map(|known| known.netns), netns).err()? {
            Full::All(most) => format!("{most} files are watched already"),
            Full::One(most) => {
                let owner = self.targets.get(&netns).map(Owner::to_string).unwrap_or_default();
                format!("{most} files of {owner} are watched already")
            }
        })
    }

    fn next_number(&mut self) -> u32 {
        const MOST: u32 = (1 << 30) - 1;
        self.numbered = if self.numbered == MOST { 1 } else { self.numbered + 1 };
        self.numbered
    }

    /// Lets the probe in this file read the client's random where connections have shown it, unless the
    /// library's own code says otherwise.
    fn solve(&mut self, number: u32, random: ObjectPath) {
        let found = self.files.values_mut().find_map(|known| {
            let at = known.puzzles.iter().position(|puzzle| puzzle.number == number)?;
            let puzzle = known.puzzles.swap_remove(at);
            Some((known, puzzle))
        });
        let Some((known, Puzzle { place, file, link, .. })) = found else { return };
        let path = &known.path;
        if let Some(other) = known.finding.random.filter(|other| *other != random) {
            known.problem = Some(format!(
                "read TLS secrets of {path}: its code keeps the client's random at {other}, its \
                 connections at {random}"
            ));
            self.detacher.detach(known.links.drain(..));
            return;
        }
        match self.programs.attach(place, &file, Told { file: number, random: Some(random) }) {
            // The one before goes only now, so that nothing is missed.
            Ok(new) => self.detacher.detach([std::mem::replace(&mut known.links[link], new)]),
            Err(error) => known.problem = Some(format!("attach to {path} again: {error}")),
        }
        tracing::debug!("{path} keeps the client's random at {random}");
    }

    /// A probe holds on to its file, and so to the mounted file system of a container that has ended.
    fn detach_unused(&mut self) {
        let now = Instant::now();
        for id in self.lives.values().flat_map(|life| &life.files) {
            if let Some(known) = self.files.get_mut(id) {
                known.used = now;
            }
        }
        let unused = |id: &FileId, known: &mut Known| {
            let kept = if id.on_overlay() { Duration::ZERO } else { KEPT };
            now.saturating_duration_since(known.used) > kept
        };
        let unused = self.files.extract_if(unused);
        self.detacher.detach(unused.flat_map(|(_, known)| known.links));
    }

    /// Lets what failed be tried again.
    fn forget_failed(&mut self) {
        let now = Instant::now();
        let failed = |known: &Known| known.problem.is_some() && now > known.studied + RETRY;
        let failed = self.files.extract_if(|_, known| failed(known));
        self.detacher.detach(failed.flat_map(|(_, known)| known.links));
        let files = &self.files;
        self.lives.retain(|_, life| life.files.iter().all(|id| files.contains_key(id)));
    }

    /// Forgets files in which nothing is probed; they are looked into again when they are met again.
    fn forget_harmless(&mut self) {
        self.files.retain(|_, known| !known.links.is_empty());
    }

    fn show(&self) {
        let sight = self.sight();
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = sight;
    }

    fn sight(&self) -> Sight {
        let mut users: HashMap<FileId, (usize, BTreeSet<&Owner>)> = HashMap::new();
        for life in self.lives.values() {
            for id in &life.files {
                let (processes, owners) = users.entry(*id).or_default();
                *processes += 1;
                owners.extend(self.targets.get(&life.netns));
            }
        }
        let mut sight = Sight {
            loaders: self.loaders(),
            obeyed: self.obeyed,
            problems: self.problem.iter().cloned().collect(),
            ..Sight::default()
        };
        if self.denied {
            sight.problems.push(DENIED.to_owned());
        }
        let waiting = self.shares.exhausted(Instant::now());
        sight.problems.extend(waiting.filter_map(|netns| self.targets.get(&netns)).map(|owner| {
            format!(
                "look into the programs and libraries of {owner}: took {} s in a minute; the others \
                 wait",
                OF_ONE_NAMESPACE.as_secs()
            )
        }));
        for (id, known) in &self.files {
            let (processes, owners) = users.remove(id).unwrap_or_default();
            let owners: Vec<Owner> = owners.into_iter().cloned().collect();
            let path = known.path.clone();
            sight.problems.extend(known.problem.clone());
            if let Some(library) = known.finding.library.filter(|_| !known.links.is_empty()) {
                sight.libraries.push(LibraryStatus {
                    library: library.to_owned(),
                    path,
                    version: known.finding.version.clone(),
                    build_id: known.finding.build_id.clone(),
                    processes,
                    owners,
                });
            } else if let Some(unsupported) = known.finding.unsupported.filter(|_| processes > 0) {
                sight.unsupported.push(UnsupportedStatus {
                    library: unsupported.library().to_owned(),
                    path,
                    reason: unsupported.reason().to_owned(),
                    processes,
                    owners,
                });
            }
        }
        sight.libraries.sort_by(|a, b| a.path.cmp(&b.path));
        sight.unsupported.sort_by(|a, b| a.path.cmp(&b.path));
        sight.problems.sort();
        sight.problems.dedup();
        sight
    }
}
