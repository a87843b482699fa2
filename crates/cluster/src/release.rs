//! What is installed in a cluster already.

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ConfigMap, Namespace, Pod},
    rbac::v1::ClusterRole,
};
use kube::{Api, api::ListParams};
use serde_json::Value;

use crate::{
    Access, ClusterError,
    access::right,
    clean,
    control::{self, Recording},
    names,
    pods::PodFacts,
};

/// The key of the values in the `ConfigMap`'s data.
pub const VALUES_KEY: &str = "values.yaml";

/// The agents' rights in the whole cluster.
const CLUSTER_ROLE: &str = "kuberewind";

/// Pods are listed so many at a time.
const PAGE: u32 = 500;

/// Where Helm writes the name of its release.
const HELM_RELEASE: &str = "meta.helm.sh/release-name";

/// An earlier installation, or what is left of one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Installed {
    /// The values of the chart that hold, with the defaults of its time. None if they are gone or
    /// cannot be read as such.
    pub values: Option<Value>,
    /// What `pcapdump stop` or `start` said last.
    pub recording: Option<Recording>,
    /// The version of the daemonset, by label.
    pub version: Option<String>,
    /// The release's name, if Helm manages it.
    pub helm: Option<String>,
}

/// Looks for an earlier installation in a namespace: none if there is neither daemonset nor
/// `ConfigMap`.
///
/// # Errors
/// [`ClusterError`], also for a right that is missing.
pub async fn find(access: &Access, namespace: &str) -> Result<Option<Installed>, ClusterError> {
    let doing = format!("look for an earlier installation in namespace {namespace}");
    let told = |group: &str, resource: &str, error| {
        access.explain(&doing, right("get", group, resource, Some(namespace)), error)
    };
    let sets: Api<DaemonSet> = Api::namespaced(access.client().clone(), namespace);
    let set = sets.get_opt(names::DAEMONSET).await;
    let set = set.map_err(|error| told("apps", "daemonsets", error))?;
    let maps: Api<ConfigMap> = Api::namespaced(access.client().clone(), namespace);
    let map = maps.get_opt(names::CONFIG_MAP).await;
    let map = map.map_err(|error| told("", "configmaps", error))?;
    Ok(match (set, map) {
        (None, None) => None,
        (set, map) => Some(installed(set.as_ref(), map.as_ref())),
    })
}

fn installed(set: Option<&DaemonSet>, map: Option<&ConfigMap>) -> Installed {
    let metadata = [set.map(|set| &set.metadata), map.map(|map| &map.metadata)];
    let label = |name: &str| {
        let mut labels = metadata.iter().flatten().filter_map(|metadata| metadata.labels.as_ref());
        labels.find_map(|labels| labels.get(name)).map(String::as_str)
    };
    let annotation = |name: &str| {
        let mut all = metadata.iter().flatten().filter_map(|found| found.annotations.as_ref());
        all.find_map(|all| all.get(name)).cloned()
    };
    let by_helm = label(names::LABEL_MANAGED_BY) == Some("Helm");
    let data = |key: &str| map?.data.as_ref()?.get(key);
    Installed {
        values: data(VALUES_KEY).and_then(|text| serde_saphyr::from_str(text).ok()),
        recording: data(control::RECORDING_KEY).and_then(|word| Recording::from_word(word)),
        version: label(names::LABEL_VERSION).map(str::to_owned),
        helm: by_helm.then(|| annotation(HELM_RELEASE).unwrap_or_else(|| "kuberewind".to_owned())),
    }
}

/// Whether a namespace is there.
///
/// # Errors
/// [`ClusterError`], also for a right that is missing.
pub async fn has_namespace(access: &Access, namespace: &str) -> Result<bool, ClusterError> {
    let namespaces: Api<Namespace> = Api::all(access.client().clone());
    let found = namespaces.get_opt(namespace).await.map_err(|error| {
        let doing = format!("look for namespace {namespace}");
        access.explain(&doing, right("get", "", "namespaces", None), error)
    })?;
    Ok(found.is_some())
}

/// Another namespace in which kuberewind is installed: what belongs to the whole cluster has fixed
/// names, so a second release would take it away from the first. None also where we may not look.
pub async fn elsewhere(access: &Access, namespace: &str) -> Option<String> {
    let roles: Api<ClusterRole> = Api::all(access.client().clone());
    let role = roles.get_opt(CLUSTER_ROLE).await.ok()??;
    let of = role.metadata.annotations?.remove(clean::RELEASE_NAMESPACE)?;
    let sets: Api<DaemonSet> = Api::namespaced(access.client().clone(), &of);
    let there = of != namespace && sets.get_opt(names::DAEMONSET).await.ok()?.is_some();
    there.then_some(of)
}

/// A pod, and the node that it is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodOnNode {
    /// What the rules look at.
    pub facts: PodFacts,
    /// None until it is scheduled.
    pub node: Option<String>,
}

/// The pods of a namespace, or (none) of the whole cluster.
///
/// # Errors
/// [`ClusterError`], also for a right that is missing.
pub async fn pods(
    access: &Access,
    namespace: Option<&str>,
) -> Result<Vec<PodOnNode>, ClusterError> {
    let client = access.client().clone();
    let pods: Api<Pod> = match namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let mut found = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let listed = pods.list(&page).await.map_err(|error| {
            let whose = namespace.map_or("all namespaces".to_owned(), |n| format!("namespace {n}"));
            let doing = format!("list the pods of {whose}");
            access.explain(&doing, right("list", "", "pods", namespace), error)
        })?;
        found.extend(listed.items.into_iter().map(on_node));
        match listed.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(found),
        }
    }
}

fn on_node(pod: Pod) -> PodOnNode {
    let spec = pod.spec.unwrap_or_default();
    let facts = PodFacts {
        uid: pod.metadata.uid.unwrap_or_default(),
        namespace: pod.metadata.namespace.unwrap_or_default(),
        name: pod.metadata.name.unwrap_or_default(),
        labels: pod.metadata.labels.unwrap_or_default(),
        host_network: spec.host_network.unwrap_or(false),
        phase: pod.status.and_then(|status| status.phase).unwrap_or_default(),
        ..PodFacts::default()
    };
    PodOnNode { facts, node: spec.node_name.filter(|node| !node.is_empty()) }
}
