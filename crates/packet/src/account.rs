//! What is in a window and what is not, and why not.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Loss, Span, Timestamp};

/// One node's word on one window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WindowAccount {
    /// The node.
    pub node: String,
    /// The window asked for.
    pub asked: Span,
    /// From the oldest to just after the newest packet that the node holds; none when it holds none.
    pub held: Option<Span>,
    /// Packets in the window that passed the filter.
    pub packets: u64,
    /// Their captured bytes.
    pub bytes: u64,
    /// Packets that were lost within the window.
    pub losses: Vec<LossAt>,
    /// Stretches of the window in which nothing was, or is any more, recorded.
    pub gaps: Vec<Gap>,
    /// Segments that could not be read to their end.
    pub damaged: Vec<Damage>,
    /// How the clock that stamps packets was set within the window.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clock_steps: Vec<ClockStep>,
}

/// A loss and whose packets were lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LossAt {
    /// `host`, the name of a network namespace, or `namespace/pod`.
    pub owner: String,
    /// The loss.
    #[serde(flatten)]
    pub loss: Loss,
}

/// A stretch of the window that the recording does not cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    /// The stretch.
    #[serde(flatten)]
    pub span: Span,
    /// Why.
    pub cause: GapCause,
}

/// Why a stretch of time is not in the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum GapCause {
    /// Before the first recording on this machine began.
    NotStarted,
    /// The recorder was stopped, or recording was switched off.
    Stopped,
    /// The recorder was killed, or the machine went down.
    Crash,
    /// Deleted: older than `pcapdump.maxTime`.
    MaxTime,
    /// Deleted to keep within `pcapdump.maxSize`.
    MaxSize,
    /// Deleted to keep `pcapdump.minFree` of the disk free.
    MinFree,
}

impl GapCause {
    /// Whether packets that were, or should have been, recorded are missing because of it. Nobody
    /// expects packets from before the recording began or from while it was switched off.
    pub const fn is_missing(self) -> bool {
        match self {
            Self::NotStarted | Self::Stopped => false,
            Self::Crash | Self::MaxTime | Self::MaxSize | Self::MinFree => true,
        }
    }
}

impl fmt::Display for GapCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotStarted => "recording had not begun",
            Self::Stopped => "recording was stopped",
            Self::Crash => "the recorder was killed",
            Self::MaxTime => "deleted, older than pcapdump.maxTime",
            Self::MaxSize => "deleted to keep within pcapdump.maxSize",
            Self::MinFree => "deleted to keep pcapdump.minFree of the disk free",
        })
    }
}

/// A segment that could not be read to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Damage {
    /// The segment's file name.
    pub segment: String,
    /// What is wrong, and where.
    pub reason: String,
}

/// The wall clock was set while this was recorded: it said `from`, and in the same moment `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockStep {
    /// The time before,
    pub from: Timestamp,
    /// and after it was set.
    pub to: Timestamp,
}

impl ClockStep {
    /// By how much it was set, forward or back.
    pub fn size(&self) -> Duration {
        self.to.since(self.from).max(self.from.since(self.to))
    }

    /// Every time that the clock passed over, or went through twice.
    pub fn span(&self) -> Span {
        Span::new(self.from.min(self.to), self.from.max(self.to))
    }
}

/// `the clock stepped by +1h0m0s to 2026-11-22T21:30:05Z`
impl fmt::Display for ClockStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.from < self.to { '+' } else { '-' };
        let seconds = (self.size() + Duration::from_millis(500)).as_secs();
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "the clock stepped by {sign}{hours}h{minutes}m{seconds}s to {:.0}", self.to)
    }
}

impl WindowAccount {
    /// The account of a window in which nothing was found yet.
    pub const fn new(node: String, asked: Span) -> Self {
        Self {
            node,
            asked,
            held: None,
            packets: 0,
            bytes: 0,
            losses: Vec::new(),
            gaps: Vec::new(),
            damaged: Vec::new(),
            clock_steps: Vec::new(),
        }
    }

    /// The account of a window and of the one that began where it ended.
    #[must_use]
    pub fn then(mut self, next: &Self) -> Self {
        self.asked.to = next.asked.to;
        self.held = match (self.held, next.held) {
            (Some(ours), Some(theirs)) => {
                Some(Span::new(ours.from.min(theirs.from), ours.to.max(theirs.to)))
            }
            (ours, theirs) => ours.or(theirs),
        };
        self.packets += next.packets;
        self.bytes += next.bytes;
        // A loss whose time reaches over the edge between the two is in both.
        for loss in &next.losses {
            if !self.losses.contains(loss) {
                self.losses.push(loss.clone());
            }
        }
        self.gaps.extend(&next.gaps);
        for damage in &next.damaged {
            if !self.damaged.contains(damage) {
                self.damaged.push(damage.clone());
            }
        }
        for step in &next.clock_steps {
            if !self.clock_steps.contains(step) {
                self.clock_steps.push(*step);
            }
        }
        self
    }

    /// Whether everything that was, or should have been, recorded in the window is there.
    pub fn is_complete(&self) -> bool {
        self.losses.is_empty()
            && self.damaged.is_empty()
            && self.gaps.iter().all(|gap| !gap.cause.is_missing())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LossCause, Timestamp};

    #[test]
    fn a_step_of_the_clock_says_by_how_much() {
        let at = |seconds: u64| Timestamp::from_nanos(seconds * 1_000_000_000);
        let forward = ClockStep { from: at(1_795_383_005), to: at(1_795_386_606) };
        assert_eq!(forward.to_string(), "the clock stepped by +1h0m1s to 2026-11-22T22:30:06Z");
        let back = ClockStep { from: forward.to, to: forward.from };
        assert_eq!(back.to_string(), "the clock stepped by -1h0m1s to 2026-11-22T21:30:05Z");
        assert_eq!(forward.span(), back.span());
    }

    #[test]
    fn a_loss_over_the_edge_of_two_windows_is_counted_once() {
        let at = Timestamp::from_nanos;
        let loss = |from, to| LossAt {
            owner: "host".to_owned(),
            loss: Loss { cause: LossCause::Ring, packets: 7, from: at(from), to: at(to) },
        };
        let window = |from, to, losses: &[LossAt]| WindowAccount {
            losses: losses.to_vec(),
            ..WindowAccount::new("n1".to_owned(), Span::new(at(from), at(to)))
        };
        let first = window(0, 10, &[loss(8, 12)]);
        let both = first.then(&window(10, 20, &[loss(8, 12), loss(15, 16)]));
        assert_eq!(both, window(0, 20, &[loss(8, 12), loss(15, 16)]));
    }
}
