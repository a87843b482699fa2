//! Keeps exactly the wanted namespaces recorded: one thread that decides, and short-lived threads
//! that open, grow and close.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use kuberewind_filter::{CaptureFilter, Forbidden};
use kuberewind_packet::{ByteSize, NetnsId, Timestamp};

use crate::ends::Ends;
use crate::error::CaptureError;
use crate::growth;
use crate::interfaces::Label;
use crate::lane::{Command, LaneHandle, RecordId, Report};
use crate::links::Links;
use crate::namespaces::Target;
use crate::opening::{self, Budget, Grown, Opened};
use crate::plan::{Held, Phase, Step, plan};
use crate::recorded::Counts;
use crate::ring::{Layout, Ring};
use crate::sys::{self, PacketSocket};

/// So many namespaces are opened at once: each waits for the kernel most of the time.
const OPENINGS: usize = 32;
/// A namespace that could not be opened is tried again after this time, then after twice as long …
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// … up to this.
const RETRY_LAST: Duration = Duration::from_secs(30);

/// What the supervisor is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// Record exactly these.
    Targets(Vec<Target>),
    /// Store nothing of these in the node's own namespace.
    Forbid(Arc<Forbidden>),
    /// Answer once nothing is being opened or closed.
    AwaitTargets(Sender<()>),
    /// Filter every ring by this.
    Filter(Arc<CaptureFilter>, Sender<Result<(), CaptureError>>),
    /// Every lane answers once it has read what is in its rings now.
    Settle(Sender<()>),
    /// The supervisor and every lane say what they know.
    Survey(Sender<Survey>, Sender<Vec<(RecordId, Counts)>>),
    /// A lane said something.
    Lane(Report),
    /// A helper thread opened a namespace, or not.
    Opened(RecordId, Result<Opened, CaptureError>),
    /// A helper thread opened a further ring, or not.
    Grown(RecordId, Layout, Result<Grown, CaptureError>),
    /// A helper thread closed rings of this size.
    Closed(RecordId, Vec<Layout>),
    /// Record nothing any more, then end.
    Stop,
}

/// What the supervisor knows; the lanes know the counts.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) records: Vec<Surveyed>,
    pub(crate) ring_bytes: u64,
    pub(crate) ring_budget: u64,
    pub(crate) problems: Vec<String>,
}

/// One recorded namespace.
#[derive(Debug)]
pub(crate) struct Surveyed {
    pub(crate) id: RecordId,
    pub(crate) target: Target,
    pub(crate) since: Timestamp,
    pub(crate) ring_bytes: u64,
}

/// A namespace that has a ring, or is getting one or losing it.
#[derive(Debug)]
struct Record {
    target: Target,
    phase: Phase,
    lane: usize,
    since: Timestamp,
    group: u16,
    rings: Vec<Layout>,
    sockets: Vec<Arc<PacketSocket>>,
    filter: Arc<CaptureFilter>,
    /// Why it could not grow.
    trouble: Option<String>,
}

/// A namespace that could not be opened.
#[derive(Debug)]
struct Failure {
    text: String,
    retry_at: Instant,
    wait: Duration,
}

/// The state of the supervisor's thread.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) node: Arc<str>,
    pub(crate) only: Arc<[String]>,
    pub(crate) ring_memory: Option<ByteSize>,
    pub(crate) filter: Arc<CaptureFilter>,
    pub(crate) lanes: Vec<LaneHandle>,
    /// To itself: helper threads report through it.
    pub(crate) events: Sender<Event>,
    pub(crate) inbox: Receiver<Event>,
    desired: Vec<Target>,
    records: BTreeMap<RecordId, Record>,
    failures: BTreeMap<NetnsId, Failure>,
    awaiting: Vec<Sender<()>>,
    budget: Arc<Budget>,
    ends: Arc<Ends>,
    last_id: u64,
    stopping: bool,
}

impl Supervisor {
    pub(crate) fn new(
        (node, only): (Arc<str>, Arc<[String]>),
        ring_memory: Option<ByteSize>,
        filter: Arc<CaptureFilter>,
        lanes: Vec<LaneHandle>,
        (events, inbox): (Sender<Event>, Receiver<Event>),
    ) -> Self {
        Self {
            node,
            only,
            ring_memory,
            filter,
            lanes,
            events,
            inbox,
            desired: Vec::new(),
            records: BTreeMap::new(),
            failures: BTreeMap::new(),
            awaiting: Vec::new(),
            budget: Arc::default(),
            ends: Arc::default(),
            last_id: 0,
            stopping: false,
        }
    }

    pub(crate) fn start(self) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name("capture".to_owned()).spawn(move || self.run())
    }

    fn run(mut self) {
        while !(self.stopping && self.records.is_empty()) {
            let event = match self.next_retry() {
                Some(at) => self.inbox.recv_deadline(at).ok(),
                None => self.inbox.recv().ok(),
            };
            if let Some(event) = event {
                self.handle(event);
            }
            self.reconcile();
        }
        self.lanes.iter().for_each(|lane| lane.tell(Command::Stop));
        self.lanes.into_iter().for_each(LaneHandle::join);
    }

    fn next_retry(&self) -> Option<Instant> {
        self.failures
            .values()
            .map(|failure| failure.retry_at)
            .filter(|at| *at > Instant::now())
            .min()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Targets(_) if self.stopping => {}
            Event::Targets(targets) => self.want(targets),
            Event::Forbid(forbidden) => {
                self.lanes.iter().for_each(|lane| lane.tell(Command::Forbid(forbidden.clone())));
            }
            Event::AwaitTargets(answer) => self.awaiting.push(answer),
            Event::Filter(filter, answer) => answer_with(&answer, self.set_filter(filter)),
            Event::Settle(answer) => {
                self.lanes.iter().for_each(|lane| lane.tell(Command::Settle(answer.clone())));
            }
            Event::Survey(survey, counts) => {
                answer_with(&survey, self.survey());
                self.lanes.iter().for_each(|lane| lane.tell(Command::Count(counts.clone())));
            }
            Event::Lane(Report::TooSmall(id)) => self.grow(id),
            Event::Lane(Report::Removed(id, rings, links)) => self.close(id, rings, links),
            Event::Opened(id, Ok(opened)) => self.opened(id, opened),
            Event::Opened(id, Err(error)) => self.failed(id, &error),
            Event::Grown(id, layout, grown) => self.grown(id, layout, grown),
            Event::Closed(id, layouts) => {
                for layout in layouts {
                    self.budget.give_back(layout);
                }
                self.records.remove(&id);
            }
            Event::Stop => {
                self.stopping = true;
                self.want(Vec::new());
            }
        }
    }

    fn want(&mut self, targets: Vec<Target>) {
        let limit = match self.ring_memory {
            Some(size) => size.bytes(),
            None => growth::default_budget(targets.len()),
        };
        self.budget.set_limit(limit);
        self.failures.retain(|netns, _| targets.iter().any(|target| target.netns == *netns));
        for record in self.records.values_mut() {
            // The same namespace may be reached through another file now.
            let same = targets.iter().find(|target| target.netns == record.target.netns);
            if let Some(target) = same {
                record.target.path.clone_from(&target.path);
            }
        }
        self.desired = targets;
    }

    /// Forgets the namespaces of a capture thread that panicked, with the rings that went with it;
    /// they are opened again for another one.
    fn bury(&mut self) {
        if !self.lanes.iter().any(LaneHandle::is_dead) {
            return;
        }
        let (lanes, budget) = (&self.lanes, &self.budget);
        self.records.retain(|_, record| {
            let gone = lanes[record.lane].is_dead() && record.phase != Phase::Opening;
            if gone {
                for layout in &record.rings {
                    budget.give_back(*layout);
                }
            }
            !gone
        });
    }

    /// Takes every step that can be taken now.
    fn reconcile(&mut self) {
        self.bury();
        let held: Vec<Held> = self.records.values().map(Record::held).collect();
        let now = Instant::now();
        let postponed: BTreeSet<NetnsId> = self
            .failures
            .iter()
            .filter(|(_, failure)| failure.retry_at > now)
            .map(|(netns, _)| *netns)
            .collect();
        let steps = plan(&self.desired, &held, &postponed);
        let settled = steps.is_empty() && held.iter().all(|held| held.phase == Phase::Open);
        for step in steps {
            match step {
                Step::Open(target) => self.open(target),
                Step::Close(netns) => self.remove(netns),
                Step::Rename(netns, owner) => {
                    for (id, record) in &mut self.records {
                        if record.target.netns == netns {
                            record.target.owner = owner.clone();
                            self.lanes[record.lane].tell(Command::Rename(*id, owner.clone()));
                        }
                    }
                }
            }
        }
        if settled {
            self.awaiting.drain(..).for_each(|answer| answer_with(&answer, ()));
        }
    }

    fn open(&mut self, target: Target) {
        let opening = self.records.values().filter(|r| r.phase == Phase::Opening).count();
        if opening >= OPENINGS {
            return; // its turn comes when another has been opened
        }
        self.last_id += 1;
        let id = RecordId(self.last_id);
        let label = Label {
            node: Arc::clone(&self.node),
            owner: target.owner.clone(),
            netns: target.netns,
            only: Arc::clone(&self.only),
            ends: Arc::clone(&self.ends),
        };
        let record = Record::new(target.clone(), self.quietest_lane(), Arc::clone(&self.filter));
        self.records.insert(id, record);
        let (filter, budget) = (Arc::clone(&self.filter), Arc::clone(&self.budget));
        let namespaces = self.desired.len();
        let work =
            move || Event::Opened(id, opening::open(&target, label, &filter, &budget, namespaces));
        self.help("capture-open", work, |error| Event::Opened(id, Err(error)));
    }

    /// The lane with the fewest namespaces.
    fn quietest_lane(&self) -> usize {
        let load = |lane: &usize| self.records.values().filter(|r| r.lane == *lane).count();
        let alive = (0..self.lanes.len()).filter(|lane| !self.lanes[*lane].is_dead());
        alive.min_by_key(load).unwrap_or(0)
    }

    fn opened(&mut self, id: RecordId, opened: Opened) {
        let Some(record) = self.records.get_mut(&id) else { return };
        self.failures.remove(&record.target.netns);
        record.phase = Phase::Open;
        record.since = opened.since;
        record.group = opened.group;
        record.rings.push(opened.layout);
        record.sockets.push(opened.socket);
        let trouble = record.refilter(&self.filter).err();
        record.trouble = trouble.map(|error| error.to_string());
        self.lanes[record.lane].tell(Command::Add(id, opened.recorded));
    }

    fn failed(&mut self, id: RecordId, error: &CaptureError) {
        let Some(record) = self.records.remove(&id) else { return };
        if self.desired.iter().all(|target| target.netns != record.target.netns) {
            return; // it vanished while it was being opened
        }
        tracing::warn!("{error}");
        let netns = record.target.netns;
        let before = self.failures.get(&netns).map(|failure| failure.wait);
        let wait = before.map_or(RETRY_FIRST, |wait| (wait * 2).min(RETRY_LAST));
        let retry_at = Instant::now() + wait;
        self.failures.insert(netns, Failure { text: error.to_string(), retry_at, wait });
    }

    fn remove(&mut self, netns: NetnsId) {
        for (id, record) in &mut self.records {
            if record.target.netns == netns {
                record.phase = Phase::Closing;
                self.lanes[record.lane].tell(Command::Remove(*id));
            }
        }
    }

    fn grow(&mut self, id: RecordId) {
        let Some(record) = self.records.get_mut(&id) else { return };
        if record.phase != Phase::Open {
            return;
        }
        let Some(layout) = growth::addition(self.budget.left()) else {
            self.lanes[record.lane].tell(Command::StayShort(id));
            return;
        };
        self.budget.take(layout);
        record.phase = Phase::Growing;
        let (target, group) = (record.target.clone(), record.group);
        let filter = Arc::clone(&self.filter);
        let work = move || Event::Grown(id, layout, opening::grow(&target, group, layout, &filter));
        self.help("capture-grow", work, |error| Event::Grown(id, layout, Err(error)));
    }

    fn grown(&mut self, id: RecordId, layout: Layout, grown: Result<Grown, CaptureError>) {
        let Some(record) = self.records.get_mut(&id) else { return };
        record.phase = Phase::Open;
        let lane = &self.lanes[record.lane];
        match grown {
            Ok(Grown { ring, joined }) => {
                record.rings.push(layout);
                record.sockets.push(Arc::clone(ring.socket()));
                record.trouble = record.refilter(&self.filter).err().map(|error| error.to_string());
                lane.tell(Command::Grow(id, ring, joined, growth::falls_short(layout)));
            }
            Err(error) => {
                self.budget.give_back(layout);
                record.trouble = Some(error.to_string());
                lane.tell(Command::StayShort(id));
            }
        }
    }

    /// Closes what is left of a namespace.
    fn close(&mut self, id: RecordId, rings: Vec<Ring>, links: Links) {
        let sockets = self.records.get_mut(&id).map(|record| std::mem::take(&mut record.sockets));
        let layouts: Vec<Layout> = rings.iter().map(Ring::layout).collect();
        let closed = layouts.clone();
        let work = move || {
            drop((rings, sockets, links));
            Event::Closed(id, layouts)
        };
        // Without a thread they are closed here and now.
        self.help("capture-close", work, |_| Event::Closed(id, closed));
    }

    fn set_filter(&mut self, filter: Arc<CaptureFilter>) -> Result<(), CaptureError> {
        let program = filter.program();
        let instructions = program.len();
        sys::try_filter(program)
            .map_err(|source| CaptureError::FilterRefused { instructions, source })?;
        self.filter = filter;
        let attached = self.records.values_mut().map(|record| record.refilter(&self.filter));
        attached.fold(Ok(()), Result::and)
    }

    fn survey(&self) -> Survey {
        let open = self.records.iter().filter(|(_, record)| record.phase != Phase::Opening);
        let records = open
            .map(|(id, record)| Surveyed {
                id: *id,
                target: record.target.clone(),
                since: record.since,
                ring_bytes: record.rings.iter().map(|layout| layout.bytes() as u64).sum(),
            })
            .collect();
        let failures = self.failures.values().map(|failure| failure.text.clone());
        let troubles = self.records.values().filter_map(|record| record.trouble.clone());
        Survey {
            records,
            ring_bytes: self.budget.used(),
            ring_budget: self.budget.limit(),
            problems: failures.chain(troubles).chain(self.filter.notes().iter().cloned()).collect(),
        }
    }

    /// Does something that takes long on a thread of its own; `otherwise`, where none can be had.
    fn help(
        &self,
        name: &'static str,
        work: impl FnOnce() -> Event + Send + 'static,
        otherwise: impl FnOnce(CaptureError) -> Event,
    ) {
        let events = self.events.clone();
        let work = move || answer_with(&events, work());
        if let Err(source) = thread::Builder::new().name(name.to_owned()).spawn(work) {
            let error = CaptureError::Start { what: "a thread for a network namespace", source };
            answer_with(&self.events, otherwise(error));
        }
    }
}

impl Record {
    fn new(target: Target, lane: usize, filter: Arc<CaptureFilter>) -> Self {
        Self {
            target,
            phase: Phase::Opening,
            lane,
            since: Timestamp::MIN,
            group: 0,
            rings: Vec::new(),
            sockets: Vec::new(),
            filter,
            trouble: None,
        }
    }

    fn held(&self) -> Held {
        let Target { owner, netns, .. } = &self.target;
        Held { netns: *netns, owner: owner.clone(), phase: self.phase }
    }

    /// Attaches this filter to every ring that may still have another.
    fn refilter(&mut self, filter: &Arc<CaptureFilter>) -> Result<(), CaptureError> {
        if Arc::ptr_eq(&self.filter, filter) {
            return Ok(());
        }
        let program = filter.program();
        for socket in &self.sockets {
            socket.attach(program).map_err(|source| CaptureError::Filter {
                owner: self.target.owner.clone(),
                instructions: program.len(),
                source,
            })?;
        }
        if self.phase == Phase::Open {
            self.filter = Arc::clone(filter);
        }
        Ok(())
    }
}

/// Nobody may wait for the answer any more; that is fine.
fn answer_with<T>(to: &Sender<T>, answer: T) {
    let _ = to.send(answer);
}
