//! What one interface saw of one connection.

use std::num::NonZeroU64;

use kuberewind_packet::Timestamp;

use super::headers::{Direction, Headers, Segment};
use super::ranges::{Range, Ranges};

/// From SYN to SYN for TCP, everything between two ends for the rest.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// As its stream numbers it.
    pub(super) interface: u32,
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    pub(super) packets: u64,
    /// What they carried: for TCP, payload; else, what IP carries.
    pub(super) bytes: u64,
    pub(super) opening: Option<Opening>,
    pub(super) halves: [Half; 2],
    /// What is not told by sequence numbers.
    pub(super) datagrams: Option<Box<Datagrams>>,
}

/// How a connection began: both of its first segments tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Opening {
    /// The first sequence number of who opened it.
    sequence: u32,
    pub(super) client: u8,
}

/// What was seen of one direction.
#[derive(Clone, Debug, Default)]
pub(super) struct Half {
    /// When the first packet was seen.
    pub(super) first: Option<NonZeroU64>,
    /// The most of them that a packet had left.
    pub(super) hops: u8,
    pub(super) reset: bool,
    /// Positions are counted from this sequence number,
    pub(super) base: Option<u32>,
    pub(super) used: Ranges,
    /// and from this one of the other side.
    pub(super) acknowledged_base: Option<u32>,
    /// From the lowest to the highest.
    pub(super) acknowledged: Range,
}

/// Packets by their fingerprints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Datagrams {
    pub(super) count: u64,
    /// Of all fingerprints; equal for the same packets in any order.
    pub(super) sum: u64,
    /// All of them with their times, unless there were too many.
    pub(super) prints: Vec<(u64, Timestamp)>,
}

impl Opening {
    pub(super) fn of(segment: &Segment, direction: Direction) -> Option<Self> {
        #[expect(clippy::cast_possible_truncation, reason = "0 or 1")]
        let (from, to) = (direction as u8, 1 - direction as u8);
        match (segment.syn, segment.acknowledged) {
            (false, _) => None,
            (true, None) => Some(Self { sequence: segment.sequence, client: from }),
            (true, Some(next)) => Some(Self { sequence: next.wrapping_sub(1), client: to }),
        }
    }
}

impl Seen {
    pub(super) fn new(interface: u32, time: Timestamp, opening: Option<Opening>) -> Self {
        Self { interface, first: time, last: time, opening, ..Self::default() }
    }

    /// Takes in a packet; `room` is how many more fingerprints may be kept.
    pub(super) fn take(
        &mut self,
        headers: &Headers<'_>,
        segment: Option<&Segment>,
        time: Timestamp,
        room: &mut usize,
    ) {
        self.last = time;
        self.packets += 1;
        let half = &mut self.halves[headers.direction];
        half.first = half.first.or(NonZeroU64::new(time.as_nanos()));
        half.hops = half.hops.max(headers.hops);
        if let Some(segment) = segment {
            self.bytes += u64::from(segment.captured);
            half.take(segment);
        } else {
            self.bytes += headers.carried_bytes();
            self.datagrams.get_or_insert_default().take((headers.fingerprint(), time), room);
        }
    }

    pub(super) fn sees_both_directions(&self) -> bool {
        self.halves.iter().all(|half| half.first.is_some())
    }

    /// Whether bytes are missing between others.
    pub(super) fn has_holes(&self) -> bool {
        self.halves.iter().any(|half| half.used.as_slice().len() > 1)
    }
}

impl Half {
    fn take(&mut self, segment: &Segment) {
        let base = *self.base.get_or_insert(segment.sequence);
        let start = position(base, self.used.top(), segment.sequence);
        for (from, to) in segment.used() {
            self.used.insert((start + i64::from(from), start + i64::from(to)));
        }
        self.reset |= segment.reset;
        if let Some(number) = segment.acknowledged {
            let base = *self.acknowledged_base.get_or_insert(number);
            let (low, high) = self.acknowledged;
            let at = position(base, high, number);
            self.acknowledged = (low.min(at), high.max(at));
        }
    }
}

impl Datagrams {
    fn take(&mut self, print: (u64, Timestamp), room: &mut usize) {
        if *room > 0 && self.are_listed() {
            self.prints.push(print);
            *room -= 1;
        }
        self.count += 1;
        self.sum = self.sum.wrapping_add(print.0);
    }

    /// Whether each one's fingerprint is kept.
    pub(super) fn are_listed(&self) -> bool {
        self.prints.len() as u64 == self.count
    }
}

/// Where a sequence number is, near another position: they are counted modulo 2³².
pub(super) fn position(base: u32, near: i64, sequence: u32) -> i64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "modulo 2³²")]
    let there = base.wrapping_add(near as u32);
    near + i64::from(sequence.wrapping_sub(there).cast_signed())
}
