//! What one node gave, and what it did not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::time::Duration;

use kuberewind_packet::{Gap, GapCause, Loss, LossAt, LossCause, Span, WindowAccount};
use serde::{Deserialize, Serialize};

use super::{LeftOut, printable, push_shown};
use crate::figures;

/// Of the table of nodes.
const COLUMNS: usize = 7;
const LEFT_OUT: usize = 3;
const CLOCK: usize = 5;
const LAST: usize = COLUMNS - 1;

/// What one node gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// Its account; the counts are those of its packets in the file.
    #[serde(flatten)]
    pub account: WindowAccount,
    /// The same packets seen at the other end.
    #[serde(default, skip_serializing_if = "LeftOut::is_nothing")]
    pub left_out: LeftOut,
    /// Why it did not answer, or not to the end: what it holds and lost is then unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// How its packets were fetched; none where they did not travel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<Fetch>,
}

/// How a node's packets came over the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fetch {
    /// Its clock against those of the other nodes; none where there are no others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<ClockOffset>,
    /// How often its stream broke and it was asked again.
    pub retries: u32,
}

/// A clock against the cluster's: the middle one of all nodes' clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClockOffset {
    /// How far it is ahead; below zero, how far it is behind.
    pub nanos: i64,
    /// It may be off by so much more or less: half the time that asking it took.
    pub bound_nanos: u64,
}

impl ClockOffset {
    /// The distance, ahead or behind.
    pub const fn distance(self) -> Duration {
        Duration::from_nanos(self.nanos.unsigned_abs())
    }
}

/// `+1.250s ±3ms`
impl fmt::Display for ClockOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.nanos < 0 { '-' } else { '+' };
        let bound = Duration::from_nanos(self.bound_nanos);
        write!(f, "{sign}{} ±{}", figures::duration(self.distance()), figures::duration(bound))
    }
}

impl NodeReport {
    /// A node that gave nothing.
    pub fn failed(node: String, asked: Span, failure: String) -> Self {
        let (account, left_out) = (WindowAccount::new(node, asked), LeftOut::default());
        Self { account, left_out, failure: Some(failure), fetch: None }
    }

    /// Whether everything that was, or should have been, recorded is there.
    pub fn is_complete(&self) -> bool {
        self.failure.is_none() && self.account.is_complete()
    }

    /// Whether the node recorded nothing in the window, or has it no more.
    pub(crate) fn holds_nothing(&self) -> bool {
        self.recorded() == 0 && covers(&self.account.gaps, self.account.asked)
    }

    /// Packets in the window, in the file or left out.
    fn recorded(&self) -> u64 {
        self.account.packets + self.left_out.packets
    }

    /// What the node holds and why it is not what was asked for.
    pub(crate) fn instead(&self) -> String {
        let WindowAccount { node, held, gaps, .. } = &self.account;
        let held = held.map_or("no packets".to_owned(), figures::span);
        let causes = gaps.iter().map(|gap| gap.cause).collect::<BTreeSet<_>>();
        let causes: Vec<_> = causes.iter().map(GapCause::to_string).collect();
        let why =
            if causes.is_empty() { String::new() } else { format!(" ({})", causes.join(", ")) };
        format!("{node} holds {held}{why}")
    }

    /// What is missing, in a few words.
    pub(super) fn missing(&self) -> Vec<String> {
        let WindowAccount { node, losses, gaps, damaged, .. } = &self.account;
        let mut missing = Vec::new();
        if self.failure.is_some() {
            missing.push(format!("{node} failed"));
        }
        let lost: u64 = losses.iter().map(|at| at.loss.packets).sum();
        if !losses.is_empty() {
            missing.push(format!("{node} lost {} while recording", figures::packets(lost)));
        }
        let gone = gaps.iter().filter(|gap| gap.cause.is_missing());
        let gone: Duration = gone.map(|gap| gap.span.duration()).sum();
        if !gone.is_zero() {
            missing.push(format!("{node} lacks {}", figures::duration(gone)));
        }
        if !damaged.is_empty() {
            missing.push(format!("{node} has {} damaged segment(s)", damaged.len()));
        }
        missing
    }

    fn clock(&self) -> Option<ClockOffset> {
        self.fetch?.clock
    }

    fn row(&self) -> [String; COLUMNS] {
        let WindowAccount { node, held, packets, bytes, losses, .. } = &self.account;
        let unknown = self.failure.is_some();
        let lost: u64 = losses.iter().map(|at| at.loss.packets).sum();
        [
            printable(node),
            figures::count(*packets),
            figures::bytes(*bytes),
            figures::count(self.left_out.packets),
            if unknown { "?".to_owned() } else { figures::count(lost) },
            self.clock().map_or("?".to_owned(), |clock| clock.to_string()),
            match held {
                Some(held) => figures::span(*held),
                None if unknown => "?".to_owned(),
                None => "nothing".to_owned(),
            },
        ]
    }

    pub(super) fn details(&self) -> Vec<String> {
        let WindowAccount { node, losses, gaps, damaged, .. } = &self.account;
        let mut lines = Vec::new();
        if let Some(failure) = &self.failure {
            let so_far = match self.recorded() {
                0 => "none of its packets are in the file".to_owned(),
                first => format!("its first {} are in the file", figures::packets(first)),
            };
            lines.push(format!("{node} FAILED: {failure} ({so_far})"));
        }
        match self.fetch {
            Some(Fetch { retries: retries @ 1.., .. }) if self.failure.is_none() => {
                let times =
                    if retries == 1 { "once".to_owned() } else { format!("{retries} times") };
                lines.push(format!("{node} note: its stream broke {times}, then came whole"));
            }
            _ => {}
        }
        let losses = sum_losses(losses);
        push_shown(&mut lines, losses.iter().map(|at| loss_line(node, at)).collect());
        push_shown(&mut lines, gaps.iter().map(|gap| gap_line(node, gap)).collect());
        let damage = |damage: &kuberewind_packet::Damage| {
            format!("{node} DAMAGED: segment {}: {}", damage.segment, damage.reason)
        };
        push_shown(&mut lines, damaged.iter().map(damage).collect());
        let steps = self.account.clock_steps.iter().map(|step| format!("{node} {step}"));
        push_shown(&mut lines, steps.collect());
        lines
    }
}

/// Columns as wide as their widest cell; counts to the right, the rest to the left. Clocks only where
/// some were compared, and what was left out only where something was.
pub(super) fn table(nodes: &[NodeReport]) -> String {
    let head =
        ["node", "packets", "bytes", "left out", "lost", "clock", "holds"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(nodes.iter().map(NodeReport::row)).collect();
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let clocks = nodes.iter().any(|node| node.clock().is_some());
    let left_out = nodes.iter().any(|node| !node.left_out.is_nothing());
    rows.iter().fold(String::new(), |mut out, cells| {
        for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let _ = match column {
                CLOCK if !clocks => Ok(()),
                LEFT_OUT if !left_out => Ok(()),
                0 => write!(out, "{cell:width$}  "),
                LAST => writeln!(out, "{cell}"),
                _ => write!(out, "{cell:>width$}  "),
            };
        }
        out
    })
}

/// One loss for each owner and cause, from the first to the last of them; the worst first.
pub(crate) fn sum_losses(losses: &[LossAt]) -> Vec<LossAt> {
    let mut sums: BTreeMap<(&str, LossCause), Loss> = BTreeMap::new();
    for LossAt { owner, loss } in losses {
        let none = Loss { packets: 0, ..*loss };
        let sum = sums.entry((owner, loss.cause)).or_insert(none);
        sum.packets += loss.packets;
        sum.from = sum.from.min(loss.from);
        sum.to = sum.to.max(loss.to);
    }
    let whose = |((owner, _), loss): ((&str, _), _)| LossAt { owner: owner.to_owned(), loss };
    let mut sums: Vec<_> = sums.into_iter().map(whose).collect();
    sums.sort_by_key(|at| std::cmp::Reverse(at.loss.packets));
    sums
}

fn loss_line(node: &str, LossAt { owner, loss }: &LossAt) -> String {
    let Loss { cause, packets, from, to } = *loss;
    let (packets, span) = (figures::packets(packets), figures::span(Span::new(from, to)));
    format!("{node} LOST {packets} of {owner}, {span}: {cause}: {}", reason(cause))
}

/// What happened, and the setting that mends it where there is one.
const fn reason(cause: LossCause) -> &'static str {
    match cause {
        LossCause::Ring => "packets came faster than they were read",
        LossCause::RingMemory => {
            "packets came faster than they were read, and tap.ringMemory was used up: raise it"
        }
        LossCause::Undecided => {
            "whether they were to be recorded was not known in time, nor of which pod they were"
        }
        LossCause::Buffer => "the disk was slower than the packets",
        LossCause::Disk => "the disk refused to write",
    }
}

fn gap_line(node: &str, gap: &Gap) -> String {
    let word = if gap.cause.is_missing() { "MISSING" } else { "note: not recorded" };
    format!("{node} {word}: {}: {}", figures::span(gap.span), gap.cause)
}

/// Whether nothing of `window` lies outside the gaps.
fn covers(gaps: &[Gap], window: Span) -> bool {
    let mut gaps: Vec<_> = gaps.iter().map(|gap| gap.span).collect();
    gaps.sort_by_key(|gap| gap.from);
    let covered = gaps.iter().fold(window.from, |covered, gap| {
        if gap.from <= covered { covered.max(gap.to) } else { covered }
    });
    covered >= window.to
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::span;

    #[test]
    fn gaps_cover_a_window_only_together() {
        let gap = |from, to| Gap { span: span(from, to), cause: GapCause::Stopped };
        let window = span("10:00:00", "11:00:00");
        assert!(covers(&[gap("10:30:00", "12:00:00"), gap("09:00:00", "10:30:00")], window));
        assert!(!covers(&[gap("10:31:00", "12:00:00"), gap("09:00:00", "10:30:00")], window));
        assert!(!covers(&[gap("09:00:00", "10:59:00")], window));
        assert!(!covers(&[], window));
    }
}
