//! Keeps exactly the wanted namespaces recorded: one thread that decides, and short-lived threads
//! that open, grow and close.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use kuberewind_filter::{CaptureFilter, Forbidden};
use kuberewind_packet::{ByteSize, LossAt, NetnsId, Owner, Span, Timestamp};

use crate::ends::Ends;
use crate::error::CaptureError;
use crate::growth;
use crate::hold::HoldMemory;
use crate::interfaces::Label;
use crate::lane::{Command, LaneHandle, RecordId, Report};
use crate::links::{self, Links};
use crate::namespaces::Target;
use crate::opener::Opener;
use crate::opening::{self, Budget, Grown, Opened};
use crate::plan::{Desired, Held, Phase, Step, plan};
use crate::recorded::Counts;
use crate::ring::{Layout, Ring};
use crate::sys::{self, PacketSocket};

/// So many namespaces are opened at once: each waits for the kernel most of the time.
const OPENINGS: usize = 32;
/// So many namespaces may be undecided at once: their rings take up to 64 MiB, at worst beyond the
/// budget.
const MOST_UNDECIDED: usize = 256;
/// A namespace that could not be opened is tried again after this time, then after twice as long …
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// … up to this.
const RETRY_LAST: Duration = Duration::from_secs(30);

/// What the supervisor is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// Record exactly what is wanted.
    Desire(Desired),
    /// The same, but for those that are undecided.
    Decide(Desired),
    /// Only these are undecided.
    Undecided(Vec<Target>),
    /// Store nothing of these in the node's own namespace.
    Forbid(Arc<Forbidden>),
    /// Answer once nothing is being opened or closed.
    AwaitTargets(Sender<()>),
    /// Filter every ring by this.
    Filter(Arc<CaptureFilter>, Sender<Result<(), CaptureError>>),
    /// Every lane answers once it has read what is in its rings now, with what of the span waits for a
    /// decision.
    Settle(Span, Sender<Vec<LossAt>>),
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
    /// Whether a capture thread is gone.
    pub(crate) ended: bool,
    /// For how long a capture thread has not gone round.
    pub(crate) silent_for: Duration,
}

/// One recorded namespace.
#[derive(Debug)]
pub(crate) struct Surveyed {
    pub(crate) id: RecordId,
    pub(crate) target: Target,
    pub(crate) since: Timestamp,
    pub(crate) ring_bytes: u64,
    /// Nobody has decided about it yet.
    pub(crate) undecided: bool,
}

/// A namespace that has a ring, or is getting one or losing it.
#[derive(Debug)]
struct Record {
    target: Target,
    phase: Phase,
    /// Nobody has decided about it yet: since when its ring has been open.
    undecided: Option<Instant>,
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
    /// By which it was to be entered.
    path: PathBuf,
    retry_at: Instant,
    wait: Duration,
}

/// The state of the supervisor's thread.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) node: Arc<str>,
    pub(crate) only: Arc<[String]>,
    pub(crate) opener: Opener,
    pub(crate) ring_memory: Option<ByteSize>,
    pub(crate) filter: Arc<CaptureFilter>,
    pub(crate) lanes: Vec<LaneHandle>,
    /// To itself: helper threads report through it.
    pub(crate) events: Sender<Event>,
    pub(crate) inbox: Receiver<Event>,
    desired: Desired,
    records: BTreeMap<RecordId, Record>,
    failures: BTreeMap<NetnsId, Failure>,
    awaiting: Vec<Sender<()>>,
    budget: Arc<Budget>,
    ends: Arc<Ends>,
    hold_memory: HoldMemory,
    /// The largest frame of the recorder's own interfaces: a pod's, like those of others.
    gso_max: u32,
    last_id: u64,
    stopping: bool,
}

impl Supervisor {
    pub(crate) fn new(
        (node, only): (Arc<str>, Arc<[String]>),
        opener: Opener,
        ring_memory: Option<ByteSize>,
        filter: Arc<CaptureFilter>,
        lanes: Vec<LaneHandle>,
        (events, inbox): (Sender<Event>, Receiver<Event>),
    ) -> Self {
        Self {
            node,
            only,
            opener,
            ring_memory,
            filter,
            lanes,
            events,
            inbox,
            desired: Desired::only(Vec::new()),
            records: BTreeMap::new(),
            failures: BTreeMap::new(),
            awaiting: Vec::new(),
            budget: Arc::default(),
            ends: Arc::default(),
            hold_memory: HoldMemory::default(),
            gso_max: links::open_socket()
                .and_then(Links::follow)
                .map_or(0, |(_, known)| links::largest_gso_max(&known)),
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
            Event::Desire(_) | Event::Decide(_) | Event::Undecided(_) if self.stopping => {}
            Event::Decide(desired) => {
                let undecided = std::mem::take(&mut self.desired.undecided);
                self.desire(Desired { undecided, ..desired });
            }
            Event::Undecided(undecided) => {
                let desired = Desired { undecided, ..self.desired.clone() };
                self.desire(desired);
            }
            Event::Desire(desired) => self.desire(desired),
            Event::Forbid(forbidden) => {
                self.lanes.iter().for_each(|lane| lane.tell(Command::Forbid(forbidden.clone())));
            }
            Event::AwaitTargets(answer) => self.awaiting.push(answer),
            Event::Filter(filter, answer) => answer_with(&answer, self.set_filter(filter)),
            Event::Settle(span, answer) => {
                self.lanes.iter().for_each(|lane| lane.tell(Command::Settle(span, answer.clone())));
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
                self.desire(Desired::only(Vec::new()));
            }
        }
    }

    fn desire(&mut self, desired: Desired) {
        let targets = &desired.targets;
        let limit = match self.ring_memory {
            Some(size) => size.bytes(),
            None => growth::default_budget(targets.len()),
        };
        self.budget.set_limit(limit);
        self.failures.retain(|netns, failure| desired.concerns(*netns, &failure.path));
        for record in self.records.values_mut() {
            // The same namespace may be reached through another file now.
            if let Some(target) = desired.target(record.target.netns) {
                record.target.path.clone_from(&target.path);
            }
        }
        self.desired = desired;
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
        // Nobody is left to record anything: what is there is forgotten, nothing more is opened.
        let alone = !self.lanes.is_empty() && self.lanes.iter().all(LaneHandle::is_dead);
        let steps = if alone { Vec::new() } else { plan(&self.desired, &held, &postponed) };
        let is_hold = |step: &Step| matches!(step, Step::Hold(_));
        let settled = steps.iter().all(is_hold) && held.iter().all(Held::is_settled);
        for step in steps {
            match step {
                Step::Open(target) => self.open(target, false),
                Step::Hold(target) => self.open(target, true),
                Step::Close(netns) => self.remove(netns, Command::Remove),
                Step::Discard(netns) => self.remove(netns, Command::Discard),
                Step::Rename(netns, owner) => {
                    self.pass_on(netns, &owner, |id, owner, _| Command::Rename(id, owner));
                }
                Step::Want(netns, owner) => self.pass_on(netns, &owner, Command::Want),
            }
        }
        if settled {
            self.awaiting.drain(..).for_each(|answer| answer_with(&answer, ()));
        }
    }

    /// A namespace has another owner, or has one now.
    fn pass_on(
        &mut self,
        netns: NetnsId,
        owner: &Owner,
        command: impl Fn(RecordId, Owner, bool) -> Command,
    ) {
        let namespaces = self.desired.targets.len();
        for (id, record) in &mut self.records {
            if record.target.netns == netns {
                record.target.owner = owner.clone();
                record.undecided = None;
                let small = record.rings.first().copied();
                let small = small.is_some_and(|ring| growth::begins_small(ring, namespaces));
                self.lanes[record.lane].tell(command(*id, owner.clone(), small));
            }
        }
    }

    fn open(&mut self, target: Target, undecided: bool) {
        let opening = self.records.values().filter(|r| r.phase == Phase::Opening).count();
        let held = self.records.values().filter(|r| r.undecided.is_some()).count();
        if opening >= OPENINGS || (undecided && held >= MOST_UNDECIDED) {
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
        let mut record =
            Record::new(target.clone(), self.quietest_lane(), Arc::clone(&self.filter));
        record.undecided = undecided.then(Instant::now);
        self.records.insert(id, record);
        let (filter, budget) = (Arc::clone(&self.filter), Arc::clone(&self.budget));
        let opener = self.opener.clone();
        let namespaces = self.desired.targets.len();
        let layout = growth::undecided(namespaces + held, self.gso_max, budget.left());
        let memory = self.hold_memory.clone();
        let work = move || {
            let done = if undecided {
                opening::open_undecided(&opener, &target, label, &filter, &budget, layout, memory)
            } else {
                opening::open(&opener, &target, label, &filter, &budget, namespaces)
            };
            Event::Opened(id, done)
        };
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
        // Not earlier: only an open ring keeps the namespace's number from being given to another.
        record.undecided = record.undecided.map(|_| Instant::now());
        record.group = opened.group;
        record.rings.push(opened.layout);
        record.sockets.push(opened.socket);
        let trouble = record.refilter(&self.filter).err();
        record.trouble = trouble.map(|error| error.to_string());
        self.lanes[record.lane].tell(Command::Add(id, opened.recorded));
    }

    fn failed(&mut self, id: RecordId, error: &CaptureError) {
        let Some(record) = self.records.remove(&id) else { return };
        if !self.desired.concerns(record.target.netns, &record.target.path) {
            return; // it vanished while it was being opened
        }
        if record.undecided.is_some() {
            tracing::debug!("{error}"); // it may have vanished without a word yet
        } else {
            tracing::warn!("{error}");
        }
        let netns = record.target.netns;
        let before = self.failures.get(&netns).map(|failure| failure.wait);
        let wait = before.map_or(RETRY_FIRST, |wait| (wait * 2).min(RETRY_LAST));
        let retry_at = Instant::now() + wait;
        let (text, path) = (error.to_string(), record.target.path);
        self.failures.insert(netns, Failure { text, path, retry_at, wait });
    }

    fn remove(&mut self, netns: NetnsId, command: impl Fn(RecordId) -> Command) {
        for (id, record) in &mut self.records {
            if record.target.netns == netns {
                record.phase = Phase::Closing;
                self.lanes[record.lane].tell(command(*id));
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
        let (opener, filter) = (self.opener.clone(), Arc::clone(&self.filter));
        let work = move || {
            Event::Grown(id, layout, opening::grow(&opener, &target, group, layout, &filter))
        };
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
                undecided: record.undecided.is_some(),
            })
            .collect();
        let failures = self.failures.values().map(|failure| failure.text.clone());
        let troubles = self.records.values().filter_map(|record| record.trouble.clone());
        let troubles = troubles.chain(self.unwatched()).chain(self.opener.problem());
        Survey {
            records,
            ring_bytes: self.budget.used(),
            ring_budget: self.budget.limit(),
            ended: self.lanes.iter().any(LaneHandle::is_dead),
            silent_for: self.lanes.iter().map(LaneHandle::silent_for).max().unwrap_or_default(),
            problems: failures.chain(troubles).chain(self.filter.notes().iter().cloned()).collect(),
        }
    }

    /// Undecided namespaces beyond [`MOST_UNDECIDED`].
    fn unwatched(&self) -> Option<String> {
        let watched = |target: &&Target| {
            self.records.values().any(|record| record.target.netns == target.netns)
        };
        let all = self.desired.undecided.len();
        let unwatched = all - self.desired.undecided.iter().filter(watched).count();
        (all > MOST_UNDECIDED && unwatched > 0).then(|| {
            format!(
                "{unwatched} new network namespaces are not watched before it is known whose they are: there are more than {MOST_UNDECIDED}"
            )
        })
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
            undecided: None,
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
        let undecided = self.undecided;
        Held { netns: *netns, owner: owner.clone(), phase: self.phase, undecided }
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
