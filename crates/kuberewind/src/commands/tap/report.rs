//! What `tap` says of objects, nodes and pods.

use comfy_table::{CellAlignment, Table, presets};
use kuberewind_cluster::Right;
use kuberewind_cluster::agents::Agent;
use kuberewind_cluster::apply::{Applied, Change};
use kuberewind_cluster::rollout::{Rollout, Waiting};
use kuberewind_export::figures;

use crate::agent::{Health, Status};

/// More pods are only counted.
const MOST_PODS: usize = 20;

/// What is known of the agents.
pub(super) enum Told {
    /// Nothing: we may not reach them.
    NotAllowed(Right),
    /// By node.
    Agents(Vec<(Agent, anyhow::Result<Status>)>),
}

/// `created DaemonSet kuberewind/kuberewind-agent`, and what the server warns of.
pub(super) fn applied(applied: &Applied) {
    let verb = match applied.change {
        Change::Created => Some("created"),
        Change::Changed => Some("changed"),
        Change::Unchanged => None,
    };
    let name = full_name(applied);
    if let Some(verb) = verb {
        anstream::eprintln!("{verb} {name}");
    }
    for warning in &applied.warnings {
        anstream::eprintln!("warning: {name}: {warning}");
    }
}

/// `DaemonSet kuberewind/kuberewind-agent`.
pub(super) fn full_name(applied: &Applied) -> String {
    match &applied.namespace {
        Some(namespace) => format!("{} {namespace}/{}", applied.kind, applied.name),
        None => format!("{} {}", applied.kind, applied.name),
    }
}

/// What is wrong with the rollout, one line each.
pub(super) fn rollout(rollout: &Rollout, namespace: &str) -> Vec<String> {
    let mut lines = Vec::new();
    if !rollout.observed {
        lines.push("the cluster's controllers have not acted on the DaemonSet in time".to_owned());
    }
    for (node, why) in &rollout.waiting {
        lines.push(match why {
            Waiting::Old => {
                format!("node {node} is recorded by the agent from before: its turn has not come")
            }
            why if why.is_recorded() => {
                format!("node {node} is still recorded by the agent from before: {why}")
            }
            why => format!("node {node} does not record: {why}"),
        });
    }
    for why in &rollout.refusals {
        lines.push(format!("the API server refuses the agents' pods: {why}"));
        if why.contains("PodSecurity") {
            lines.push(format!(
                "  an administrator can allow them: kubectl label namespace {namespace} pod-security.kubernetes.io/enforce=privileged --overwrite"
            ));
        }
    }
    for (node, why) in &rollout.not_ready_nodes {
        lines.push(format!("node {node} is not ready and not waited for: {why}"));
    }
    for (node, why) in &rollout.passed_over {
        lines.push(format!("node {node} has no agent: {why}"));
    }
    lines
}

/// Prints the nodes and the pods that they record; true if a node that should record does not.
pub(super) fn show(told: &Told, rollout: &Rollout) -> bool {
    match told {
        Told::NotAllowed(right) => {
            for node in &rollout.ready {
                anstream::println!("{node}: an agent is ready");
            }
            anstream::eprintln!(
                "which pods are recorded is not known: asking the agents needs the right {right}"
            );
            false
        }
        Told::Agents(answers) => {
            let rows: Vec<Row> = answers.iter().map(Row::of).collect();
            anstream::println!("{}", table(&rows).trim_fmt());
            let lines = pods(answers);
            for line in &lines {
                anstream::println!("{line}");
            }
            // Those whose own node is not ready are not waited for.
            let counts = |row: &&Row| !rollout.not_ready_nodes.contains_key(row.node);
            rows.iter().filter(counts).any(|row| row.failing)
        }
    }
}

struct Row<'a> {
    node: &'a str,
    pods: String,
    problem: String,
    failing: bool,
}

impl<'a> Row<'a> {
    fn of((agent, answer): &'a (Agent, anyhow::Result<Status>)) -> Self {
        let node = agent.node.as_str();
        match answer {
            Err(error) => Self {
                node,
                pods: "?".to_owned(),
                problem: crate::exit::one_line(error),
                failing: true,
            },
            Ok(status) => {
                let (problem, failing) = problem(status);
                Self { node, pods: pod_count(status), problem, failing }
            }
        }
    }
}

/// `12`, or `12 (+3 starting)`.
pub(in super::super) fn pod_count(status: &Status) -> String {
    status.pods.as_ref().map_or_else(String::new, |pods| {
        let recorded = figures::count(pods.recorded.len() as u64);
        match pods.waiting {
            0 => recorded,
            waiting => format!("{recorded} (+{waiting} starting)"),
        }
    })
}

/// What is wrong with a node's recording, and whether packets are missed for it.
pub(in super::super) fn problem(status: &Status) -> (String, bool) {
    match status.health() {
        // A node without pods of interest is well.
        Health::Failing(why) if !is_idle(status) => (format!("NOT RECORDING: {why}"), true),
        _ => (status.problems.join("; "), !status.problems.is_empty()),
    }
}

/// Whether there is nothing on the node that should be recorded.
fn is_idle(status: &Status) -> bool {
    let pods = status.pods.as_ref();
    status.namespaces.is_empty()
        && pods.is_some_and(|pods| pods.recorded.is_empty() && pods.waiting == 0)
}

fn table(rows: &[Row<'_>]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["NODE", "PODS", "PROBLEM"]);
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for row in rows {
        table.add_row([row.node, &row.pods, &row.problem]);
    }
    table
}

/// The pods that are recorded, the first of them by name.
fn pods(answers: &[(Agent, anyhow::Result<Status>)]) -> Vec<String> {
    let mut names: Vec<String> = answers
        .iter()
        .filter_map(|(agent, answer)| Some((agent, answer.as_ref().ok()?.pods.as_ref()?)))
        .flat_map(|(agent, pods)| {
            let name = |pod: &kuberewind_packet::Pod| {
                format!("  {}/{} on {}", pod.namespace, pod.name, agent.node)
            };
            pods.recorded.iter().map(name).collect::<Vec<_>>()
        })
        .collect();
    names.sort();
    let all = names.len();
    let mut lines = vec![match all {
        0 => "no pod is recorded now".to_owned(),
        1 => "1 pod is recorded:".to_owned(),
        _ => format!("{} pods are recorded:", figures::count(all as u64)),
    }];
    lines.extend(names.into_iter().take(MOST_PODS));
    if all > MOST_PODS {
        lines.push(format!("  and {} more (kuberewind status --json names all)", all - MOST_PODS));
    }
    lines
}
