//! How the data directory goes from one agent of a node to the next, when an upgrade runs both for a
//! moment.
//!
//! ```text
//! heir                                                owner
//!  opens all its rings, and drops what they catch      records
//!  keeps what is stamped T or later --- "from T" --->  agrees: what is stamped T or later is not its any more,
//!                                                      but is kept for the case that the heir vanishes
//!                                  <--- "agreed" ----
//!                     T
//!                                                      has read all that is stamped earlier; seals, and lets go
//!                                  <-- "released" ---  of the lock
//!  takes the lock ------------------ "taken" ------->  forgets what it kept, and is idle
//!  writes what it kept, and goes on
//! ```
//!
//! Should the heir vanish before it has taken the directory, the owner takes it back and writes what it kept.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use kuberewind_packet::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::SOCKET_NAME;
use crate::client::{Session, Words};

/// The owner answers at once,
const ANSWER: Duration = Duration::from_secs(5);
/// and lets go when the moment is past and it has sealed: within a second, unless the disk stalls.
const RELEASE: Duration = Duration::from_secs(15);
/// Whoever has let go has nothing else to do.
const TAKEN: Duration = Duration::from_secs(2);

/// For how long the directory may lie free before the one that gave it away takes it back: the new one
/// was about to take it.
const UNTAKEN: Duration = Duration::from_secs(10);
/// The same once the new one had it: it has ended.
const LEFT: Duration = Duration::from_millis(200);

/// What `POST /v1/handover` takes: who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    /// The node whose pods it records.
    pub(crate) node: String,
    /// The namespace of its own pod.
    pub(crate) namespace: String,
    /// Its own pod.
    pub(crate) pod: String,
    /// Packets stamped then or later are its. None: it is of an older version, and has no ring open yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<Timestamp>,
}

impl Request {
    /// Why the agent of `own` does not give way to this one.
    pub(crate) fn refusal(&self, own: &Self) -> Option<String> {
        let Self { node, namespace, pod, .. } = own;
        if (&self.node, &self.namespace) != (node, namespace) {
            return Some(format!(
                "the agent {namespace}/{pod} of node {node} records here, and gives way only to another \
                 agent of its own; give each a tap.dataDir of its own"
            ));
        }
        None
    }
}

/// What the owner says, a line each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Word {
    /// Packets are cut at this moment.
    Agreed(Timestamp),
    /// That moment was past, or nearly: ask again, with a later one.
    TooLate,
    /// Everything from before it is written, and the lock is free.
    Released,
}

impl Word {
    /// As it goes over the socket.
    pub(crate) fn line(self) -> Vec<u8> {
        let mut line = serde_json::to_vec(&self).unwrap_or_default();
        line.push(b'\n');
        line
    }

    fn read(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }
}

/// What came of asking.
pub(crate) enum Answer {
    /// The lock is free, and packets are cut at the moment asked for.
    Released(Release),
    /// The owner is of an older version: it has let go, whatever the moment.
    LetGo,
    /// Ask again.
    TooLate,
}

/// The owner's readiness to take the directory back, which ends when this is dropped.
pub(crate) struct Release {
    words: Words,
    session: Session,
}

impl Release {
    /// Tells the owner that the directory has been taken. Who does not hear it has ended.
    pub(crate) async fn taken(self) {
        let Self { words, mut session } = self;
        let told = timeout(TAKEN, session.taken()).await;
        if !matches!(told, Ok(Ok(()))) {
            tracing::warn!("the agent that recorded before does not hear that it is relieved");
        }
        drop(words);
    }
}

/// Asks whoever records into `dir` to let go of it, and waits until that has happened.
///
/// # Errors
/// Why the owner does not.
pub(crate) async fn ask(dir: &Path, request: &Request) -> anyhow::Result<Answer> {
    let open = async || Session::over(UnixStream::connect(dir.join(SOCKET_NAME)).await?).await;
    let asked = async {
        // The socket's name is gone by the time that it is needed.
        let session = open().await?;
        Ok::<_, anyhow::Error>((open().await?.hand_over(request).await?, session))
    };
    let (mut words, session) = timeout(ANSWER, asked).await.context("ask the owner")??;
    let first = timeout(RELEASE, words.line()).await.context("wait for the owner's word")??;
    match first.as_deref().map(Word::read) {
        Some(Some(Word::Agreed(_))) => {}
        Some(Some(Word::TooLate)) => return Ok(Answer::TooLate),
        _ => return Ok(Answer::LetGo),
    }
    let released = timeout(RELEASE, words.line()).await.context("wait for the directory")??;
    match released.as_deref().and_then(Word::read) {
        Some(Word::Released) => Ok(Answer::Released(Release { words, session })),
        _ => bail!("the owner did not keep its word"),
    }
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
        Request { node: node.into(), namespace: "kuberewind".into(), pod: pod.into(), from: None }
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
        assert!(!lent.is_abandoned(true, after(50_199)));
        assert!(lent.is_abandoned(true, after(50_200)));
    }

    #[test]
    fn an_older_version_is_understood_and_understands() {
        let older = r#"{"node":"n1","namespace":"kuberewind","pod":"new"}"#;
        assert_eq!(serde_json::from_str::<Request>(older).unwrap(), request("n1", "new"));
        assert_eq!(serde_json::to_string(&request("n1", "new")).unwrap(), older);
        assert_eq!(Word::read("null"), None, "all that it says when it has let go");
        for word in [Word::Agreed(Timestamp::from_nanos(7)), Word::TooLate, Word::Released] {
            let line = String::from_utf8(word.line()).unwrap();
            assert_eq!(Word::read(line.trim_end()), Some(word));
        }
    }
}
