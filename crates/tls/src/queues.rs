//! Who waits, each network namespace in a queue of its own, so that one that crowds is who must go.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use kuberewind_packet::{NetnsId, Timestamp};

/// A queue for each namespace, oldest first.
#[derive(Debug)]
pub(crate) struct Queues<T> {
    by_netns: HashMap<NetnsId, VecDeque<(Timestamp, T)>>,
    len: usize,
}

impl<T> Default for Queues<T> {
    fn default() -> Self {
        Self { by_netns: HashMap::new(), len: 0 }
    }
}

impl<T> Queues<T> {
    /// In all queues together.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push(&mut self, netns: NetnsId, since: Timestamp, who: T) {
        self.by_netns.entry(netns).or_default().push_back((since, who));
        self.len += 1;
    }

    /// All that have waited longer than `patience`.
    pub(crate) fn take_older(&mut self, now: Timestamp, patience: Duration) -> Vec<T> {
        let mut taken = Vec::new();
        self.by_netns.retain(|_, queue| {
            while let Some((_, who)) = queue.pop_front_if(|(since, _)| now.since(*since) > patience)
            {
                taken.push(who);
            }
            !queue.is_empty()
        });
        self.len -= taken.len();
        taken
    }

    /// The oldest of the namespace that has most.
    pub(crate) fn pop_from_longest(&mut self) -> Option<T> {
        let queue = self.by_netns.values_mut().max_by_key(|queue| queue.len())?;
        let (_, who) = queue.pop_front()?;
        self.len -= 1;
        Some(who)
    }
}
