//! Plaintext that probes saw, as frames of conversations beside the real ones.
//!
//! Only of connections that nothing else opens: those whose secrets were joined are left out. So each
//! conversation's first words wait until its secrets would be there.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kuberewind_capture::{Plaintext, PlaintextEvent, PlaintextTold};
use kuberewind_packet::{Frame, Interface, NetnsId, Owner, PacketSink, Slot, Timestamp};
use kuberewind_tls::{Content, Conversation, Event, Place, PortsTaken, Sender, Twins, who_says};

use super::ControlPlane;

/// The interface that they are on.
pub(crate) const PLAINTEXT: &str = "tls-plaintext";

/// How long after a connection's first words its secrets may be joined.
const HOLD: Duration = Duration::from_secs(2);
/// How long at most after that what an earlier recorder noted may take to be read.
const RECALLED_BY: Duration = Duration::from_secs(30);
/// How long after its first words it may become known what a connection speaks.
const RECOGNISED_BY: Duration = Duration::from_secs(3);
/// Bytes that wait so; what is beyond that is lost.
const MOST_HELD: usize = 32 << 20;
/// Conversations at a time; beyond that those are forgotten that have been silent for longest.
const MOST: usize = 16_384;
/// Connections that are remembered as opened by secrets.
const MOST_OPENED: usize = 100_000;
/// Made-up frames of exports begin with `02:54:4c:53`; these, which are recorded, with `02:54:4c:50`.
const MARK: (usize, usize, u8) = (3, 9, b'P');

/// A connection: where, and both ends in order.
pub(super) type Pair = (NetnsId, SocketAddr, SocketAddr);

pub(super) fn pair(netns: NetnsId, one: SocketAddr, other: SocketAddr) -> Pair {
    (netns, one.min(other), one.max(other))
}

/// Connections of which secrets came. The oldest are forgotten first.
#[derive(Debug, Default)]
pub(super) struct Opened {
    pairs: HashSet<Pair>,
    order: VecDeque<Pair>,
    recalled: bool,
}

impl Opened {
    /// What an earlier recorder noted is in here, too.
    pub(super) fn set_recalled(&mut self) {
        self.recalled = true;
    }

    /// Whether it is known of which connections secrets came.
    fn is_complete(&self) -> bool {
        self.recalled
    }

    pub(super) fn insert(&mut self, pair: Pair) {
        if self.pairs.insert(pair) {
            self.order.push_back(pair);
        }
        if self.order.len() > MOST_OPENED
            && let Some(oldest) = self.order.pop_front()
        {
            self.pairs.remove(&oldest);
        }
    }
}

/// What became of plaintext.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    /// Conversations that are shown.
    pub(super) conversations: u64,
    /// Conversations that secrets open, or the other end's process shows, or that are the control
    /// plane's.
    pub(super) left_out: u64,
    /// Bytes missing in those that are shown.
    pub(super) missing: u64,
    /// Bytes that were to wait when there was no time left, or that came too late to be written.
    pub(super) unwritten: u64,
    /// Programs that use no sockets within calls of the library.
    pub(super) nowhere: HashSet<String>,
    /// How often the ring was found empty.
    pub(super) pauses: u64,
}

/// One connection of one process.
type Key = (NetnsId, u32, u64);

/// From events to frames.
pub(super) struct Stream {
    sink: Box<dyn PacketSink>,
    node: String,
    opened: Arc<Mutex<Opened>>,
    control_plane: ControlPlane,
    pub(super) keeps_control_plane: bool,
    owners: BTreeMap<NetnsId, Owner>,
    /// Those that are chosen no more, and after how many pauses nothing of theirs stands in the ring.
    leaving: BTreeMap<NetnsId, u64>,
    /// What was said before is somebody else's to write.
    handed_over: Timestamp,
    /// What was said before was written by another recorder.
    begins: Timestamp,
    /// Packets are cut here: what was said before and what is said since may be written by two recorders.
    cut: Timestamp,
    slots: BTreeMap<NetnsId, Slot>,
    talks: HashMap<Key, Talk>,
    /// Who shows a connection.
    shown: HashMap<Pair, Key>,
    /// How many wait at an end, with another.
    waiting: HashMap<(NetnsId, SocketAddr, SocketAddr), usize>,
    held: usize,
    numbered: u64,
    pub(super) counts: Counts,
}

struct Talk {
    heard: Instant,
    local: SocketAddr,
    remote: SocketAddr,
    /// The next position of what the process sent, and of what it got.
    next: [u64; 2],
    /// When the process was done with it, by both clocks. It is remembered for a while: the other end may
    /// be in the same namespace, and come to be decided later.
    over: Option<(Timestamp, Instant)>,
    stage: Stage,
}

enum Stage {
    Held {
        since: Instant,
        said: Vec<Said>,
    },
    LeftOut,
    /// `waits`: when its first words came, while they may wait in the twin until it is known what is spoken.
    /// `cut`: what is shown began behind it.
    Shown {
        conversation: Conversation,
        twins: Box<Twins>,
        waits: Option<Instant>,
        cut: Timestamp,
    },
}

struct Said {
    time: Timestamp,
    sent: bool,
    position: u64,
    bytes: Vec<u8>,
}

impl Stream {
    pub(super) fn new(
        sink: Box<dyn PacketSink>,
        node: String,
        opened: Arc<Mutex<Opened>>,
        control_plane: ControlPlane,
    ) -> Self {
        Self {
            sink,
            node,
            opened,
            control_plane,
            keeps_control_plane: false,
            owners: BTreeMap::new(),
            leaving: BTreeMap::new(),
            handed_over: Timestamp::MIN,
            begins: Timestamp::MIN,
            cut: Timestamp::MIN,
            slots: BTreeMap::new(),
            talks: HashMap::new(),
            shown: HashMap::new(),
            waiting: HashMap::new(),
            held: 0,
            numbered: 0,
            counts: Counts::default(),
        }
    }

    /// What comes from these is shown, too.
    pub(super) fn welcome(&mut self, owners: &BTreeMap<NetnsId, Owner>) {
        for (netns, owner) in owners {
            self.leaving.remove(netns);
            if self.owners.get(netns).is_some_and(|other| other != owner) {
                self.dismiss(*netns);
            }
            self.owners.insert(*netns, owner.clone());
        }
    }

    /// Only what comes from these is shown, once what the others said before was read.
    pub(super) fn keep_only(&mut self, owners: &BTreeMap<NetnsId, Owner>) {
        // The ring may have been found empty just before they were left out.
        let empty = self.counts.pauses + 2;
        let gone = self.owners.keys().filter(|netns| !owners.contains_key(netns));
        for netns in gone {
            self.leaving.entry(*netns).or_insert(empty);
        }
    }

    /// Nothing more of this one comes.
    fn dismiss(&mut self, netns: NetnsId) {
        let keys: Vec<_> = self.talks.keys().filter(|key| key.0 == netns).copied().collect();
        self.decide_now(|key, _| key.0 == netns);
        for key in keys {
            self.forget(key);
        }
        if let Some(slot) = self.slots.remove(&netns) {
            self.sink.close_interface(slot);
        }
        self.owners.remove(&netns);
    }

    fn dismiss_leaving(&mut self, pauses: u64) {
        let gone = self.leaving.extract_if(.., |_, empty| *empty <= pauses);
        for (netns, _) in gone.collect::<Vec<_>>() {
            self.dismiss(netns);
        }
    }

    /// The probes are gone, and what they sent was read.
    pub(super) fn end_of_probes(&mut self) {
        self.dismiss_leaving(u64::MAX);
    }

    /// Writes what waits, as far as it may be shown: there is no time left to wait.
    pub(super) fn end_waiting(&mut self) {
        self.decide_now(|_, _| true);
        self.settle(|_, _| true);
        self.sink.flush();
    }

    /// Conversations begin anew with what is said at this moment or later: whoever reads what one recorder
    /// writes must not need what the other one wrote.
    pub(super) fn cut(&mut self, at: Timestamp) {
        self.cut = at;
    }

    /// What was said before this moment was written by another recorder.
    pub(super) fn begin(&mut self, from: Timestamp) {
        self.begins = from;
    }

    /// Writes what waits and was said before this moment; what of it comes later is counted.
    pub(super) fn hand_over(&mut self, at: Timestamp) {
        self.decide_now(|_, said| said.first().is_some_and(|said| said.time < at));
        self.settle(|_, _| true);
        self.handed_over = at;
        self.sink.flush();
    }

    /// When the last of those that wait began to.
    pub(super) fn youngest(&self) -> Option<Instant> {
        let since = self.talks.values().filter_map(|talk| match &talk.stage {
            Stage::Held { since, .. } => Some(*since),
            _ => None,
        });
        since.max()
    }

    /// Decides about some of those that wait. Where it is not known which connections an earlier
    /// recorder's notes open, they are left out, and counted.
    fn decide_now(&mut self, which: impl Fn(&Key, &[Said]) -> bool) {
        let due = |(key, talk): (&Key, &Talk)| match &talk.stage {
            Stage::Held { since, said } if which(key, said) => Some((*since, *key)),
            _ => None,
        };
        let mut due: Vec<_> = self.talks.iter().filter_map(due).collect();
        due.sort_unstable();
        let is_known = lock(&self.opened).is_complete();
        for (_, key) in due {
            if is_known {
                self.decide(key);
            } else {
                self.give_up(key);
            }
        }
    }

    /// Leaves out what waits, and counts it.
    fn give_up(&mut self, key: Key) {
        let Some(talk) = self.talks.get_mut(&key) else { return };
        let Stage::Held { said, .. } = &mut talk.stage else { return };
        let said = std::mem::take(said);
        talk.stage = Stage::LeftOut;
        let ends = [talk.local, talk.remote];
        self.counts.unwritten += self.wait_no_longer(key.0, ends, &said) as u64;
    }

    /// Takes what waited out of the account; how many bytes that was.
    fn wait_no_longer(
        &mut self,
        netns: NetnsId,
        [local, remote]: [SocketAddr; 2],
        said: &[Said],
    ) -> usize {
        let held = said.iter().map(|said| said.bytes.len()).sum();
        self.held -= held;
        if let Entry::Occupied(mut waiting) = self.waiting.entry((netns, local, remote)) {
            *waiting.get_mut() -= 1;
            if *waiting.get() == 0 {
                waiting.remove();
            }
        }
        held
    }

    pub(super) fn hear(&mut self, told: PlaintextTold, name: impl FnOnce(u32) -> String) {
        let PlaintextEvent { time, netns, pid, connection, happened } = match told {
            PlaintextTold::Event(event) => event,
            PlaintextTold::Pause => return self.pause(),
        };
        if !self.owners.contains_key(&netns) {
            if let Plaintext::Data { bytes, .. } = happened {
                self.counts.unwritten += bytes.len() as u64;
            }
            return;
        }
        let key = (netns, pid, connection);
        match happened {
            Plaintext::Data { local, remote, sent, position, bytes } => {
                self.data(key, [local, remote], Said { time, sent, position, bytes });
            }
            Plaintext::End => self.end(key, time),
            Plaintext::Nowhere => {
                if self.counts.nowhere.len() < 100 {
                    self.counts.nowhere.insert(name(pid));
                }
            }
        }
    }

    fn data(&mut self, key: Key, [local, remote]: [SocketAddr; 2], said: Said) {
        let now = Instant::now();
        if self.talks.len() >= MOST && !self.talks.contains_key(&key) {
            self.forget_silent();
        }
        let talk = self.talks.entry(key).or_insert_with(|| {
            *self.waiting.entry((key.0, local, remote)).or_default() += 1;
            Talk {
                heard: now,
                local,
                remote,
                next: [0; 2],
                over: None,
                stage: Stage::Held { since: now, said: Vec::new() },
            }
        });
        talk.heard = now;
        match &mut talk.stage {
            Stage::Held { said: earlier, .. } => {
                if self.held + said.bytes.len() <= MOST_HELD {
                    self.held += said.bytes.len();
                    earlier.push(said);
                } else {
                    leave_gap(earlier, &said);
                }
            }
            Stage::LeftOut => {}
            Stage::Shown { .. } => self.show(key, &said),
        }
    }

    /// Notes that a conversation is over. One that waits does so still: what it is is not known before.
    fn end(&mut self, key: Key, time: Timestamp) {
        let Some(talk) = self.talks.get_mut(&key) else { return };
        talk.over.get_or_insert((time, Instant::now()));
        if !matches!(talk.stage, Stage::Held { .. }) {
            self.close(key, time);
        }
    }

    fn close(&mut self, key: Key, time: Timestamp) {
        let slot = self.slot(key.0);
        let Self { talks, sink, .. } = self;
        let Some(Talk { stage: Stage::Shown { conversation, twins, .. }, .. }) =
            talks.get_mut(&key)
        else {
            return;
        };
        for from in [Sender::Client, Sender::Server] {
            let end = Event::End { conversation, from, time, reset: false };
            twins.hear(&end, &mut |time, frame| put(&mut **sink, slot, time, frame));
        }
    }

    /// Shows what waits in twins until it is known what is spoken: it is not to be known in time.
    fn settle(&mut self, which: impl Fn(&Key, &Instant) -> bool) {
        let waits = |(key, talk): (&Key, &Talk)| match &talk.stage {
            Stage::Shown { waits: Some(since), .. } if which(key, since) => Some(*key),
            _ => None,
        };
        let keys: Vec<_> = self.talks.iter().filter_map(waits).collect();
        for key in keys {
            let slot = self.slot(key.0);
            let Self { talks, sink, .. } = self;
            let Some(Talk { stage: Stage::Shown { conversation, twins, waits, .. }, .. }) =
                talks.get_mut(&key)
            else {
                continue;
            };
            *waits = None;
            let now = Timestamp::now();
            twins.settle(conversation, now, &mut |time, frame| {
                put(&mut **sink, slot, time, frame);
            });
        }
    }

    fn forget(&mut self, key: Key) {
        self.settle(|other, _| *other == key);
        let Some(talk) = self.talks.remove(&key) else { return };
        if let Stage::Held { said, .. } = &talk.stage {
            self.wait_no_longer(key.0, [talk.local, talk.remote], said);
        }
        let pair = pair(key.0, talk.local, talk.remote);
        if self.shown.get(&pair) == Some(&key) {
            self.shown.remove(&pair);
        }
    }

    fn forget_silent(&mut self) {
        let mut heard: Vec<_> = self.talks.iter().map(|(key, talk)| (talk.heard, *key)).collect();
        heard.sort_unstable();
        for (_, key) in heard.into_iter().take(MOST / 8) {
            self.decide(key);
            self.forget(key);
        }
    }

    /// Nothing more stands in the ring: time to look at what waits.
    fn pause(&mut self) {
        self.counts.pauses += 1;
        self.dismiss_leaving(self.counts.pauses);
        let hold = if lock(&self.opened).is_complete() { HOLD } else { RECALLED_BY };
        let due = |(key, talk): (&Key, &Talk)| match &talk.stage {
            Stage::Held { since, .. } if since.elapsed() >= hold => Some((*since, *key)),
            _ => None,
        };
        let mut due: Vec<_> = self.talks.iter().filter_map(due).collect();
        due.sort_unstable();
        for (_, key) in due {
            self.decide(key);
        }
        self.settle(|_, since| since.elapsed() >= RECOGNISED_BY);
        let is_past = |talk: &Talk| talk.over.is_some_and(|(_, at)| at.elapsed() >= 3 * HOLD);
        let past = self.talks.iter().filter(|(_, talk)| is_past(talk)).map(|(key, _)| *key);
        let past: Vec<_> = past.collect();
        for key in past {
            self.forget(key);
        }
        self.sink.tick();
    }

    /// Whether words from before this moment wait still.
    pub(super) fn holds_before(&self, to: Timestamp) -> bool {
        self.talks.values().any(|talk| match &talk.stage {
            Stage::Held { said, .. } => said.first().is_some_and(|said| said.time < to),
            Stage::Shown { conversation, twins, waits, .. } => {
                waits.is_some() && twins.is_waiting(conversation)
            }
            Stage::LeftOut => false,
        })
    }

    /// Hands on what was written.
    pub(super) fn flush(&mut self) {
        self.sink.flush();
    }

    /// Shows a conversation that waited, or leaves it out.
    fn decide(&mut self, key: Key) {
        let Some(talk) = self.talks.get_mut(&key) else { return };
        let Stage::Held { since, said } = &mut talk.stage else { return };
        let (since, said) = (*since, std::mem::take(said));
        let (local, remote) = (talk.local, talk.remote);
        self.wait_no_longer(key.0, [local, remote], &said);
        if self.is_left_out(key, local, remote) {
            self.counts.left_out += 1;
            if let Some(talk) = self.talks.get_mut(&key) {
                talk.stage = Stage::LeftOut;
            }
            return;
        }
        let [client, server] =
            if is_client(&said, local, remote) { [local, remote] } else { [remote, local] };
        self.numbered += 1;
        self.counts.conversations += 1;
        self.shown.insert(pair(key.0, local, remote), key);
        let conversation = Conversation {
            number: self.numbered,
            place: Place(key.0.0),
            client,
            server,
            resumed: true,
        };
        if let Some(talk) = self.talks.get_mut(&key) {
            let sequence = said.first().map_or(0, |first| sequence(first.time));
            let twins = Twins::new(PortsTaken::default()).with_own_times().beginning_at(sequence);
            let (twins, cut) = (Box::new(twins), Timestamp::MIN);
            talk.stage = Stage::Shown { conversation, twins, waits: Some(since), cut };
        }
        for said in &said {
            self.show(key, said);
        }
        if let Some((time, _)) = self.talks.get(&key).and_then(|talk| talk.over) {
            self.close(key, time);
        }
    }

    fn is_left_out(&self, key: Key, local: SocketAddr, remote: SocketAddr) -> bool {
        let pair = pair(key.0, local, remote);
        // The process at the other end of a connection within one namespace. The client's is shown, so that of two
        // recorders one goes on with what the other began: what is written here is read there a moment later.
        let other = self.shown.get(&pair).and_then(|other| self.talks.get(other));
        other.is_some_and(|other| other.local == remote)
            || (local.port() < remote.port() && self.waiting.contains_key(&(key.0, remote, local)))
            || lock(&self.opened).pairs.contains(&pair)
            || (!self.keeps_control_plane
                && [local, remote].iter().any(|end| self.control_plane.is_at(end)))
    }

    fn show(&mut self, key: Key, said: &Said) {
        if said.time < self.handed_over {
            self.counts.unwritten += said.bytes.len() as u64;
        }
        let slot = self.slot(key.0);
        let Self { talks, sink, counts, .. } = self;
        let Some(talk) = talks.get_mut(&key) else { return };
        let Stage::Shown { conversation, twins, cut, .. } = &mut talk.stage else { return };
        let next = &mut talk.next[usize::from(said.sent)];
        let lost = said.position.saturating_sub(*next);
        *next = said.position.saturating_add(said.bytes.len() as u64);
        if said.time < self.begins {
            return;
        }
        counts.missing = counts.missing.saturating_add(lost);
        if *cut < self.cut && said.time >= self.cut {
            *cut = self.cut;
            let sequence = sequence(said.time);
            twins.begin_anew(conversation, sequence, said.time, &mut |time, frame| {
                put(&mut **sink, slot, time, frame);
            });
        }
        let by_client = said.sent == (talk.local == conversation.client);
        let from = if by_client { Sender::Client } else { Sender::Server };
        let content = Content { lost, bytes: &said.bytes };
        let data = Event::Data { conversation, from, time: said.time, content };
        twins.hear(&data, &mut |time, frame| put(&mut **sink, slot, time, frame));
    }

    fn slot(&mut self, netns: NetnsId) -> Slot {
        let Self { slots, sink, node, owners, .. } = self;
        *slots.entry(netns).or_insert_with(|| {
            let owner = owners.get(&netns).cloned().unwrap_or(Owner::Host);
            let (node, name) = (node.clone(), PLAINTEXT.to_owned());
            sink.open_interface(Interface { node, owner, netns, name })
        })
    }
}

/// Where the sequence numbers of a conversation begin whose first words are of this time: elsewhere than those of
/// an earlier one between the same ends, whichever recorder wrote it.
#[expect(clippy::cast_possible_truncation, reason = "the part that changes")]
const fn sequence(time: Timestamp) -> u32 {
    time.as_nanos() as u32
}

fn put(sink: &mut dyn PacketSink, slot: Slot, time: Timestamp, frame: &[u8]) {
    let mut frame = frame.to_vec();
    let (destination, source, letter) = MARK;
    frame[destination] = letter;
    frame[source] = letter;
    let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    // One that finds no room is counted by the sink.
    sink.reserve(frame.len());
    sink.packet(slot, &Frame::whole(time, len, &frame));
}

/// Notes that these words are missing.
fn leave_gap(earlier: &mut Vec<Said>, said: &Said) {
    let Said { time, sent, position, bytes } = said;
    let position = position.saturating_add(bytes.len() as u64);
    let gap = Said { time: *time, sent: *sent, position, bytes: Vec::new() };
    let last = earlier.iter_mut().rev().find(|earlier| earlier.sent == gap.sent);
    match last.filter(|last| last.bytes.is_empty()) {
        Some(last) => last.position = gap.position,
        None => earlier.push(gap),
    }
}

/// Whether the process is the client: by what either side says first; where that tells nothing, servers
/// have the lower port.
fn is_client(said: &[Said], local: SocketAddr, remote: SocketAddr) -> bool {
    let told = said.iter().find_map(|said| {
        let who = who_says(&said.bytes)?;
        Some(said.sent == (who == Sender::Client))
    });
    told.unwrap_or(local.port() > remote.port())
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests {
    use kuberewind_packet::Loss;

    use super::*;

    const NETNS: NetnsId = NetnsId(77);

    /// What was written: whose, and how many frames.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<BTreeMap<String, usize>>>);

    /// Slots are places in the list of those whose they are.
    struct Sink(Written, Vec<String>);

    impl PacketSink for Sink {
        fn open_interface(&mut self, interface: Interface) -> Slot {
            self.1.push(interface.owner.to_string());
            Slot(u32::try_from(self.1.len() - 1).unwrap())
        }

        fn close_interface(&mut self, _: Slot) {}

        fn reserve(&mut self, _: usize) -> bool {
            true
        }

        fn packet(&mut self, slot: Slot, _: &Frame<'_>) {
            *lock(&self.0.0).entry(self.1[slot.0 as usize].clone()).or_default() += 1;
        }

        fn loss(&mut self, _: Slot, _: Loss) {}

        fn tick(&mut self) {}

        fn flush(&mut self) {}
    }

    fn owner(name: &str) -> Owner {
        Owner::Netns(name.to_owned())
    }

    /// One of whose owners is `shop`.
    fn stream(is_recalled: bool) -> (Stream, Written) {
        let (opened, written) = (Arc::<Mutex<Opened>>::default(), Written::default());
        if is_recalled {
            lock(&opened).set_recalled();
        }
        let sink = Box::new(Sink(written.clone(), Vec::new()));
        let mut stream = Stream::new(sink, "n1".to_owned(), opened, ControlPlane::default());
        stream.welcome(&BTreeMap::from([(NETNS, owner("shop"))]));
        (stream, written)
    }

    fn say(stream: &mut Stream, at: u64, port: u16, bytes: &[u8]) {
        say_at(stream, at, port, 0, bytes);
    }

    fn say_at(stream: &mut Stream, at: u64, port: u16, position: u64, bytes: &[u8]) {
        let happened = Plaintext::Data {
            local: ([10, 0, 0, 1], port).into(),
            remote: ([10, 0, 0, 2], 443).into(),
            sent: true,
            position,
            bytes: bytes.to_vec(),
        };
        let (time, connection) = (Timestamp::from_nanos(at), u64::from(port));
        let event = PlaintextEvent { time, netns: NETNS, pid: 1, connection, happened };
        stream.hear(PlaintextTold::Event(event), |_| String::new());
    }

    /// An answer, as the server (port 443) or its client hears of it.
    fn words_on_loopback(local: u16, remote: u16, time: u64) -> PlaintextEvent {
        let happened = Plaintext::Data {
            local: ([127, 0, 0, 1], local).into(),
            remote: ([127, 0, 0, 1], remote).into(),
            sent: local == 443,
            position: 0,
            bytes: b"HTTP/1.1 200 OK".to_vec(),
        };
        let (time, pid) = (Timestamp::from_nanos(time), u32::from(local));
        PlaintextEvent { time, netns: NETNS, pid, connection: 1, happened }
    }

    /// A list of things that happen, each with its length before it, from a fuzzer.
    pub(crate) fn feed(input: &[u8]) -> String {
        let (mut stream, written) = stream(true);
        let owners = |name| BTreeMap::from([(NETNS, owner(name))]);
        let mut rest = input;
        while let Some(([what, len], behind)) = rest.split_first_chunk() {
            let (bytes, behind) = behind.split_at(behind.len().min(usize::from(*len)));
            rest = behind;
            match what {
                b'p' => stream.hear(PlaintextTold::Pause, |_| String::new()),
                b'e' => stream.end_waiting(),
                b'h' => stream.hand_over(Timestamp::now()),
                b'c' => stream.cut(Timestamp::from_nanos(u64::from(*len) << 56)),
                b'k' => stream.keep_only(&BTreeMap::new()),
                b's' => stream.welcome(&owners("shop")),
                b'b' => stream.welcome(&owners("bank")),
                _ => {
                    let Some(event) = kuberewind_capture::fuzz::plaintext_event(bytes) else {
                        continue;
                    };
                    if let (b'o', Plaintext::Data { local, remote, .. }) = (what, &event.happened) {
                        lock(&stream.opened).insert(pair(event.netns, *local, *remote));
                    }
                    stream.hear(PlaintextTold::Event(event), |pid| pid.to_string());
                }
            }
            check(&stream);
        }
        stream.end_of_probes();
        stream.end_waiting();
        assert_eq!(stream.held, 0, "nothing waits for ever");
        let owners: Vec<_> = lock(&written.0).keys().cloned().collect();
        let Counts { conversations, left_out, missing, unwritten, nowhere, .. } = &stream.counts;
        let more = [missing, unwritten].map(|bytes| bytes.checked_ilog2());
        format!("{owners:?} {conversations} {left_out} {more:?} {}", nowhere.len())
    }

    /// What always holds.
    fn check(stream: &Stream) {
        let held = stream.talks.values().map(|talk| match &talk.stage {
            Stage::Held { said, .. } => said.iter().map(|said| said.bytes.len()).sum(),
            _ => 0,
        });
        assert_eq!(held.sum::<usize>(), stream.held);
        assert!(stream.shown.values().all(|key| stream.talks.contains_key(key)));
        let is_held = |talk: &&Talk| matches!(talk.stage, Stage::Held { .. });
        let waiting = stream.talks.values().filter(is_held).count();
        assert_eq!(stream.waiting.values().sum::<usize>(), waiting);
        assert!(stream.talks.keys().all(|key| stream.owners.contains_key(&key.0)));
        assert!(stream.slots.keys().all(|netns| stream.owners.contains_key(netns)));
    }

    #[test]
    fn what_waits_at_the_end_is_written() {
        let (mut stream, written) = stream(true);
        say(&mut stream, 1, 40_000, b"GET /");
        stream.hear(PlaintextTold::Pause, |_| String::new());
        assert_eq!(lock(&written.0).len(), 0);
        stream.end_waiting();
        assert!(lock(&written.0)["shop"] > 0);
        assert_eq!((stream.counts.conversations, stream.counts.unwritten), (1, 0));
        assert_eq!(stream.held, 0);
    }

    #[test]
    fn positions_that_no_connection_reaches_are_gaps() {
        let (mut stream, _) = stream(true);
        say_at(&mut stream, 1, 40_000, u64::MAX - 2, b"GET /");
        say_at(&mut stream, 2, 40_001, u64::MAX - 2, b"GET /");
        stream.end_waiting();
        say_at(&mut stream, 3, 40_001, u64::MAX, b"GET /");
        assert_eq!(stream.counts.missing, u64::MAX);
    }

    #[test]
    fn what_an_earlier_recorders_notes_may_open_is_counted_at_the_end() {
        let (mut stream, written) = stream(false);
        say(&mut stream, 1, 40_000, b"GET /");
        stream.end_waiting();
        assert_eq!(lock(&written.0).len(), 0);
        assert_eq!((stream.counts.unwritten, stream.held), (5, 0));
    }

    #[test]
    fn whoever_hands_over_writes_what_was_said_before_and_counts_what_comes_late() {
        let (mut stream, written) = stream(true);
        let cut = Timestamp::from_nanos(10);
        say(&mut stream, 9, 40_000, b"GET /");
        say(&mut stream, 11, 40_001, b"GET /");
        stream.hand_over(cut);
        assert!(lock(&written.0)["shop"] > 0);
        assert_eq!((stream.counts.conversations, stream.counts.unwritten), (1, 0));
        say(&mut stream, 9, 40_000, b"late");
        say(&mut stream, 12, 40_000, b"and later");
        assert_eq!(stream.counts.unwritten, 4);
    }

    #[test]
    fn whoever_takes_over_writes_what_was_said_since_also_of_what_waited() {
        let (mut stream, written) = stream(true);
        say(&mut stream, 8, 40_000, b"GET /");
        say_at(&mut stream, 9, 40_000, 5, b"before");
        stream.begin(Timestamp::from_nanos(10));
        stream.end_waiting();
        assert_eq!(lock(&written.0).len(), 0);
        say_at(&mut stream, 11, 40_000, 11, b"GET /since");
        stream.end_waiting();
        assert!(lock(&written.0)["shop"] > 0);
        assert_eq!((stream.counts.missing, stream.counts.unwritten), (0, 0));
    }

    #[test]
    fn of_two_ends_in_one_namespace_the_clients_is_shown_whoever_spoke_first() {
        let (mut stream, _) = stream(true);
        for (local, remote, time) in [(443, 40_000, 1), (40_000, 443, 2)] {
            let event = PlaintextTold::Event(words_on_loopback(local, remote, time));
            stream.hear(event, |_| String::new());
        }
        stream.end_waiting();
        let shown: Vec<_> = stream.shown.values().map(|key| key.1).collect();
        assert_eq!((shown, stream.counts.left_out), (vec![40_000], 1));
    }

    #[test]
    fn an_end_is_not_left_out_for_another_that_is_not_shown() {
        let (mut stream, _) = stream(true);
        let [client, server] = [40_000, 443].map(|port| (NETNS, port, 1));
        stream.hear(PlaintextTold::Event(words_on_loopback(443, 40_000, 1)), |_| String::new());
        stream.end_waiting();
        stream.hear(PlaintextTold::Event(words_on_loopback(40_000, 443, 2)), |_| String::new());
        stream.end_waiting();
        assert!(stream.shown.values().eq([&server]), "it was there first");
        stream.forget(server);
        stream.hear(PlaintextTold::Event(words_on_loopback(443, 40_000, 3)), |_| String::new());
        stream.end_waiting();
        assert!(stream.talks.contains_key(&client) && stream.shown.values().eq([&server]));
    }

    #[test]
    fn the_last_words_of_one_who_is_gone_are_still_its_own() {
        let (mut stream, written) = stream(true);
        say(&mut stream, 1, 40_000, b"GET /");
        stream.keep_only(&BTreeMap::new());
        // It stood in the ring.
        say(&mut stream, 2, 40_001, b"GET /");
        for _ in 0..3 {
            stream.hear(PlaintextTold::Pause, |_| String::new());
        }
        assert_eq!(lock(&written.0).keys().collect::<Vec<_>>(), ["shop"]);
        assert_eq!((stream.counts.conversations, stream.counts.unwritten), (2, 0));
        say(&mut stream, 3, 40_002, b"nobody's");
        assert_eq!(stream.counts.unwritten, 8);
    }

    #[test]
    fn who_takes_a_namespace_over_does_not_take_the_words_of_who_was_there() {
        let (mut stream, written) = stream(true);
        say(&mut stream, 1, 40_000, b"GET /");
        stream.welcome(&BTreeMap::from([(NETNS, owner("bank"))]));
        say(&mut stream, 2, 40_001, b"GET /");
        stream.end_waiting();
        assert_eq!(lock(&written.0).keys().collect::<Vec<_>>(), ["bank", "shop"]);
    }
}
