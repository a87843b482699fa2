//! What goes, and why. Pure: no disk, no clock.

use std::time::Duration;

use kuberewind_packet::GapCause;

/// A sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// What it takes on the disk.
    pub(crate) bytes: u64,
    /// How old its last packet is: the smaller of wall-clock and monotonic age, so that a jump of
    /// the clock makes nothing old.
    pub(crate) age: Duration,
}

/// What takes room besides the sealed segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Bytes of the open segment, of foreign files, and of unlinked files that are still being read.
    pub(crate) other: u64,
    /// Bytes about to be written.
    pub(crate) wanted: u64,
    /// Bytes free on the file system.
    pub(crate) disk_free: u64,
}

/// The limits, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Oldest age of a segment's last packet.
    pub(crate) max_time: Duration,
    /// Most bytes of everything.
    pub(crate) max_bytes: u64,
    /// Fewest bytes to leave free.
    pub(crate) min_free: u64,
}

/// What to delete, and whether there is room afterwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Places in `held`, in rising order.
    pub(crate) doomed: Vec<(usize, GapCause)>,
    /// Why there is no room even so.
    pub(crate) held_back: Option<GapCause>,
}

/// Decides which of the sealed segments, given from the oldest to the newest, must go.
pub(crate) fn plan(held: &[Held], usage: Usage, bounds: Bounds) -> Plan {
    let too_old = |segment: &Held| segment.age > bounds.max_time;
    let mut doomed: Vec<(usize, GapCause)> =
        (0..held.len()).filter(|&i| too_old(&held[i])).map(|i| (i, GapCause::MaxTime)).collect();
    let mut young = (0..held.len()).filter(|&i| !too_old(&held[i]));

    let mut total = usage.other.saturating_add(usage.wanted)
        + held.iter().filter(|segment| !too_old(segment)).map(|segment| segment.bytes).sum::<u64>();
    let mut free = usage.disk_free
        + held.iter().filter(|segment| too_old(segment)).map(|segment| segment.bytes).sum::<u64>();
    let least_free = bounds.min_free.saturating_add(usage.wanted);

    let held_back = loop {
        let cause = match (total > bounds.max_bytes, free < least_free) {
            (true, _) => GapCause::MaxSize,
            (false, true) => GapCause::MinFree,
            (false, false) => break None,
        };
        let Some(oldest) = young.next() else { break Some(cause) };
        total -= held[oldest].bytes;
        free += held[oldest].bytes;
        doomed.push((oldest, cause));
    };
    doomed.sort_unstable();
    Plan { doomed, held_back }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROOMY: Bounds =
        Bounds { max_time: Duration::from_hours(24), max_bytes: 50_000_000, min_free: 0 };

    fn held(age: u64, bytes: u64) -> Held {
        Held { bytes, age: Duration::from_secs(age) }
    }

    #[test]
    fn nothing_goes_while_both_bounds_hold() {
        let segments = [held(86_400, 25_000_000), held(5, 24_000_000)];
        let usage = Usage { wanted: 1_000_000, disk_free: 1_000_000, ..Usage::default() };
        assert_eq!(plan(&segments, usage, ROOMY), Plan::default());
    }

    #[test]
    fn oldest_segment_goes_first() {
        let segments = [held(30, 20_000_000), held(20, 20_000_000), held(10, 10_000_000)];
        let usage = Usage { wanted: 1, disk_free: 1, ..Usage::default() };
        assert_eq!(plan(&segments, usage, ROOMY).doomed, [(0, GapCause::MaxSize)]);
    }

    #[test]
    fn each_segment_goes_for_the_bound_that_it_breaks() {
        let segments = [held(86_401, 1), held(20, 40_000_000), held(15, 20), held(10, 9_000_000)];
        let usage = Usage { other: 2_000_000, wanted: 1, disk_free: 0 };
        let bounds = Bounds { min_free: 40_000_010, ..ROOMY };
        let causes = [(0, GapCause::MaxTime), (1, GapCause::MaxSize), (2, GapCause::MinFree)];
        assert_eq!(plan(&segments, usage, bounds), Plan { doomed: causes.into(), held_back: None });
    }

    #[test]
    fn with_nothing_left_to_shed_writing_is_held_back() {
        let usage = Usage { other: 0, wanted: 10, disk_free: 5 };
        let full = plan(&[], usage, Bounds { min_free: 5, ..ROOMY });
        assert_eq!(full.held_back, Some(GapCause::MinFree));
        let usage = Usage { other: 60_000_000, wanted: 10, disk_free: u64::MAX / 2 };
        assert_eq!(plan(&[], usage, ROOMY).held_back, Some(GapCause::MaxSize));
    }

    fn segments() -> impl Strategy<Value = Vec<Held>> {
        prop::collection::vec((0u64..100_000, 1u64..5_000_000), 0..40).prop_map(|mut list| {
            list.sort_unstable_by(|a, b| b.cmp(a));
            list.into_iter().map(|(age, bytes)| held(age, bytes)).collect()
        })
    }

    proptest! {
        #[test]
        fn both_bounds_hold_only_the_oldest_go_and_none_in_vain(
            segments in segments(),
            other in 0u64..20_000_000,
            wanted in 0u64..2_000_000,
            disk_free in 0u64..40_000_000,
            max_time in 0u64..100_000,
            max_bytes in 1_000_000u64..60_000_000,
            min_free in 0u64..40_000_000,
        ) {
            let usage = Usage { other, wanted, disk_free };
            let max_time = Duration::from_secs(max_time);
            let bounds = Bounds { max_time, max_bytes, min_free };
            let Plan { doomed, held_back } = plan(&segments, usage, bounds);

            let kept = &segments[doomed.len()..];
            prop_assert!(doomed.iter().enumerate().all(|(i, (at, _))| i == *at), "only the oldest");
            prop_assert!(kept.iter().all(|segment| segment.age <= max_time));
            let fits = |kept: &[Held]| {
                let kept: u64 = kept.iter().map(|s| s.bytes).sum();
                let freed = segments.iter().map(|s| s.bytes).sum::<u64>() - kept;
                (kept + other + wanted <= max_bytes, disk_free + freed >= min_free + wanted)
            };
            match held_back {
                None => prop_assert_eq!(fits(kept), (true, true)),
                Some(GapCause::MaxSize) => prop_assert!(kept.is_empty() && !fits(kept).0),
                Some(_) => prop_assert!(kept.is_empty() && !fits(kept).1),
            }
            if let Some((last, cause)) = doomed.last() {
                let spared = fits(&segments[*last..]);
                match cause {
                    GapCause::MaxTime => prop_assert!(segments[*last].age > max_time),
                    GapCause::MaxSize => prop_assert!(!spared.0),
                    _ => prop_assert!(!spared.1),
                }
            }
        }
    }
}
