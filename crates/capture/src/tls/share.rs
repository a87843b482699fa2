//! How much of the watch's time the files of one namespace may take, and how many of its files may have
//! probes: who runs a new big program every moment, or a thousand libraries, must not keep it from those of
//! others.

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

/// How many files may have probes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) of_all: usize,
    /// Of these, files that processes of one namespace were the first to run.
    pub(crate) of_one: usize,
}

/// Why another file would be too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// So many have probes already.
    All(usize),
    /// So many of its namespace have.
    One(usize),
}

impl Room {
    /// Whether a file of this namespace is too much beside those that are probed, which are told by their
    /// namespaces.
    pub(crate) fn check(
        self,
        probed: impl Iterator<Item = NetnsId>,
        netns: NetnsId,
    ) -> Result<(), Full> {
        let count = |(all, its), other| (all + 1, its + usize::from(other == netns));
        let (all, its) = probed.fold((0, 0), count);
        if all >= self.of_all {
            return Err(Full::All(self.of_all));
        }
        if its >= self.of_one { Err(Full::One(self.of_one)) } else { Ok(()) }
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

    #[test]
    fn whoever_runs_many_files_leaves_room_for_those_of_others() {
        let room = Room { of_all: 6, of_one: 4 };
        let (busy, quiet) = (NetnsId(1), NetnsId(2));
        let probed = |its, others| [vec![busy; its], vec![quiet; others]].concat().into_iter();
        assert_eq!(room.check(probed(3, 1), busy), Ok(()));
        assert_eq!(room.check(probed(4, 1), busy), Err(Full::One(4)));
        assert_eq!(room.check(probed(4, 1), quiet), Ok(()));
        assert_eq!(room.check(probed(4, 2), quiet), Err(Full::All(6)));
    }
}
