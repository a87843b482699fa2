//! Waiting until every node records, and saying why one does not.
//!
//! [`judge`] decides from what the server told, purely; [`wait`] asks again until it is content or
//! the time is over.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{
        Event, Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration,
    },
};
use kube::{Api, api::ListParams};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    Access, ClusterError,
    access::right,
    agents::{self, Health},
};

/// How often the pods are looked at.
const EVERY: Duration = Duration::from_millis(500);

/// Nodes are large and change slowly.
const NODES_EVERY: Duration = Duration::from_secs(10);

/// What a rollout has come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rollout {
    /// Nodes whose agent is up to date and ready.
    pub ready: Vec<String>,
    /// Ready nodes that do not record yet, with the reason.
    pub waiting: BTreeMap<String, Waiting>,
    /// Nodes that are not `Ready` themselves: listed, not awaited.
    pub not_ready_nodes: BTreeMap<String, String>,
    /// Nodes that the daemonset passes over, with the reason: a taint, a selector.
    pub passed_over: BTreeMap<String, String>,
    /// Pods that the server refused to make, in its words.
    pub refusals: Vec<String>,
    /// Whether the controller has seen the daemonset as it is now.
    pub observed: bool,
}

/// Why a node does not record yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// No pod has been made for it: see [`Rollout::refusals`].
    NoPod,
    /// The old agent still records; the new pod waits for its turn.
    Old,
    /// The pod's state.
    Pod {
        /// Its name.
        name: String,
        /// How it is.
        health: Health,
        /// Whether the agent from before still records.
        old_records: bool,
    },
}

impl Waiting {
    /// Whether the node is recorded all the same, by the agent from before.
    pub const fn is_recorded(&self) -> bool {
        matches!(self, Self::Old | Self::Pod { old_records: true, .. })
    }
}

impl std::fmt::Display for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoPod => write!(f, "no pod was made"),
            Self::Old => write!(f, "still runs the agent from before"),
            Self::Pod { name, health, .. } => write!(f, "pod {name}: {health}"),
        }
    }
}

impl Rollout {
    /// Every Ready node records.
    pub fn is_complete(&self) -> bool {
        self.observed && self.waiting.is_empty()
    }
}

/// What the server told.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// The daemonset.
    pub set: &'a DaemonSet,
    /// Its pods, others are left out.
    pub pods: &'a [Pod],
    /// All nodes.
    pub nodes: &'a [Node],
    /// Events about the daemonset.
    pub events: &'a [Event],
}

/// Waits until every Ready node that the daemonset wants records, or `limit` is over: then the
/// rollout as it stands, which tells why. `changed` hears of each new standing.
///
/// # Errors
/// [`ClusterError`] if the server cannot be asked, unless it answered before and time is left.
pub async fn wait(
    access: &Access,
    namespace: &str,
    name: &str,
    limit: Duration,
    mut changed: impl FnMut(&Rollout),
) -> Result<Rollout, ClusterError> {
    let deadline = Instant::now() + limit;
    let mut asker = Asker::new(access, namespace, name);
    let mut last = None;
    loop {
        let answer = timeout_at(deadline + EVERY, asker.ask()).await;
        match answer {
            Ok(Ok(rollout)) => {
                if last.as_ref() != Some(&rollout) {
                    changed(&rollout);
                }
                if rollout.is_complete() {
                    return Ok(rollout);
                }
                last = Some(rollout);
            }
            // A server that restarts comes back; what is forbidden stays so.
            Ok(Err(error)) if last.is_none() || !passes(&error) => return Err(error),
            Ok(Err(_)) | Err(_) => {}
        }
        if Instant::now() >= deadline {
            return last.ok_or_else(|| ClusterError::Slow {
                doing: format!("wait for DaemonSet {namespace}/{name}"),
                seconds: limit.as_secs(),
            });
        }
        sleep(EVERY.min(deadline - Instant::now())).await;
    }
}

/// Where the rollout stands now.
///
/// # Errors
/// [`ClusterError`] if the server cannot be asked, or says no.
pub async fn look(access: &Access, namespace: &str, name: &str) -> Result<Rollout, ClusterError> {
    Asker::new(access, namespace, name).ask().await
}

fn passes(error: &ClusterError) -> bool {
    matches!(
        error,
        ClusterError::Unreachable { .. }
            | ClusterError::Status { .. }
            | ClusterError::Answer { .. }
    )
}

struct Asker<'a> {
    access: &'a Access,
    namespace: &'a str,
    name: &'a str,
    nodes: Option<(Instant, Vec<Node>)>,
}

impl<'a> Asker<'a> {
    fn new(access: &'a Access, namespace: &'a str, name: &'a str) -> Self {
        Self { access, namespace, name, nodes: None }
    }

    async fn ask(&mut self) -> Result<Rollout, ClusterError> {
        let (access, namespace) = (self.access, self.namespace);
        let doing = format!("watch DaemonSet {namespace}/{} come up", self.name);
        let told = |verb: &str, group: &str, resource: &str, namespace: Option<&str>, error| {
            access.explain(&doing, right(verb, group, resource, namespace), error)
        };
        let client = || access.client().clone();
        let sets: Api<DaemonSet> = Api::namespaced(client(), namespace);
        let set = sets
            .get(self.name)
            .await
            .map_err(|error| told("get", "apps", "daemonsets", Some(namespace), error))?;
        let pods: Api<Pod> = Api::namespaced(client(), namespace);
        let pods = pods
            .list(&ListParams::default().labels(&selector(&set)))
            .await
            .map_err(|error| told("list", "", "pods", Some(namespace), error))?;
        let fresh = self.nodes.as_ref().is_some_and(|(at, _)| at.elapsed() < NODES_EVERY);
        if !fresh {
            let nodes: Api<Node> = Api::all(client());
            let nodes = nodes.list(&ListParams::default()).await;
            let nodes = nodes.map_err(|error| told("list", "", "nodes", None, error))?;
            self.nodes = Some((Instant::now(), nodes.items));
        }
        let events = if wants_pods(&set) {
            let events: Api<Event> = Api::namespaced(client(), namespace);
            let about = format!("involvedObject.kind=DaemonSet,involvedObject.name={}", self.name);
            // Only the reason would be missing.
            let events = events.list(&ListParams::default().fields(&about)).await;
            events.map(|events| events.items).unwrap_or_default()
        } else {
            Vec::new()
        };
        Ok(judge(Observed {
            set: &set,
            pods: &pods.items,
            nodes: self.nodes.as_ref().map_or(&[], |(_, nodes)| nodes.as_slice()),
            events: &events,
        }))
    }
}

fn selector(set: &DaemonSet) -> String {
    let labels = set.spec.as_ref().and_then(|spec| spec.selector.match_labels.as_ref());
    let pairs: Vec<String> =
        labels.into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

/// Whether pods are missing that the controller should have made.
fn wants_pods(set: &DaemonSet) -> bool {
    let status = set.status.as_ref();
    status.is_none_or(|status| {
        status.current_number_scheduled < status.desired_number_scheduled
            || status.updated_number_scheduled.unwrap_or(0) < status.desired_number_scheduled
    })
}

/// Where the rollout stands.
pub fn judge(observed: Observed<'_>) -> Rollout {
    let mut rollout = Rollout { observed: is_observed(observed.set), ..Rollout::default() };
    let template = observed.set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    for node in observed.nodes {
        let name = node.metadata.name.clone().unwrap_or_default();
        if let Some(why) = template.and_then(|template| passes_over(template, node)) {
            rollout.passed_over.insert(name, why);
        } else if let Some(why) = not_ready(node) {
            rollout.not_ready_nodes.insert(name, why);
        } else {
            match standing(&observed, &name) {
                None => rollout.ready.push(name),
                Some(waiting) => {
                    rollout.waiting.insert(name, waiting);
                }
            }
        }
    }
    rollout.ready.sort();
    if !rollout.waiting.is_empty() {
        rollout.refusals = refusals(&observed);
    }
    rollout
}

fn is_observed(set: &DaemonSet) -> bool {
    let seen = set.status.as_ref().and_then(|status| status.observed_generation);
    seen.is_some() && seen >= set.metadata.generation
}

pub(crate) fn not_ready(node: &Node) -> Option<String> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    match ready {
        Some(condition) if condition.status == "True" => None,
        Some(condition) => Some(condition.message.clone().unwrap_or_else(|| "NotReady".into())),
        None => Some("never reported".into()),
    }
}

/// None if the node records; its newest pod counts.
fn standing(observed: &Observed<'_>, node: &str) -> Option<Waiting> {
    let uid = observed.set.metadata.uid.as_deref();
    let ours = observed.pods.iter().filter(|pod| {
        let owners = pod.metadata.owner_references.iter().flatten();
        owners.into_iter().any(|owner| Some(owner.uid.as_str()) == uid)
    });
    let here: Vec<&Pod> = ours.filter(|pod| agents::node_of(pod) == Some(node)).collect();
    let newest = here
        .iter()
        .filter(|pod| is_current(observed.set, pod))
        .map(|pod| (pod.metadata.name.clone().unwrap_or_default(), agents::health(pod)))
        .min_by_key(|(_, health)| *health == Health::Terminating);
    let is_ready = |pod: &&&Pod| agents::health(pod) == Health::Ready;
    let old_records = here.iter().filter(is_ready).any(|pod| !is_current(observed.set, pod));
    match newest {
        Some((_, Health::Ready)) => None,
        Some((name, health)) => Some(Waiting::Pod { name, health, old_records }),
        None if old_records => Some(Waiting::Old),
        None => Some(Waiting::NoPod),
    }
}

/// Whether a pod is made from the template as it is now: the controller counts templates.
fn is_current(set: &DaemonSet, pod: &Pod) -> bool {
    let annotations = set.metadata.annotations.as_ref();
    let wanted = annotations.and_then(|all| all.get("deprecated.daemonset.template.generation"));
    let labels = pod.metadata.labels.as_ref();
    let made = labels.and_then(|all| all.get("pod-template-generation"));
    if let (Some(wanted), Some(made)) = (wanted, made) {
        return wanted == made;
    }
    // Should the deprecated pair go away: the images tell most updates apart.
    let template = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    images(template) == images(pod.spec.as_ref())
}

fn images(spec: Option<&PodSpec>) -> Vec<Option<&str>> {
    let containers = spec.map_or(&[][..], |spec| spec.containers.as_slice());
    containers.iter().map(|container| container.image.as_deref()).collect()
}

/// The controller's words about pods that it could not make, newest first, each once.
fn refusals(observed: &Observed<'_>) -> Vec<String> {
    let uid = observed.set.metadata.uid.as_deref();
    let mut events: Vec<&Event> = observed
        .events
        .iter()
        .filter(|event| event.reason.as_deref() == Some("FailedCreate"))
        .filter(|event| event.involved_object.uid.as_deref() == uid)
        .collect();
    events.sort_by_key(|event| std::cmp::Reverse(event.last_timestamp.as_ref().map(|time| time.0)));
    let mut texts = Vec::new();
    for event in events {
        let message = event.message.as_deref().unwrap_or_default();
        // `Error creating: pods "kuberewind-agent-rnzv9" is forbidden: …`: the name differs each time.
        let why = message.split_once(" is forbidden: ").map_or(message, |(_, why)| why).to_owned();
        if !texts.contains(&why) {
            texts.push(why);
        }
    }
    texts
}

/// Why the daemonset passes over a node, weighed as its controller does.
pub(crate) fn passes_over(template: &PodSpec, node: &Node) -> Option<String> {
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let selector = template.node_selector.iter().flatten();
    if let Some((key, value)) =
        selector.into_iter().find(|(key, value)| labels.get(*key) != Some(value))
    {
        return Some(format!("not selected: lacks label {key}={value}"));
    }
    let affinity = template.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let name = node.metadata.name.as_deref().unwrap_or_default();
    if required.is_some_and(|required| {
        !required.node_selector_terms.iter().any(|term| holds(term, labels, name))
    }) {
        return Some("not selected by tap.nodeSelectorTerms".into());
    }
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let tolerations: Vec<&Toleration> = template.tolerations.iter().flatten().collect();
    let taint = taints.into_iter().flatten().find(|taint| !is_tolerated(taint, &tolerations))?;
    let value = taint.value.as_ref().map(|value| format!("={value}")).unwrap_or_default();
    Some(format!("taint {}{value}:{} is not tolerated (tap.tolerations)", taint.key, taint.effect))
}

fn holds(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let expressions = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    // A term without any requirement matches no node.
    let any = term.match_expressions.as_ref().is_some_and(|e| !e.is_empty())
        || term.match_fields.as_ref().is_some_and(|f| !f.is_empty());
    any && expressions.into_iter().all(|e| fulfils(e, labels.get(&e.key)))
        && fields
            .into_iter()
            .all(|f| f.key != "metadata.name" || fulfils(f, Some(&name.to_owned())))
}

fn fulfils(requirement: &NodeSelectorRequirement, found: Option<&String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or(&[]);
    let number = |text: Option<&String>| text.and_then(|text| text.parse::<i64>().ok());
    match requirement.operator.as_str() {
        "In" => found.is_some_and(|found| values.contains(found)),
        "NotIn" => !found.is_some_and(|found| values.contains(found)),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => number(found).zip(number(values.first())).is_some_and(|(found, than)| found > than),
        "Lt" => number(found).zip(number(values.first())).is_some_and(|(found, than)| found < than),
        _ => false,
    }
}

/// Taints that the controller tolerates for every daemonset are about the node's health.
fn is_tolerated(taint: &Taint, tolerations: &[&Toleration]) -> bool {
    let by_itself = matches!(
        taint.key.as_str(),
        "node.kubernetes.io/not-ready"
            | "node.kubernetes.io/unreachable"
            | "node.kubernetes.io/disk-pressure"
            | "node.kubernetes.io/memory-pressure"
            | "node.kubernetes.io/pid-pressure"
            | "node.kubernetes.io/unschedulable"
            | "node.kubernetes.io/network-unavailable"
    );
    by_itself
        || taint.effect == "PreferNoSchedule"
        || tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let word = |text: &Option<String>| text.clone().unwrap_or_default();
    let (key, effect) = (word(&toleration.key), word(&toleration.effect));
    (key.is_empty() || key == taint.key)
        && (effect.is_empty() || effect == taint.effect)
        && (word(&toleration.operator) == "Exists"
            || (!key.is_empty() && word(&toleration.value) == word(&taint.value)))
}
