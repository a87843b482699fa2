//! All agents of a cluster, asked at once.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use futures::{StreamExt as _, stream};
use kuberewind_cluster::agents::{self, Agent, Health};
use kuberewind_cluster::portforward::{self, Patience};
use kuberewind_cluster::{Access, ClusterError, names};
use tokio::time::sleep;

use crate::client::Session;

/// How many agents are asked at a time, where the user does not say.
pub(super) const AT_A_TIME: usize = 16;

/// How often an agent is tried whose session breaks.
const TRIES: u32 = 3;

/// Before the second try; then twice as long each.
const PAUSE: Duration = Duration::from_millis(200);

/// The agents of a cluster, one a node.
pub(super) struct Fleet {
    access: Access,
    agents: Vec<Agent>,
    desired: Option<usize>,
    patience: Patience,
    tries: u32,
}

impl Fleet {
    /// Lists the agents of the release.
    ///
    /// # Errors
    /// That it is not installed, or the right that is missing.
    pub(super) async fn list(access: &Access, namespace: &str) -> Result<Self, ClusterError> {
        let found = agents::list(access, namespace).await?;
        Ok(Self {
            access: access.clone(),
            agents: found.agents,
            desired: found.desired,
            patience: Patience::default(),
            tries: TRIES,
        })
    }

    /// Those that there are, ready or not, by node.
    pub(super) fn agents(&self) -> &[Agent] {
        &self.agents
    }

    /// How many nodes should have an agent and have none; none if nobody may tell us.
    pub(super) fn absent(&self) -> Option<usize> {
        self.desired.map(|desired| desired.saturating_sub(self.agents.len()))
    }

    /// Only some of the agents.
    pub(super) fn only(mut self, keep: impl Fn(&Agent) -> bool) -> Self {
        self.agents.retain(keep);
        self
    }

    /// How long to wait for a session, and for an agent that says nothing.
    pub(super) fn with_patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// How often an agent is tried whose session breaks.
    pub(super) fn with_tries(mut self, tries: u32) -> Self {
        self.tries = tries;
        self
    }

    /// Asks every agent over a session of its own, at most `limit` at a time; the answers by node. A
    /// session that breaks is tried again from its beginning, with whatever pod is the node's agent
    /// then, so `question` may run more than once for a node. One that cannot be asked answers with
    /// what is wrong with it.
    pub(super) async fn ask<T>(
        &self,
        limit: usize,
        question: impl AsyncFn(Session, &Agent) -> anyhow::Result<T>,
    ) -> Vec<(Agent, anyhow::Result<T>)> {
        let question = &question;
        let asked = stream::iter(&self.agents)
            .map(|agent| self.ask_one(agent.clone(), question))
            .buffer_unordered(limit.max(1));
        let mut answers: Vec<_> = asked.collect().await;
        answers.sort_by(|(a, _), (b, _)| a.node.cmp(&b.node));
        answers
    }

    async fn ask_one<T>(
        &self,
        mut agent: Agent,
        question: &impl AsyncFn(Session, &Agent) -> anyhow::Result<T>,
    ) -> (Agent, anyhow::Result<T>) {
        // One that is not ready may hold what is asked for although it cannot record now.
        let tries = if agent.health == Health::Ready { self.tries } else { 1 };
        let mut pause = PAUSE;
        let mut asked = 0;
        loop {
            if !matches!(agent.health, Health::Ready | Health::NotReady) {
                let health = anyhow!("{}", agent.health);
                return (agent, Err(health));
            }
            asked += 1;
            match self.try_one(&agent, question).await {
                Err(error) if asked < tries && is_broken(&error) => {
                    tracing::debug!("{}: {error:#}; trying again", agent.node);
                    sleep(pause).await;
                    pause *= 2;
                    let found = agents::on_node(&self.access, &agent.namespace, &agent.node).await;
                    agent = found.ok().flatten().unwrap_or(agent);
                }
                answer if agent.health == Health::Ready => return (agent, answer),
                answer => {
                    let health = agent.health.to_string();
                    return (agent, answer.context(health));
                }
            }
        }
    }

    async fn try_one<T>(
        &self,
        agent: &Agent,
        question: &impl AsyncFn(Session, &Agent) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let port = names::API_PORT;
        let Agent { namespace, pod, .. } = agent;
        let forward =
            portforward::connect(&self.access, namespace, pod, port, self.patience).await?;
        question(Session::over(forward).await?, agent).await
    }
}

/// Whether another session may do better: the way to the agent failed, it did not answer no.
fn is_broken(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<std::io::Error>()
            || cause.is::<hyper::Error>()
            || cause.is::<tokio::time::error::Elapsed>()
            || cause.downcast_ref::<ClusterError>().is_some_and(is_passing)
    })
}

fn is_passing(error: &ClusterError) -> bool {
    matches!(
        error,
        ClusterError::Unreachable { .. }
            | ClusterError::Slow { .. }
            | ClusterError::Stream { .. }
            | ClusterError::Answer { .. }
            // The pod: an update has replaced it since it was listed.
            | ClusterError::NotFound { .. }
            | ClusterError::Status { code: 429 | 500.., .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_session_is_tried_again_and_a_no_is_not() {
        let cut = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        assert!(is_broken(&anyhow::Error::new(cut).context("the recorder did not answer")));
        let doing = String::from("forward port 1 of pod a/b");
        let slow = ClusterError::Slow { doing: doing.clone(), seconds: 1 };
        assert!(is_broken(&slow.into()));
        let gone = ClusterError::NotFound { doing, message: "pods \"b\" not found".into() };
        assert!(is_broken(&gone.into()));
        assert!(!is_broken(&anyhow!("nothing is recorded yet")));
    }
}
