//! The loop that lists and watches.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures::{AsyncBufReadExt, StreamExt};
use kube::Client;
use kube::api::{ListParams, VersionMatch, WatchParams};
use kube::core::Request;
use serde_json::Value;
use tokio::time::{sleep, sleep_until, timeout};

use super::backoff::{Backoff, chance};
use super::event::{Event, List, read_event, read_list};

/// How long a watch waits for what.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// For an answer's head, and for a whole list.
    pub answer: Duration,
    /// For a word on an open watch before it is opened anew. Bookmarks came every 60 s.
    pub silence: Duration,
    /// Before the first new attempt.
    pub least_wait: Duration,
    /// Between attempts, at most.
    pub most_wait: Duration,
    /// For how long a deleted pod is still known.
    pub linger: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(30),
            silence: Duration::from_secs(90),
            least_wait: Duration::from_millis(500),
            // Packets of pods that were not told of wait for half a minute.
            most_wait: Duration::from_secs(5),
            linger: Duration::from_mins(1),
        }
    }
}

/// Why the API server could not be followed.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// It refused, or could not be reached.
    #[error("{0}")]
    Refused(#[from] kube::Error),
    /// It did not answer.
    #[error("no answer within {0:?}")]
    NoAnswer(Duration),
    /// It answered with something else than a list.
    #[error("its list cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// The connection broke.
    #[error("connection lost: {0}")]
    Lost(#[from] std::io::Error),
    /// It ended the watch with an error.
    #[error("the watch ended: {message} ({code})")]
    Ended {
        /// HTTP's number for it.
        code: u16,
        /// Its own words.
        message: String,
    },
    /// The watch said nothing for too long.
    #[error("the watch said nothing for {0:?}")]
    Silent(Duration),
}

impl WatchError {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Refused(kube::Error::Api(status)) => Some(status.code),
            Self::Ended { code, .. } => Some(*code),
            _ => None,
        }
    }

    fn is_of_rights(&self) -> bool {
        matches!(self, Self::Refused(kube::Error::Api(status)) if matches!(status.code, 401 | 403))
    }

    /// Whether the watch can go on where it was, without a new list.
    fn is_of_the_connection(&self) -> bool {
        match self {
            Self::Lost(_) | Self::NoAnswer(_) => true,
            Self::Refused(error) => !matches!(error, kube::Error::Api(_)),
            Self::Unreadable(_) | Self::Ended { .. } | Self::Silent(_) => false,
        }
    }
}

/// What is followed, and who keeps what is known of it: the node's pods, the agents' settings.
pub(crate) trait Subject: Send + 'static {
    /// What we want to know of one object.
    type Facts: Send;

    /// Its collection, as in the API's address: `/api/v1/pods`.
    fn collection(&self) -> String;
    /// Which of the collection.
    fn field_selector(&self) -> String;
    /// In messages: `the pods of node n1`.
    fn name(&self) -> String;
    /// The rights that it takes, in messages.
    fn rights(&self) -> &'static str;
    /// Reads one object, or says what is odd about it.
    fn read(object: Value) -> Result<Self::Facts, String>;

    /// A list: what is not in it is gone.
    fn replace(&mut self, all: Vec<Self::Facts>);
    /// One is there, or has changed.
    fn apply(&mut self, facts: Self::Facts);
    /// One is gone.
    fn delete(&mut self, facts: &Self::Facts);
    /// Tells readers what is known now, and why it may be out of date.
    fn tell(&mut self, problem: Option<&str>);
    /// When [`Self::tell`] is to be called though nothing happened.
    fn due(&self) -> Option<Instant> {
        None
    }
}

/// Follows a subject until it is dropped.
pub(crate) struct Follower<S> {
    client: Client,
    timing: Timing,
    subject: S,
    problem: Option<String>,
}

impl<S: Subject> Follower<S> {
    pub(crate) fn new(client: Client, timing: Timing, subject: S) -> Self {
        Self { client, timing, subject, problem: None }
    }

    pub(crate) async fn follow(mut self) {
        let mut backoff = Backoff::new(self.timing.least_wait, self.timing.most_wait);
        let mut version = None;
        loop {
            let error = match self.round(&mut version, &mut backoff).await {
                Ok(()) => continue,
                Err(error) => error,
            };
            if !error.is_of_the_connection() {
                version = None;
            }
            self.tell_problem(&error);
            sleep(backoff.next(chance())).await;
        }
    }

    /// A list if there is no version to go on from, then one watch until it ends by itself.
    async fn round(
        &mut self,
        version: &mut Option<String>,
        backoff: &mut Backoff,
    ) -> Result<(), WatchError> {
        if version.is_none() {
            let list = self.list().await?;
            *version = Some(list.version.clone());
            self.take(list);
        }
        let opened = Instant::now();
        let ended = self.watch(version, backoff).await;
        if ended.is_ok() && opened.elapsed() < self.timing.least_wait {
            // A proxy that ends every watch at once must not be asked in a tight loop.
            sleep(backoff.next(chance())).await;
        }
        ended
    }

    /// From the server's cache, which finds a node's pods by an index. Where the cache is not to be
    /// had (504 for a version that it has not reached, 410), the newest from etcd.
    async fn list(&self) -> Result<List<S::Facts>, WatchError> {
        let all = ListParams::default().fields(&self.subject.field_selector());
        let cached = ListParams { resource_version: Some("0".into()), ..all.clone() };
        let cached = ListParams { version_match: Some(VersionMatch::NotOlderThan), ..cached };
        match self.list_with(&cached).await {
            Err(error) if matches!(error.code(), Some(410 | 504)) => self.list_with(&all).await,
            answered => answered,
        }
    }

    async fn list_with(&self, params: &ListParams) -> Result<List<S::Facts>, WatchError> {
        let request = Request::new(self.subject.collection());
        let request = request.list(params).map_err(kube::Error::BuildRequest)?;
        let body = self.client.request_text(request);
        let body = timeout(self.timing.answer, body).await;
        let body = body.map_err(|_| WatchError::NoAnswer(self.timing.answer))??;
        Ok(read_list::<S>(&body)?)
    }

    /// `Ok`: the watch came to its end, or its start is too old (`version` is then none).
    async fn watch(
        &mut self,
        version: &mut Option<String>,
        backoff: &mut Backoff,
    ) -> Result<(), WatchError> {
        let params = WatchParams::default().fields(&self.subject.field_selector());
        let params = params.timeout(270 + seconds(chance()));
        let from = version.as_deref().unwrap_or("0");
        let request = Request::new(self.subject.collection());
        let request = request.watch(&params, from).map_err(kube::Error::BuildRequest)?;
        let answer = timeout(self.timing.answer, self.client.request_stream(request)).await;
        let answer = match answer.map_err(|_| WatchError::NoAnswer(self.timing.answer))? {
            Err(kube::Error::Api(status)) if status.code == 410 => {
                *version = None;
                return Ok(());
            }
            answer => answer?,
        };
        self.tell_all_is_well();
        let mut lines = pin!(answer.lines());
        loop {
            let silence = sleep(self.timing.silence);
            let line = tokio::select! {
                line = lines.next() => line,
                () = silence => return Err(WatchError::Silent(self.timing.silence)),
                () = until(self.subject.due()) => {
                    self.tell();
                    continue;
                }
            };
            let Some(line) = line else { return Ok(()) };
            if !self.hear(read_event::<S>(&line?), version)? {
                return Ok(());
            }
            // Only a word on the watch shows that the server is well: it may accept and then drop it.
            backoff.reset();
        }
    }

    /// Whether the watch goes on.
    fn hear(
        &mut self,
        event: Event<S::Facts>,
        version: &mut Option<String>,
    ) -> Result<bool, WatchError> {
        let reached = match event {
            Event::Applied(facts, reached) => {
                self.subject.apply(facts);
                reached
            }
            Event::Deleted(facts, reached) => {
                self.subject.delete(&facts);
                reached
            }
            Event::Bookmark(reached) => reached,
            Event::Expired => {
                *version = None;
                return Ok(false);
            }
            Event::Failed { code, message } => return Err(WatchError::Ended { code, message }),
            Event::Unreadable(problem) => {
                tracing::warn!("watch {}: {problem}", self.subject.name());
                None
            }
        };
        if reached.is_some() {
            *version = reached;
        }
        self.tell();
        Ok(true)
    }

    fn take(&mut self, list: List<S::Facts>) {
        for problem in list.unreadable {
            tracing::warn!("list {}: {problem}", self.subject.name());
        }
        self.subject.replace(list.items);
        self.tell_all_is_well();
    }

    fn tell_problem(&mut self, error: &WatchError) {
        let name = self.subject.name();
        let hint = if error.is_of_rights() {
            format!(" (the agent's service account needs {})", self.subject.rights())
        } else {
            String::new()
        };
        self.problem = Some(format!("watch {name}: {error}{hint}"));
        self.tell();
    }

    fn tell_all_is_well(&mut self) {
        self.problem = None;
        self.tell();
    }

    fn tell(&mut self) {
        self.subject.tell(self.problem.as_deref());
    }
}

/// Below 24, at random (kube refuses watches of 295 s and more): the watches of a cluster's agents do not all end together.
fn seconds(chance: u64) -> u32 {
    u32::try_from(chance % 24).unwrap_or(0)
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
