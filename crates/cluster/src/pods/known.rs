//! The pods that are known, and when those that are gone are forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::PodFacts;

#[derive(Debug)]
struct Entry {
    facts: PodFacts,
    gone: Option<Instant>,
}

/// The pods by UID. One that is deleted stays, marked, for `linger`: after a forced deletion its
/// processes were seen to live 2.8 s longer than the API's object.
#[derive(Debug)]
pub(super) struct Known {
    pods: BTreeMap<String, Entry>,
    linger: Duration,
}

impl Known {
    pub(super) const fn new(linger: Duration) -> Self {
        Self { pods: BTreeMap::new(), linger }
    }

    /// A list: what is not in it is gone.
    pub(super) fn replace(&mut self, pods: Vec<PodFacts>, now: Instant) {
        let listed: BTreeSet<&str> = pods.iter().map(|pod| pod.uid.as_str()).collect();
        let missing: Vec<_> =
            self.pods.keys().filter(|uid| !listed.contains(uid.as_str())).cloned().collect();
        for uid in missing {
            self.delete(&uid, now);
        }
        for pod in pods {
            self.apply(pod);
        }
    }

    pub(super) fn apply(&mut self, facts: PodFacts) {
        self.pods.insert(facts.uid.clone(), Entry { facts, gone: None });
    }

    pub(super) fn delete(&mut self, uid: &str, now: Instant) {
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.gone.get_or_insert(now);
            entry.facts.deleted = true;
        }
    }

    /// Forgets what has been gone for long enough.
    pub(super) fn forget(&mut self, now: Instant) {
        let linger = self.linger;
        self.pods.retain(|_, entry| entry.gone.is_none_or(|gone| now < gone + linger));
    }

    /// When [`Self::forget`] has something to do.
    pub(super) fn next_to_forget(&self) -> Option<Instant> {
        self.pods.values().filter_map(|entry| entry.gone).min().map(|gone| gone + self.linger)
    }

    pub(super) fn facts(&self) -> Vec<PodFacts> {
        self.pods.values().map(|entry| entry.facts.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str) -> PodFacts {
        PodFacts { uid: uid.into(), name: "cart".into(), ..PodFacts::default() }
    }

    fn told(known: &Known) -> Vec<(String, bool)> {
        known.facts().into_iter().map(|pod| (pod.uid, pod.deleted)).collect()
    }

    #[test]
    fn a_deleted_pod_is_known_a_while_longer_and_then_forgotten() {
        let (start, linger) = (Instant::now(), Duration::from_mins(1));
        let mut known = Known::new(linger);
        known.replace(vec![pod("a"), pod("b"), pod("c")], start);
        known.delete("a", start);
        known.replace(vec![pod("c")], start + linger / 2);
        assert_eq!(told(&known), [("a".into(), true), ("b".into(), true), ("c".into(), false)]);
        assert_eq!(known.next_to_forget(), Some(start + linger));

        // Being gone twice does not make it stay longer.
        known.delete("a", start + linger / 2);
        known.forget(start + linger);
        assert_eq!(told(&known), [("b".into(), true), ("c".into(), false)]);
        known.forget(start + linger * 2);
        assert_eq!(told(&known), [("c".into(), false)]);
        assert_eq!(known.next_to_forget(), None);
    }

    #[test]
    fn a_name_that_comes_again_is_another_pod() {
        let mut known = Known::new(Duration::from_mins(1));
        known.apply(pod("a"));
        known.delete("a", Instant::now());
        known.apply(pod("b"));
        assert_eq!(told(&known), [("a".into(), true), ("b".into(), false)]);
    }
}
