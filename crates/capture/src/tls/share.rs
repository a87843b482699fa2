//! How much of the watch's time the files of one namespace may take: who runs a new big program every
//! moment must not keep it from those of others.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use kuberewind_packet::NetnsId;

/// In each period files of one namespace are looked into for so long, of processor time; a program of
/// 100 MB takes 0.2 s.
const PERIOD: Duration = Duration::from_mins(1);
pub(crate) const SHARE: Duration = Duration::from_secs(10);

/// What each namespace's files took lately.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    spent: HashMap<NetnsId, Spent>,
}

#[derive(Debug)]
struct Spent {
    since: Instant,
    time: Duration,
}

impl Shares {
    /// Whether another file of the namespace may be looked into.
    pub(crate) fn allow(&self, netns: NetnsId, now: Instant) -> bool {
        let spent = self.spent.get(&netns);
        spent.is_none_or(|spent| spent.time < SHARE || now > spent.since + PERIOD)
    }

    /// That took so long.
    pub(crate) fn add(&mut self, netns: NetnsId, now: Instant, time: Duration) {
        self.spent.retain(|_, spent| now <= spent.since + PERIOD);
        let new = Spent { since: now, time: Duration::ZERO };
        self.spent.entry(netns).or_insert(new).time += time;
    }

    /// Processor time of this thread so far.
    pub(crate) fn clock() -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::try_from(time).unwrap_or_default()
    }

    /// Namespaces that must wait.
    pub(crate) fn exhausted(&self, now: Instant) -> impl Iterator<Item = NetnsId> {
        let namespaces = self.spent.keys().copied();
        namespaces.filter(move |netns| !self.allow(*netns, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_takes_more_than_its_share_waits_and_nobody_else_does() {
        let (mut shares, now) = (Shares::default(), Instant::now());
        let (busy, quiet) = (NetnsId(1), NetnsId(2));
        shares.add(busy, now, SHARE / 2);
        shares.add(quiet, now, SHARE / 100);
        assert!(shares.allow(busy, now) && shares.allow(quiet, now));
        shares.add(busy, now, SHARE / 2);
        assert_eq!(shares.exhausted(now).collect::<Vec<_>>(), [busy]);
        let later = now + PERIOD + Duration::from_millis(1);
        assert_eq!(shares.exhausted(later).count(), 0);
        shares.add(busy, later, SHARE / 2);
        assert!(shares.allow(busy, later));
    }
}
