//! How the data directory goes from one agent of a node to the next, when an upgrade runs both for a
//! moment: the new one asks, the old one seals, lets go of the lock and stays idle. Should the new one
//! vanish, the old one takes the directory back.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use super::SOCKET_NAME;
use crate::client::Session;

/// The owner drains its rings and seals within a second, unless the disk stalls.
const ANSWER: Duration = Duration::from_secs(15);

/// For how long the directory may lie free before the one that gave it away takes it back: the new one
/// was about to take it.
const UNTAKEN: Duration = Duration::from_secs(10);
/// The same once the new one had it: it has ended.
const LEFT: Duration = Duration::from_secs(1);

/// What `POST /v1/handover` takes: who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    /// The node whose pods it records.
    pub(crate) node: String,
    /// The namespace of its own pod.
    pub(crate) namespace: String,
    /// Its own pod.
    pub(crate) pod: String,
}

impl Request {
    /// Why the agent of `own` does not give way to this one.
    pub(crate) fn refusal(&self, own: &Self) -> Option<String> {
        let Self { node, namespace, pod } = own;
        if (&self.node, &self.namespace) != (node, namespace) {
            return Some(format!(
                "the agent {namespace}/{pod} of node {node} records here, and gives way only to another \
                 agent of its own; give each a tap.dataDir of its own"
            ));
        }
        None
    }
}

/// Asks whoever records into `dir` to let go of it. Returns once that has happened.
pub(crate) async fn ask(dir: &Path, request: &Request) -> anyhow::Result<()> {
    let asked = async {
        let stream = UnixStream::connect(dir.join(SOCKET_NAME)).await?;
        Session::over(stream).await?.hand_over(request).await
    };
    tokio::time::timeout(ANSWER, asked).await?
}

/// What became of a directory that was given away.
#[derive(Debug)]
pub(crate) struct Lent {
    taken: bool,
    free_since: Option<Instant>,
}

impl Lent {
    pub(crate) const fn new() -> Self {
        Self { taken: false, free_since: None }
    }

    /// Takes note of a look at the lock; whether the directory is to be taken back.
    pub(crate) fn is_abandoned(&mut self, free: bool, now: Instant) -> bool {
        if !free {
            *self = Self { taken: true, free_since: None };
            return false;
        }
        let since = *self.free_since.get_or_insert(now);
        let patience = if self.taken { LEFT } else { UNTAKEN };
        now.saturating_duration_since(since) >= patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(node: &str, pod: &str) -> Request {
        Request { node: node.into(), namespace: "kuberewind".into(), pod: pod.into() }
    }

    #[test]
    fn only_the_next_agent_of_the_same_node_is_given_way_to() {
        let own = request("n1", "old");
        assert_eq!(request("n1", "new").refusal(&own), None);
        let refusal = request("n2", "new").refusal(&own).unwrap();
        assert!(
            refusal.starts_with("the agent kuberewind/old of node n1 records here"),
            "{refusal}"
        );
    }

    #[test]
    fn a_directory_that_nobody_takes_goes_back_after_a_while() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let mut lent = Lent::new();
        assert!(!lent.is_abandoned(true, start));
        assert!(!lent.is_abandoned(true, after(9_999)));
        assert!(lent.is_abandoned(true, after(10_000)));

        let mut lent = Lent::new();
        assert!(!lent.is_abandoned(false, start));
        assert!(!lent.is_abandoned(true, after(50_000)));
        assert!(!lent.is_abandoned(true, after(50_999)));
        assert!(lent.is_abandoned(true, after(51_000)));
    }
}
