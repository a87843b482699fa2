//! Which packets of which interface are left out, decided once all streams were looked at.

use kuberewind_packet::pcapng::PacketBlock;
use kuberewind_packet::{Interface, Owner, Span, Timestamp};

use super::agree::{Entry, agree};
use super::cover::Rest;
use super::headers::{ByKey, Direction, Fragments, Headers, Key};
use super::survey::{Sole, Survey};
use crate::report::{DifferingFlow, Sight, VantageReport};

/// So many connections that are not the same at both ends are named; the others are counted.
const NAMED: usize = 1000;

/// What is done with the packets of each connection that several interfaces saw.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Where in `rulings` a flow's are.
    flows: ByKey<Place>,
    /// Each flow's by stream, interface and time.
    rulings: Vec<Ruling>,
    latest: Option<(Key, Place)>,
    /// Of each stream.
    fragments: Vec<Fragments>,
    views: Vec<Vec<ViewInfo>>,
    connections: u64,
    differing: u64,
    named: Vec<Differing>,
    unseen: u64,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    start: u32,
    count: u32,
}

/// What is done with what one interface saw of one connection.
#[derive(Debug)]
struct Ruling {
    lane: u32,
    interface: u32,
    since: Timestamp,
    verdict: Verdict,
}

#[derive(Debug)]
pub(super) enum Verdict {
    /// The view that is shown, and whatever cannot be compared.
    Keep,
    /// All of it was seen in views that are shown.
    LeaveOut,
    /// Not all of it was.
    Judge(Box<Rest>),
}

/// An interface of a stream.
#[derive(Debug)]
pub(super) struct ViewInfo {
    pub(super) interface: Interface,
    /// Whether it is the machine's own.
    pub(super) is_host: bool,
    losses: Vec<Span>,
    /// The rest of its stream never came.
    is_cut: bool,
}

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Origin {
    /// The stream,
    pub(crate) lane: u32,
    /// and the interface as the stream numbers it.
    pub(crate) interface: u32,
}

/// A connection that was not seen the same everywhere.
#[derive(Debug)]
struct Differing {
    /// By how many bytes or packets.
    by: u64,
    key: Key,
    since: Timestamp,
    client: Direction,
    /// The one that is shown comes first.
    sights: Vec<Glance>,
    why: Option<&'static str>,
}

#[derive(Debug)]
struct Glance {
    origin: Origin,
    since: Timestamp,
    packets: u64,
    bytes: u64,
}

/// A connection's views, the one that is shown first.
pub(super) struct Agreed<'a> {
    pub(super) entries: Vec<&'a Entry>,
    pub(super) verdicts: Vec<Verdict>,
    pub(super) client: Direction,
    /// Why its views could not be compared.
    pub(super) why: Option<&'static str>,
}

impl ViewInfo {
    /// Whether something was lost while recording, between these two packets.
    pub(super) fn lost_between(&self, first: Timestamp, last: Timestamp) -> bool {
        self.is_cut || self.losses.iter().any(|loss| loss.from <= last && first <= loss.to)
    }
}

impl Plan {
    /// Of the streams of an export, each with what was found in it; nothing of those that nobody
    /// looked at is left out.
    pub(crate) fn new(mut surveys: Vec<Option<Survey>>) -> Self {
        let mut flows = contested(&surveys);
        let views = surveys.iter().map(|survey| survey.as_ref().map(views).unwrap_or_default());
        let mut plan = Self {
            views: views.collect(),
            fragments: surveys.iter().map(|_| Fragments::default()).collect(),
            unseen: surveys.iter().flatten().map(|survey| survey.unseen).sum(),
            ..Self::default()
        };
        for (lane, survey) in (0..).zip(&mut surveys) {
            if let Some(survey) = survey.take() {
                survey.give(lane, &mut flows);
            }
        }
        for (key, entries) in flows.into_iter().filter(|(_, entries)| !entries.is_empty()) {
            plan.rule(key, &entries);
        }
        plan.cut_named();
        plan
    }

    fn rule(&mut self, key: Key, entries: &[Entry]) {
        let mut rulings = Vec::with_capacity(entries.len());
        for agreed in agree(&key, entries, &self.views) {
            self.note(key, &agreed);
            let of = |(entry, verdict): (&Entry, Verdict)| Ruling {
                lane: entry.lane,
                interface: entry.seen.interface,
                since: entry.seen.first,
                verdict,
            };
            rulings.extend(agreed.entries.into_iter().zip(agreed.verdicts).map(of));
        }
        rulings.sort_by_key(Ruling::order);
        let place = Place { start: index(self.rulings.len()), count: index(rulings.len()) };
        self.flows.insert(key, place);
        self.rulings.append(&mut rulings);
    }

    /// Takes note of a connection that several interfaces saw.
    fn note(&mut self, key: Key, agreed: &Agreed<'_>) {
        let [shown, others @ ..] = &agreed.entries[..] else { return };
        if others.is_empty() {
            return;
        }
        self.connections += 1;
        let amount = |entry: &Entry| {
            if key.is_tcp() { entry.seen.bytes } else { entry.seen.packets }
        };
        let by = others.iter().map(|other| amount(other).abs_diff(amount(shown))).sum();
        let all_left_out =
            agreed.verdicts.iter().skip(1).all(|verdict| matches!(verdict, Verdict::LeaveOut));
        if by == 0 && all_left_out {
            return;
        }
        self.differing += 1;
        let glance = |entry: &&Entry| Glance {
            origin: Origin { lane: entry.lane, interface: entry.seen.interface },
            since: entry.seen.first,
            packets: entry.seen.packets,
            bytes: entry.seen.bytes,
        };
        self.named.push(Differing {
            by,
            key,
            since: shown.seen.first,
            client: agreed.client,
            sights: agreed.entries.iter().map(glance).collect(),
            why: agreed.why,
        });
        if self.named.len() > 4 * NAMED {
            self.cut_named();
        }
    }

    fn cut_named(&mut self) {
        self.named.sort_by_key(|flow| (std::cmp::Reverse(flow.by), flow.key, flow.since));
        self.named.truncate(NAMED);
    }

    /// Whether the packet stands in the file as somebody else saw it. All packets of each stream are
    /// asked for, in their order.
    pub(crate) fn leaves_out(&mut self, origin: Origin, packet: &PacketBlock<'_>) -> bool {
        if self.rulings.is_empty() {
            return false;
        }
        let Some(mut headers) = Headers::read(packet.data, packet.original_len) else {
            return false;
        };
        if let Some(fragments) = self.fragments.get_mut(origin.lane as usize) {
            fragments.resolve(&mut headers);
        }
        let Some(place) = self.find(&headers.key) else { return false };
        match self.ruling(place, origin, packet.timestamp) {
            Some(Ruling { verdict: Verdict::LeaveOut, .. }) => true,
            Some(Ruling { verdict: Verdict::Judge(rest), .. }) => rest.leaves_out(&headers),
            Some(Ruling { verdict: Verdict::Keep, .. }) | None => false,
        }
    }

    fn find(&mut self, key: &Key) -> Option<Place> {
        if let Some((latest, place)) = &self.latest
            && latest == key
        {
            return Some(*place);
        }
        let place = *self.flows.get(key)?;
        self.latest = Some((*key, place));
        Some(place)
    }

    fn ruling(&mut self, place: Place, origin: Origin, time: Timestamp) -> Option<&mut Ruling> {
        let (start, count) = (place.start as usize, place.count as usize);
        let rulings = &mut self.rulings[start..start + count];
        let Origin { lane, interface } = origin;
        let after = rulings.partition_point(|ruling| ruling.order() <= (lane, interface, time));
        let ruling = &mut rulings[after.checked_sub(1)?];
        ((ruling.lane, ruling.interface) == (lane, interface)).then_some(ruling)
    }

    /// What became of it, but for the counts of packets.
    pub(crate) fn report(mut self) -> VantageReport {
        let flows = std::mem::take(&mut self.named);
        let flows = flows.into_iter().map(|flow| self.describe(&flow)).collect();
        VantageReport {
            connections: self.connections,
            differing: self.differing,
            flows,
            not_compared: self.unseen,
            ..VantageReport::default()
        }
    }

    fn describe(&mut self, flow: &Differing) -> DifferingFlow {
        let place = self.find(&flow.key);
        let mut sights = flow.sights.iter().map(|glance| {
            let ruling = place.and_then(|place| self.ruling(place, glance.origin, glance.since));
            let only_here = match ruling.map(|ruling| &ruling.verdict) {
                Some(Verdict::Judge(rest)) => rest.kept(),
                Some(Verdict::Keep) => glance.packets,
                Some(Verdict::LeaveOut) | None => 0,
            };
            let Origin { lane, interface } = glance.origin;
            let Interface { node, .. } = &self.views[lane as usize][interface as usize].interface;
            let if_name = self.views[lane as usize][interface as usize].interface.if_name();
            Sight {
                node: node.clone(),
                interface: if_name,
                packets: glance.packets,
                bytes: glance.bytes,
                in_file: only_here,
            }
        });
        let mut sights: Vec<_> = sights.by_ref().collect();
        let others = sights.split_off(1);
        DifferingFlow {
            flow: flow.key.named(flow.client).to_string(),
            shown: sights.remove(0),
            others,
            why: flow.why.map(str::to_owned),
        }
    }
}

impl Ruling {
    fn order(&self) -> (u32, u32, Timestamp) {
        (self.lane, self.interface, self.since)
    }
}

/// Flows that more than one interface saw, with nothing of them yet.
fn contested(surveys: &[Option<Survey>]) -> ByKey<Vec<Entry>> {
    let mut first: ByKey<(usize, Sole)> = ByKey::default();
    let mut contested: ByKey<Vec<Entry>> = ByKey::default();
    for (lane, survey) in surveys.iter().enumerate() {
        for (key, sole) in survey.iter().flat_map(Survey::keys) {
            let view = (lane, sole);
            if sole == Sole::No || *first.entry(*key).or_insert(view) != view {
                contested.insert(*key, Vec::new());
            }
        }
    }
    contested
}

fn views(survey: &Survey) -> Vec<ViewInfo> {
    let view = |interface: &Interface| {
        let owner = interface.owner.to_string();
        let losses = survey.losses.iter().flatten().filter(|at| at.owner == owner);
        ViewInfo {
            interface: interface.clone(),
            is_host: interface.owner == Owner::Host,
            losses: losses.map(|at| Span::new(at.loss.from, at.loss.to)).collect(),
            is_cut: survey.losses.is_none(),
        }
    };
    survey.interfaces.iter().map(view).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "there are at most as many as views")]
fn index(count: usize) -> u32 {
    count as u32
}
