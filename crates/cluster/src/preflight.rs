//! What would hinder an installation, found before it is tried. Nothing here changes anything.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, PodSpec, ResourceQuota, ServiceAccount};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::Value;

use crate::access::right;
use crate::{Access, ClusterError, Right, rollout};

/// How many rights are asked for at a time.
const AT_A_TIME: usize = 8;

/// What somebody may want to do with kuberewind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// `tap`
    Tap,
    /// `pcapdump` and `status`
    Pcapdump,
    /// `pcapdump stop` and `start`
    Switch,
    /// `clean`
    Clean,
}

/// A right, and what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Which.
    pub right: Right,
    /// What happens without it.
    pub without: &'static str,
    /// Whether the deed fails without it; otherwise it is only done less well.
    pub must: bool,
}

impl Need {
    fn must(right: Right) -> Self {
        Self { right, without: "", must: true }
    }

    fn better(right: Right, without: &'static str) -> Self {
        Self { right, without, must: false }
    }
}

/// The rights that a deed takes, each once. `objects` is what `tap` would apply.
pub fn needs(deed: Deed, namespace: &str, objects: &[Value]) -> Vec<Need> {
    let mut needs = match deed {
        Deed::Tap => tap(namespace, objects),
        Deed::Pcapdump => pcapdump(namespace),
        Deed::Switch => {
            ["get", "patch"].map(|verb| Need::must(in_(namespace, verb, "", "configmaps"))).into()
        }
        Deed::Clean => clean(namespace),
    };
    let mut seen: Vec<Right> = Vec::new();
    needs.retain(|need| {
        let new = !seen.contains(&need.right);
        seen.push(need.right.clone());
        new
    });
    needs
}

fn in_(namespace: &str, verb: &str, group: &str, resource: &str) -> Right {
    right(verb, group, resource, Some(namespace))
}

fn tap(namespace: &str, objects: &[Value]) -> Vec<Need> {
    let mut needs = vec![
        Need::must(in_(namespace, "get", "apps", "daemonsets")),
        Need::must(in_(namespace, "get", "", "configmaps")),
    ];
    for object in objects {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let api_version = word(&object["apiVersion"]);
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let namespace = object["metadata"]["namespace"].as_str();
        let resource = plural(&word(&object["kind"]));
        for verb in ["patch", "create"] {
            needs.push(Need::must(right(verb, group, &resource, namespace)));
        }
    }
    needs.extend([
        Need::must(in_(namespace, "list", "", "pods")),
        Need::must(right("list", "", "nodes", None)),
        Need::better(in_(namespace, "list", "", "events"), "why pods are refused is not told"),
        Need::better(
            right("list", "", "pods", None),
            "`tap --dry-run` cannot show which pods would be recorded",
        ),
        Need::better(
            in_(namespace, "get", "", "pods/portforward"),
            "which pods are recorded is not told",
        ),
        Need::better(
            in_(namespace, "create", "", "pods/portforward"),
            "which pods are recorded is not told",
        ),
    ]);
    needs
}

fn pcapdump(namespace: &str) -> Vec<Need> {
    let absent = "a node without an agent is not noticed";
    vec![
        Need::must(in_(namespace, "list", "", "pods")),
        // Port-forwarding over WebSocket begins with a GET, and is judged as a `create`.
        Need::must(in_(namespace, "get", "", "pods/portforward")),
        Need::must(in_(namespace, "create", "", "pods/portforward")),
        Need::better(in_(namespace, "get", "apps", "daemonsets"), absent),
        Need::better(
            in_(namespace, "get", "", "configmaps"),
            "files are not named after the cluster",
        ),
        Need::better(right("list", "", "nodes", None), "nodes without an agent are not named"),
    ]
}

fn clean(namespace: &str) -> Vec<Need> {
    let ours = [
        ("apps", "daemonsets"),
        ("", "configmaps"),
        ("", "services"),
        ("", "secrets"),
        ("rbac.authorization.k8s.io", "rolebindings"),
        ("rbac.authorization.k8s.io", "roles"),
        ("", "serviceaccounts"),
        ("networking.k8s.io", "networkpolicies"),
    ];
    let clusters = ["clusterrolebindings", "clusterroles"];
    // What else may live in the namespace: it is removed only if it is empty.
    let others = [
        ("", "pods"),
        ("apps", "deployments"),
        ("apps", "statefulsets"),
        ("", "persistentvolumeclaims"),
    ];
    let mut needs = vec![
        Need::must(in_(namespace, "get", "apps", "daemonsets")),
        Need::must(in_(namespace, "get", "", "configmaps")),
    ];
    for (group, resource) in ours {
        needs.push(Need::must(in_(namespace, "list", group, resource)));
    }
    for resource in clusters {
        for verb in ["list", "delete"] {
            needs.push(Need::must(right(verb, "rbac.authorization.k8s.io", resource, None)));
        }
    }
    for (group, resource) in others {
        needs.push(Need::must(in_(namespace, "list", group, resource)));
    }
    // Services and secrets of ours do not exist now; an older version may have left some.
    for (group, resource) in ours.into_iter().filter(|(_, r)| !matches!(*r, "services" | "secrets"))
    {
        needs.push(Need::must(in_(namespace, "delete", group, resource)));
    }
    let keep = "recordings on the nodes stay (`clean --keep-data`)";
    needs.extend([
        Need::must(right("get", "", "namespaces", None)),
        Need::must(right("delete", "", "namespaces", None)),
        Need::better(in_(namespace, "patch", "", "configmaps"), keep),
        Need::better(in_(namespace, "get", "", "pods/portforward"), keep),
        Need::better(in_(namespace, "create", "", "pods/portforward"), keep),
    ]);
    needs
}

/// `NetworkPolicy` → `networkpolicies`.
fn plural(kind: &str) -> String {
    let lower = kind.to_lowercase();
    match lower.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        // SecurityContextConstraints is plural already.
        None if lower.ends_with('s') => lower,
        None => format!("{lower}s"),
    }
}

/// The needs that are not met.
///
/// # Errors
/// [`ClusterError`] if the server cannot be asked.
pub async fn unmet(access: &Access, needs: Vec<Need>) -> Result<Vec<Need>, ClusterError> {
    let asked = stream::iter(needs).map(|need| async move {
        let has = access.has(&need.right).await?;
        Ok::<_, ClusterError>((!has).then_some(need))
    });
    let answers: Vec<Option<Need>> = asked.buffered(AT_A_TIME).try_collect().await?;
    Ok(answers.into_iter().flatten().collect())
}

/// Whether the cluster has an API group.
///
/// # Errors
/// [`ClusterError`] if the server cannot be asked.
pub async fn has_group(access: &Access, name: &str) -> Result<bool, ClusterError> {
    let groups = access.client().list_api_groups().await.map_err(|error| {
        access.explain("list the API groups", right("get", "", "/apis", None), error)
    })?;
    Ok(groups.groups.iter().any(|group| group.name == name))
}

/// What a node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Why it is not `Ready`.
    pub not_ready: Option<String>,
    /// Why no agent runs there: a taint, a selector.
    pub passed_over: Option<String>,
    /// `linux`; empty if it does not say.
    pub os: String,
    /// `amd64`
    pub arch: String,
    /// `6.1.0-13-amd64`
    pub kernel: String,
    /// `containerd://1.7.2`
    pub runtime: String,
    /// `DiskPressure` …, with the kubelet's words.
    pub pressures: Vec<String>,
    /// What the kubelet's own disk can take, in bytes.
    pub disk: Option<u64>,
}

/// The nodes, and which of them agents with this template run on.
///
/// # Errors
/// [`ClusterError`], also for a right that is missing.
pub async fn nodes(access: &Access, template: &PodSpec) -> Result<Vec<NodeFacts>, ClusterError> {
    let nodes: Api<Node> = Api::all(access.client().clone());
    let nodes = nodes.list(&ListParams::default()).await.map_err(|error| {
        access.explain("list the nodes", right("list", "", "nodes", None), error)
    })?;
    let mut facts: Vec<_> = nodes.items.iter().map(|node| facts(template, node)).collect();
    facts.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(facts)
}

fn facts(template: &PodSpec, node: &Node) -> NodeFacts {
    let status = node.status.as_ref();
    let info = status.and_then(|status| status.node_info.as_ref());
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let pressures = conditions
        .into_iter()
        .flatten()
        .filter(|condition| condition.type_.ends_with("Pressure") && condition.status == "True");
    let capacity = status.and_then(|status| status.capacity.as_ref());
    let disk = capacity.and_then(|capacity| capacity.get("ephemeral-storage"));
    NodeFacts {
        name: node.metadata.name.clone().unwrap_or_default(),
        not_ready: rollout::not_ready(node),
        passed_over: rollout::passes_over(template, node),
        os: info.map(|info| info.operating_system.clone()).unwrap_or_default(),
        arch: info.map(|info| info.architecture.clone()).unwrap_or_default(),
        kernel: info.map(|info| info.kernel_version.clone()).unwrap_or_default(),
        runtime: info.map(|info| info.container_runtime_version.clone()).unwrap_or_default(),
        pressures: pressures
            .map(|c| format!("{}: {}", c.type_, c.message.as_deref().unwrap_or("yes")))
            .collect(),
        disk: disk.and_then(amount).map(whole),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bytes of a disk; a negative one is none"
)]
fn whole(amount: f64) -> u64 {
    amount as u64
}

/// What Pod Security enforces in a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSecurity {
    /// `privileged` …; none if the namespace says nothing and the cluster's default holds.
    pub level: Option<String>,
}

/// What Pod Security enforces in a namespace; none if there is no such namespace.
///
/// # Errors
/// [`ClusterError`], also for a right that is missing.
pub async fn pod_security(
    access: &Access,
    namespace: &str,
) -> Result<Option<PodSecurity>, ClusterError> {
    let namespaces: Api<Namespace> = Api::all(access.client().clone());
    let found = namespaces.get_opt(namespace).await.map_err(|error| {
        let doing = format!("look at namespace {namespace}");
        access.explain(&doing, right("get", "", "namespaces", None), error)
    })?;
    Ok(found.map(|found| {
        let mut labels = found.metadata.labels.unwrap_or_default();
        PodSecurity { level: labels.remove("pod-security.kubernetes.io/enforce") }
    }))
}

/// Lets the server judge a pod as the daemonset would make it, without making it: Pod Security, quotas,
/// priority classes and webhooks speak here, and nowhere else before a rollout.
///
/// # Errors
/// Why it would be refused; [`ClusterError::Forbidden`] if that may not be asked.
pub async fn try_pod(
    access: &Access,
    namespace: &str,
    set: &DaemonSet,
) -> Result<(), ClusterError> {
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut spec = template.spec.unwrap_or_default();
    let accounts: Api<ServiceAccount> = Api::namespaced(access.client().clone(), namespace);
    let account = spec.service_account_name.clone().unwrap_or_default();
    // Before `tap` there is no account of the agents, and a pod with an unknown one is refused.
    if !matches!(accounts.get_opt(&account).await, Ok(Some(_))) {
        spec.service_account_name = None;
    }
    let metadata = template.metadata.unwrap_or_default();
    let pod = Pod {
        metadata: ObjectMeta {
            name: Some(format!("{}-check", crate::names::DAEMONSET)),
            labels: metadata.labels,
            annotations: metadata.annotations,
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    };
    let pods: Api<Pod> = Api::namespaced(access.client().clone(), namespace);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    pods.create(&dry, &pod).await.map(drop).map_err(|error| {
        let doing = format!("let namespace {namespace} judge an agent's pod");
        access.explain(&doing, in_(namespace, "create", "", "pods"), error)
    })
}

/// The namespace's quotas.
///
/// # Errors
/// [`ClusterError`], also for a right that is missing.
pub async fn quotas(access: &Access, namespace: &str) -> Result<Vec<ResourceQuota>, ClusterError> {
    let quotas: Api<ResourceQuota> = Api::namespaced(access.client().clone(), namespace);
    let listed = quotas.list(&ListParams::default()).await.map_err(|error| {
        let doing = format!("list the quotas of namespace {namespace}");
        access.explain(&doing, in_(namespace, "list", "", "resourcequotas"), error)
    })?;
    Ok(listed.items)
}

/// What of a quota so many more pods would exceed, in words.
pub fn shortages(quota: &ResourceQuota, pod: &PodSpec, pods: usize) -> Vec<String> {
    let spec = quota.spec.clone().unwrap_or_default();
    // One of these chooses pods by priority or quality of service; `try_pod` tells of it.
    if pods == 0 || spec.scope_selector.is_some() || spec.scopes.is_some_and(|s| !s.is_empty()) {
        return Vec::new();
    }
    let used = quota.status.as_ref().and_then(|status| status.used.clone()).unwrap_or_default();
    let name = quota.metadata.name.as_deref().unwrap_or_default();
    let mut short = Vec::new();
    for (resource, hard) in spec.hard.into_iter().flatten() {
        let each = match demand(&resource, pod) {
            Demand::None => continue,
            Demand::Unsaid => {
                short.push(format!(
                    "quota {name} has {resource}, so every pod must set it, and agents do not"
                ));
                continue;
            }
            Demand::Of(each) => each,
        };
        #[expect(clippy::cast_precision_loss, reason = "no cluster has 2^52 nodes")]
        let wanted = each * pods as f64;
        let used = used.get(&resource).and_then(amount).unwrap_or(0.0);
        if amount(&hard).is_some_and(|hard| used + wanted > hard) {
            short.push(format!(
                "quota {name} allows {resource} {}, of which {used} is used, and {pods} more agents take {wanted}",
                hard.0
            ));
        }
    }
    short
}

/// What one pod takes of a resource that a quota counts.
enum Demand {
    /// It is not about pods.
    None,
    /// The pod must say, and does not.
    Unsaid,
    /// So much.
    Of(f64),
}

fn demand(resource: &str, pod: &PodSpec) -> Demand {
    let (limits, name) = match resource {
        "pods" | "count/pods" => return Demand::Of(1.0),
        "cpu" | "memory" => (false, resource),
        "requests.cpu" | "requests.memory" => (false, &resource["requests.".len()..]),
        "limits.cpu" | "limits.memory" => (true, &resource["limits.".len()..]),
        _ => return Demand::None,
    };
    let of = |amounts: Option<&BTreeMap<String, Quantity>>| {
        amounts.and_then(|amounts| amounts.get(name)).and_then(amount)
    };
    let each = pod.containers.iter().map(|container| {
        let resources = container.resources.as_ref()?;
        let limit = of(resources.limits.as_ref());
        if limits { limit } else { of(resources.requests.as_ref()).or(limit) }
    });
    each.sum::<Option<f64>>().map_or(Demand::Unsaid, Demand::Of)
}

/// A quantity as a number: `100m` is 0.1, `1Ki` is 1024.
fn amount(quantity: &Quantity) -> Option<f64> {
    let text = quantity.0.as_str();
    if let Ok(plain) = text.parse::<f64>() {
        return Some(plain);
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let factor = match &text[end..] {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        "Pi" => 1_125_899_906_842_624.0,
        _ => return None,
    };
    Some(text[..end].parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> PodSpec {
        serde_json::from_value(json!({"containers": [{
            "name": "agent",
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        }]}))
        .unwrap()
    }

    fn quota(hard: &Value, used: &Value) -> ResourceQuota {
        serde_json::from_value(json!({
            "metadata": {"name": "compute"}, "spec": {"hard": hard}, "status": {"used": used},
        }))
        .unwrap()
    }

    #[test]
    fn a_quota_without_room_for_every_node_is_named() {
        let short = |hard: Value, used: Value, pods| shortages(&quota(&hard, &used), &pod(), pods);
        let tight = || json!({"limits.memory": "1Gi", "pods": "10", "requests.cpu": "1"});
        assert_eq!(short(tight(), json!({}), 2), Vec::<String>::new());
        assert_eq!(
            short(tight(), json!({"limits.memory": "512Mi"}), 2),
            [
                "quota compute allows limits.memory 1Gi, of which 536870912 is used, and 2 more agents take 1073741824"
            ]
        );
        assert_eq!(short(json!({"count/pods": "3"}), json!({"count/pods": "2"}), 2).len(), 1);
        assert_eq!(short(json!({"services": "0"}), json!({}), 2), Vec::<String>::new());
        assert_eq!(short(tight(), json!({"pods": "10"}), 0), Vec::<String>::new());
    }

    #[test]
    fn a_quota_that_makes_pods_say_their_limit_refuses_agents_that_have_none() {
        let short = shortages(&quota(&json!({"limits.cpu": "100"}), &json!({})), &pod(), 1);
        assert_eq!(
            short,
            ["quota compute has limits.cpu, so every pod must set it, and agents do not"]
        );
    }

    #[test]
    fn quantities_are_numbers() {
        let number = |text: &str| amount(&Quantity(text.to_owned()));
        assert_eq!(number("100m"), Some(0.1));
        assert_eq!(number("1.5"), Some(1.5));
        assert_eq!(number("512Mi"), Some(536_870_912.0));
        assert_eq!(number("1e3"), Some(1000.0));
        assert_eq!(number("lots"), None);
    }

    #[test]
    fn each_object_of_the_chart_takes_its_rights() {
        let objects = [
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": "kr"}}),
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {}}),
        ];
        let needs: Vec<String> =
            needs(Deed::Tap, "kr", &objects).iter().map(|need| need.right.to_string()).collect();
        for right in [
            "`patch` on networkpolicies.networking.k8s.io in namespace kr",
            "`create` on clusterroles.rbac.authorization.k8s.io in the whole cluster",
        ] {
            assert!(needs.contains(&right.to_owned()), "{right} is not in {needs:?}");
        }
    }

    #[test]
    fn an_export_takes_both_verbs_on_port_forwards() {
        let needs = needs(Deed::Pcapdump, "kr", &[]);
        let forward = needs.iter().filter(|need| need.right.resource == "pods/portforward");
        let verbs: Vec<_> = forward.map(|need| (need.right.verb.as_str(), need.must)).collect();
        assert_eq!(verbs, [("get", true), ("create", true)]);
    }
}
