//! Network namespaces of which nobody has decided yet whether they are recorded: pods' that are just
//! being made, and those of pods that the API server has not told of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kuberewind_capture::{Named, Target};
use kuberewind_packet::{NetnsId, Owner};
use tokio::sync::watch;

/// A name that no pod's process came to in this time is nobody's that we look for.
const LONGEST: Duration = Duration::from_secs(30);
/// A namespace that lost its name waits for the look that may be under way: it may have seen a process.
const LAST_LOOK: Duration = Duration::from_millis(300);

/// What one look told of the node's network namespaces.
#[derive(Clone, Debug)]
pub(crate) struct Sighting {
    /// When the look began.
    pub(crate) looked: Instant,
    /// Of these it is known whose they are.
    pub(crate) decided: BTreeSet<NetnsId>,
    /// These are of pods that nobody has told of, and files by which they are entered.
    pub(crate) strangers: BTreeMap<NetnsId, PathBuf>,
}

impl Default for Sighting {
    fn default() -> Self {
        let (decided, strangers) = (BTreeSet::new(), BTreeMap::new());
        Self { looked: Instant::now(), decided, strangers }
    }
}

/// What those share who see names, who look, and who record. It outlives a recorder: who takes over
/// knows from its own looks what was decided before.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    table: Arc<Mutex<Undecided>>,
    /// recorder --namespaces that it waits to hear of--> who looks
    awaited: Arc<watch::Sender<BTreeSet<NetnsId>>>,
}

impl Shared {
    /// Nothing is known yet. Also gives what is waited for, whenever it changes.
    pub(crate) fn new() -> (Self, watch::Receiver<BTreeSet<NetnsId>>) {
        let (awaited, waits) = watch::channel(BTreeSet::new());
        let table = Arc::new(Mutex::new(Undecided::new()));
        (Self { table, awaited: Arc::new(awaited) }, waits)
    }

    /// Changes the table, and tells what waits then, if anything is to wait at all. Nobody else tells
    /// meanwhile.
    pub(crate) fn update(
        &self,
        change: impl FnOnce(&mut Undecided, Instant),
        waits: bool,
        tell: impl FnOnce(Vec<Target>),
    ) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        change(&mut table, now);
        let waiting = if waits { table.waiting(now) } else { Vec::new() };
        let named = waiting.iter().map(|target| target.netns).collect();
        self.awaited.send_if_modified(|told| {
            let changed = *told != named;
            *told = named;
            changed
        });
        tell(waiting);
    }
}

/// The namespaces that are there.
#[derive(Debug, Default)]
pub(crate) struct Undecided {
    known: BTreeMap<NetnsId, Known>,
    /// Of this one there is never a doubt: the agent's own, whose control group it cannot see.
    own: Option<NetnsId>,
}

#[derive(Debug)]
struct Known {
    /// By which it is entered.
    path: PathBuf,
    since: Instant,
    /// Since when it has no name, if it had one.
    nameless: Option<Instant>,
    named: bool,
    stranger: bool,
    /// Once and for all: what a pod leaves when it is deleted is not a new one's.
    decided: bool,
}

impl Known {
    fn new(path: &Path, since: Instant) -> Self {
        let path = path.to_owned();
        Self { path, since, nameless: None, named: false, stranger: false, decided: false }
    }
}

impl Undecided {
    /// None yet.
    pub(crate) fn new() -> Self {
        let own = std::fs::metadata("/proc/self/ns/net").ok();
        let own = own.map(|file| NetnsId(std::os::unix::fs::MetadataExt::ino(&file)));
        Self { own, known: BTreeMap::new() }
    }

    /// These names are there now. `age` is asked for each that is new.
    pub(crate) fn name(&mut self, names: &[Named], age: impl Fn(&Named) -> Duration, now: Instant) {
        let there: BTreeMap<NetnsId, &Path> =
            names.iter().map(|named| (named.netns, named.path.as_path())).collect();
        for (netns, known) in &mut self.known {
            let stays = there.get(netns) == Some(&known.path.as_path());
            if known.named && !stays {
                (known.named, known.nameless) = (false, Some(now));
            }
        }
        // The number is another's now.
        self.known.retain(|netns, known| known.nameless.is_none() || !there.contains_key(netns));
        self.forget(now);
        for named in names {
            let born = || now.checked_sub(age(named)).unwrap_or(now);
            let known = self.known.entry(named.netns);
            let known = known.or_insert_with(|| Known::new(&named.path, born()));
            known.named = true;
            known.path.clone_from(&named.path);
        }
    }

    fn forget(&mut self, now: Instant) {
        let leaving = |since: Instant| now.saturating_duration_since(since) < LAST_LOOK;
        self.known.retain(|_, known| {
            known.named || known.stranger || known.nameless.is_some_and(leaving)
        });
    }

    /// Takes over what a look told. One that began before a name was there knows nothing of it.
    pub(crate) fn see(&mut self, sighting: &Sighting, now: Instant) {
        for (netns, known) in &mut self.known {
            known.stranger = sighting.strangers.contains_key(netns);
            known.decided |= known.since < sighting.looked && sighting.decided.contains(netns);
        }
        self.forget(now);
        for (netns, path) in &sighting.strangers {
            let known = self.known.entry(*netns);
            known.or_insert_with(|| Known::new(path, sighting.looked)).stranger = true;
        }
    }

    /// Those whose packets are to wait, counted under their name if nobody decides.
    pub(crate) fn waiting(&self, now: Instant) -> Vec<Target> {
        let waits = |(netns, known): &(&NetnsId, &Known)| {
            let young = now.saturating_duration_since(known.since) < LONGEST;
            !known.decided && (known.stranger || young) && self.own != Some(**netns)
        };
        let waiting = self.known.iter().filter(waits);
        let target = |(netns, known): (&NetnsId, &Known)| {
            let had_name = known.named || known.nameless.is_some();
            let name = known.path.file_name().filter(|_| had_name);
            let name = name.map_or_else(
                || format!("netns-{netns}"),
                |name| name.to_string_lossy().into_owned(),
            );
            Target { owner: Owner::Netns(name), netns: *netns, path: known.path.clone() }
        };
        waiting.map(target).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YOUNG: Duration = Duration::from_secs(1);
    const OLD: Duration = Duration::from_mins(1);

    fn named(netns: u64, name: &str) -> Named {
        Named { netns: NetnsId(netns), path: Path::new("/run/netns").join(name) }
    }

    fn sighting(looked: Instant, decided: &[u64], strangers: &[u64]) -> Sighting {
        Sighting {
            looked,
            decided: decided.iter().copied().map(NetnsId).collect(),
            strangers: strangers.iter().map(|n| (NetnsId(*n), format!("/p/{n}").into())).collect(),
        }
    }

    fn waiting(all: &Undecided, now: Instant) -> Vec<u64> {
        all.waiting(now).iter().map(|target| target.netns.0).collect()
    }

    #[test]
    fn a_new_name_waits_until_a_later_look_knows_whose_it_is() {
        let (mut all, start) = (Undecided::default(), Instant::now());
        all.name(&[named(7, "cni-7")], |_| Duration::ZERO, start);
        let owner = Owner::Netns("cni-7".to_owned());
        let path = PathBuf::from("/run/netns/cni-7");
        assert_eq!(all.waiting(start), [Target { owner, netns: NetnsId(7), path }]);
        // The number was another's, when that look began.
        all.see(&sighting(start, &[7], &[]), start);
        assert_eq!(waiting(&all, start), [7]);
        all.see(&sighting(start + YOUNG, &[7], &[]), start + YOUNG);
        assert_eq!(waiting(&all, start + YOUNG), [0; 0]);
        // Its pod was deleted, and its last process lives on.
        all.see(&sighting(start + 2 * YOUNG, &[], &[7]), start + 2 * YOUNG);
        assert_eq!(waiting(&all, start + 2 * YOUNG), [0; 0]);
        // The number comes again under another name.
        all.see(&sighting(start + 3 * YOUNG, &[], &[]), start + 3 * YOUNG);
        all.name(&[named(7, "cni-8")], |_| Duration::ZERO, start + 3 * YOUNG);
        assert_eq!(waiting(&all, start + 3 * YOUNG), [7]);
    }

    #[test]
    fn a_name_that_no_pod_comes_to_waits_for_half_a_minute_and_none_that_is_old() {
        let (mut all, start) = (Undecided::default(), Instant::now() + OLD);
        let age = |named: &Named| if named.netns == NetnsId(1) { OLD } else { YOUNG };
        all.name(&[named(1, "vpn"), named(2, "cni-2")], age, start);
        assert_eq!(waiting(&all, start), [2]);
        assert_eq!(waiting(&all, start + LONGEST), [0; 0]);
        all.name(&[named(1, "vpn")], age, start);
        assert_eq!(waiting(&all, start), [2], "a look may be under way");
        all.see(&sighting(start, &[], &[]), start + LAST_LOOK);
        assert_eq!(waiting(&all, start), [0; 0], "it is gone");
    }

    #[test]
    fn a_strangers_namespace_waits_for_as_long_as_it_is_one() {
        let (mut all, start) = (Undecided::default(), Instant::now());
        all.see(&sighting(start, &[], &[7]), start);
        assert_eq!(all.waiting(start)[0].owner, Owner::Netns("netns-7".to_owned()));
        assert_eq!(waiting(&all, start + OLD), [7]);
        all.see(&sighting(start + OLD, &[7], &[]), start + OLD);
        assert_eq!(waiting(&all, start + OLD), [0; 0]);
    }
}
