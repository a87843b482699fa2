//! Packets of a network namespace of which nobody knows yet whether it is to be recorded. They are in
//! memory and nowhere else, bounded in bytes and in time, until somebody decides.
//!
//! They cannot wait in the kernel's ring: it hands a block over a tenth of a second after its first
//! packet, however empty, so that eight blocks hold 0.8 s of a pod that says little.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kuberewind_packet::{Loss, LossCause, Span, Timestamp};

use crate::ring::Block;

/// So long packets wait for a decision.
pub(crate) const LONGEST: Duration = Duration::from_secs(30);
/// What may wait of one namespace: 2600 packets of 1500 bytes, with what the ring puts beside them.
const OF_ONE: u64 = 4 << 20;
/// What may wait of all together.
const OF_ALL: u64 = 32 << 20;

/// How many bytes wait, of all namespaces.
#[derive(Clone, Debug, Default)]
pub(crate) struct HoldMemory(Arc<AtomicU64>);

impl HoldMemory {
    /// Takes so many bytes, if there is room for them.
    fn take(&self, bytes: u64) -> bool {
        let taken = self.0.fetch_add(bytes, Ordering::Relaxed) + bytes <= OF_ALL;
        if !taken {
            self.give_back(bytes);
        }
        taken
    }

    fn give_back(&self, bytes: u64) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What is known of who may have the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Undecided,
    /// They go to the sink, before any later ones.
    Wanted,
    /// They are thrown away, and nobody misses them.
    Unwanted,
}

/// The packets of one namespace that wait, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Hold {
    verdict: Verdict,
    blocks: VecDeque<Kept>,
    bytes: u64,
    memory: HoldMemory,
    /// What found no room, if anything.
    missed: Option<Missed>,
}

/// A block out of a ring, cut to what was used of it.
#[derive(Debug)]
struct Kept {
    bytes: Box<[u8]>,
    since: Instant,
    span: Missed,
    /// It came before the ring was open.
    early: bool,
}

/// So many packets, and when the first and the last of them came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missed {
    pub(crate) packets: u64,
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
}

impl Missed {
    fn of(block: &Block<'_>) -> Option<Self> {
        let mut times = block.packets().map(|packet| packet.timestamp);
        let first = times.next()?;
        let one = Self { packets: 1, from: first, to: first };
        Some(times.fold(one, |all, time| all.and(Self { packets: 1, from: time, to: time })))
    }

    fn and(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            from: self.from.min(other.from),
            to: self.to.max(other.to),
        }
    }

    fn join(all: &mut Option<Self>, other: Self) {
        *all = Some(all.map_or(other, |all| all.and(other)));
    }

    fn loss(self) -> Loss {
        let Self { packets, from, to } = self;
        Loss { cause: LossCause::Undecided, packets, from, to }
    }
}

impl Hold {
    pub(crate) fn new(memory: HoldMemory) -> Self {
        let blocks = VecDeque::new();
        Self { verdict: Verdict::Undecided, blocks, bytes: 0, memory, missed: None }
    }

    /// Whether no packet, neither these nor later ones, may go to the sink.
    pub(crate) fn is_shut(&self) -> bool {
        self.verdict != Verdict::Wanted
    }

    /// Keeps a block's packets, or counts them where there is no room.
    pub(crate) fn keep(&mut self, block: &Block<'_>, now: Instant) {
        self.take(block, now, false);
    }

    /// As [`Self::keep`]; the ring may have some of these packets as well.
    pub(crate) fn keep_early(&mut self, block: &Block<'_>) {
        self.take(block, Instant::now(), true);
    }

    fn take(&mut self, block: &Block<'_>, since: Instant, early: bool) {
        if self.verdict == Verdict::Unwanted {
            return;
        }
        let Some(span) = Missed::of(block) else { return };
        let size = block.used() as u64;
        if self.bytes + size > OF_ONE || !self.memory.take(size) {
            return self.miss(span);
        }
        self.bytes += size;
        self.blocks.push_back(Kept { bytes: block.copy(), since, span, early });
    }

    /// The kernel's ring had no room for these.
    pub(crate) fn miss(&mut self, missed: Missed) {
        if missed.packets > 0 && self.verdict == Verdict::Undecided {
            Missed::join(&mut self.missed, missed);
        }
    }

    /// The oldest block that waits, and whether it came before the ring was open.
    pub(crate) fn front(&self) -> Option<(Block<'_>, bool)> {
        self.blocks.front().map(|kept| (Block::of(&kept.bytes), kept.early))
    }

    /// The oldest is not needed any more.
    pub(crate) fn pop(&mut self) -> Option<Missed> {
        let kept = self.blocks.pop_front()?;
        let size = kept.bytes.len() as u64;
        self.bytes -= size;
        self.memory.give_back(size);
        Some(kept.span)
    }

    /// They are to be recorded; what was missed meanwhile.
    pub(crate) fn want(&mut self) -> Option<Loss> {
        self.verdict = Verdict::Wanted;
        self.missed.take().map(Missed::loss)
    }

    /// They are not to be recorded.
    pub(crate) fn discard(&mut self) {
        self.verdict = Verdict::Unwanted;
        self.missed = None;
        while self.pop().is_some() {}
    }

    /// Lets go of what has waited too long; what that was, and what else is missed by now.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Loss> {
        if self.verdict != Verdict::Undecided {
            return None;
        }
        let mut gone = None;
        let old = |kept: &Kept| now.saturating_duration_since(kept.since) > LONGEST;
        while self.blocks.front().is_some_and(old) {
            self.pop().into_iter().for_each(|span| Missed::join(&mut gone, span));
        }
        let gone = gone?;
        let missed = self.missed.take();
        Some(missed.map_or(gone, |missed| gone.and(missed)).loss())
    }

    /// Lets go of everything; what that was.
    pub(crate) fn let_go(&mut self) -> Option<Loss> {
        let mut gone = self.missed.take();
        while let Some(span) = self.pop() {
            Missed::join(&mut gone, span);
        }
        gone.map(Missed::loss)
    }

    /// What waits, or was missed, of the packets of this span.
    pub(crate) fn waiting(&self, span: Span) -> Option<Loss> {
        if self.verdict == Verdict::Unwanted {
            return None;
        }
        let within = |time: &Timestamp| span.from <= *time && *time < span.to;
        let mut waiting =
            self.missed.filter(|missed| missed.from < span.to && missed.to >= span.from);
        for kept in &self.blocks {
            let times = Block::of(&kept.bytes).packets().map(|packet| packet.timestamp);
            times
                .filter(within)
                .for_each(|at| Missed::join(&mut waiting, Missed { packets: 1, from: at, to: at }));
        }
        waiting.map(Missed::loss)
    }

    /// How many packets wait.
    pub(crate) fn packets(&self) -> u64 {
        self.blocks.iter().map(|kept| kept.span.packets).sum()
    }

    /// In how many bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.memory.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Written;
    use crate::sys::Received;

    /// One packet, which came at this second.
    fn keep(hold: &mut Hold, second: u32, len: usize, taken: Instant) {
        let mut written = Written::default();
        written.push(&Received { time: (second, 0), ..Received::default() }, &vec![0; len]);
        hold.keep(&written.block().unwrap(), taken);
    }

    fn at(second: u32) -> Timestamp {
        Timestamp::from_parts(second, 0)
    }

    fn loss(packets: u64, from: u32, to: u32) -> Loss {
        Loss { cause: LossCause::Undecided, packets, from: at(from), to: at(to) }
    }

    #[test]
    fn what_waits_too_long_is_let_go_and_the_rest_goes_on_waiting() {
        let (mut hold, start) = (Hold::new(HoldMemory::default()), Instant::now());
        for second in 0..60 {
            keep(&mut hold, second, 100, start + Duration::from_secs(second.into()));
        }
        assert_eq!(hold.expire(start + LONGEST), None);
        hold.miss(Missed { packets: 3, from: at(5), to: at(12) });
        assert_eq!(hold.expire(start + LONGEST + Duration::from_secs(10)), Some(loss(13, 0, 12)));
        assert_eq!(hold.waiting(Span::new(at(0), at(20))), Some(loss(10, 10, 19)));
        assert_eq!(hold.want(), None, "what was missed has been told");
        assert_eq!(hold.expire(start + 10 * LONGEST), None, "it is decided");
        assert_eq!((hold.packets(), hold.let_go()), (50, Some(loss(50, 10, 59))));
    }

    #[test]
    fn what_is_discarded_is_neither_kept_nor_missed_and_takes_no_memory() {
        let memory = HoldMemory::default();
        let mut hold = Hold::new(memory.clone());
        keep(&mut hold, 1, 100, Instant::now());
        hold.miss(Missed { packets: 3, from: at(1), to: at(2) });
        hold.discard();
        keep(&mut hold, 2, 100, Instant::now());
        assert_eq!((hold.waiting(Span::new(at(0), at(9))), hold.let_go()), (None, None));
        assert_eq!(memory.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn all_together_take_no_more_than_they_may() {
        let memory = HoldMemory::default();
        let mut holds: Vec<_> = (0..20).map(|_| Hold::new(memory.clone())).collect();
        for hold in &mut holds {
            for second in 0..30 {
                keep(hold, second, 200_000, Instant::now());
            }
            assert!(hold.bytes() <= OF_ONE);
            assert!(memory.0.load(Ordering::Relaxed) <= OF_ALL);
        }
        let kept: u64 = holds.iter().map(Hold::packets).sum();
        let missed: u64 = holds.iter_mut().filter_map(Hold::want).map(|loss| loss.packets).sum();
        assert_eq!(kept + missed, 600);
        drop(holds);
        assert_eq!(memory.0.load(Ordering::Relaxed), 0);
    }
}
