//! On a cluster: one line a node.

use std::time::Duration;

use anyhow::Context as _;
use comfy_table::{CellAlignment, Table, presets};
use kuberewind_cluster::agents::Agent;
use kuberewind_cluster::portforward::{self, Patience};
use kuberewind_cluster::rollout::{self, Rollout, Waiting};
use kuberewind_cluster::{Access, ClusterError, names};
use kuberewind_export::figures;
use serde_json::{Value, json};

use super::super::cluster::Cluster;
use super::super::fleet::{AT_A_TIME, Fleet};
use super::super::{advice, coverage, tap};
use crate::agent::Status;
use crate::cli::StatusArgs;
use crate::exit::{Exit, one_line};

/// An agent answers at once, or something is wrong with the way to it.
const PATIENCE: Patience =
    Patience { connect: Duration::from_secs(5), silence: Duration::from_secs(5) };

/// Shows what the agents say of themselves. Exit codes: 0 all record, 3 some do not, 1 none can be asked.
pub(super) fn status(args: &StatusArgs) -> anyhow::Result<Exit> {
    let cluster = Cluster::open(&args.cluster, "see this machine's recorder")?;
    let Cluster { runtime, access, namespace } = &cluster;
    let nodes = runtime.block_on(look(access, namespace))?;
    if args.json {
        let all: Vec<Value> = nodes.list.iter().map(Node::json).collect();
        let text = serde_json::to_string_pretty(&all).context("write JSON")?;
        anstream::println!("{text}");
    } else {
        anstream::println!("{}", table(&nodes.list));
        for line in notes(&nodes) {
            anstream::println!("{line}");
        }
    }
    Ok(nodes.exit())
}

/// What is known of the nodes.
struct Nodes {
    list: Vec<Node>,
    /// Nodes that should have an agent and have none, if we may not see which.
    absent: usize,
    /// Nodes that nobody wants an agent on, with the reason.
    passed_over: Vec<(String, String)>,
}

/// A node that should record.
struct Node {
    name: String,
    agent: Option<Agent>,
    answer: Result<Status, String>,
}

async fn look(access: &Access, namespace: &str) -> anyhow::Result<Nodes> {
    let fleet = Fleet::list(access, namespace).await?.with_patience(PATIENCE).with_tries(2);
    portforward::review(access, namespace).await?;
    let asked = fleet.ask(AT_A_TIME, async |mut session, _| session.status().await);
    let (answers, rollout) =
        tokio::join!(asked, rollout::look(access, namespace, names::DAEMONSET));
    let node = |(agent, answer): (Agent, anyhow::Result<Status>)| Node {
        name: agent.node.clone(),
        agent: Some(agent),
        answer: answer.map_err(|error| one_line(&error)),
    };
    let mut list: Vec<Node> = answers.into_iter().map(node).collect();
    let (absent, passed_over) = match rollout {
        Ok(rollout) => {
            let without = without_agent(&rollout, &list);
            list.extend(without);
            (0, rollout.passed_over.into_iter().collect())
        }
        // Seeing nodes is no right of those who only export.
        Err(ClusterError::Forbidden { .. } | ClusterError::NotFound { .. }) => {
            (fleet.absent().unwrap_or(0), Vec::new())
        }
        Err(error) => return Err(error.into()),
    };
    list.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Nodes { list, absent, passed_over })
}

/// Nodes that should have an agent and have none, each with the reason.
fn without_agent(rollout: &Rollout, known: &[Node]) -> Vec<Node> {
    let refusal = rollout.refusals.first();
    let waiting = rollout.waiting.iter().map(|(name, why)| match (why, refusal) {
        (Waiting::NoPod, Some(refusal)) => (name, format!("{why}: {refusal}")),
        _ => (name, why.to_string()),
    });
    let down = rollout.not_ready_nodes.iter();
    let down = down.map(|(name, why)| (name, format!("no agent; the node is not ready: {why}")));
    let is_new = |(name, _): &(&String, String)| !known.iter().any(|node| node.name == **name);
    let node =
        |(name, why): (&String, String)| Node { name: name.clone(), agent: None, answer: Err(why) };
    waiting.chain(down).filter(is_new).map(node).collect()
}

impl Node {
    fn json(&self) -> Value {
        let mut value = json!({
            "node": self.name,
            "pod": self.agent.as_ref().map(|agent| &agent.pod),
            "recording": self.records(),
        });
        match &self.answer {
            Ok(status) => value["status"] = json!(status),
            Err(why) => value["error"] = json!(why),
        }
        value
    }

    fn records(&self) -> bool {
        let well = |status: &Status| status.recording && !tap::problem(status).1;
        self.answer.as_ref().is_ok_and(well)
    }

    fn row(&self) -> [String; 8] {
        let blank = String::new;
        let version = self.agent.as_ref().and_then(|agent| agent.version.clone());
        match &self.answer {
            Err(why) => [
                self.name.clone(),
                "?".to_owned(),
                blank(),
                blank(),
                blank(),
                blank(),
                version.unwrap_or_default(),
                why.clone(),
            ],
            Ok(status) => {
                let (problem, failing) = tap::problem(status);
                let recording = match (status.recording, failing) {
                    (false, _) => "stopped",
                    (true, true) => "NO",
                    (true, false) => "yes",
                };
                let held = status.held().map(|held| figures::duration(held.duration()));
                [
                    self.name.clone(),
                    recording.to_owned(),
                    tap::pod_count(status),
                    held.unwrap_or_else(|| "nothing yet".to_owned()),
                    format!(
                        "{} of {}",
                        figures::bytes(status.bytes_held),
                        figures::bytes(status.bounds.max_size)
                    ),
                    tap::losses(status).replacen("lost ", "", 1),
                    status.version.clone(),
                    problem,
                ]
            }
        }
    }
}

impl Nodes {
    fn exit(&self) -> Exit {
        if self.list.iter().all(|node| node.answer.is_err()) {
            Exit::Failed
        } else if self.absent == 0 && self.list.iter().all(Node::records) {
            Exit::Complete
        } else {
            Exit::Incomplete
        }
    }
}

fn table(nodes: &[Node]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["NODE", "RECORDING", "PODS", "HOLDS", "DISK", "LOST", "VERSION", "NOTE"]);
    for column in [2, 3, 5] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.add_rows(nodes.iter().map(Node::row));
    table
}

/// What does not fit into the table.
fn notes(nodes: &Nodes) -> Vec<String> {
    let statuses = || nodes.list.iter().filter_map(|node| node.answer.as_ref().ok());
    let mut lines: Vec<String> = statuses().filter_map(advice::recording).collect();
    if statuses().any(|status| !status.recording) {
        lines.push("`kuberewind pcapdump start` starts what is stopped".to_owned());
    }
    let mut filters: Vec<String> =
        statuses().flat_map(|status| status.filter.notes.iter().cloned()).collect();
    filters.sort();
    filters.dedup();
    lines.extend(filters);
    let tls: Vec<_> = statuses().filter_map(|status| status.tls.as_ref()).collect();
    if !tls.is_empty() {
        lines.push(coverage::summary(&tls));
        lines.extend(coverage::gaps(tls.iter().copied()));
        let problem = |status: &Status| {
            let tls = status.tls.as_ref()?;
            Some(format!("node {}: {}", status.node, tls.problems.first()?))
        };
        lines.extend(statuses().filter_map(problem));
    }
    if nodes.absent > 0 {
        lines.push(format!(
            "{} nodes have no agent; which ones takes the right to list nodes",
            nodes.absent
        ));
    }
    let passed_over = nodes.passed_over.iter();
    lines.extend(passed_over.map(|(node, why)| format!("node {node} has no agent: {why}")));
    lines
}
