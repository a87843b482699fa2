//! How large rings are, and when one grows: pure.

use std::time::Duration;

use crate::ring::Layout;

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;

/// What a namespace that is alone starts with: at 3 Gbit/s it may wait a twelfth of a second for a CPU
/// that others keep busy (with 16 MiB, 53 of 1,200,000 packets of 1500 bytes were lost).
const FOR_ONE: Layout = Layout { block: MIB, blocks: 32 };
/// So few namespaces start with a ring that need not grow: the first burst would be lost before it
/// has grown (49 packets of a 3 MB download with 1 MiB).
const FEW: usize = 2;
/// More namespaces than this start with the smallest ring.
const MANY: usize = 100;
/// The smallest ring. It opens even beyond the budget: a namespace without one records nothing.
pub(crate) const SMALLEST: Layout = Layout { block: 128 * KIB, blocks: 2 };
/// What a ring starts with.
const USUAL: Layout = Layout { block: 128 * KIB, blocks: 8 };
/// Where frames are larger than 64 KiB (BIG TCP), a block must hold the largest that is kept.
const FOR_GIANTS: Layout = Layout { block: 512 * KIB, blocks: 4 };
/// One TCP stream at 18 Gbit/s loses nothing with it.
const LARGEST: Layout = Layout { block: MIB, blocks: 16 };
/// What is added to a ring that is too small; the largest for which the budget has room.
const ADDED: [Layout; 3] =
    [LARGEST, Layout { block: MIB, blocks: 8 }, Layout { block: MIB, blocks: 4 }];

/// The largest `gso_max_size` of devices whose frames fit every ring.
pub(crate) const USUAL_GSO_MAX: u32 = 65_536;
/// At this rate a namespace grows before it loses anything: 100 Mbit/s.
const BUSY_BYTES_PER_SECOND: u64 = 100_000_000 / 8;
/// Rates are taken over at least this time: a short burst that fits the ring is none.
const RATE_OVER: Duration = Duration::from_millis(100);

/// The default of `tap.ringMemory`: what a busy namespace or three grow to, and the smallest ring
/// for each.
pub(crate) const fn default_budget(namespaces: usize) -> u64 {
    (64 * MIB) as u64 + namespaces as u64 * SMALLEST.bytes() as u64
}

/// The ring that a namespace starts with, while so many are recorded and `left` bytes of the budget
/// are unused.
pub(crate) fn first(namespaces: usize, gso_max: u32, left: u64) -> Layout {
    let rest = (FOR_ONE.bytes() + LARGEST.bytes()) as u64;
    if namespaces <= 1 && left >= rest {
        FOR_ONE
    } else if namespaces <= FEW && left >= LARGEST.bytes() as u64 {
        LARGEST
    } else if gso_max > USUAL_GSO_MAX {
        FOR_GIANTS
    } else if namespaces > MANY || left < USUAL.bytes() as u64 {
        SMALLEST
    } else {
        USUAL
    }
}

/// The ring of a namespace of which nobody has decided yet, while there are so many of them. It is
/// emptied into memory, so that it need not be large.
pub(crate) fn undecided(namespaces: usize, gso_max: u32, left: u64) -> Layout {
    first(namespaces.max(FEW + 1), gso_max, left)
}

/// Whether a namespace that has this ring would have begun with a larger one, had it been known that
/// it is recorded.
pub(crate) fn begins_small(layout: Layout, namespaces: usize) -> bool {
    namespaces <= FEW && layout.bytes() < LARGEST.bytes()
}

/// The ring to add to one that is too small; none when the budget has no room for any.
pub(crate) fn addition(left: u64) -> Option<Layout> {
    ADDED.into_iter().find(|layout| layout.bytes() as u64 <= left)
}

/// Whether this is less than what a ring that is too small should get.
pub(crate) fn falls_short(added: Layout) -> bool {
    added != LARGEST
}

/// What a namespace's ring had to carry for a while.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    /// Packets that found no room.
    pub(crate) drops: u64,
    /// Bytes read from the ring.
    pub(crate) bytes: u64,
    /// In this time.
    pub(crate) over: Duration,
    /// The most blocks that waited at once.
    pub(crate) waiting: u32,
    /// Of so many.
    pub(crate) blocks: u32,
}

/// Whether the ring is too small: it lost packets, was nearly full, or soon will be.
pub(crate) fn is_too_small(load: &Load) -> bool {
    let rate = u128::from(load.bytes) * 1000 / load.over.max(RATE_OVER).as_millis();
    load.drops > 0 || load.waiting * 2 > load.blocks || rate >= u128::from(BUSY_BYTES_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn who_is_alone_gets_half_of_the_budget_and_leaves_room_for_a_second() {
        assert_eq!(first(1, 65_536, default_budget(1)), FOR_ONE);
        assert_eq!(first(2, 65_536, default_budget(2) - FOR_ONE.bytes() as u64), LARGEST);
        assert_eq!(first(1, 65_536, 48 * MIB - 1), LARGEST, "it could not grow");
    }

    #[test]
    fn the_first_ring_is_1_mib_larger_where_there_are_few_and_smaller_where_there_are_many() {
        assert_eq!(first(2, 65_536, 64 * MIB), LARGEST);
        assert_eq!(first(2, 65_536, 16 * MIB - 1).bytes() as u64, MIB);
        assert_eq!(first(3, 65_536, 64 * MIB).bytes() as u64, MIB);
        assert_eq!(first(100, 65_536, 64 * MIB).bytes() as u64, MIB);
        assert_eq!(first(101, 65_536, 64 * MIB).bytes() as u64, MIB / 4);
        assert_eq!(first(1, 65_536, MIB - 1).bytes() as u64, MIB / 4);
        assert_eq!(first(1, 65_536, 0), SMALLEST, "no budget still records");
    }

    #[test]
    fn where_frames_may_be_giants_a_block_holds_one() {
        for namespaces in [1, 250] {
            assert!(first(namespaces, 65_537, 64 * MIB).block >= 512 * KIB);
        }
        for added in ADDED {
            assert!(added.block >= 512 * KIB);
        }
    }

    #[test]
    fn the_default_budget_holds_the_smallest_ring_of_each_and_three_grown_ones() {
        assert_eq!(default_budget(0), 64 * MIB);
        assert_eq!(default_budget(250), 64 * MIB + 250 * MIB / 4);
    }

    #[test]
    fn what_is_added_is_the_largest_that_the_budget_has_room_for() {
        let added = |left| addition(left).map(|layout| layout.bytes() as u64);
        assert_eq!(added(64 * MIB), Some(16 * MIB));
        assert_eq!(added(16 * MIB - 1), Some(8 * MIB));
        assert_eq!(added(4 * MIB), Some(4 * MIB));
        assert_eq!(added(4 * MIB - 1), None);
        assert!(falls_short(ADDED[1]) && !falls_short(LARGEST));
    }

    #[test]
    fn a_ring_grows_when_it_drops_is_nearly_full_or_carries_100_mbit() {
        let calm = Load {
            drops: 0,
            bytes: 1_249_999,
            over: Duration::from_millis(100),
            waiting: 4,
            blocks: 8,
        };
        assert!(!is_too_small(&calm));
        assert!(is_too_small(&Load { drops: 1, ..calm }));
        assert!(is_too_small(&Load { waiting: 5, ..calm }));
        assert!(is_too_small(&Load { bytes: 1_250_000, ..calm }));
        assert!(!is_too_small(&Load { over: Duration::from_millis(1), ..calm }), "a short burst");
        assert!(!is_too_small(&Load { bytes: 1_250_000, over: Duration::from_secs(1), ..calm }));
    }
}
