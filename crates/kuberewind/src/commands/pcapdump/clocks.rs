//! Many nodes' clocks, read one after the other over the network, and what they say of one instant.
//!
//! The clock of the machine that asks is never looked at: only how long things took by its monotonic
//! one.

use std::collections::BTreeMap;
use std::time::Duration;

use kuberewind_export::ClockOffset;
use kuberewind_packet::Timestamp;
use tokio::time::Instant;

use crate::client::Session;

/// From here on a clock is warned of.
const NOTABLE: Duration = Duration::from_secs(1);

/// A clock that is off by more says another time than the cluster's: one window cannot be both.
const ABSURD: Duration = Duration::from_secs(10);

/// The last answers of a round may come so long after the first; the window ends no later.
const ROUND: Duration = Duration::from_secs(1);

/// What a clock said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    clock: Timestamp,
    /// When it was read: half-way between the question and its answer.
    at: Instant,
    /// It may have been so much earlier or later.
    bound: Duration,
}

/// The clocks of a cluster.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Clocks {
    /// The latest of them at the end of the round, but for those that say another time.
    pub(super) now: Timestamp,
    /// Each node's own now at that instant.
    own: BTreeMap<String, Timestamp>,
    /// Each against the middle one; empty where there is only one.
    offsets: BTreeMap<String, ClockOffset>,
}

/// Reads an agent's clock twice and gives the better reading: the first question may wait for the
/// connection.
pub(super) async fn read(session: &mut Session) -> anyhow::Result<Reading> {
    let first = read_once(session).await?;
    let second = read_once(session).await?;
    Ok(if second.bound <= first.bound { second } else { first })
}

async fn read_once(session: &mut Session) -> anyhow::Result<Reading> {
    let asked = Instant::now();
    let clock = session.clock().await?.now;
    let bound = asked.elapsed() / 2;
    Ok(Reading { clock, at: asked + bound, bound })
}

impl Reading {
    /// What the clock shows at another instant.
    fn when(&self, then: Instant) -> Timestamp {
        if then >= self.at {
            self.clock.saturating_add(then - self.at)
        } else {
            self.clock.saturating_sub(self.at - then)
        }
    }
}

impl Clocks {
    /// What the readings say together; none of none.
    pub(super) fn compare(readings: &BTreeMap<String, Reading>) -> Option<Self> {
        let first = readings.values().map(|reading| reading.at).min()?;
        let last = readings.values().map(|reading| reading.at).max()?;
        let then = last.min(first + ROUND);
        let own: BTreeMap<_, _> =
            readings.iter().map(|(node, reading)| (node.clone(), reading.when(then))).collect();
        let middle = middle(own.values().copied())?;
        let offsets = readings.iter().zip(own.values()).map(|((node, reading), own)| {
            let bound_nanos = u64::try_from(reading.bound.as_nanos()).unwrap_or(u64::MAX);
            (node.clone(), ClockOffset { nanos: signed(*own, middle), bound_nanos })
        });
        let offsets = if own.len() > 1 { offsets.collect() } else { BTreeMap::new() };
        let clocks = Self { now: middle, own, offsets };
        let usable = clocks.own.iter().filter(|(node, _)| clocks.absurd(node).is_none());
        let now = usable.map(|(_, own)| *own).max().unwrap_or(middle);
        Some(Self { now, ..clocks })
    }

    /// A node's clock against the others.
    pub(super) fn offset(&self, node: &str) -> Option<ClockOffset> {
        self.offsets.get(node).copied()
    }

    /// Why a node cannot be in one window with the others.
    pub(super) fn absurd(&self, node: &str) -> Option<String> {
        let offset = self.offset(node).filter(|offset| offset.distance() > ABSURD)?;
        Some(format!(
            "its clock is {} the other nodes', so its last minutes are not theirs: set its clock \
             (NTP), or export it by itself with --node {node}",
            words(offset)
        ))
    }

    /// A clock that is off, though not so far that the node is left out.
    pub(super) fn warning(&self, node: &str) -> Option<String> {
        let offset = self.offset(node).filter(|offset| offset.distance() > NOTABLE)?;
        Some(format!(
            "{node}'s clock is {} the other nodes': its packets stand that much out of place among \
             theirs; set its clock (NTP)",
            words(offset)
        ))
    }

    /// Where a window that ends at `to` ends on this node. What lies after its own now it will only
    /// stamp once its clock is there, which is not waited for where that takes long.
    pub(super) fn end_on(&self, node: &str, to: Timestamp) -> Timestamp {
        let own = self.own.get(node).copied().unwrap_or(to);
        if to.since(own) > NOTABLE { own } else { to }
    }
}

/// `1.250s (±3ms) ahead of`
fn words(offset: ClockOffset) -> String {
    let duration = kuberewind_export::figures::duration;
    let side = if offset.nanos < 0 { "behind" } else { "ahead of" };
    let bound = Duration::from_nanos(offset.bound_nanos);
    format!("{} (±{}) {side}", duration(offset.distance()), duration(bound))
}

/// Of an even number, the later of the two in the middle.
fn middle(clocks: impl Iterator<Item = Timestamp>) -> Option<Timestamp> {
    let mut clocks: Vec<_> = clocks.collect();
    clocks.sort_unstable();
    clocks.get(clocks.len() / 2).copied()
}

fn signed(clock: Timestamp, reference: Timestamp) -> i64 {
    let ahead = i128::from(clock.as_nanos()) - i128::from(reference.as_nanos());
    i64::try_from(ahead).unwrap_or(if ahead < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(1_000_000 * MS + millis * MS)
    }

    /// Nodes `n0`, `n1` …: what each clock showed, and how many milliseconds into the round.
    fn round(readings: &[(u64, u64)]) -> Clocks {
        let start = Instant::now();
        let reading = |(number, (clock, after)): (usize, &(u64, u64))| {
            let at_instant = start + Duration::from_millis(*after);
            let bound = Duration::from_millis(2);
            (format!("n{number}"), Reading { clock: at(*clock), at: at_instant, bound })
        };
        Clocks::compare(&readings.iter().enumerate().map(reading).collect()).unwrap()
    }

    #[test]
    fn the_window_ends_at_the_latest_clock_at_the_end_of_the_round() {
        // n0 was asked 50 ms before n1, and is 5 ms behind: not 55.
        let clocks = round(&[(100, 0), (155, 50), (145, 40)]);
        assert_eq!(clocks.now, at(155));
        assert_eq!(clocks.offset("n0").unwrap().nanos, -5 * MS.cast_signed());
        assert_eq!(clocks.offset("n1").unwrap().nanos, 0);
        assert_eq!(clocks.offset("n0").unwrap().bound_nanos, 2 * MS);
        assert_eq!(clocks.end_on("n0", clocks.now), clocks.now);
    }

    #[test]
    fn a_late_answer_does_not_move_the_window() {
        let clocks = round(&[(100, 0), (110, 10), (20_100, 20_000)]);
        assert_eq!(clocks.now, at(1_100));
    }

    #[test]
    fn one_node_has_nobody_to_be_compared_with() {
        let clocks = round(&[(100, 0)]);
        assert_eq!((clocks.now, clocks.offset("n0")), (at(100), None));
        assert_eq!(Clocks::compare(&BTreeMap::new()), None);
    }

    #[test]
    fn a_clock_over_a_second_off_is_warned_of_and_not_waited_for() {
        let clocks = round(&[(10_000, 0), (10_000, 0), (7_500, 0)]);
        assert_eq!(clocks.now, at(10_000));
        assert_eq!(clocks.warning("n0"), None);
        let warning = clocks.warning("n2").unwrap();
        assert!(warning.starts_with("n2's clock is 2.500s (±2ms) behind the other"), "{warning}");
        assert_eq!(clocks.absurd("n2"), None);
        assert_eq!(clocks.end_on("n2", clocks.now), at(7_500));
        assert_eq!(clocks.end_on("n2", at(5_000)), at(5_000));
    }

    #[test]
    fn a_clock_of_another_time_neither_ends_the_window_nor_is_in_it() {
        let hour = 3_600_000;
        let clocks = round(&[(10_000, 0), (10_000 + hour, 0), (10_200, 0)]);
        assert_eq!(clocks.now, at(10_200));
        assert!(clocks.absurd("n1").unwrap().contains("ahead of"));
        assert_eq!(clocks.absurd("n0"), None);
    }
}
