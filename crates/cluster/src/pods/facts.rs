//! What we want to know of a pod, and how it is read from the API server's JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The UID of a static pod on its node; in the API it is another one (its mirror's).
const STATIC_UID: &str = "kubernetes.io/config.hash";
/// What only the mirror of a static pod carries.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A pod of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodFacts {
    /// Its UID in the API.
    pub uid: String,
    /// The UID by which the kubelet names its control groups, when that is another one: of a static pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub static_uid: Option<String>,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether it shares the node's network namespace.
    #[serde(default)]
    pub host_network: bool,
    /// `Pending`, `Running`, `Succeeded`, `Failed`, `Unknown`; empty when not told.
    #[serde(default)]
    pub phase: String,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its containers' ids, without the runtime's name before them.
    #[serde(default)]
    pub container_ids: BTreeSet<String>,
    /// Its addresses.
    #[serde(default)]
    pub pod_ips: BTreeSet<IpAddr>,
    /// The API server no longer has it. Its processes may live on for seconds after a forced deletion,
    /// so it stays known for a while.
    #[serde(default)]
    pub deleted: bool,
}

impl PodFacts {
    /// The UID in the paths of its control groups.
    pub fn cgroup_uid(&self) -> &str {
        self.static_uid.as_deref().unwrap_or(&self.uid)
    }

    /// Whether it has run to its end.
    pub fn finished(&self) -> bool {
        matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }
}

/// The parts of a Pod that we read. `null` and absence are the same, and what is not named here may have
/// any shape: a server newer than we are must not blind us.
#[derive(Deserialize)]
pub(super) struct RawPod {
    metadata: RawMetadata,
    #[serde(default)]
    spec: Option<RawSpec>,
    #[serde(default)]
    status: Option<RawStatus>,
}

#[derive(Deserialize)]
struct RawMetadata {
    name: String,
    namespace: String,
    uid: String,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSpec {
    host_network: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<RawIp>>,
    init_container_statuses: Option<Vec<RawContainer>>,
    container_statuses: Option<Vec<RawContainer>>,
    ephemeral_container_statuses: Option<Vec<RawContainer>>,
}

#[derive(Deserialize)]
struct RawIp {
    ip: Option<String>,
}

#[derive(Deserialize)]
struct RawContainer {
    #[serde(rename = "containerID")]
    container_id: Option<String>,
}

impl From<RawPod> for PodFacts {
    fn from(RawPod { metadata, spec, status }: RawPod) -> Self {
        let annotations = metadata.annotations.unwrap_or_default();
        let is_mirror = annotations.contains_key(MIRROR);
        Self {
            static_uid: annotations.get(STATIC_UID).filter(|_| is_mirror).cloned(),
            uid: metadata.uid,
            namespace: metadata.namespace,
            name: metadata.name,
            host_network: spec.and_then(|spec| spec.host_network).unwrap_or(false),
            labels: metadata.labels.unwrap_or_default(),
            container_ids: status.iter().flat_map(container_ids).collect(),
            pod_ips: status.iter().flat_map(addresses).collect(),
            phase: status.and_then(|status| status.phase).unwrap_or_default(),
            deleted: false,
        }
    }
}

fn container_ids(status: &RawStatus) -> impl Iterator<Item = String> {
    let lists = [
        &status.init_container_statuses,
        &status.container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let ids = lists.into_iter().flatten().flatten().filter_map(|raw| raw.container_id.as_deref());
    ids.map(|id| id.rsplit_once("://").map_or(id, |(_, id)| id).to_owned())
        .filter(|id| !id.is_empty())
}

fn addresses(status: &RawStatus) -> impl Iterator<Item = IpAddr> {
    let listed = status.pod_ips.iter().flatten().filter_map(|raw| raw.ip.as_deref());
    listed.chain(status.pod_ip.as_deref()).filter_map(|text| text.parse().ok())
}
