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

/// What is asked of the nodes that answered; those whose packets will be deleted first come first.
/// What a node cannot give is an error in words.
pub(super) fn parts<'a>(
    bounds: Bounds,
    clocks: &Clocks,
    answers: impl IntoIterator<Item = (&'a str, &'a Status)>,
) -> (Vec<Part>, Vec<(String, String)>) {
    let (mut parts, mut refusals) = (Vec::new(), Vec::new());
    for (node, status) in answers {
        let to = clocks.end_on(node, bounds.to);
        let refusal = clocks.absurd(node).or_else(|| {
            let future = bounds.from.is_some_and(|from| from > to);
            future.then(|| "its clock is behind the start of the window".to_owned())
        });
        if let Some(refusal) = refusal {
            refusals.push((node.to_owned(), refusal));
            continue;
        }
        let spare = spare(status, bounds.from);
        parts.push(Part { node: node.to_owned(), from: bounds.from, to, spare });
    }
    parts.sort_by(|a, b| a.spare.cmp(&b.spare).then_with(|| a.node.cmp(&b.node)));
    (parts, refusals)
}

/// From the start that was asked for, or the oldest packet that any node holds, to the end.
pub(super) fn window<'a>(bounds: Bounds, answers: impl IntoIterator<Item = &'a Status>) -> Span {
    let oldest = answers.into_iter().filter_map(|status| status.oldest).min();
    let from = bounds.from.or(oldest).unwrap_or(bounds.to);
    Span::new(from.min(bounds.to), bounds.to)
}

/// How long it takes until packets of `from` are deleted, for what is known of the node now.
fn spare(status: &Status, from: Option<Timestamp>) -> Duration {
    let Some(held) = status.held() else { return Duration::MAX };
    let first = from.map_or(held.from, |from| from.max(held.from));
    let by_age = parse_duration(&status.bounds.max_time)
        .map_or(Duration::MAX, |max_time| first.saturating_add(max_time).since(status.now));
    by_age.min(until_full(status, held) + first.since(held.from))
}

/// How long the bytes that are free yet last, at the rate at which the others came.
fn until_full(status: &Status, held: Span) -> Duration {
    let free = status.bounds.max_size.saturating_sub(status.bytes_held);
    let nanos =
        u128::from(free) * held.duration().as_nanos() / u128::from(status.bytes_held.max(1));
    u64::try_from(nanos).map_or(Duration::MAX / 2, Duration::from_nanos)
}
