//! The loop that lists and watches.
//!
//! Its own, not kube's: a watch whose start lies in the future (a restored etcd) or whose connection
//! died says nothing at all, so silence for longer than the interval of bookmarks must lead to a new
//! list; and an odd pod must not end the watch.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{AsyncBufReadExt, StreamExt};
use kube::Client;
use kube::api::{ListParams, VersionMatch, WatchParams};
use kube::core::Request;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until, timeout};

use super::backoff::{Backoff, chance};
use super::event::{Event, PodList, read_event, read_list};
use super::known::Known;
use super::{Origin, PodSnapshot, file};

const PODS: &str = "/api/v1/pods";

/// How long the watch waits for what.
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
            most_wait: Duration::from_secs(30),
            linger: Duration::from_mins(1),
        }
    }
}

/// Why the API server could not be followed.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// It refused, or could not be reached.
    #[error("{0}{hint}", hint = hint(.0))]
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

fn hint(error: &kube::Error) -> &'static str {
    match error {
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
            " (the agent's service account needs `list` and `watch` on pods)"
        }
        _ => "",
    }
}

impl WatchError {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Refused(kube::Error::Api(status)) => Some(status.code),
            Self::Ended { code, .. } => Some(*code),
            _ => None,
        }
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

/// Follows this node's pods until it is dropped.
#[derive(Debug)]
pub struct PodWatch {
    snapshots: watch::Receiver<Arc<PodSnapshot>>,
    tasks: [JoinHandle<()>; 2],
}

impl PodWatch {
    /// Must be called within a tokio runtime. `file` keeps what is known for the next start. The client's
    /// configuration should have `default_retry: false`: waiting and asking again is done here, and
    /// kube's own retries would only delay the word that something is wrong.
    pub fn start(client: Client, node: &str, file: Option<PathBuf>, timing: Timing) -> Self {
        // watch --newest snapshot--> supervisor, file; a slow reader misses only what is out of date
        let (sender, snapshots) = watch::channel(Arc::default());
        let mut follower = Follower {
            client,
            node: node.to_owned(),
            timing,
            known: Known::new(timing.linger),
            origin: Origin::Nobody,
            problem: None,
            sender,
        };
        if let Some(path) = &file {
            follower.recall(path);
        }
        let keeper = keep(file, node.to_owned(), snapshots.clone());
        Self { snapshots, tasks: [tokio::spawn(follower.follow()), tokio::spawn(keeper)] }
    }

    /// The newest snapshot, whenever it changes.
    pub fn snapshots(&self) -> watch::Receiver<Arc<PodSnapshot>> {
        self.snapshots.clone()
    }
}

impl Drop for PodWatch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Writes what the API server told into the file, at most once a second.
async fn keep(
    file: Option<PathBuf>,
    node: String,
    mut snapshots: watch::Receiver<Arc<PodSnapshot>>,
) {
    let Some(path) = file else { return };
    while snapshots.changed().await.is_ok() {
        let snapshot = snapshots.borrow_and_update().clone();
        if snapshot.origin != Origin::ApiServer {
            continue;
        }
        let (node, target) = (node.clone(), path.clone());
        let written = tokio::task::spawn_blocking(move || {
            let there: Vec<_> = snapshot.pods.iter().filter(|pod| !pod.deleted).cloned().collect();
            file::write(&target, &node, &there)
        });
        if let Ok(Err(error)) = written.await {
            tracing::warn!("keep the known pods in {}: {error}", path.display());
        }
        sleep(Duration::from_secs(1)).await;
    }
}

struct Follower {
    client: Client,
    node: String,
    timing: Timing,
    known: Known,
    origin: Origin,
    problem: Option<String>,
    sender: watch::Sender<Arc<PodSnapshot>>,
}

impl Follower {
    async fn follow(mut self) {
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
    async fn list(&self) -> Result<PodList, WatchError> {
        let cached = ListParams { resource_version: Some("0".into()), ..self.of_this_node() };
        let cached = ListParams { version_match: Some(VersionMatch::NotOlderThan), ..cached };
        match self.list_with(&cached).await {
            Err(error) if matches!(error.code(), Some(410 | 504)) => {
                self.list_with(&self.of_this_node()).await
            }
            answered => answered,
        }
    }

    fn of_this_node(&self) -> ListParams {
        ListParams::default().fields(&self.selector())
    }

    fn selector(&self) -> String {
        format!("spec.nodeName={}", self.node)
    }

    async fn list_with(&self, params: &ListParams) -> Result<PodList, WatchError> {
        let request = Request::new(PODS).list(params).map_err(kube::Error::BuildRequest)?;
        let body = self.client.request_text(request);
        let body = timeout(self.timing.answer, body).await;
        let body = body.map_err(|_| WatchError::NoAnswer(self.timing.answer))??;
        Ok(read_list(&body)?)
    }

    /// `Ok`: the watch came to its end, or its start is too old (`version` is then none).
    async fn watch(
        &mut self,
        version: &mut Option<String>,
        backoff: &mut Backoff,
    ) -> Result<(), WatchError> {
        let params =
            WatchParams::default().fields(&self.selector()).timeout(270 + seconds(chance()));
        let from = version.as_deref().unwrap_or("0");
        let request = Request::new(PODS).watch(&params, from).map_err(kube::Error::BuildRequest)?;
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
                () = until(self.known.next_to_forget()) => {
                    self.tell();
                    continue;
                }
            };
            let Some(line) = line else { return Ok(()) };
            if !self.hear(read_event(&line?), version)? {
                return Ok(());
            }
            // Only a word on the watch shows that the server is well: it may accept and then drop it.
            backoff.reset();
        }
    }

    /// Whether the watch goes on.
    fn hear(&mut self, event: Event, version: &mut Option<String>) -> Result<bool, WatchError> {
        let reached = match event {
            Event::Applied(pod, reached) => {
                self.known.apply(*pod);
                reached
            }
            Event::Deleted(uid, reached) => {
                self.known.delete(&uid, Instant::now());
                reached
            }
            Event::Bookmark(reached) => reached,
            Event::Expired => {
                *version = None;
                return Ok(false);
            }
            Event::Failed { code, message } => return Err(WatchError::Ended { code, message }),
            Event::Unreadable(problem) => {
                tracing::warn!("watch the pods of node {}: {problem}", self.node);
                None
            }
        };
        if reached.is_some() {
            *version = reached;
        }
        self.tell();
        Ok(true)
    }

    fn take(&mut self, list: PodList) {
        for problem in list.unreadable {
            tracing::warn!("list the pods of node {}: {problem}", self.node);
        }
        self.known.replace(list.pods, Instant::now());
        self.origin = Origin::ApiServer;
        self.tell_all_is_well();
    }

    fn recall(&mut self, path: &Path) {
        match file::read(path, &self.node) {
            Ok(Some(pods)) => {
                self.known.replace(pods, Instant::now());
                self.origin = Origin::File;
                self.tell();
            }
            Ok(None) => {}
            Err(error) => tracing::warn!("read the known pods from {}: {error}", path.display()),
        }
    }

    fn tell_problem(&mut self, error: &WatchError) {
        let known = match self.origin {
            Origin::Nobody => "no pod is known yet, so none is recorded",
            Origin::File => "going on with the pods that were known before the restart",
            Origin::ApiServer => "going on with the last known pods",
        };
        self.problem = Some(format!("watch the pods of node {}: {error}; {known}", self.node));
        self.tell();
    }

    fn tell_all_is_well(&mut self) {
        self.problem = None;
        self.tell();
    }

    /// Readers wake only when something changed that they can see.
    fn tell(&mut self) {
        self.known.forget(Instant::now());
        let pods = self.known.facts();
        let snapshot = PodSnapshot { pods, origin: self.origin, problem: self.problem.clone() };
        self.sender.send_if_modified(|told| {
            let changed = **told != snapshot;
            if changed {
                *told = Arc::new(snapshot);
            }
            changed
        });
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
