//! Keeps probes attached to what chosen processes run, on a thread of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::panic::catch_unwind;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use kuberewind_packet::{NetnsId, Owner};
use libbpf_rs::Link;

use super::super::detach::Detacher;
use super::super::processes::{FileId, Mapping, Processes};
use super::super::share::{Full, Room, SHARE, Shares};
use super::programs::{Places, Programs};

/// How often chosen processes are looked at. Who begins later has handshakes that are seen.
const LOOK: Duration = Duration::from_secs(2);
/// Files with probes: each has as many links as there are functions.
const ROOM: Room = Room { of_all: 256, of_one: 64 };
/// After what time a file that could not be probed is tried again.
const RETRY: Duration = Duration::from_secs(30);
/// Files that are remembered.
const MAX_FILES: usize = 16_384;

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Order {
    /// These namespaces are chosen.
    Chosen(BTreeMap<NetnsId, Owner>),
    /// The end.
    Stop,
}

/// What the thread shows.
#[derive(Clone, Debug, Default)]
pub(super) struct Sight {
    /// Files with probes, as a process that uses them sees them.
    pub(super) files: Vec<String>,
    /// Files that would have probes if there were room.
    pub(super) left_out: usize,
    pub(super) problems: Vec<String>,
    /// How many orders were obeyed.
    pub(super) obeyed: u64,
}

#[derive(Debug)]
struct Known {
    path: String,
    /// Where it was met first.
    netns: NetnsId,
    /// For the detacher: dropped, they are detached, which takes its time.
    links: Vec<Link>,
    /// It has no probes, for others have too many.
    full: Option<Full>,
    problem: Option<String>,
    studied: Instant,
}

/// The thread's state.
#[derive(Debug)]
pub(super) struct Watch {
    processes: Processes,
    programs: Programs,
    chosen: BTreeMap<NetnsId, Owner>,
    files: HashMap<FileId, Known>,
    /// Of each process: a hash over its mappings, and its files.
    lives: HashMap<u32, (u64, Vec<FileId>)>,
    /// Attached while anything is chosen.
    system_calls: Option<Link>,
    shares: Shares,
    detacher: Detacher,
    hasher: RandomState,
    shown: Arc<Mutex<Sight>>,
}

impl Watch {
    pub(super) fn new(processes: Processes, programs: Programs, shown: Arc<Mutex<Sight>>) -> Self {
        Self {
            processes,
            programs,
            chosen: BTreeMap::new(),
            files: HashMap::new(),
            lives: HashMap::new(),
            system_calls: None,
            shares: Shares::default(),
            detacher: Detacher::default(),
            hasher: RandomState::new(),
            shown,
        }
    }

    /// Works until it is told to stop; then all probes are gone.
    pub(super) fn run(mut self, orders: &Receiver<Order>) {
        self.obey(orders);
        let files = self.files.drain().map(|(_, known)| known);
        self.detacher.detach(files.flat_map(|known| known.links).chain(self.system_calls.take()));
        self.detacher.finish();
    }

    fn obey(&mut self, orders: &Receiver<Order>) {
        let mut obeyed = 0;
        loop {
            // Nothing is looked at while nothing is chosen.
            let order = if self.chosen.is_empty() {
                orders.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                orders.recv_timeout(LOOK)
            };
            match order {
                Ok(Order::Chosen(chosen)) => {
                    self.chosen = chosen;
                    self.lives.clear();
                    obeyed += 1;
                }
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let problems = self.look();
            let mut sight = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            *sight = self.sight(problems);
            sight.obeyed = obeyed;
        }
    }

    /// Attaches to what chosen processes run, and to nothing else.
    fn look(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.chosen.is_empty() {
            self.system_calls = None;
        } else if self.system_calls.is_none() {
            match self.programs.watch_system_calls() {
                Ok(link) => self.system_calls = Some(link),
                Err(error) => problems.push(format!("watch system calls: {error}")),
            }
        }
        let pids = self.processes.all().unwrap_or_else(|error| {
            problems.push(format!("list processes: {error}"));
            Vec::new()
        });
        let alive: BTreeSet<u32> = pids.iter().copied().collect();
        self.lives.retain(|pid, _| alive.contains(pid));
        self.forget_failed();
        for (pid, netns) in pids.iter().zip(self.processes.netns(&pids)) {
            self.look_at(*pid, netns);
        }
        let used: HashSet<_> = self.lives.values().flat_map(|(_, files)| files).copied().collect();
        let crowded = self.files.len() > MAX_FILES;
        let unused = |id: &FileId, known: &mut Known| {
            !used.contains(id) && (crowded || !known.links.is_empty())
        };
        let unused = self.files.extract_if(unused);
        self.detacher.detach(unused.flat_map(|(_, known)| known.links));
        problems
    }

    fn look_at(&mut self, pid: u32, netns: Option<NetnsId>) {
        let netns = netns.filter(|netns| self.chosen.contains_key(netns));
        let (Some(netns), Ok(mappings)) = (netns, self.processes.mappings(pid)) else {
            self.lives.remove(&pid);
            return;
        };
        let hash = self.hasher.hash_one(&mappings);
        if self.lives.get(&pid).is_some_and(|(known, _)| *known == hash) {
            return;
        }
        let ids = mappings.iter().filter_map(|mapping| self.meet(pid, netns, mapping)).collect();
        // Files that had to wait are met at a later look.
        let hash = if self.shares.allow(netns, Instant::now()) { hash } else { 0 };
        self.lives.insert(pid, (hash, ids));
    }

    /// Opens a file and, if it is new, attaches to what fits.
    fn meet(&mut self, pid: u32, netns: NetnsId, mapping: &Mapping) -> Option<FileId> {
        // Processes end while we look.
        let file = self.processes.open(pid, mapping).ok()?;
        let id = FileId::of(&file).ok()?;
        if self.files.contains_key(&id) {
            return Some(id);
        }
        if self.files.len() >= MAX_FILES {
            self.files.retain(|_, known| !known.links.is_empty());
        }
        let now = Instant::now();
        if !self.shares.allow(netns, now) {
            return None;
        }
        let began = Shares::clock();
        let known = self.study(&file, netns, &mapping.path);
        self.files.insert(id, known);
        self.shares.add(netns, now, Shares::clock().saturating_sub(began));
        Some(id)
    }

    /// Lets what failed be tried again: there may be room now.
    fn forget_failed(&mut self) {
        let now = Instant::now();
        let failed = |known: &Known| {
            (known.problem.is_some() || known.full.is_some()) && now > known.studied + RETRY
        };
        self.files.retain(|_, known| !failed(known));
        let files = &self.files;
        self.lives.retain(|_, (_, ids)| ids.iter().all(|id| files.contains_key(id)));
    }

    fn study(&self, file: &std::fs::File, netns: NetnsId, path: &str) -> Known {
        let mut known = Known {
            path: path.to_owned(),
            netns,
            links: Vec::new(),
            full: None,
            problem: None,
            studied: Instant::now(),
        };
        let Ok(copy) = file.try_clone() else { return known };
        let Ok(places) = catch_unwind(|| Places::of(copy)) else {
            known.problem = Some(format!("look into {path}: failed"));
            return known;
        };
        if places.is_empty() {
            return known;
        }
        let probed = self.files.values().filter(|known| !known.links.is_empty());
        if let Err(full) = ROOM.check(probed.map(|known| known.netns), netns) {
            known.full = Some(full);
            return known;
        }
        match self.programs.attach(file, &places) {
            Ok(links) => known.links = links,
            Err(error) => {
                known.problem = Some(format!("attach to {path} (Linux 6.6 or later): {error}"));
            }
        }
        known
    }

    fn sight(&self, mut problems: Vec<String>) -> Sight {
        let files = self.files.values();
        let waiting = self.shares.exhausted(Instant::now());
        problems.extend(waiting.map(|netns| {
            let (owner, seconds) = (self.owner(netns), SHARE.as_secs());
            format!("look for OpenSSL in {owner}: took {seconds} s in a minute; the others wait")
        }));
        let mut left_out = BTreeMap::<_, usize>::new();
        for (known, full) in files.clone().filter_map(|known| Some((known, known.full?))) {
            let of = match full {
                Full::All(most) => format!("{most} files are probed already"),
                Full::One(most) => format!("{most} of its files are probed already"),
            };
            *left_out.entry((known.netns, of)).or_default() += 1;
        }
        problems.extend(left_out.iter().map(|((netns, of), count)| {
            format!("attach to {count} files of {}: {of}", self.owner(*netns))
        }));
        problems.extend(files.clone().filter_map(|known| known.problem.clone()));
        problems.sort();
        let probed = files.filter(|known| !known.links.is_empty());
        let mut files: Vec<_> = probed.map(|known| known.path.clone()).collect();
        files.sort();
        Sight { files, left_out: left_out.values().sum(), problems, obeyed: 0 }
    }

    fn owner(&self, netns: NetnsId) -> String {
        self.chosen.get(&netns).map(Owner::to_string).unwrap_or_default()
    }
}
