//! This node's pods, as the API server tells: a level, not a stream of events.
//!
//! [`PodWatch`] lists and watches with `spec.nodeName`, and offers the newest [`PodSnapshot`]. While the
//! API server is away the last known pods stay; they also lie in a file, so that an agent that starts
//! meanwhile knows them.

mod facts;
mod file;
mod known;
mod watch;

pub use crate::follow::Backoff;
pub use crate::follow::Timing;
pub use crate::follow::WatchError;
pub use facts::PodFacts;
pub use watch::PodWatch;

#[cfg(test)]
pub(crate) use watch::Pods;

/// What is known of this node's pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSnapshot {
    /// By UID.
    pub pods: Vec<PodFacts>,
    /// Who told it.
    pub origin: Origin,
    /// Why it may be out of date: the API server does not answer, or refuses.
    pub problem: Option<String>,
}

/// Who told what is known of the pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nobody yet: nothing is known.
    #[default]
    Nobody,
    /// An earlier agent's file: the API server has not answered since we started.
    File,
    /// The API server.
    ApiServer,
}
