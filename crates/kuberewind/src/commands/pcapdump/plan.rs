//! What is asked of which node, and in which order.

use std::time::Duration;

use kuberewind_packet::{Span, Timestamp};

use crate::agent::Status;
use crate::config::parse_duration;

use super::clocks::Clocks;
use super::window::Bounds;

/// A window of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) node: String,
    /// None: from the oldest packet that it holds.
    pub(super) from: Option<Timestamp>,
    pub(super) to: Timestamp,
    /// How long its first packets are safe from being deleted.
    spare: Duration,
}

/// What a node holds, and how long it will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holding {
    held: Option<Span>,
    bytes: u64,
    max_size: u64,
    max_time: Duration,
    now: Timestamp,
}

impl Holding {
    pub(super) fn of(status: &Status) -> Self {
        Self {
            held: status.held(),
            bytes: status.bytes_held,
            max_size: status.bounds.max_size,
            max_time: parse_duration(&status.bounds.max_time).unwrap_or(Duration::MAX),
            now: status.now,
        }
    }

    /// How long it takes until the first packets of a window are deleted, for what is known now.
    fn spare(&self, from: Option<Timestamp>) -> Duration {
        let Some(held) = self.held else { return Duration::MAX };
        let first = from.map_or(held.from, |from| from.max(held.from));
        let by_age = first.saturating_add(self.max_time).since(self.now);
        by_age.min(self.until_full(held).saturating_add(first.since(held.from)))
    }

    /// How long the bytes that are free yet last, at the rate at which the others came.
    fn until_full(&self, held: Span) -> Duration {
        let free = self.max_size.saturating_sub(self.bytes);
        let nanos = u128::from(free) * held.duration().as_nanos() / u128::from(self.bytes.max(1));
        u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos)
    }
}

/// What is asked of the nodes that answered; those whose packets will be deleted first come first.
/// What a node cannot give is told in words.
pub(super) fn parts<'a>(
    bounds: Bounds,
    clocks: &Clocks,
    answers: impl IntoIterator<Item = (&'a str, Holding)>,
) -> (Vec<Part>, Vec<(String, String)>) {
    let (mut parts, mut refusals) = (Vec::new(), Vec::new());
    for (node, holding) in answers {
        let to = clocks.end_on(node, bounds.to);
        let refusal = clocks.absurd(node).or_else(|| {
            let future = bounds.from.is_some_and(|from| from > to);
            future.then(|| "its clock is behind the start of the window".to_owned())
        });
        if let Some(refusal) = refusal {
            refusals.push((node.to_owned(), refusal));
            continue;
        }
        let spare = holding.spare(bounds.from);
        parts.push(Part { node: node.to_owned(), from: bounds.from, to, spare });
    }
    parts.sort_by(|a, b| a.spare.cmp(&b.spare).then_with(|| a.node.cmp(&b.node)));
    (parts, refusals)
}

/// From the start that was asked for, or the oldest packet that any node holds, to the end.
pub(super) fn window(bounds: Bounds, holdings: impl IntoIterator<Item = Holding>) -> Span {
    let oldest = holdings.into_iter().filter_map(|holding| Some(holding.held?.from)).min();
    let from = bounds.from.or(oldest).unwrap_or(bounds.to);
    Span::new(from.min(bounds.to), bounds.to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u32) -> Timestamp {
        Timestamp::from_parts(seconds, 0)
    }

    /// Of at most an hour and a hundred bytes, at second 10,000.
    fn holding(from: u32, bytes: u64) -> Holding {
        Holding {
            held: Some(Span::new(at(from), at(10_000))),
            bytes,
            max_size: 100,
            max_time: Duration::from_hours(1),
            now: at(10_000),
        }
    }

    fn order(bounds: Bounds, holdings: &[(&str, Holding)]) -> Vec<String> {
        let (parts, refusals) = parts(bounds, &Clocks::default(), holdings.iter().copied());
        assert_eq!(refusals, []);
        parts.into_iter().map(|part| part.node).collect()
    }

    #[test]
    fn what_will_be_deleted_first_is_fetched_first() {
        let nothing = Holding { held: None, ..holding(0, 0) };
        let full_and_short = holding(9_900, 100);
        let full_and_long = holding(7_000, 100);
        let young_and_empty = holding(9_900, 1);
        let bounds = Bounds { from: Some(at(9_800)), to: at(10_000) };
        let all = [
            ("nothing", nothing),
            ("young", young_and_empty),
            ("long", full_and_long),
            ("short", full_and_short),
        ];
        // The long one can lose 2,800 seconds before this window is touched.
        assert_eq!(order(bounds, &all), ["short", "long", "young", "nothing"]);
    }

    #[test]
    fn of_all_that_is_held_the_oldest_goes_first() {
        let bounds = Bounds { from: None, to: at(10_000) };
        let all = [("new", holding(9_000, 10)), ("old", holding(6_500, 10))];
        assert_eq!(order(bounds, &all), ["old", "new"]);
        assert_eq!(
            window(bounds, all.map(|(_, holding)| holding)),
            Span::new(at(6_500), at(10_000))
        );
    }

    #[test]
    fn a_window_of_nodes_that_hold_nothing_has_no_length() {
        let bounds = Bounds { from: None, to: at(10_000) };
        let nothing = Holding { held: None, ..holding(0, 0) };
        assert!(window(bounds, [nothing]).is_empty());
    }
}
