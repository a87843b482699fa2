//! One recorded network namespace, as a capture thread sees it: its rings and its interfaces.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kuberewind_filter::Forbidden;
use kuberewind_packet::{
    Frame, Loss, LossAt, LossCause, MAX_CAPTURED, Owner, PacketSink, Span, Timestamp,
};

use crate::growth::{self, Load};
use crate::hold::{Hold, Missed};
use crate::interfaces::{Interfaces, Label};
use crate::link::{self, Head};
use crate::links::{LinkEvent, Links};
use crate::ring::{Block, Layout, RETIRE_MILLIS, Ring};
use crate::seam::Seam;
use crate::status::InterfaceStatus;

/// Every block that holds a packet has been handed over after this time: the retire time, and as much
/// again for a timer that had just run.
pub(crate) const RETIRED_BY: Duration = Duration::from_millis(2 * RETIRE_MILLIS as u64);
/// A ring that may not grow asks again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// In a seam, the place of packets that came before the ring was open.
const EARLY: usize = usize::MAX;
/// Room that the kernel's headers take in a block, at most.
const BLOCK_OVERHEAD: u32 = 256;

/// One ring of a namespace.
#[derive(Debug)]
struct Feed {
    ring: Ring,
    /// Until when its losses are known.
    losses_known: Timestamp,
    /// The sink had no room for a block since then.
    refused: bool,
    /// Packets read since then.
    read: u64,
    /// Packets wait in it since then, and none was read.
    stuck_since: Option<Instant>,
}

/// How far a ring was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    /// Nothing is left.
    Empty,
    /// As many blocks as the ring has: whatever was in it at the start has been read.
    Around,
    /// The sink has no room.
    Refused,
}

/// A network namespace that is recorded.
#[derive(Debug)]
pub(crate) struct Recorded {
    feeds: Vec<Feed>,
    interfaces: Interfaces,
    seam: Option<Seam>,
    load: Load,
    load_since: Instant,
    asked_at: Option<Instant>,
    /// `tap.ringMemory` did not allow what the ring needs.
    short: bool,
    lost: BTreeMap<LossCause, u64>,
    cut: u64,
    /// Of these nothing is stored, in the node's own namespace.
    forbidden: Option<Arc<Forbidden>>,
    /// What waits while it is not known whether it is to be recorded, and until that has been given to
    /// the sink.
    hold: Option<Hold>,
    /// No packet from later than this is waited for.
    pub(crate) leaving: Option<Instant>,
}

/// What was counted in a namespace.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(crate) lost: BTreeMap<LossCause, u64>,
    pub(crate) interfaces: Vec<InterfaceStatus>,
    pub(crate) lacking: Vec<String>,
    pub(crate) cut: u64,
    /// For how long packets have waited in a ring of which none was read.
    pub(crate) stuck_for: Duration,
    /// Packets that wait until it is known whether they are to be recorded, and their bytes.
    pub(crate) held: (u64, u64),
}

impl Recorded {
    pub(crate) fn new(
        ring: Ring,
        label: Label,
        (links, known): (Links, Vec<LinkEvent>),
        undecided: Option<(Hold, Option<Seam>)>,
    ) -> Self {
        let (hold, seam) = match undecided {
            Some((hold, seam)) => (Some(hold), seam),
            None => (None, None),
        };
        Self {
            feeds: vec![Feed::new(ring)],
            interfaces: Interfaces::new(label, links, known),
            seam,
            load: Load::default(),
            load_since: Instant::now(),
            asked_at: None,
            short: false,
            lost: BTreeMap::new(),
            cut: 0,
            forbidden: None,
            hold,
            leaving: None,
        }
    }

    /// Stores nothing of these any more, if it is the node's own namespace: in a pod's there is no
    /// doubt whose the packets are.
    pub(crate) fn forbid(&mut self, forbidden: &Arc<Forbidden>) {
        let concerned = self.interfaces.label().is_host() && !forbidden.is_empty();
        self.forbidden = concerned.then(|| Arc::clone(forbidden));
    }

    pub(crate) fn interfaces(&mut self) -> &mut Interfaces {
        &mut self.interfaces
    }

    pub(crate) fn rings(&self) -> impl Iterator<Item = &Ring> {
        self.feeds.iter().map(|feed| &feed.ring)
    }

    /// It is to be recorded, as this owner's, from its first packet on. `true` when it asks for a
    /// further ring, since `larger` says that the first is smaller than it would be had it been known.
    pub(crate) fn want<S: PacketSink>(&mut self, owner: Owner, larger: bool, sink: &mut S) -> bool {
        self.interfaces.rename(owner, sink);
        let missed = self.hold.as_mut().and_then(Hold::want);
        if let Some(loss) = missed {
            self.lose(sink, loss);
        }
        (self.load, self.load_since) = (Load::default(), Instant::now());
        if larger {
            self.ask_to_grow();
        }
        larger
    }

    /// It is not to be recorded: what waits is thrown away, and not missed.
    pub(crate) fn discard(&mut self) {
        self.hold.iter_mut().for_each(Hold::discard);
    }

    /// What of this span waits for a decision.
    pub(crate) fn waiting(&self, span: Span) -> Option<LossAt> {
        let loss = self.hold.as_ref()?.waiting(span)?;
        Some(LossAt { owner: self.interfaces.label().owner.to_string(), loss })
    }

    /// Whether its packets may not go to the sink, not yet or never.
    fn is_shut(&self) -> bool {
        self.hold.as_ref().is_some_and(Hold::is_shut)
    }

    /// Takes packets from one of its rings for as long as there are some and the sink has room.
    /// Also says how many blocks that were.
    pub(crate) fn drain<S: PacketSink>(&mut self, place: usize, sink: &mut S) -> (u32, Drained) {
        if self.is_shut() {
            return self.hold_back(place);
        }
        if !self.give_held(sink) {
            return (0, Drained::Refused);
        }
        let several = self.feeds.len() > 1;
        let Some(feed) = self.feeds.get_mut(place) else { return (0, Drained::Empty) };
        let layout = feed.ring.layout();
        self.interfaces.skip_ends();
        let forbidden = self.forbidden.as_deref();
        for taken in 1..=layout.blocks {
            let Some(block) = feed.ring.front() else {
                if several {
                    feed.ring.relieve();
                }
                return (taken - 1, Drained::Empty);
            };
            if !sink.reserve(block.used()) {
                feed.refused = true;
                return (taken - 1, Drained::Refused);
            }
            self.load.bytes += block.used() as u64;
            if taken * self.load.blocks.max(1) > self.load.waiting * layout.blocks {
                (self.load.waiting, self.load.blocks) = (taken, layout.blocks);
            }
            let limit = limit(layout);
            self.cut += match &mut self.seam {
                None => give(&block, limit, &mut self.interfaces, sink, forbidden, |_| false),
                Some(seam) => {
                    give(&block, limit, &mut self.interfaces, sink, forbidden, |packet| {
                        seam.is_double(place, packet)
                    })
                }
            };
            feed.read += u64::from(block.count());
            feed.ring.release();
        }
        (layout.blocks, Drained::Around)
    }

    /// Empties one of its rings into memory.
    fn hold_back(&mut self, place: usize) -> (u32, Drained) {
        let (Some(feed), Some(hold)) = (self.feeds.get_mut(place), self.hold.as_mut()) else {
            return (0, Drained::Empty);
        };
        let now = Instant::now();
        for taken in 0..feed.ring.layout().blocks {
            let Some(block) = feed.ring.front() else { return (taken, Drained::Empty) };
            hold.keep(&block, now);
            feed.read += u64::from(block.count());
            feed.ring.release();
        }
        (feed.ring.layout().blocks, Drained::Around)
    }

    /// Gives the sink what has waited; `false` when it has no room for all of it.
    fn give_held<S: PacketSink>(&mut self, sink: &mut S) -> bool {
        let (Some(feed), Some(hold)) = (self.feeds.first_mut(), &mut self.hold) else {
            return true;
        };
        self.interfaces.skip_ends();
        let limit = limit(feed.ring.layout());
        while let Some((block, early)) = hold.front() {
            if !sink.reserve(block.used()) {
                feed.refused = true;
                return false;
            }
            let forbidden = self.forbidden.as_deref();
            let place = if early { EARLY } else { 0 };
            let seam = &mut self.seam;
            self.cut += give(&block, limit, &mut self.interfaces, sink, forbidden, |packet| {
                seam.as_mut().is_some_and(|seam| seam.is_double(place, packet))
            });
            hold.pop();
        }
        self.hold = None;
        true
    }

    /// Asks the kernel what its rings lost and tells the sink.
    pub(crate) fn note_losses<S: PacketSink>(&mut self, sink: &mut S, now: Timestamp) {
        for place in 0..self.feeds.len() {
            let feed = &mut self.feeds[place];
            // A packet socket has no reason to refuse; what it counted then comes with the next call.
            let Ok(counted) = feed.ring.socket().take_statistics() else { continue };
            let from = feed.losses_known.min(now);
            feed.heed(counted.packets);
            let refused = std::mem::replace(&mut feed.refused, false);
            feed.losses_known = now;
            if let Some(hold) = self.hold.as_mut().filter(|hold| hold.is_shut()) {
                hold.miss(Missed { packets: counted.drops.into(), from, to: now });
                continue;
            }
            let cause = match () {
                () if refused => LossCause::Buffer,
                () if self.short => LossCause::RingMemory,
                () => LossCause::Ring,
            };
            if !refused {
                self.load.drops += u64::from(counted.drops);
            }
            self.lose(sink, Loss { cause, packets: counted.drops.into(), from, to: now });
        }
    }

    /// Lets go of packets that nobody has decided about for too long.
    pub(crate) fn expire<S: PacketSink>(&mut self, sink: &mut S, now: Instant) {
        let expired = self.hold.as_mut().and_then(|hold| hold.expire(now));
        if let Some(loss) = expired {
            self.lose(sink, loss);
        }
    }

    /// Whether the names of its interfaces are needed longer than the interfaces are there.
    pub(crate) fn holds(&self) -> bool {
        self.hold.is_some()
    }

    fn lose<S: PacketSink>(&mut self, sink: &mut S, loss: Loss) {
        if loss.packets > 0 {
            *self.lost.entry(loss.cause).or_default() += loss.packets;
            let any = self.interfaces.any(sink);
            sink.loss(any, loss);
        }
    }

    /// Whether it will lose packets unless it asks for a further ring right now.
    pub(crate) fn is_urgent(&self) -> bool {
        let Load { waiting, blocks, .. } = self.load;
        self.feeds.len() == 1 && self.asked_at.is_none() && waiting * 2 > blocks
    }

    /// Whether it had packets since the last [`Self::wants_to_grow`].
    pub(crate) fn is_busy(&self) -> bool {
        self.load.bytes > 0 || self.feeds.iter().any(|feed| feed.refused)
    }

    /// Judges what its ring had to carry since the last call; `true` when it asks for a further one,
    /// which it does once.
    pub(crate) fn wants_to_grow(&mut self) -> bool {
        let over = self.load_since.elapsed();
        let load = Load { over, ..std::mem::take(&mut self.load) };
        self.load_since = Instant::now();
        let asked = self.asked_at.is_some_and(|at| !self.short || at.elapsed() < ASK_AGAIN);
        let grown = self.feeds.len() > 1;
        if grown || asked || self.leaving.is_some() || !growth::is_too_small(&load) {
            return false;
        }
        self.ask_to_grow();
        true
    }

    fn ask_to_grow(&mut self) {
        self.asked_at = Some(Instant::now());
        match &mut self.seam {
            Some(seam) => seam.reopen(),
            None => self.seam = Some(Seam::begin(Timestamp::now())),
        }
    }

    /// A further ring had joined by `joined`; `short` when it should have been larger.
    pub(crate) fn grow(&mut self, ring: Ring, joined: Timestamp, short: bool) {
        self.short = short;
        self.feeds.push(Feed::new(ring));
        if let Some(seam) = &mut self.seam {
            seam.joined(joined);
        }
    }

    /// There is no further ring.
    pub(crate) fn stay_short(&mut self) {
        self.short = true;
        self.seam.iter_mut().for_each(|seam| seam.joined(Timestamp::now()));
    }

    /// Lets go of the seam once every packet from its time has been read.
    pub(crate) fn close_seam(&mut self, now: Timestamp) {
        let ended = self.seam.as_ref().and_then(Seam::ended);
        let retired = ended.is_some_and(|ended| now.since(ended) > RETIRED_BY);
        if retired
            && self.hold.is_none()
            && self.feeds.iter().all(|feed| feed.ring.front().is_none())
        {
            self.seam = None;
        }
    }

    /// The last words: what was lost, and what nobody took.
    pub(crate) fn finish<S: PacketSink>(mut self, sink: &mut S) -> (Vec<Ring>, Links) {
        let now = Timestamp::now();
        self.note_losses(sink, now);
        let shut = self.is_shut();
        for place in 0..if shut { self.feeds.len() } else { 0 } {
            self.hold_back(place);
        }
        let cause = if shut { LossCause::Undecided } else { LossCause::Buffer };
        let held = self.hold.as_mut().and_then(Hold::let_go);
        if let Some(loss) = held {
            self.lose(sink, Loss { cause, ..loss });
        }
        for place in 0..self.feeds.len() {
            let (from, packets) = self.feeds[place].leave_rest();
            let cause = LossCause::Buffer;
            self.lose(sink, Loss { cause, packets, from: from.unwrap_or(now), to: now });
        }
        self.interfaces.leave(sink);
        let rings = self.feeds.into_iter().map(|feed| feed.ring).collect();
        (rings, self.interfaces.into_links())
    }

    /// For how long packets have been in one of its rings of which none was read.
    fn stuck_for(&self) -> Duration {
        let stuck = self.feeds.iter().filter_map(|feed| feed.stuck_since);
        stuck.map(|since| since.elapsed()).max().unwrap_or_default()
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            lost: self.lost.clone(),
            interfaces: self.interfaces.status(),
            lacking: self.interfaces.lacking(),
            cut: self.cut,
            stuck_for: self.stuck_for(),
            held: self.hold.as_ref().map_or((0, 0), |hold| (hold.packets(), hold.bytes())),
        }
    }
}

impl Feed {
    fn new(ring: Ring) -> Self {
        Self { ring, losses_known: Timestamp::now(), refused: false, read: 0, stuck_since: None }
    }

    /// Compares what was read with what the kernel counted into the ring since the last time.
    fn heed(&mut self, arrived: u32) {
        if std::mem::take(&mut self.read) > 0 {
            self.stuck_since = None;
        } else if arrived > 0 {
            self.stuck_since.get_or_insert_with(Instant::now);
        }
    }

    /// How many packets are left in the ring, and from when on.
    fn leave_rest(&mut self) -> (Option<Timestamp>, u64) {
        let mut first = None;
        let mut packets = 0;
        for _ in 0..self.ring.layout().blocks {
            let Some(block) = self.ring.front() else { break };
            first = first.or(block.packets().next().map(|packet| packet.timestamp));
            packets += block.packets().count() as u64;
            self.ring.release();
        }
        (first, packets)
    }
}

/// The longest frame that is kept whole.
fn limit(layout: Layout) -> u32 {
    MAX_CAPTURED.min(layout.block - BLOCK_OVERHEAD)
}

/// Gives a block's packets to the sink; how many of them were cut at `limit`.
fn give<S: PacketSink>(
    block: &Block<'_>,
    limit: u32,
    interfaces: &mut Interfaces,
    sink: &mut S,
    forbidden: Option<&Forbidden>,
    mut skip: impl FnMut(&crate::ring::Packet<'_>) -> bool,
) -> u64 {
    let mut head = Head::default();
    let mut cut = 0;
    for packet in block.packets() {
        if skip(&packet) || forbidden.is_some_and(|forbidden| concerns(forbidden, &packet)) {
            continue;
        }
        let Some((slot, seen)) = interfaces.of(packet.ifindex, sink) else { continue };
        let frame = link::frame(&packet, &mut head);
        cut += u64::from(is_cut(&frame, limit));
        seen.count(&frame);
        sink.packet(slot, &frame);
    }
    cut
}

fn concerns(forbidden: &Forbidden, packet: &crate::ring::Packet<'_>) -> bool {
    let from_network = packet.bytes.get(packet.network..).unwrap_or_default();
    forbidden.concern(packet.protocol, from_network)
}

#[inline]
fn is_cut(frame: &Frame<'_>, limit: u32) -> bool {
    frame.captured_len() < frame.original_len && frame.captured_len() >= limit
}
