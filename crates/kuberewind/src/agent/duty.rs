//! Whether this agent records, and if not, why: what the API answers from.

use std::sync::Arc;

use arc_swap::ArcSwap;
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
}

/// Who may tell the recorder what to do.
pub(crate) enum Orders {
    /// Whoever reaches the API: on a machine of its own.
    Api,
    /// The `ConfigMap`. The API takes only what is about the data directory, and passes it on.
    ConfigMap(mpsc::Sender<(Wish, Answer)>),
}

/// What somebody wants of the data directory.
#[derive(Debug)]
pub(crate) enum Wish {
    /// That another agent gets it.
    HandOver(Request),
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
    pub(crate) fn of_agent(why: &str, wishes: mpsc::Sender<(Wish, Answer)>) -> Arc<Self> {
        let doing = ArcSwap::from_pointee(Doing::Nothing(why.to_owned()));
        Arc::new(Self { doing, orders: Orders::ConfigMap(wishes) })
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
            Doing::Nothing(why) => Err(why.clone()),
        }
    }
}
