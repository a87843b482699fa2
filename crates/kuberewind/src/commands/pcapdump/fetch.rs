//! Windows fetched from many nodes at a time, each until it is whole.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{anyhow, ensure};
use hyper::body::Incoming;
use kuberewind_cluster::agents::{self, Agent};
use kuberewind_cluster::portforward::{self, Patience};
use kuberewind_cluster::{Access, ClusterError, names};
use kuberewind_export::{Survey, SurveyLimits, figures};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::agent::WindowQuery;
use crate::client::{NothingRecorded, Outdated, Session};
use crate::exit::{Usage, one_line};

use super::plan::Part;
use super::spool::{Arrived, Fetched, Into, Spool, SpoolError, take_in};

/// Before a node is asked again. An agent that is updated is back in seconds; its recording stays.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(4)];

/// A stream that brought so many bytes before it broke is not about to be given up: so large a window over
/// a way that breaks now and then comes home, too.
const PROGRESS: u64 = 16 << 20;

/// Where windows come from and go to.
pub(super) struct Fetcher {
    pub(super) access: Access,
    pub(super) namespace: String,
    /// Whom to ask by which node.
    pub(super) agents: Vec<Agent>,
    pub(super) patience: Patience,
    /// Everything but the times.
    pub(super) query: WindowQuery,
    /// Where spool files lie.
    pub(super) dir: PathBuf,
    /// What may be kept of each node's packets to find those that others have, too; none where all
    /// shall be in the file.
    pub(super) survey: Option<SurveyLimits>,
    pub(super) stop: watch::Receiver<bool>,
}

/// What came of one node.
pub(super) struct Outcome {
    pub(super) node: String,
    /// How often its stream broke.
    pub(super) retries: u32,
    /// Its packets, or why there are none.
    pub(super) fetched: Result<Fetched, String>,
}

impl Outcome {
    /// Why it is not whole.
    pub(super) fn failure(&self) -> Option<&str> {
        match &self.fetched {
            Ok(fetched) => fetched.failure(),
            Err(why) => Some(why),
        }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.failure().is_none()
    }
}

/// Why no node is fetched any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error(
        "spool {node}'s window in {dir}: {source}; {}",
        if *.temporary { "make room there, or name another directory in TMPDIR" }
        else { "make room there, or choose another --dest" }
    )]
    Spool { node: String, dir: String, temporary: bool, source: std::io::Error },
    #[error("stopped before it was finished; nothing was written")]
    Stopped,
}

/// How an attempt ended that did not bring all.
enum Failure {
    Fatal(FetchError),
    Final(anyhow::Error),
    Passing(anyhow::Error),
}

impl Fetcher {
    /// Fetches all parts, `limit` at a time, begun in their order.
    pub(super) async fn fetch_all(
        self: Arc<Self>,
        parts: Vec<(Part, Arc<Arrived>)>,
        limit: usize,
    ) -> Result<Vec<Outcome>, FetchError> {
        let places = Arc::new(Semaphore::new(limit));
        let mut running = JoinSet::new();
        let mut outcomes = Vec::new();
        for (part, arrived) in parts {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
            let fetcher = Arc::clone(&self);
            running.spawn(async move {
                let outcome = fetcher.fetch(part, &arrived).await;
                arrived.done.store(true, Ordering::Relaxed);
                drop(place);
                outcome
            });
            while let Some(done) = running.try_join_next() {
                outcomes.push(done.map_err(|_| FetchError::Stopped)??);
            }
        }
        while let Some(done) = running.join_next().await {
            outcomes.push(done.map_err(|_| FetchError::Stopped)??);
        }
        Ok(outcomes)
    }

    /// Asks a node until its window is whole or it has failed too often; then what came of it at
    /// best.
    async fn fetch(&self, part: Part, arrived: &Arc<Arrived>) -> Result<Outcome, FetchError> {
        let mut agent = self.agents.iter().find(|agent| agent.node == part.node).cloned();
        let mut best: Option<Spool> = None;
        let mut pauses = PAUSES.into_iter();
        let mut retries = 0;
        loop {
            let known = best.as_ref().map_or(0, Spool::known);
            let (spool, ended) = self.attempt(&part, agent.as_ref(), arrived, &mut best).await;
            let better = |best: &Option<Spool>, new: &Spool| {
                best.as_ref().is_none_or(|best| new.packets >= best.packets)
            };
            let node = part.node.clone();
            let error = match ended {
                Ok(()) => {
                    let fetched = match spool {
                        Some(spool) => {
                            Fetched::from_spool(spool, None).map_err(|error| error.to_string())
                        }
                        None => Ok(Fetched::nothing(node.clone(), part.to)),
                    };
                    return Ok(Outcome { node, retries, fetched });
                }
                Err(Failure::Fatal(error)) => return Err(error),
                Err(Failure::Final(error)) => return Ok(given_up(node, retries, best, &error)),
                Err(Failure::Passing(error)) => error,
            };
            if spool.as_ref().is_some_and(|spool| spool.known() >= known + PROGRESS) {
                pauses = PAUSES.into_iter();
            }
            if let Some(spool) = spool
                && better(&best, &spool)
            {
                best = Some(spool);
            }
            // Waiting for somebody who is silent took long enough to count twice.
            let pause = if is_silence(&error) { pauses.nth(1) } else { pauses.next() };
            let Some(pause) = pause else {
                return Ok(given_up(node, retries, best, &error));
            };
            tracing::debug!("{node}: {error:#}; asking again");
            self.pause(pause).await?;
            retries += 1;
            let found = agents::on_node(&self.access, &self.namespace, &node).await;
            agent = found.ok().flatten().or(agent);
        }
    }

    async fn pause(&self, pause: Duration) -> Result<(), FetchError> {
        let mut stop = self.stop.clone();
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            _ = stop.wait_for(|stopped| *stopped) => Err(FetchError::Stopped),
        }
    }

    /// Asks once, for what is not in `best` yet where that is right as far as it goes.
    async fn attempt(
        &self,
        part: &Part,
        agent: Option<&Agent>,
        arrived: &Arc<Arrived>,
        best: &mut Option<Spool>,
    ) -> (Option<Spool>, Result<(), Failure>) {
        let Some(agent) = agent else {
            return (None, Err(Failure::Passing(anyhow!("it has no agent any more"))));
        };
        let mut stop = self.stop.clone();
        let session = tokio::select! {
            session = self.open(part, agent, best.as_ref().map_or(0, Spool::known)) => session,
            _ = stop.wait_for(|stopped| *stopped) => {
                return (None, Err(Failure::Fatal(FetchError::Stopped)));
            }
        };
        let (skipped, body) = match session {
            Ok(answer) => answer,
            Err(error) if error.is::<NothingRecorded>() => return (None, Ok(())),
            Err(error) => return (None, Err(weigh(error))),
        };
        let into = match best.take_if(|_| skipped > 0) {
            Some(first_part) => first_part.go_on(),
            None => match Into::new(&self.dir) {
                Ok(empty) => empty,
                Err(error) => return (None, Err(self.failure(part, error))),
            },
        };
        let (arrived, runtime) = (Arc::clone(arrived), Handle::current());
        let survey = self.survey.map(|limits| Survey::new(limits, &self.dir));
        let taken = tokio::task::spawn_blocking(move || {
            take_in(body, runtime, into, arrived, stop, survey)
        });
        let Ok((spool, ended)) = taken.await else {
            return (None, Err(Failure::Fatal(FetchError::Stopped)));
        };
        (spool, ended.map_err(|error| self.failure(part, error)))
    }

    fn failure(&self, part: &Part, error: SpoolError) -> Failure {
        match error {
            SpoolError::Stopped => Failure::Fatal(FetchError::Stopped),
            SpoolError::File(source) => Failure::Fatal(FetchError::Spool {
                node: part.node.clone(),
                dir: self.dir.display().to_string(),
                temporary: self.dir == std::env::temp_dir(),
                source,
            }),
            SpoolError::Stream(error) => Failure::Passing(error.into()),
        }
    }

    /// The window's stream, and how many of the `known` bytes are left out of it: all or none.
    async fn open(
        &self,
        part: &Part,
        agent: &Agent,
        known: u64,
    ) -> anyhow::Result<(u64, Incoming)> {
        let Agent { namespace, pod, .. } = agent;
        let forward =
            portforward::connect(&self.access, namespace, pod, names::API_PORT, self.patience);
        let session = Session::over(forward.await?).await?;
        let query = WindowQuery { from: part.from, to: Some(part.to), ..self.query.clone() };
        let (skipped, body) = session.rest_of_window(&query, known).await?;
        ensure!(skipped == 0 || skipped == known, "it left out {skipped} bytes instead of {known}");
        Ok((skipped, body))
    }
}

fn is_silence(error: &anyhow::Error) -> bool {
    let timed_out = |error: &std::io::Error| error.kind() == std::io::ErrorKind::TimedOut;
    error.chain().any(|cause| {
        cause.downcast_ref().is_some_and(timed_out)
            || matches!(cause.downcast_ref(), Some(ClusterError::Slow { .. }))
    })
}

/// Whether asking again may help.
fn weigh(error: anyhow::Error) -> Failure {
    if let Some(outdated) = error.downcast_ref::<Outdated>() {
        return Failure::Final(anyhow!("{outdated}; upgrade it with `kuberewind tap`"));
    }
    // The command line has found it to be right before anybody was asked.
    if let Some(usage) = error.downcast_ref::<Usage>() {
        return Failure::Final(anyhow!(
            "its agent, of another version, does not understand what it is asked for: {usage}; \
             upgrade it with `kuberewind tap`"
        ));
    }
    match error.downcast_ref::<ClusterError>() {
        Some(
            ClusterError::Forbidden { .. }
            | ClusterError::Unauthorized { .. }
            | ClusterError::Policy { .. },
        ) => Failure::Final(error),
        _ => Failure::Passing(error),
    }
}

/// A node that failed to the last. What came of its window in the best attempt is kept: a node that
/// dies is the one that matters.
fn given_up(node: String, retries: u32, best: Option<Spool>, error: &anyhow::Error) -> Outcome {
    let mut why = one_line(error);
    if retries > 0 {
        why = format!("{why}; asked {} times", figures::count(u64::from(retries) + 1));
    }
    let part = best.filter(|spool| spool.packets > 0);
    let fetched = match part.map(|spool| Fetched::from_spool(spool, Some(why.clone()))) {
        Some(Ok(fetched)) => Ok(fetched),
        Some(Err(_)) | None => Err(why),
    };
    Outcome { node, retries, fetched }
}
