//! What of a view is in others.

use std::collections::HashMap;
use std::time::Duration;

use kuberewind_packet::Timestamp;
use kuberewind_packet::pcapng::PacketBlock;

use super::headers::{Headers, Segment};
use super::plan::Verdict;
use super::ranges::{Range, Ranges};
use super::seen::{Datagrams, Half, Seen, position};

/// The same packet is seen at both ends within this time. Others may be alike byte for byte, as
/// heartbeats are.
const TRIP: Duration = Duration::from_secs(1);

/// What is done with what was seen, where `known` is in the file already.
pub(super) fn judge(known: &[&Seen], seen: &Seen) -> Verdict {
    let halves = [0, 1].map(|direction| Cover::new(known, seen, direction));
    let datagrams = seen.datagrams.as_deref().map_or(Found::All, |datagrams| {
        let known: Vec<_> = known.iter().filter_map(|known| dated(known)).collect();
        find(&known, (datagrams, seen))
    });
    let all_halves = halves.iter().zip(&seen.halves).all(|(cover, half)| cover.has_all_of(half));
    match datagrams {
        Found::All if all_halves => Verdict::LeaveOut,
        Found::Unknown if seen.halves.iter().all(|half| half.base.is_none()) => Verdict::Keep,
        datagrams => Verdict::Judge(Box::new(Rest { halves, datagrams, count: 0, kept: 0 })),
    }
}

/// A view of which not all is in the file already.
#[derive(Debug)]
pub(super) struct Rest {
    halves: [Cover; 2],
    datagrams: Found,
    /// Datagrams so far.
    count: u64,
    /// Packets that stay in the file.
    kept: u64,
}

impl Rest {
    /// Whether what the packet says is in the file already.
    pub(super) fn leaves_out(&mut self, packet: &PacketBlock<'_>) -> bool {
        let Some(headers) = Headers::read(packet.data, packet.original_len) else { return false };
        let is_known = if let Some(segment) = headers.segment() {
            self.halves[headers.direction].has(&segment)
        } else {
            self.count += 1;
            self.datagrams.has(self.count - 1)
        };
        self.kept += u64::from(!is_known);
        is_known
    }

    pub(super) fn kept(&self) -> u64 {
        self.kept
    }
}

/// What is in the file of one direction, by the positions of one view.
#[derive(Debug, Default)]
struct Cover {
    base: u32,
    top: i64,
    used: Ranges,
    acknowledged_base: u32,
    acknowledged_top: i64,
    /// None where nobody acknowledged.
    acknowledged: Option<Range>,
    reset: bool,
}

impl Cover {
    fn new(known: &[&Seen], seen: &Seen, direction: usize) -> Self {
        let own = &seen.halves[direction];
        let mut cover = Self {
            base: own.base.unwrap_or_default(),
            acknowledged_base: own.acknowledged_base.unwrap_or_default(),
            ..Self::default()
        };
        for half in known.iter().map(|known| &known.halves[direction]) {
            if let Some(by) = offset(own.base, half.base) {
                cover.used.add(&half.used, by);
            }
            if let Some(by) = offset(own.acknowledged_base, half.acknowledged_base) {
                let (low, high) = (half.acknowledged.0 + by, half.acknowledged.1 + by);
                let so_far = cover.acknowledged.unwrap_or((low, high));
                cover.acknowledged = Some((so_far.0.min(low), so_far.1.max(high)));
            }
            cover.reset |= half.reset;
        }
        cover
    }

    fn has_all_of(&self, half: &Half) -> bool {
        half.used.are_all()
            && half.used.as_slice().iter().all(|range| self.used.cover(*range))
            && (half.acknowledged_base.is_none() || self.acknowledges(half.acknowledged))
            && (self.reset || !half.reset)
    }

    fn acknowledges(&self, (low, high): Range) -> bool {
        self.acknowledged.is_some_and(|known| known.0 <= low && high <= known.1)
    }

    /// Whether all that a segment says is known. Positions are counted as they were when the view was
    /// looked at first.
    fn has(&mut self, segment: &Segment) -> bool {
        let start = position(self.base, self.top, segment.sequence);
        let used =
            segment.used().map(|(from, to)| (start + i64::from(from), start + i64::from(to)));
        let acknowledged = segment.acknowledged.map(|number| {
            let at = position(self.acknowledged_base, self.acknowledged_top, number);
            self.acknowledged_top = self.acknowledged_top.max(at);
            (at, at)
        });
        for (from, to) in used {
            if from < to {
                self.top = self.top.max(to);
            }
        }
        used.iter().all(|range| self.used.cover(*range))
            && (self.reset || !segment.reset)
            && acknowledged.is_none_or(|at| self.acknowledges(at))
    }
}

/// By how much another view's positions are moved to be those of this one.
pub(super) fn offset(base: Option<u32>, other: Option<u32>) -> Option<i64> {
    Some(i64::from(other?.wrapping_sub(base?).cast_signed()))
}

/// Which of a view's datagrams are in the file already.
#[derive(Debug)]
enum Found {
    All,
    /// All but these, counted from 0.
    AllBut(Vec<u64>),
    /// There are too many to tell.
    Unknown,
}

impl Found {
    fn has(&self, number: u64) -> bool {
        match self {
            Self::All => true,
            Self::AllBut(numbers) => numbers.binary_search(&number).is_err(),
            Self::Unknown => false,
        }
    }
}

type Dated<'a> = (&'a Datagrams, &'a Seen);

fn dated(seen: &Seen) -> Option<Dated<'_>> {
    Some((seen.datagrams.as_deref()?, seen))
}

fn find(known: &[Dated<'_>], (datagrams, seen): Dated<'_>) -> Found {
    let near = |a: Timestamp, b: Timestamp| a.since(b).max(b.since(a)) <= TRIP;
    let same = |(other, of): &Dated<'_>| {
        (datagrams.count, datagrams.sum) == (other.count, other.sum)
            && near(of.first, seen.first)
            && near(of.last, seen.last)
    };
    if known.iter().any(same) {
        return Found::All;
    }
    let all = known.iter().map(|(datagrams, _)| *datagrams).chain([datagrams]);
    if !all.clone().all(Datagrams::are_listed) {
        return Found::Unknown;
    }
    let mut file = Prints::default();
    for (datagrams, _) in known {
        let new = file.lacks(datagrams);
        file.learn(datagrams, &new);
    }
    match file.lacks(datagrams) {
        lacking if lacking.is_empty() => Found::All,
        lacking => Found::AllBut(lacking),
    }
}

/// When which fingerprint was seen, each in the order of time.
#[derive(Debug, Default)]
struct Prints(HashMap<u64, Vec<Timestamp>>);

impl Prints {
    /// The numbers of those that are not here: each counts for one that was seen at about its time.
    fn lacks(&self, datagrams: &Datagrams) -> Vec<u64> {
        let mut used: HashMap<u64, usize> = HashMap::new();
        let mut lacks = Vec::new();
        for (number, (print, time)) in (0..).zip(&datagrams.prints) {
            let times = self.0.get(print).map_or(&[][..], Vec::as_slice);
            let next = used.entry(*print).or_default();
            let too_old = times[*next..].iter().take_while(|then| time.since(**then) > TRIP);
            *next += too_old.count();
            match times.get(*next) {
                Some(then) if then.since(*time) <= TRIP => *next += 1,
                _ => lacks.push(number),
            }
        }
        lacks
    }

    fn learn(&mut self, datagrams: &Datagrams, numbers: &[u64]) {
        for number in numbers {
            let index = usize::try_from(*number).unwrap_or(usize::MAX);
            if let Some((print, time)) = datagrams.prints.get(index) {
                let times = self.0.entry(*print).or_default();
                let after = times.partition_point(|then| then <= time);
                times.insert(after, *time);
            }
        }
    }
}
