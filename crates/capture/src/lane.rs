//! A capture thread: waits on many rings, and gives whole blocks of packets to one sink.
//!
//! It never opens, grows or closes a ring (that takes tens of milliseconds) and never waits for the
//! disk: blocks for which the sink has no room stay in their ring.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use kuberewind_filter::Forbidden;
use kuberewind_packet::{LossAt, Owner, PacketSink, Span, Timestamp};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec};

use crate::links::Links;
use crate::recorded::{Counts, Drained, RETIRED_BY, Recorded};
use crate::ring::Ring;

/// How often losses are read, growth is judged and the sink is ticked while packets come,
const TICK: Duration = Duration::from_millis(100);
/// and while none come.
const IDLE_TICK: Duration = Duration::from_secs(1);
/// For so long after the last packet the lane counts as busy.
const BUSY_FOR: Duration = Duration::from_secs(2);
/// When the sink has no room, it is asked again after this time.
const ROOM_AGAIN: Duration = Duration::from_millis(5);
/// A namespace that leaves waits no longer than this for room in the sink.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// Names one recorded namespace for as long as it is recorded; never given twice. Not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RecordId(pub(crate) u64);

/// What a lane is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Record this one, too.
    Add(RecordId, Box<Recorded>),
    /// A further ring of a namespace had joined at this time; the flag: it should be larger.
    Grow(RecordId, Ring, Timestamp, bool),
    /// There is no further ring for this namespace.
    StayShort(RecordId),
    /// The namespace belongs to somebody else.
    Rename(RecordId, Owner),
    /// Store nothing of these in the node's own namespace.
    Forbid(Arc<Forbidden>),
    /// This one, undecided so far, is to be recorded as this owner's; the flag: with a larger ring.
    Want(RecordId, Owner, bool),
    /// This one, undecided so far, is not to be recorded: nothing of it is missed.
    Discard(RecordId),
    /// Read this one's last packets and give its rings back.
    Remove(RecordId),
    /// Read every ring, flush the sink, then answer what of this span waits for a decision.
    Settle(Span, Sender<Vec<LossAt>>),
    /// Say what was counted.
    Count(Sender<Vec<(RecordId, Counts)>>),
    /// Remove every namespace, then end.
    Stop,
}

/// What a lane says.
#[derive(Debug)]
pub(crate) enum Report {
    /// This namespace's ring is too small.
    TooSmall(RecordId),
    /// No longer recorded; what is left is to be closed elsewhere, since that takes long.
    Removed(RecordId, Vec<Ring>, Links),
}

/// The outside of a lane.
#[derive(Debug)]
pub(crate) struct LaneHandle {
    /// supervisor --commands--> lane; unbounded: they are few, and each is followed by a wake-up.
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
    pulse: Arc<Pulse>,
    thread: JoinHandle<()>,
}

/// By which others see that a capture thread goes round, as it does once a second at least.
#[derive(Debug)]
struct Pulse {
    began: Instant,
    /// Milliseconds after `began` at which it last did.
    beat: AtomicU64,
}

impl Pulse {
    fn new() -> Self {
        Self { began: Instant::now(), beat: AtomicU64::new(0) }
    }

    fn beat(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat.store(now, Ordering::Relaxed);
    }

    fn silent_for(&self) -> Duration {
        let beat = Duration::from_millis(self.beat.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(beat)
    }
}

impl LaneHandle {
    /// Starts the thread; `report` is called in it and must not block.
    pub(crate) fn start<S: PacketSink + 'static>(
        number: usize,
        sink: S,
        report: impl Fn(Report) + Send + 'static,
    ) -> io::Result<Self> {
        let (commands, inbox) = unbounded();
        let wake =
            Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &wake, EventData::new_u64(Source::WAKE), EventFlags::IN)?;
        let pulse = Arc::new(Pulse::new());
        let lane = Lane {
            pulse: Arc::clone(&pulse),
            epoll,
            wake: Arc::clone(&wake),
            inbox,
            sink,
            report,
            records: BTreeMap::new(),
            forbidden: Arc::default(),
            ready: BTreeSet::new(),
            refused: false,
            first: RingId(RecordId(0), 0),
            settles: Vec::new(),
            next_tick: Instant::now() + IDLE_TICK,
            busy_until: Instant::now(),
            stopping: false,
        };
        let thread =
            thread::Builder::new().name(format!("capture-{number}")).spawn(move || lane.run())?;
        Ok(Self { commands, wake, pulse, thread })
    }

    /// Nobody obeys once the lane has ended.
    pub(crate) fn tell(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            // Fails when the lane has more wake-ups before it than can be counted.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }

    /// Whether its thread is gone: it panicked.
    pub(crate) fn is_dead(&self) -> bool {
        self.thread.is_finished()
    }

    /// Since when it has not gone round.
    pub(crate) fn silent_for(&self) -> Duration {
        self.pulse.silent_for()
    }

    /// Waits for the thread after [`Command::Stop`].
    pub(crate) fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("a capture thread panicked");
        }
    }
}

/// What an epoll event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Wake,
    Links(RecordId),
    Ring(RingId),
}

/// One of a namespace's rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RingId(RecordId, usize);

impl Source {
    const WAKE: u64 = 0;

    fn to_u64(self) -> u64 {
        match self {
            Self::Wake => Self::WAKE,
            Self::Links(RecordId(id)) => id << 8,
            Self::Ring(RingId(RecordId(id), place)) => id << 8 | (place as u64 + 1),
        }
    }

    fn from_u64(data: u64) -> Self {
        let id = RecordId(data >> 8);
        match data & 0xff {
            _ if data == Self::WAKE => Self::Wake,
            0 => Self::Links(id),
            place => Self::Ring(RingId(id, usize::try_from(place - 1).unwrap_or(usize::MAX))),
        }
    }
}

/// A wait for everything that is in the rings now.
#[derive(Debug)]
struct Settle {
    /// Of each ring that may still hold some of it, how many blocks are to be read: as many as it has,
    /// unless it turns out to be empty before.
    unread: BTreeMap<RingId, u32>,
    span: Span,
    done: Sender<Vec<LossAt>>,
}

struct Lane<S, R> {
    pulse: Arc<Pulse>,
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    inbox: Receiver<Command>,
    sink: S,
    report: R,
    records: BTreeMap<RecordId, Recorded>,
    forbidden: Arc<Forbidden>,
    /// Rings that may hold packets.
    ready: BTreeSet<RingId>,
    /// The sink had no room at the last try.
    refused: bool,
    /// The ring of which nothing could be read for that is the first to be read once there is room:
    /// however little it is, all rings get their turn.
    first: RingId,
    settles: Vec<Settle>,
    next_tick: Instant,
    busy_until: Instant,
    stopping: bool,
}

impl<S: PacketSink, R: Fn(Report)> Lane<S, R> {
    fn run(mut self) {
        while !(self.stopping && self.records.is_empty()) {
            self.wait();
            self.obey();
            self.drain();
            self.settle();
            self.leave();
            self.tick();
            self.pulse.beat();
        }
        self.sink.flush();
    }

    /// Waits until a ring has a block for us, somebody wakes us, or it is time for something.
    fn wait(&mut self) {
        let mut events =
            [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 64];
        let timeout = Timespec::try_from(self.time_to_wait()).ok();
        // Interrupted, or nothing yet: both are no event, and the loop goes round.
        let count = epoll::wait(&self.epoll, &mut events, timeout.as_ref()).unwrap_or(0);
        for event in &events[..count] {
            match Source::from_u64(event.data.u64()) {
                Source::Wake => drop(rustix::io::read(&self.wake, &mut [0; 8])),
                Source::Ring(ring) => drop(self.ready.insert(ring)),
                Source::Links(id) => {
                    if let Some(recorded) = self.records.get_mut(&id) {
                        recorded.interfaces().refresh();
                    }
                }
            }
        }
    }

    fn time_to_wait(&self) -> Duration {
        let now = Instant::now();
        let tick = self.next_tick.saturating_duration_since(now);
        let leaving = self.records.values().filter_map(|recorded| recorded.leaving).min();
        let next = match leaving {
            Some(due) => tick.min(due.saturating_duration_since(now)),
            None => tick,
        };
        match (self.ready.is_empty(), self.refused) {
            (true, _) => next,
            (false, true) => next.min(ROOM_AGAIN).max(Duration::from_millis(1)),
            (false, false) => Duration::ZERO,
        }
    }

    fn obey(&mut self) {
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Add(id, recorded) => self.add(id, *recorded),
                Command::Grow(id, ring, joined, short) => self.grow(id, ring, joined, short),
                Command::StayShort(id) => {
                    if let Some(recorded) = self.records.get_mut(&id) {
                        recorded.stay_short();
                    }
                }
                Command::Rename(id, owner) => {
                    if let Some(recorded) = self.records.get_mut(&id) {
                        recorded.interfaces().rename(owner, &mut self.sink);
                    }
                }
                Command::Forbid(forbidden) => {
                    for recorded in self.records.values_mut() {
                        recorded.forbid(&forbidden);
                    }
                    self.forbidden = forbidden;
                }
                Command::Want(id, owner, larger) => self.want(id, owner, larger),
                Command::Discard(id) => {
                    if let Some(recorded) = self.records.get_mut(&id) {
                        recorded.discard();
                        recorded.leaving.get_or_insert(Instant::now());
                    }
                }
                Command::Remove(id) => {
                    if let Some(recorded) = self.records.get_mut(&id) {
                        recorded.leaving.get_or_insert(Instant::now() + RETIRED_BY);
                    }
                }
                Command::Settle(span, done) => {
                    let unread = self.blocks();
                    self.ready.extend(unread.keys());
                    self.settles.push(Settle { unread, span, done });
                }
                Command::Count(answer) => {
                    let counts = self.records.iter().map(|(id, r)| (*id, r.counts())).collect();
                    // Nobody waits for the answer any more: fine.
                    let _ = answer.send(counts);
                }
                Command::Stop => {
                    self.stopping = true;
                    let due = Instant::now() + RETIRED_BY;
                    for recorded in self.records.values_mut() {
                        recorded.leaving.get_or_insert(due);
                    }
                }
            }
        }
    }

    fn add(&mut self, id: RecordId, mut recorded: Recorded) {
        let links = Source::Links(id).to_u64();
        let rings: Vec<_> = recorded.rings().map(|ring| Arc::clone(ring.socket())).collect();
        for (place, ring) in rings.iter().enumerate() {
            self.watch(ring, RingId(id, place));
        }
        let watched = epoll::add(
            &self.epoll,
            recorded.interfaces().links().as_fd(),
            EventData::new_u64(links),
            EventFlags::IN,
        );
        if let Err(error) = watched {
            tracing::warn!(%error, "interfaces that are renamed keep their old name");
        }
        if self.stopping {
            recorded.leaving = Some(Instant::now());
        }
        recorded.forbid(&self.forbidden);
        self.records.insert(id, recorded);
    }

    fn want(&mut self, id: RecordId, owner: Owner, larger: bool) {
        let Some(recorded) = self.records.get_mut(&id) else { return };
        if recorded.want(owner, larger, &mut self.sink) {
            (self.report)(Report::TooSmall(id));
        }
        // What waited goes before anything else that is in its ring.
        self.ready.insert(RingId(id, 0));
        self.wake_up();
    }

    fn grow(&mut self, id: RecordId, ring: Ring, joined: Timestamp, short: bool) {
        let Some(recorded) = self.records.get_mut(&id) else { return };
        let place = recorded.rings().count();
        let socket = Arc::clone(ring.socket());
        recorded.grow(ring, joined, short);
        self.watch(&socket, RingId(id, place));
    }

    /// Wakes the lane for each block that this ring hands over from now on: by edge, so that blocks
    /// for which there is no room do not keep it awake.
    fn watch(&mut self, socket: &Arc<crate::sys::PacketSocket>, ring: RingId) {
        let data = EventData::new_u64(Source::Ring(ring).to_u64());
        let flags = EventFlags::IN | EventFlags::ET;
        if let Err(error) = epoll::add(&self.epoll, socket.as_ref(), data, flags) {
            // Still read, with every tick.
            tracing::error!(%error, "cannot wait on a capture ring");
        }
        self.ready.insert(ring);
    }

    /// Reads the rings that may hold packets, each once around at most: none starves the others.
    fn drain(&mut self) {
        self.refused = false;
        let mut before = std::mem::take(&mut self.ready);
        let mut starved = false;
        let from_first = before.split_off(&self.first);
        for ring in from_first.into_iter().chain(before) {
            let RingId(id, place) = ring;
            let Some(recorded) = self.records.get_mut(&id) else { continue };
            let (blocks, drained) = recorded.drain(place, &mut self.sink);
            if recorded.is_urgent() {
                self.next_tick = Instant::now();
            }
            if recorded.is_busy() {
                self.wake_up();
            }
            match drained {
                Drained::Empty => self.note_read(ring, u32::MAX),
                Drained::Around => {
                    self.note_read(ring, blocks);
                    self.ready.insert(ring);
                }
                Drained::Refused => {
                    self.note_read(ring, blocks);
                    self.refused = true;
                    if blocks == 0 && !std::mem::replace(&mut starved, true) {
                        self.first = ring;
                    }
                    self.ready.insert(ring);
                }
            }
        }
        if self.refused {
            self.sink.tick();
        }
    }

    /// Packets come: tick often.
    fn wake_up(&mut self) {
        let now = Instant::now();
        self.busy_until = now + BUSY_FOR;
        self.next_tick = self.next_tick.min(now + TICK);
    }

    fn note_read(&mut self, ring: RingId, blocks: u32) {
        for settle in &mut self.settles {
            if let Some(left) = settle.unread.get_mut(&ring) {
                *left = left.saturating_sub(blocks);
            }
            settle.unread.retain(|_, left| *left > 0);
        }
    }

    /// Answers those who waited for what has been read.
    fn settle(&mut self) {
        if self.settles.iter().any(|settle| settle.unread.is_empty()) {
            self.sink.flush();
            for settle in self.settles.extract_if(.., |settle| settle.unread.is_empty()) {
                let records = self.records.values();
                let waiting = records.filter_map(|recorded| recorded.waiting(settle.span));
                // Nobody waits for the answer any more: fine.
                let _ = settle.done.send(waiting.collect());
            }
        }
    }

    /// Lets namespaces go that have been read to their end.
    fn leave(&mut self) {
        let now = Instant::now();
        let due: Vec<RecordId> = self
            .records
            .iter()
            .filter(|(_, recorded)| recorded.leaving.is_some_and(|due| due <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            if self.read_last(id) {
                self.remove(id);
            }
        }
    }

    /// Reads what is left of a namespace; `false` while the sink may yet take more of it.
    fn read_last(&mut self, id: RecordId) -> bool {
        let Some(recorded) = self.records.get_mut(&id) else { return true };
        let mut refused = false;
        for place in 0..recorded.rings().count() {
            refused |= recorded.drain(place, &mut self.sink).1 == Drained::Refused;
            self.ready.insert(RingId(id, place));
        }
        let waited = recorded.leaving.is_some_and(|due| due.elapsed() > LAST_WAIT);
        self.refused |= refused;
        !refused || waited
    }

    fn remove(&mut self, id: RecordId) {
        let Some(mut recorded) = self.records.remove(&id) else { return };
        for place in 0..recorded.rings().count() {
            self.ready.remove(&RingId(id, place));
            self.note_read(RingId(id, place), u32::MAX);
        }
        let sockets: Vec<_> = recorded.rings().map(|ring| Arc::clone(ring.socket())).collect();
        for socket in &sockets {
            // Not watched (it may have failed) is as good.
            let _ = epoll::delete(&self.epoll, socket.as_ref());
        }
        let _ = epoll::delete(&self.epoll, recorded.interfaces().links().as_fd());
        drop(sockets);
        let (rings, links) = recorded.finish(&mut self.sink);
        (self.report)(Report::Removed(id, rings, links));
    }

    /// What is done a few times a second.
    fn tick(&mut self) {
        let now = Instant::now();
        if now < self.next_tick {
            return;
        }
        let busy = now < self.busy_until;
        self.next_tick = now + if busy { TICK } else { IDLE_TICK };
        let time = Timestamp::now();
        for (id, recorded) in &mut self.records {
            recorded.note_losses(&mut self.sink, time);
            recorded.expire(&mut self.sink, now);
            if recorded.wants_to_grow() {
                (self.report)(Report::TooSmall(*id));
            }
            recorded.close_seam(time);
            if !recorded.holds() {
                recorded.interfaces().forget_gone(&mut self.sink);
            }
        }
        self.ready.extend(self.blocks().keys());
        self.sink.tick();
    }

    /// All rings, and how many blocks each has.
    fn blocks(&self) -> BTreeMap<RingId, u32> {
        self.records
            .iter()
            .flat_map(|(id, recorded)| {
                let rings = recorded.rings().enumerate();
                rings.map(|(place, ring)| (RingId(*id, place), ring.layout().blocks))
            })
            .collect()
    }
}
