//! Which bytes of a stream were seen.

/// So many separate ranges are told apart. What lies in further ones counts as not seen, which can only
/// keep a packet in the file.
const MOST: usize = 64;

/// From a position to just before another.
pub(super) type Range = (i64, i64);

/// Ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    /// The only range; empty where nothing was seen.
    only: Range,
    /// All of them, in order, once there are several.
    #[expect(
        clippy::box_collection,
        reason = "nearly every stream has one range, and there are millions"
    )]
    many: Option<Box<Vec<Range>>>,
    /// Something was seen that is not in them.
    is_short: bool,
}

impl Ranges {
    /// All of them, in order.
    pub(super) fn as_slice(&self) -> &[Range] {
        match &self.many {
            Some(many) => many,
            None if self.only.0 < self.only.1 => std::slice::from_ref(&self.only),
            None => &[],
        }
    }

    /// Whether they are all that was seen.
    pub(super) fn are_all(&self) -> bool {
        !self.is_short
    }

    /// The end of the last one.
    pub(super) fn top(&self) -> i64 {
        self.as_slice().last().map_or(0, |range| range.1)
    }

    /// From the start of the first one to the end of the last.
    pub(super) fn extent(&self) -> Range {
        let (first, last) = (self.as_slice().first(), self.as_slice().last());
        first.zip(last).map_or((0, 0), |(first, last)| (first.0, last.1))
    }

    pub(super) fn insert(&mut self, (from, to): Range) {
        if from >= to {
            return;
        }
        if self.many.is_none() {
            let (start, end) = self.only;
            if start >= end {
                self.only = (from, to);
                return;
            }
            if from <= end && start <= to {
                self.only = (start.min(from), end.max(to));
                return;
            }
            self.many = Some(Box::new(vec![self.only]));
        }
        let Some(many) = &mut self.many else { return };
        let first = many.partition_point(|range| range.1 < from);
        let after = many.partition_point(|range| range.0 <= to);
        if first == after && many.len() == MOST {
            self.is_short = true;
            return;
        }
        let touched = &many[first..after];
        let from = touched.first().map_or(from, |range| range.0.min(from));
        let to = touched.last().map_or(to, |range| range.1.max(to));
        many.splice(first..after, [(from, to)]);
        if let [only] = many[..] {
            self.only = only;
            self.many = None;
        }
    }

    /// Adds all of another's, moved by so much.
    pub(super) fn add(&mut self, other: &Self, by: i64) {
        for (from, to) in other.as_slice() {
            self.insert((from + by, to + by));
        }
        self.is_short |= other.is_short;
    }

    pub(super) fn cover(&self, (from, to): Range) -> bool {
        if from >= to {
            return true;
        }
        let all = self.as_slice();
        let next = all.partition_point(|range| range.0 <= from);
        next.checked_sub(1).is_some_and(|index| to <= all[index].1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn exactly_what_was_inserted_is_covered(
            pieces in prop::collection::vec((0_i64..200, 1_i64..20), 0..40),
        ) {
            let mut ranges = Ranges::default();
            let mut seen = [false; 240];
            for (from, len) in pieces {
                ranges.insert((from, from + len));
                (from..from + len).for_each(|at| seen[usize::try_from(at).unwrap()] = true);
            }
            for (at, seen) in (0..).zip(seen) {
                prop_assert_eq!(ranges.cover((at, at + 1)), seen);
            }
            let apart = |pair: &[Range]| pair[0].1 < pair[1].0;
            prop_assert!(ranges.as_slice().windows(2).all(apart));
            prop_assert!(ranges.are_all());
        }
    }

    #[test]
    fn too_many_ranges_never_cover_what_was_not_seen() {
        let mut ranges = Ranges::default();
        (0..1000).for_each(|at| ranges.insert((at * 10, at * 10 + 5)));
        assert!(!ranges.are_all() && ranges.as_slice().len() == MOST);
        assert!(ranges.cover((0, 5)) && !ranges.cover((9990, 9995)) && !ranges.cover((4, 11)));
    }
}
