//! Which packets of which interface are left out, decided once all streams were looked at.

use kuberewind_packet::pcapng::PacketBlock;
use kuberewind_packet::{Interface, Owner, Span, Timestamp};

use super::agree::{Entry, agree};
use super::cover::Rest;
use super::headers::{ByKey, Direction, Key};
use super::survey::{Sole, Survey};
use super::track::Steps;
use crate::report::{DifferingFlow, Sight, VantageReport};

/// So many connections that are not the same at both ends are named; the others are counted.
const NAMED: usize = 1000;

/// What is done with the packets of each connection that several interfaces saw.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    lanes: Vec<Lane>,
    connections: u64,
    differing: u64,
    named: Vec<Differing>,
    not_compared: u64,
}

/// One stream.
#[derive(Debug, Default)]
struct Lane {
    /// Which view each packet is of.
    steps: Steps,
    /// What is done with the packets of each view.
    verdicts: Vec<Verdict>,
}

#[derive(Debug, Default)]
pub(super) enum Verdict {
    /// The view that is shown, and whatever cannot be compared.
    #[default]
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

/// One of its views.
#[derive(Debug)]
struct Glance {
    lane: u32,
    number: u32,
    sight: Sight,
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
    pub(crate) fn new(surveys: Vec<Option<Survey>>) -> Self {
        let mut flows = contested(&surveys);
        let views: Vec<_> =
            surveys.iter().map(|survey| survey.as_ref().map(views).unwrap_or_default()).collect();
        let mut plan = Self::default();
        for (lane, survey) in (0..).zip(surveys) {
            plan.add_lane(lane, survey, &mut flows);
        }
        for (key, entries) in flows.into_iter().filter(|(_, entries)| !entries.is_empty()) {
            for agreed in agree(&key, &entries, &views) {
                plan.note(key, &agreed, &views);
                plan.rule(agreed);
            }
        }
        plan.cut_named();
        plan
    }

    fn add_lane(&mut self, lane: u32, survey: Option<Survey>, flows: &mut ByKey<Vec<Entry>>) {
        let mut added = Lane::default();
        if let Some(survey) = survey {
            let (packets, unseen, views) = (survey.packets(), survey.unseen, survey.views());
            let steps = survey.give(lane, flows);
            self.not_compared += if steps.is_some() { unseen } else { packets };
            if let Some(steps) = steps {
                added.steps = steps;
                added.verdicts.resize_with(views, Verdict::default);
            }
        }
        self.lanes.push(added);
    }

    fn rule(&mut self, agreed: Agreed<'_>) {
        for (entry, verdict) in agreed.entries.into_iter().zip(agreed.verdicts) {
            *self.verdict(entry.lane, entry.number) = verdict;
        }
    }

    fn verdict(&mut self, lane: u32, number: u32) -> &mut Verdict {
        &mut self.lanes[lane as usize].verdicts[number as usize]
    }

    /// Takes note of a connection that several interfaces saw.
    fn note(&mut self, key: Key, agreed: &Agreed<'_>, views: &[Vec<ViewInfo>]) {
        let [shown, others @ ..] = &agreed.entries[..] else { return };
        if others.is_empty() {
            return;
        }
        self.connections += 1;
        let amount = |entry: &Entry| {
            if key.is_tcp() { entry.seen.bytes } else { entry.seen.packets }
        };
        let by = others.iter().map(|other| amount(other).abs_diff(amount(shown))).sum();
        let mut verdicts = agreed.verdicts.iter().skip(1);
        if by == 0 && verdicts.all(|verdict| matches!(verdict, Verdict::LeaveOut)) {
            return;
        }
        self.differing += 1;
        self.named.push(Differing {
            by,
            key,
            since: shown.seen.first,
            client: agreed.client,
            sights: agreed.entries.iter().map(|entry| Glance::of(entry, views)).collect(),
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
    #[inline]
    pub(crate) fn leaves_out(&mut self, lane: usize, packet: &PacketBlock<'_>) -> bool {
        let Some(Lane { steps, verdicts }) = self.lanes.get_mut(lane) else { return false };
        let Some(number) = steps.next() else { return false };
        match verdicts.get_mut(number as usize) {
            Some(Verdict::LeaveOut) => true,
            Some(Verdict::Judge(rest)) => rest.leaves_out(packet),
            Some(Verdict::Keep) | None => false,
        }
    }

    /// What became of it, but for the counts of packets.
    pub(crate) fn report(mut self) -> VantageReport {
        let flows = std::mem::take(&mut self.named);
        let flows = flows.into_iter().map(|flow| self.describe(flow)).collect();
        VantageReport {
            connections: self.connections,
            differing: self.differing,
            flows,
            not_compared: self.not_compared,
            ..VantageReport::default()
        }
    }

    fn describe(&mut self, flow: Differing) -> DifferingFlow {
        let finish = |Glance { lane, number, sight }| {
            let in_file = match self.verdict(lane, number) {
                Verdict::Keep => sight.packets,
                Verdict::LeaveOut => 0,
                Verdict::Judge(rest) => rest.kept(),
            };
            Sight { in_file, ..sight }
        };
        let mut sights: Vec<_> = flow.sights.into_iter().map(finish).collect();
        let others = sights.split_off(1);
        DifferingFlow {
            flow: flow.key.named(flow.client).to_string(),
            shown: sights.remove(0),
            others,
            why: flow.why.map(str::to_owned),
        }
    }
}

impl Glance {
    fn of(entry: &Entry, views: &[Vec<ViewInfo>]) -> Self {
        let Interface { node, .. } = &entry.info(views).interface;
        let sight = Sight {
            node: node.clone(),
            interface: entry.info(views).interface.if_name(),
            packets: entry.seen.packets,
            bytes: entry.seen.bytes,
            in_file: 0,
        };
        Self { lane: entry.lane, number: entry.number, sight }
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
