//! Whether this agent records, and if not, why: what the API answers from.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::body::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::Recorder;
use super::handover::Request;

/// What an agent is doing.
#[derive(Clone)]
pub(crate) enum Doing {
    /// It records, or was told not to.
    Recording(Arc<Recorder>),
    /// It cannot, for this reason.
    Nothing(String),
    /// Another agent of its node has the data directory, for this reason: what is asked of this one is
    /// passed on to that one.
    Elsewhere {
        why: String,
        /// It is here to take the directory back.
        stands_by: bool,
    },
}

/// Who may tell the recorder what to do.
pub(crate) enum Orders {
    /// Whoever reaches the API: on a machine of its own.
    Api,
    /// The `ConfigMap`. The API takes only what is about the data directory, and passes it on.
    ConfigMap {
        wishes: mpsc::Sender<(Wish, Answer)>,
        /// The data directory.
        dir: PathBuf,
    },
}

/// What somebody wants of the data directory.
#[derive(Debug)]
pub(crate) enum Wish {
    /// That another agent gets it, which is told how that goes.
    HandOver(Request, mpsc::Sender<Bytes>),
    /// Nothing any more: the other agent has it.
    Taken,
    /// That nothing is left in it.
    Erase,
}

/// agent --answer--> API: an error in words when it is refused.
pub(crate) type Answer = oneshot::Sender<Result<(), String>>;

/// What an agent does, for all who ask it.
pub(crate) struct Duty {
    doing: ArcSwap<Doing>,
    orders: Orders,
}

impl Duty {
    /// It records, and does as the API says.
    pub(crate) fn of(recorder: Arc<Recorder>) -> Arc<Self> {
        let doing = ArcSwap::from_pointee(Doing::Recording(recorder));
        Arc::new(Self { doing, orders: Orders::Api })
    }

    /// It does nothing yet, and takes its orders from the `ConfigMap`.
    pub(crate) fn of_agent(
        why: &str,
        wishes: mpsc::Sender<(Wish, Answer)>,
        dir: PathBuf,
    ) -> Arc<Self> {
        let doing = ArcSwap::from_pointee(Doing::Nothing(why.to_owned()));
        Arc::new(Self { doing, orders: Orders::ConfigMap { wishes, dir } })
    }

    pub(crate) fn orders(&self) -> &Orders {
        &self.orders
    }

    pub(crate) fn set(&self, doing: Doing) {
        self.doing.store(Arc::new(doing));
    }

    /// The recorder, or why there is none.
    pub(crate) fn recorder(&self) -> Result<Arc<Recorder>, String> {
        match &**self.doing.load() {
            Doing::Recording(recorder) => Ok(Arc::clone(recorder)),
            Doing::Nothing(why) | Doing::Elsewhere { why, .. } => Err(why.clone()),
        }
    }

    /// Whether another agent of the node is to be asked.
    pub(crate) fn is_elsewhere(&self) -> bool {
        matches!(&**self.doing.load(), Doing::Elsewhere { .. })
    }

    /// What the agent says that has given its directory away, and would take it back.
    pub(crate) fn stands_by(&self) -> Option<String> {
        match &**self.doing.load() {
            Doing::Elsewhere { why, stands_by: true } => Some(why.clone()),
            _ => None,
        }
    }
}
