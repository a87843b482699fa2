//! The node's ends of pods' links: what goes through them is recorded in the pods already.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kuberewind_packet::NetnsId;

/// By the pods' namespaces. Written when a pod comes or goes, read by whoever records the node.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    version: AtomicU64,
    by_netns: Mutex<HashMap<NetnsId, BTreeSet<u32>>>,
}

impl Ends {
    /// A link of this namespace has its other end at this index, in another namespace.
    pub(crate) fn note(&self, netns: NetnsId, end: u32) {
        if self.lock().entry(netns).or_default().insert(end) {
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    /// The namespace is no longer recorded.
    pub(crate) fn forget(&self, netns: NetnsId) {
        if self.lock().remove(&netns).is_some() {
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    /// Changes with every change.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// All of them, and the version that they are of, or an earlier one.
    pub(crate) fn all(&self) -> (u64, HashSet<u32>) {
        let version = self.version();
        (version, self.lock().values().flatten().copied().collect())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NetnsId, BTreeSet<u32>>> {
        self.by_netns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_known_for_as_long_as_their_pod_is_recorded() {
        let ends = Ends::default();
        let before = ends.version();
        ends.note(NetnsId(1), 7);
        ends.note(NetnsId(2), 8);
        let both = ends.all();
        assert_eq!(both.1, HashSet::from([7, 8]));
        assert_ne!(both.0, before);
        ends.note(NetnsId(2), 8);
        assert_eq!(ends.version(), both.0);
        ends.forget(NetnsId(1));
        assert_eq!(ends.all().1, HashSet::from([8]));
        assert_ne!(ends.version(), both.0);
    }
}
