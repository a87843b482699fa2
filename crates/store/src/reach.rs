//! How far back a recording reaches, and what of it goes next.

use kuberewind_packet::Timestamp;

use crate::catalog::Catalog;
use crate::limits::disk_room;
use crate::retention::{Bounds, Held, Usage};

/// A segment's number: later ones have higher numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNumber(pub u64);

/// What is held, by age. What is noted in the younger half stays for at least as long as it takes to
/// write half of what is held anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Time of the oldest packet held.
    pub oldest: Option<Timestamp>,
    /// The segments of the older half, and the time of each one's newest packet.
    pub fading: Vec<(SegmentNumber, Option<Timestamp>)>,
    /// The first segment of the younger half.
    pub lasting: SegmentNumber,
}

pub(crate) fn reach(catalog: &Catalog) -> Reach {
    let limits = catalog.state().limits;
    let Some(limits) = limits else { return Reach::default() };
    let (disk_free, min_free) = disk_room(&catalog.dir, limits.min_free);
    let state = catalog.state();
    let held = state.held_segments(&catalog.clock);
    let usage = Usage { other: state.other_bytes, wanted: 0, disk_free };
    let bounds = Bounds { max_time: limits.max_time, max_bytes: limits.usable(), min_free };
    let fading = fading(&held, usage, bounds);
    let number = |at: usize| state.segments().nth(at).map(|segment| segment.name.sequence);
    let newest = state.segments().last().map_or(0, |segment| segment.name.sequence + 1);
    let old = state.sealed.iter().take(fading);
    Reach {
        oldest: state.held().map(|held| held.from),
        lasting: SegmentNumber(number(fading).unwrap_or(newest)),
        fading: old
            .map(|segment| {
                (SegmentNumber(segment.name.sequence), segment.times.map(|(_, last)| last))
            })
            .collect(),
    }
}

/// How many of the sealed segments, given from the oldest to the newest, are of the older half. Pure.
fn fading(held: &[Held], usage: Usage, bounds: Bounds) -> usize {
    let sealed: u64 = held.iter().map(|segment| segment.bytes).sum();
    let by_size = bounds.max_bytes.saturating_sub(usage.other.saturating_add(sealed));
    let by_disk = usage.disk_free.saturating_sub(bounds.min_free);
    let half = u64::midpoint(sealed, by_size.min(by_disk));
    let mut newer = 0;
    let lasts = |segment: &&Held| {
        newer += segment.bytes;
        newer <= half && segment.age <= bounds.max_time / 2
    };
    held.len() - held.iter().rev().take_while(lasts).count()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::retention::plan;

    fn held(age: u64, bytes: u64) -> Held {
        Held { bytes, age: Duration::from_secs(age) }
    }

    const BOUNDS: Bounds =
        Bounds { max_time: Duration::from_secs(100), max_bytes: 1_000, min_free: 0 };

    #[test]
    fn nothing_fades_while_less_than_half_is_used() {
        let usage = Usage { other: 0, wanted: 0, disk_free: 1 << 40 };
        assert_eq!(fading(&[held(50, 200), held(20, 200)], usage, BOUNDS), 0);
        assert_eq!(fading(&[held(51, 200), held(20, 200)], usage, BOUNDS), 1);
        assert_eq!(fading(&[held(50, 200), held(20, 301)], usage, BOUNDS), 1);
        // Others fill the disk: what is held has to do.
        let usage = Usage { disk_free: 0, ..usage };
        assert_eq!(fading(&[held(50, 200), held(20, 200)], usage, BOUNDS), 1);
    }

    proptest! {
        /// So a note that is written anew once its segment fades is never missing.
        #[test]
        fn only_what_fades_goes_until_half_is_written_anew(
            mut segments in prop::collection::vec((0u64..200, 1u64..100), 0..40),
            other in 0u64..300,
            spare in 0u64..2_000,
            later in 0u64..=50,
            share in 0u64..=100,
        ) {
            segments.sort_unstable_by(|a, b| b.cmp(a));
            segments.retain(|(age, _)| *age <= 100);
            let before: Vec<_> = segments.iter().map(|(age, bytes)| held(*age, *bytes)).collect();
            let bounds = Bounds { min_free: 77, ..BOUNDS };
            let usage = Usage { other, wanted: 0, disk_free: 77 + spare };
            let sealed: u64 = before.iter().map(|segment| segment.bytes).sum();
            prop_assume!(sealed + other <= bounds.max_bytes);
            let fading = fading(&before, usage, bounds);

            let room = (bounds.max_bytes - sealed - other).min(spare);
            let written = sealed.midpoint(room) * share / 100;
            let after: Vec<_> =
                segments.iter().map(|(age, bytes)| held(age + later, *bytes)).collect();
            let usage = Usage {
                other: other + written,
                wanted: 0,
                disk_free: (77 + spare).saturating_sub(written),
            };
            prop_assume!(77 + spare >= written);
            let doomed = plan(&after, usage, bounds).doomed;
            prop_assert!(doomed.iter().all(|(at, _)| *at < fading), "{doomed:?} {fading}");
        }
    }
}
