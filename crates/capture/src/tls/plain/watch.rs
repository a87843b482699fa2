//! Keeps probes attached to what chosen processes run, on a thread of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::panic::catch_unwind;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use kuberewind_packet::{NetnsId, Owner};
use libbpf_rs::Link;

use super::super::detach::Detacher;
use super::super::processes::{FileId, Processes};
use super::programs::{Places, Programs};

/// How often chosen processes are looked at. Who begins later has handshakes that are seen.
const LOOK: Duration = Duration::from_secs(2);
/// Files with probes.
const MAX_PROBED: usize = 256;
/// Files in which nothing is probed are remembered up to this number.
const MAX_FILES: usize = 4096;

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
    pub(super) problems: Vec<String>,
    /// How many orders were obeyed.
    pub(super) obeyed: u64,
}

#[derive(Debug)]
struct Known {
    path: String,
    /// For the detacher: dropped, they are detached, which takes its time.
    links: Vec<Link>,
    problem: Option<String>,
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
        let (Some(_), Ok(mappings)) = (netns, self.processes.mappings(pid)) else {
            self.lives.remove(&pid);
            return;
        };
        let hash = self.hasher.hash_one(&mappings);
        if self.lives.get(&pid).is_some_and(|(known, _)| *known == hash) {
            return;
        }
        let mut ids = Vec::new();
        for mapping in &mappings {
            let Ok(file) = self.processes.open(pid, mapping) else { continue };
            let Ok(id) = FileId::of(&file) else { continue };
            ids.push(id);
            if !self.files.contains_key(&id) {
                let known = self.study(&file, &mapping.path);
                self.files.insert(id, known);
            }
        }
        self.lives.insert(pid, (hash, ids));
    }

    fn study(&self, file: &std::fs::File, path: &str) -> Known {
        let mut known = Known { path: path.to_owned(), links: Vec::new(), problem: None };
        let Ok(copy) = file.try_clone() else { return known };
        let Ok(places) = catch_unwind(|| Places::of(copy)) else {
            known.problem = Some(format!("look into {path}: failed"));
            return known;
        };
        if places.is_empty() {
            return known;
        }
        let probed = self.files.values().filter(|known| !known.links.is_empty()).count();
        if probed >= MAX_PROBED {
            known.problem =
                Some(format!("attach to {path}: {MAX_PROBED} files are probed already"));
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
        problems.extend(files.clone().filter_map(|known| known.problem.clone()));
        problems.sort();
        let probed = files.filter(|known| !known.links.is_empty());
        let mut files: Vec<_> = probed.map(|known| known.path.clone()).collect();
        files.sort();
        Sight { files, problems, obeyed: 0 }
    }
}
