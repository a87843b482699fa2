//! The agents of a cluster, and what is wrong with those that are not ready.

use std::fmt;

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ContainerStatus, Pod},
};
use kube::{Api, api::ListParams};

use crate::{Access, ClusterError, access::right, names};

/// One node's agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// The node that it records.
    pub node: String,
    /// Its pod's namespace.
    pub namespace: String,
    /// Its pod.
    pub pod: String,
    /// Its version, by label.
    pub version: Option<String>,
    /// Whether it can be asked.
    pub health: Health,
}

/// How a pod of ours is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It records.
    Ready,
    /// It is going.
    Terminating,
    /// Not yet on its node, or its containers are not yet made.
    Starting {
        /// The scheduler's or the kubelet's reason, if it gave one.
        reason: String,
    },
    /// The image cannot be pulled.
    Image {
        /// Which.
        image: String,
        /// `ErrImagePull`, `ImagePullBackOff`, `ErrImageNeverPull` …
        reason: String,
        /// The kubelet's words.
        message: String,
    },
    /// It ends again and again.
    Crash {
        /// The last exit code.
        exit_code: i32,
        /// How often it was restarted.
        restarts: i32,
        /// Its last words.
        message: String,
    },
    /// The container cannot be made (a missing `ConfigMap`, a bad mount).
    Container {
        /// The kubelet's reason.
        reason: String,
        /// Its words.
        message: String,
    },
    /// It runs and says that it does not record.
    NotReady,
    /// Its node does not answer.
    NodeDown,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => write!(f, "ready"),
            Self::Terminating => write!(f, "terminating"),
            Self::Starting { reason } if reason.is_empty() => write!(f, "starting"),
            Self::Starting { reason } => write!(f, "starting: {reason}"),
            Self::Image { image, reason, message } => write!(
                f,
                "image {image} cannot be pulled ({reason}: {message}); load it on the node, or set tap.docker.registry, tap.docker.tag, tap.docker.imagePullPolicy or tap.docker.imagePullSecrets"
            ),
            Self::Crash { exit_code, restarts, message } => {
                write!(f, "ended with exit code {exit_code}, restarted {restarts} times")?;
                if message.is_empty() { Ok(()) } else { write!(f, ": {message}") }
            }
            Self::Container { reason, message } => {
                write!(f, "container cannot be started ({reason}: {message})")
            }
            Self::NotReady => write!(f, "running, but not ready"),
            Self::NodeDown => write!(f, "its node does not answer"),
        }
    }
}

/// All agents, one for each node that has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agents {
    /// By node name.
    pub agents: Vec<Agent>,
    /// How many nodes should have one; none if we may not read the daemonset.
    pub desired: Option<usize>,
}

/// Lists the agents. Takes `list` on pods in the namespace; without `get` on the daemonset
/// `desired` stays unknown.
///
/// # Errors
/// [`ClusterError`], also [`ClusterError::NotFound`] if neither daemonset nor agents are there.
pub async fn list(access: &Access, namespace: &str) -> Result<Agents, ClusterError> {
    let doing = format!("list the agents in namespace {namespace}");
    let pods: Api<Pod> = Api::namespaced(access.client().clone(), namespace);
    let found = pods.list(&ListParams::default().labels(&names::agents())).await;
    let found = found.map_err(|error| {
        access.explain(&doing, right("list", "", "pods", Some(namespace)), error)
    })?;
    let sets: Api<DaemonSet> = Api::namespaced(access.client().clone(), namespace);
    let set = sets.get(names::DAEMONSET).await;
    let absent = matches!(&set, Err(kube::Error::Api(status)) if status.code == 404);
    if absent && found.items.is_empty() {
        return Err(ClusterError::NotFound {
            doing,
            message: format!(
                "kuberewind is not installed there (no DaemonSet {}); run `kuberewind tap`, or name its namespace with -s",
                names::DAEMONSET
            ),
        });
    }
    let desired = set.ok().and_then(|set| set.status).map(|status| status.desired_number_scheduled);
    Ok(Agents {
        agents: one_per_node(found.items.iter().filter_map(|pod| agent(namespace, pod)).collect()),
        desired: desired.and_then(|desired| usize::try_from(desired).ok()),
    })
}

/// The agent of one node as it is now: an update replaces its pod. Takes `list` on pods in the
/// namespace.
///
/// # Errors
/// [`ClusterError`].
pub async fn on_node(
    access: &Access,
    namespace: &str,
    node: &str,
) -> Result<Option<Agent>, ClusterError> {
    let doing = format!("find the agent of node {node} in namespace {namespace}");
    let pods: Api<Pod> = Api::namespaced(access.client().clone(), namespace);
    let bound = ListParams::default().labels(&names::agents());
    let found = pods.list(&bound.fields(&format!("spec.nodeName={node}"))).await;
    let found = found.map_err(|error| {
        access.explain(&doing, right("list", "", "pods", Some(namespace)), error)
    })?;
    let agents = found.items.iter().filter_map(|pod| agent(namespace, pod)).collect();
    Ok(one_per_node(agents).pop())
}

fn agent(namespace: &str, pod: &Pod) -> Option<Agent> {
    let labels = pod.metadata.labels.as_ref();
    Some(Agent {
        node: node_of(pod)?.to_owned(),
        namespace: namespace.to_owned(),
        pod: pod.metadata.name.clone()?,
        version: labels.and_then(|labels| labels.get(names::LABEL_VERSION).cloned()),
        health: health(pod),
    })
}

/// Only bound pods have a node; a daemonset's pod names it in its affinity before.
pub(crate) fn node_of(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    let bound = spec.node_name.as_deref().filter(|name| !name.is_empty());
    bound.or_else(|| {
        let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
        let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
        let fields = required.node_selector_terms.first()?.match_fields.as_ref()?;
        let name = fields.iter().find(|field| field.key == "metadata.name")?;
        name.values.as_ref()?.first().map(String::as_str)
    })
}

/// While an update surges, a node has two: the one that can be asked counts.
fn one_per_node(mut agents: Vec<Agent>) -> Vec<Agent> {
    let rank = |agent: &Agent| match agent.health {
        Health::Ready => 0,
        Health::Terminating => 2,
        _ => 1,
    };
    agents.sort_by(|a, b| a.node.cmp(&b.node).then(rank(a).cmp(&rank(b))).then(a.pod.cmp(&b.pod)));
    agents.dedup_by(|later, first| later.node == first.node);
    agents
}

/// What a pod's status says of it.
pub fn health(pod: &Pod) -> Health {
    if pod.metadata.deletion_timestamp.is_some() {
        return Health::Terminating;
    }
    let Some(status) = pod.status.as_ref() else {
        return Health::Starting { reason: String::new() };
    };
    let containers = || {
        let inits = status.init_container_statuses.iter().flatten();
        inits.chain(status.container_statuses.iter().flatten())
    };
    if let Some(found) = containers().find_map(trouble) {
        return found;
    }
    let condition = |name: &str| status.conditions.iter().flatten().find(|c| c.type_ == name);
    let ready = condition("Ready");
    if ready.is_some_and(|c| c.status == "True") {
        return Health::Ready;
    }
    if status.reason.as_deref() == Some("NodeLost") || ready.is_some_and(|c| c.status == "Unknown")
    {
        return Health::NodeDown;
    }
    if status.phase.as_deref() == Some("Failed") {
        return Health::Container {
            reason: status.reason.clone().unwrap_or_else(|| "Failed".into()),
            message: status.message.clone().unwrap_or_default(),
        };
    }
    if status.phase.as_deref() == Some("Running") && containers().all(is_running) {
        // The node lifecycle controller turns `Ready` off where the kubelet still says ready.
        let says_ready = status.container_statuses.iter().flatten().all(|c| c.ready);
        return if says_ready { Health::NodeDown } else { Health::NotReady };
    }
    let scheduled = condition("PodScheduled").filter(|c| c.status != "True");
    let reason = scheduled.and_then(|c| c.message.clone().or_else(|| c.reason.clone()));
    Health::Starting { reason: reason.unwrap_or_default() }
}

fn is_running(container: &ContainerStatus) -> bool {
    container
        .state
        .as_ref()
        .is_some_and(|state| state.running.is_some() || state.terminated.is_some())
}

fn trouble(container: &ContainerStatus) -> Option<Health> {
    let state = container.state.as_ref()?;
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let ended = state.terminated.as_ref().filter(|ended| ended.exit_code != 0);
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.clone().unwrap_or_default();
        let message = waiting.message.clone().unwrap_or_default();
        return match reason.as_str() {
            "" | "ContainerCreating" | "PodInitializing" => None,
            "CrashLoopBackOff" => Some(Health::Crash {
                exit_code: last.map_or(0, |ended| ended.exit_code),
                restarts: container.restart_count,
                message: last.and_then(|ended| ended.message.clone()).unwrap_or(message),
            }),
            "ErrImagePull"
            | "ImagePullBackOff"
            | "ErrImageNeverPull"
            | "InvalidImageName"
            | "ImageInspectError"
            | "RegistryUnavailable"
            | "SignatureValidationFailed" => {
                Some(Health::Image { image: container.image.clone(), reason, message })
            }
            _ => Some(Health::Container { reason, message }),
        };
    }
    ended.map(|ended| Health::Crash {
        exit_code: ended.exit_code,
        restarts: container.restart_count,
        message: ended.message.clone().unwrap_or_default(),
    })
}
