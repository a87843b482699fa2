//! What several interfaces saw of one flow, brought together: which views are of the same connection,
//! and which of them is shown.

use std::cmp::Reverse;
use std::num::NonZeroU64;
use std::time::Duration;

use kuberewind_packet::Interface;

use super::cover::{judge, offset};
use super::headers::{Direction, Key};
use super::plan::{Agreed, Verdict, ViewInfo};
use super::ranges::Range;
use super::seen::Seen;

/// Clocks of nodes in one export are at most so far apart: others are left out of it.
const APART: Duration = Duration::from_secs(10);
/// Sequence numbers come again after 2³²: of a connection that carried more than half of that, views
/// are told to have begun at the same byte only if they began at the same time,
const LONG: i64 = 1 << 31;
/// give or take what 2 GiB take at 8 Gbit/s.
const TOGETHER: Duration = Duration::from_secs(2);

/// What one interface saw of one connection.
#[derive(Debug)]
pub(super) struct Entry {
    /// The stream that it came by.
    pub(super) lane: u32,
    /// Its number there.
    pub(super) number: u32,
    pub(super) seen: Seen,
}

impl Entry {
    fn view(&self) -> (u32, u32) {
        (self.lane, self.seen.interface)
    }

    pub(super) fn info<'a>(&self, views: &'a [Vec<ViewInfo>]) -> &'a ViewInfo {
        &views[self.lane as usize][self.seen.interface as usize]
    }
}

/// The connections of a flow, each with its views in order and what is done with them.
pub(super) fn agree<'a>(
    key: &Key,
    entries: &'a [Entry],
    views: &[Vec<ViewInfo>],
) -> Vec<Agreed<'a>> {
    let mut all: Vec<&Entry> = entries.iter().collect();
    // Not by stream: nobody says in which order they come.
    all.sort_by_key(|entry| {
        (entry.seen.opening, entry.seen.first, &entry.info(views).interface, entry.lane)
    });
    let groups = if key.is_tcp() { connections(&all) } else { vec![all] };
    groups.into_iter().map(|group| settle(key, group, views)).collect()
}

/// Views of one connection together: those that saw it begin by how it began, the others by their
/// sequence numbers and the time.
fn connections<'a>(sorted: &[&'a Entry]) -> Vec<Vec<&'a Entry>> {
    let begun_before = sorted.partition_point(|entry| entry.seen.opening.is_none());
    let (joined_late, opened) = sorted.split_at(begun_before);
    let by_opening = opened.chunk_by(|a, b| a.seen.opening == b.seen.opening);
    let mut groups: Vec<_> = by_opening.map(<[&Entry]>::to_vec).collect();
    for entry in joined_late {
        let fits = |group: &&mut Vec<&Entry>| {
            group.iter().all(|other| other.view() != entry.view())
                && group.iter().any(|other| meet(&other.seen, &entry.seen))
        };
        match groups.iter_mut().find(fits) {
            Some(group) => group.push(entry),
            None => groups.push(vec![entry]),
        }
    }
    groups
}

/// Whether both can be of one connection: at the same time, and at the same bytes.
fn meet(one: &Seen, other: &Seen) -> bool {
    let begins_before_end = |a: &Seen, b: &Seen| a.first <= b.last.saturating_add(APART);
    let touch = |a: Range, b: Range, by: Option<i64>| {
        by.is_some_and(|by| a.0 <= b.1 + by && b.0 + by <= a.1)
    };
    let halves_meet = || {
        one.halves.iter().zip(&other.halves).any(|(a, b)| {
            touch(a.used.extent(), b.used.extent(), offset(a.base, b.base))
                || touch(
                    a.acknowledged,
                    b.acknowledged,
                    offset(a.acknowledged_base, b.acknowledged_base),
                )
        })
    };
    begins_before_end(one, other) && begins_before_end(other, one) && halves_meet()
}

/// The views of one connection in order, and what is done with each.
fn settle<'a>(key: &Key, mut group: Vec<&'a Entry>, views: &[Vec<ViewInfo>]) -> Agreed<'a> {
    let opened = group.iter().find_map(|entry| entry.seen.opening);
    let client = opened.map_or(key.likely_client(), |opening| Direction::from(opening.client));
    group.sort_by_cached_key(|entry| Rank::of(entry, client, entry.info(views)));
    // All that one interface saw stands together.
    let order: Vec<_> = group.iter().map(|entry| entry.view()).collect();
    group.sort_by_key(|entry| order.iter().position(|view| *view == entry.view()));
    let is_shown = |entry: &&&Entry| entry.view() == order[0];
    let shown = group.iter().take_while(is_shown).count();
    if shown < group.len() && are_too_long(&group) {
        let verdicts = group.iter().map(|_| Verdict::Keep).collect();
        let why = Some("it is too long to tell whether they saw the same");
        return Agreed { entries: group, verdicts, client, why };
    }
    let mut verdicts: Vec<_> = group[..shown].iter().map(|_| Verdict::Keep).collect();
    let mut known: Vec<_> = group[..shown].iter().map(|entry| &entry.seen).collect();
    for view in group[shown..].chunk_by(|a, b| a.view() == b.view()) {
        verdicts.extend(view.iter().map(|entry| judge(&known, &entry.seen)));
        known.extend(view.iter().map(|entry| &entry.seen));
    }
    let incomparable = |verdict: &Verdict| matches!(verdict, Verdict::Keep);
    let why = verdicts[shown..].iter().any(incomparable).then_some("there are too many to compare");
    Agreed { entries: group, verdicts, client, why }
}

fn are_too_long(group: &[&Entry]) -> bool {
    let long = |range: Range| range.1 - range.0 >= LONG;
    let halves = group.iter().flat_map(|entry| &entry.seen.halves);
    let first = group.iter().map(|entry| entry.seen.first);
    let spread = first.clone().max().zip(first.min());
    let together = spread.is_none_or(|(last, first)| last.since(first) <= TOGETHER);
    !together && halves.into_iter().any(|half| long(half.used.extent()) || long(half.acknowledged))
}

/// Which view is shown: the least.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'a> {
    /// Pods before the machine's own interfaces, which see much more than one end.
    is_host: bool,
    /// Whoever sees one direction only is at neither end.
    sees_one_direction: bool,
    has_losses: bool,
    /// The client's end: its packets have passed no router there yet,
    hops: Reverse<u8>,
    /// and come by there first.
    first: Option<NonZeroU64>,
    interface: &'a Interface,
    lane: u32,
}

impl<'a> Rank<'a> {
    fn of(entry: &Entry, client: Direction, info: &'a ViewInfo) -> Self {
        let seen = &entry.seen;
        Self {
            is_host: info.is_host,
            sees_one_direction: !seen.sees_both_directions(),
            has_losses: seen.has_holes() || info.lost_between(seen.first, seen.last),
            hops: Reverse(seen.halves[client].hops),
            first: seen.halves[client].first,
            interface: &info.interface,
            lane: entry.lane,
        }
    }
}
