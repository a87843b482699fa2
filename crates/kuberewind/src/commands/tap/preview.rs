//! `tap --dry-run`: which pods would be recorded, or the objects that would be applied.

use std::collections::BTreeMap;

use anyhow::Context as _;
use comfy_table::{CellAlignment, Table, presets};
use kuberewind_cluster::apply::{self, Applied, ApplyOptions, Change};
use kuberewind_cluster::release::{self, PodOnNode};
use kuberewind_cluster::{ClusterError, chart};
use kuberewind_export::figures;
use kuberewind_filter::{Candidate, TargetRules, Verdict};
use serde_json::{Value, json};

use super::super::cluster::Cluster;
use super::cluster::{has_namespace, hinted};
use super::planned::Planned;
use super::report;
use crate::cli::OutputArg;
use crate::exit::Exit;

/// More names of a namespace are only counted.
const MOST_NAMES: usize = 8;

/// Shows what `tap` would do, and does nothing.
pub(super) fn show(
    cluster: &Cluster,
    planned: &Planned,
    output: Option<OutputArg>,
) -> anyhow::Result<Exit> {
    for note in &planned.notes {
        anstream::eprintln!("note: {note}");
    }
    match output {
        Some(format) => print!("{}", manifests(&cluster.namespace, &planned.objects, format)?),
        None => preview(cluster, planned)?,
    }
    Ok(Exit::Complete)
}

/// The namespace, and what Helm would render, in its order.
fn manifests(namespace: &str, objects: &[Value], format: OutputArg) -> anyhow::Result<String> {
    let mut all = vec![chart::namespace(namespace)];
    all.extend_from_slice(objects);
    match format {
        OutputArg::Json => {
            let list = json!({ "apiVersion": "v1", "kind": "List", "items": all });
            Ok(serde_json::to_string_pretty(&list).context("write the objects as JSON")? + "\n")
        }
        OutputArg::Yaml => {
            let text =
                |object| serde_saphyr::to_string(object).context("write the objects as YAML");
            let texts: anyhow::Result<Vec<String>> = all.iter().map(text).collect();
            let documents: Vec<String> =
                texts?.iter().map(|text| format!("---\n{}\n", text.trim_end())).collect();
            Ok(documents.concat())
        }
    }
}

fn preview(cluster: &Cluster, planned: &Planned) -> anyhow::Result<()> {
    if let Some(line) = planned.helm(&cluster.namespace) {
        anstream::eprintln!(
            "note: Helm manages this release; tap would refuse it. With Helm:\n  {line}"
        );
    }
    for change in planned.changes() {
        anstream::println!("  {change}");
    }
    let notes = [planned.replaces(), planned.left_behind(), planned.overridden()];
    for note in notes.into_iter().flatten() {
        anstream::eprintln!("note: {note}");
    }
    let pods = pods(cluster, planned)?;
    anstream::print!("{}", Targets::judge(&pods, &planned.rules).text());
    if planned.rules.whole_node() {
        anstream::println!(
            "and every node's own network; of all of it, the packets that tap.bpfOverride takes"
        );
    }
    if let Some(note) = planned.stopped() {
        anstream::eprintln!("note: {note}");
    }
    validate(cluster, planned)
}

/// All pods; where that is not allowed, those of the namespaces that are to be recorded.
fn pods(cluster: &Cluster, planned: &Planned) -> anyhow::Result<Vec<PodOnNode>> {
    let access = &cluster.access;
    let chosen = planned.settings.config().tap.namespaces.names();
    cluster.runtime.block_on(async {
        match release::pods(access, None).await {
            Err(ClusterError::Forbidden { .. }) if !chosen.is_empty() => {
                let mut pods = Vec::new();
                for namespace in chosen {
                    pods.extend(release::pods(access, Some(namespace)).await?);
                }
                Ok(pods)
            }
            listed => Ok(listed?),
        }
    })
}

/// Names by namespace, and counts by namespace and reason.
#[derive(Debug, Default, PartialEq, Eq)]
struct Targets {
    recorded: BTreeMap<String, Vec<String>>,
    others: BTreeMap<(String, String), u64>,
}

impl Targets {
    fn judge(pods: &[PodOnNode], rules: &TargetRules) -> Self {
        let mut targets = Self::default();
        for PodOnNode { facts, .. } in pods.iter().filter(|pod| !pod.facts.finished()) {
            let candidate = Candidate {
                namespace: &facts.namespace,
                name: &facts.name,
                host_network: facts.host_network,
                labels: &facts.labels,
            };
            match rules.verdict(&candidate) {
                Verdict::Record => {
                    targets
                        .recorded
                        .entry(facts.namespace.clone())
                        .or_default()
                        .push(facts.name.clone());
                }
                Verdict::Skip(reason) => {
                    let why = (facts.namespace.clone(), reason.to_string());
                    *targets.others.entry(why).or_default() += 1;
                }
            }
        }
        targets.recorded.values_mut().for_each(|names| names.sort());
        targets
    }

    fn text(&self) -> String {
        let recorded: u64 = self.recorded.values().map(|names| names.len() as u64).sum();
        let all = recorded + self.others.values().sum::<u64>();
        let mut text = format!(
            "{} of {} pods would be recorded\n",
            figures::count(recorded),
            figures::count(all)
        );
        if !self.recorded.is_empty() {
            let row = |(namespace, names): (&String, &Vec<String>)| {
                [namespace.clone(), names.len().to_string(), shortened(names)]
            };
            let rows = self.recorded.iter().map(row);
            text = format!("{text}{}\n", table(["NAMESPACE", "PODS", "NAMES"], rows).trim_fmt());
        }
        if !self.others.is_empty() {
            let row = |((namespace, why), count): (&(String, String), &u64)| {
                [namespace.clone(), count.to_string(), why.clone()]
            };
            let rows = self.others.iter().map(row);
            text = format!("{text}{}\n", table(["NOT RECORDED", "PODS", "WHY"], rows).trim_fmt());
        }
        text
    }
}

/// `cart-1, cart-2 and 5 more`.
fn shortened(names: &[String]) -> String {
    let first = names[..names.len().min(MOST_NAMES)].join(", ");
    match names.len().saturating_sub(MOST_NAMES) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

fn table(header: [&str; 3], rows: impl Iterator<Item = [String; 3]>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.add_rows(rows);
    table
}

/// Lets the API server check the objects, where it can and we may.
fn validate(cluster: &Cluster, planned: &Planned) -> anyhow::Result<()> {
    let Cluster { runtime, access, namespace } = cluster;
    let exists = runtime.block_on(has_namespace(access, namespace))?;
    let mut objects = planned.objects.clone();
    if !exists {
        // What belongs into a namespace cannot be checked before it is there.
        objects.retain(|object| object["metadata"]["namespace"].is_null());
        objects.insert(0, chart::namespace(namespace));
    }
    let mut changes: BTreeMap<&str, u64> = BTreeMap::new();
    let tell = |applied: &Applied| {
        let word = match applied.change {
            Change::Created => "created",
            Change::Changed => "changed",
            Change::Unchanged => "left as they are",
        };
        *changes.entry(word).or_default() += 1;
        for warning in &applied.warnings {
            anstream::eprintln!("warning: {}: {warning}", report::full_name(applied));
        }
    };
    let options = ApplyOptions { dry_run: true, force: false };
    let objects = apply::objects(&objects)?;
    match runtime.block_on(apply::apply(access, namespace, &objects, options, tell)) {
        Ok(()) => {}
        Err(error @ ClusterError::Forbidden { .. }) => {
            anstream::eprintln!("note: the objects were not checked: {error}");
            return Ok(());
        }
        Err(error) => return Err(hinted(error)),
    }
    let told: Vec<_> = changes.iter().map(|(word, count)| format!("{count} {word}")).collect();
    let unchecked = planned.objects.len() + 1 - objects.len();
    let unchecked = match (exists, unchecked) {
        (false, more) if more > 0 => {
            format!("; {more} more go into namespace {namespace}, which is not there yet")
        }
        _ => String::new(),
    };
    anstream::println!(
        "objects that would be: {}{unchecked}; nothing was changed",
        told.join(", ")
    );
    Ok(())
}
