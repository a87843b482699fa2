//! Applying, waiting, listing, switching, removing.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
};
use kuberewind_apiserver_double::{Command, Double, Fate, Fault, Rule, Wrong};
use kuberewind_cluster::{
    Access, ClusterError,
    agents::{self, Health},
    apply::{self, Applied, ApplyOptions, Change},
    clean::{self, Outcome},
    control::{self, Recording},
    names,
    rollout::{self, Rollout, Waiting},
};
use serde_json::{Value, json};

use crate::{NS, access_as, cluster, fate, node, put, user};

const RBAC: &str = "rbac.authorization.k8s.io/v1";

fn object(value: Value) -> DynamicObject {
    serde_json::from_value(value).unwrap()
}

fn ours() -> Value {
    json!({names::LABEL_NAME.0: names::LABEL_NAME.1})
}

fn daemonset(image: &str) -> DynamicObject {
    let agents = json!({names::LABEL_NAME.0: names::LABEL_NAME.1, names::LABEL_AGENT.0: names::LABEL_AGENT.1, names::LABEL_VERSION: "0.1.0"});
    object(json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": names::DAEMONSET, "labels": ours()},
        "spec": {
            "selector": {"matchLabels": ours()},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": agents},
                "spec": {
                    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
                    "containers": [{"name": "agent", "image": image, "resources": {"limits": {"cpu": 1}}}],
                    "volumes": [{"name": "data", "hostPath": {"path": "/var/lib/kuberewind"}}],
                },
            },
        },
    }))
}

/// In no good order.
fn objects(image: &str) -> Vec<DynamicObject> {
    vec![
        daemonset(image),
        object(
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": names::CONFIG_MAP, "labels": ours()}, "data": {"config.yaml": "tap: {}\n"}}),
        ),
        object(
            json!({"apiVersion": RBAC, "kind": "ClusterRoleBinding", "metadata": {"name": "kuberewind", "labels": ours()},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "kuberewind"},
            "subjects": [{"kind": "ServiceAccount", "name": "kuberewind", "namespace": NS}]}),
        ),
        object(
            json!({"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": "kuberewind", "labels": ours()},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]}),
        ),
        object(
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "kuberewind", "labels": ours()}}),
        ),
        object(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NS, "labels": ours()}}),
        ),
    ]
}

async fn apply(
    access: &Access,
    objects: &[DynamicObject],
) -> Result<Vec<(String, Change)>, ClusterError> {
    let mut done = Vec::new();
    let note = |applied: &Applied| done.push((applied.kind.clone(), applied.change));
    apply::apply(access, NS, objects, ApplyOptions::default(), note).await?;
    Ok(done)
}

const DRY: ApplyOptions = ApplyOptions { dry_run: true, force: false };

const FORCE: ApplyOptions = ApplyOptions { dry_run: false, force: true };

#[tokio::test]
async fn objects_are_applied_in_an_order_that_works_and_each_change_is_told() {
    let (_double, access) = cluster(&["n1"]).await;
    let kinds = [
        "Namespace",
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "DaemonSet",
    ];
    let all = |change| kinds.map(|kind| (kind.to_owned(), change)).to_vec();
    assert_eq!(apply(&access, &objects("i:1")).await.unwrap(), all(Change::Created));
    assert_eq!(apply(&access, &objects("i:1")).await.unwrap(), all(Change::Unchanged));
    let mut changed = all(Change::Unchanged);
    changed[5].1 = Change::Changed;
    assert_eq!(apply(&access, &objects("i:2")).await.unwrap(), changed);
}

#[tokio::test]
async fn a_dry_run_tells_the_changes_and_makes_none() {
    let (double, access) = cluster(&[]).await;
    apply(&access, &objects("i:1")).await.unwrap();
    let mut done = Vec::new();
    let note = |applied: &Applied| done.push(applied.change);
    apply::apply(&access, NS, &[daemonset("i:2"), daemonset("i:1")], DRY, note).await.unwrap();
    assert_eq!(done, [Change::Changed, Change::Unchanged]);
    let set = double.object("apps/v1", "DaemonSet", NS, names::DAEMONSET).unwrap();
    assert_eq!(set["spec"]["template"]["spec"]["containers"][0]["image"], "i:1");
}

#[tokio::test]
async fn a_conflict_names_the_manager_and_the_field() {
    let (_double, access) = cluster(&[]).await;
    apply(&access, &objects("i:1")).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(access.client().clone(), NS);
    let edit = Patch::Merge(json!({"data": {"config.yaml": "by hand"}}));
    let by = PatchParams { field_manager: Some("kubectl-edit".into()), ..PatchParams::default() };
    maps.patch(names::CONFIG_MAP, &by, &edit).await.unwrap();
    let error = apply(&access, &objects("i:1")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "apply ConfigMap {NS}/kuberewind: .data.config.yaml is managed by \"kubectl-edit\""
        )
    );
    apply::apply(&access, NS, &objects("i:1"), FORCE, |_| ()).await.unwrap();
}

#[tokio::test]
async fn a_missing_right_is_named() {
    let (double, _) = cluster(&[]).await;
    let lacks = async |rules: &[Rule]| {
        user(&double, "dev", rules.to_vec());
        let error = apply(&access_as(&double, Some("dev")).await, &objects("i")).await.unwrap_err();
        let ClusterError::Forbidden { right, .. } = &error else { panic!("{error:?}") };
        (right.to_string(), error.to_string())
    };
    let core = Rule::core(&["*"], &["*"], None);
    let (right, text) = lacks(std::slice::from_ref(&core)).await;
    assert_eq!(right, "`patch` on clusterroles.rbac.authorization.k8s.io in the whole cluster");
    assert!(
        text.starts_with(&format!(
            "apply ClusterRole kuberewind: not allowed: needs the right {right}"
        )),
        "{text}"
    );
    let rbac = Rule::of("rbac.authorization.k8s.io", &["*"], &["*"], None);
    let (right, _) = lacks(&[core, rbac]).await;
    assert_eq!(right, format!("`patch` on daemonsets.apps in namespace {NS}"));
}

#[tokio::test]
async fn other_failures_of_apply_are_told_apart() {
    let (double, access) = cluster(&[]).await;
    let stranger = access_as(&double, Some("expired")).await;
    let error = apply(&stranger, &objects("i")).await.unwrap_err();
    assert!(matches!(error, ClusterError::Unauthorized { .. }), "{error:?}");

    let error = apply(&access, &[daemonset("i")]).await.unwrap_err();
    let wanted =
        format!("apply DaemonSet {NS}/{}: namespaces \"{NS}\" not found", names::DAEMONSET);
    assert_eq!(error.to_string(), wanted);

    apply(&access, &objects("i")).await.unwrap();
    let mut wrong = daemonset("i");
    wrong.data["spec"]["template"]["spec"]["containers"][0]["imagePolicy"] = json!("Always");
    let error = apply(&access, &[wrong]).await.unwrap_err();
    assert!(matches!(error, ClusterError::Status { code: 500, .. }), "{error:?}");
    assert!(error.to_string().contains("field not declared in schema"), "{error}");

    let mut wrong = daemonset("i");
    wrong.data["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"] = json!(0);
    let error = apply(&access, &[wrong]).await.unwrap_err();
    assert!(matches!(error, ClusterError::Status { code: 422, .. }), "{error:?}");

    drop(double);
    let error = apply(&access, &objects("i")).await.unwrap_err();
    assert!(matches!(error, ClusterError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("context double of "), "{error}");
}

#[tokio::test]
async fn a_busy_server_is_asked_again() {
    let (double, access) = cluster(&[]).await;
    let fault = Fault {
        method: Some("PATCH".into()),
        path: "namespaces".into(),
        times: 1,
        how: Wrong::TooMany { retry_after: 1 },
    };
    double.control(Command::Fault(fault)).unwrap();
    apply(&access, &objects("i")).await.unwrap();
}

fn enforce_restricted(double: &Double) {
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    put(
        double,
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NS, "labels": labels}}),
    );
}

#[tokio::test]
async fn warnings_are_passed_on() {
    let (double, access) = cluster(&["n1"]).await;
    enforce_restricted(&double);
    let mut warnings = Vec::new();
    let note = |applied: &Applied| warnings.extend(applied.warnings.clone());
    apply::apply(&access, NS, &[daemonset("i")], ApplyOptions::default(), note).await.unwrap();
    assert!(
        warnings[0].starts_with("would violate PodSecurity \"restricted:latest\": "),
        "{warnings:?}"
    );
}

async fn wait(access: &Access, limit: Duration) -> Rollout {
    rollout::wait(access, NS, names::DAEMONSET, limit, |_| ()).await.unwrap()
}

const SHORT: Duration = Duration::from_millis(700);

#[tokio::test]
async fn a_rollout_is_complete_when_every_ready_node_records() {
    let (double, access) = cluster(&["n1", "n2"]).await;
    node(&double, "n3", false, vec![]);
    let gpu = json!({"key": "gpu", "value": "a100", "effect": "NoSchedule"});
    node(&double, "n4", true, vec![gpu]);
    node(&double, "n5", true, vec![json!({"key": "dedicated", "effect": "NoSchedule"})]);
    apply(&access, &objects("i")).await.unwrap();
    let rollout = wait(&access, Duration::from_secs(20)).await;
    assert!(rollout.is_complete(), "{rollout:?}");
    assert_eq!(rollout.ready, ["n1", "n2", "n5"]);
    assert_eq!(rollout.not_ready_nodes["n3"], "container runtime is down");
    let passed_over = "taint gpu=a100:NoSchedule is not tolerated (tap.tolerations)";
    assert_eq!(rollout.passed_over["n4"], passed_over);
}

#[tokio::test]
async fn pods_refused_by_pod_security_are_told_as_such() {
    let (double, access) = cluster(&["n1"]).await;
    enforce_restricted(&double);
    apply(&access, &[daemonset("i")]).await.unwrap();
    let rollout = wait(&access, SHORT).await;
    assert_eq!(rollout.waiting["n1"], Waiting::NoPod);
    assert!(
        rollout.refusals[0].starts_with("violates PodSecurity \"restricted:latest\": "),
        "{rollout:?}"
    );
}

#[tokio::test]
async fn pods_refused_by_quota_are_told_as_such() {
    let (double, access) = cluster(&["n1", "n2"]).await;
    let message = "exceeded quota: compute, requested: limits.memory=512Mi, used: limits.memory=1Gi, limited: limits.memory=1Gi".to_owned();
    fate(&double, "n2", Fate::Refused { message: message.clone() });
    apply(&access, &objects("i")).await.unwrap();
    let rollout = wait(&access, SHORT).await;
    assert_eq!(rollout.ready, ["n1"]);
    assert_eq!(rollout.waiting["n2"], Waiting::NoPod);
    assert_eq!(rollout.refusals, [message]);
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_named_with_what_to_do() {
    let (double, access) = cluster(&["n1"]).await;
    let message = "Back-off pulling image \"ghcr.io/k/kuberewind:9\"".into();
    fate(&double, "n1", Fate::ImagePull { message });
    apply(&access, &objects("ghcr.io/k/kuberewind:9")).await.unwrap();
    let text = wait(&access, SHORT).await.waiting["n1"].to_string();
    assert!(
        text.contains("image ghcr.io/k/kuberewind:9 cannot be pulled (ImagePullBackOff: "),
        "{text}"
    );
    assert!(text.contains("tap.docker.registry"), "{text}");
}

#[tokio::test]
async fn a_crash_loop_is_told_with_the_last_words() {
    let (double, access) = cluster(&["n1"]).await;
    let message = "open /data: permission denied".into();
    fate(&double, "n1", Fate::CrashLoop { message, exit_code: 1 });
    apply(&access, &objects("i")).await.unwrap();
    let text = wait(&access, SHORT).await.waiting["n1"].to_string();
    assert!(
        text.ends_with("ended with exit code 1, restarted 3 times: open /data: permission denied"),
        "{text}"
    );
}

#[tokio::test]
async fn a_node_that_becomes_ready_within_the_wait_is_content() {
    let (double, access) = cluster(&["n1", "n2"]).await;
    fate(&double, "n2", Fate::NotReady);
    apply(&access, &objects("i")).await.unwrap();
    let mut seen = Vec::new();
    let limit = Duration::from_secs(30);
    let rollout = rollout::wait(&access, NS, names::DAEMONSET, limit, |rollout| {
        seen.push(rollout.waiting.get("n2").map(ToString::to_string));
        // Once it was told as not ready, it becomes so.
        fate(&double, "n2", Fate::Ready);
    });
    assert!(rollout.await.unwrap().is_complete());
    assert!(seen[0].as_ref().unwrap().ends_with("running, but not ready"), "{seen:?}");
}

#[tokio::test]
async fn a_bad_update_leaves_the_old_agents_and_says_so() {
    let (double, access) = cluster(&["n1", "n2"]).await;
    apply(&access, &objects("i:1")).await.unwrap();
    fate(&double, "n1", Fate::ImagePull { message: "no such image".into() });
    apply(&access, &objects("i:2")).await.unwrap();
    let rollout = wait(&access, SHORT).await;
    let text = rollout.waiting["n1"].to_string();
    assert!(text.contains("image i:2 cannot be pulled"), "{text}");
    assert_eq!(rollout.waiting["n2"], Waiting::Old);
    assert!(rollout.waiting.values().all(Waiting::is_recorded), "{rollout:?}");
    let found = agents::list(&access, NS).await.unwrap();
    assert!(found.agents.iter().all(|agent| agent.health == Health::Ready), "{found:?}");
}

#[tokio::test]
async fn a_server_that_stumbles_does_not_end_the_wait() {
    let (double, access) = cluster(&["n1"]).await;
    fate(&double, "n1", Fate::NotReady);
    apply(&access, &objects("i")).await.unwrap();
    let mut stumbled = false;
    let limit = Duration::from_secs(30);
    let rollout = rollout::wait(&access, NS, names::DAEMONSET, limit, |_| {
        if !stumbled {
            stumbled = true;
            let fault = Fault {
                method: None,
                path: "daemonsets".into(),
                times: 2,
                how: Wrong::Internal { message: "etcdserver: request timed out".into() },
            };
            double.control(Command::Fault(fault)).unwrap();
            fate(&double, "n1", Fate::Ready);
        }
    });
    assert!(rollout.await.unwrap().is_complete());
}

#[tokio::test]
async fn agents_are_listed_with_their_version_and_their_trouble() {
    let (double, access) = cluster(&["n1", "n2", "n3"]).await;
    fate(&double, "n2", Fate::NotReady);
    apply(&access, &objects("i")).await.unwrap();
    double.control(Command::KillNode { name: "n3".into() }).unwrap();
    let found = agents::list(&access, NS).await.unwrap();
    assert_eq!(found.desired, Some(3));
    let told: Vec<_> = found.agents.iter().map(|a| (a.node.as_str(), a.health.clone())).collect();
    let wanted = [("n1", Health::Ready), ("n2", Health::NotReady), ("n3", Health::NodeDown)];
    assert_eq!(told, wanted);
    assert_eq!(found.agents[0].version.as_deref(), Some("0.1.0"));
}

#[tokio::test]
async fn agents_that_were_never_installed_are_an_error_that_says_so() {
    let (_double, access) = cluster(&["n1"]).await;
    let error = agents::list(&access, NS).await.unwrap_err();
    assert!(matches!(error, ClusterError::NotFound { .. }));
    assert!(error.to_string().contains("is not installed there"), "{error}");
}

#[tokio::test]
async fn the_recording_switch_survives_another_tap() {
    let (_double, access) = cluster(&[]).await;
    let error = control::set(&access, NS, Recording::Stopped).await.unwrap_err();
    assert!(matches!(error, ClusterError::NotFound { .. }), "{error:?}");
    apply(&access, &objects("i")).await.unwrap();
    assert_eq!(control::read(&access, NS).await.unwrap(), None);
    control::set(&access, NS, Recording::Stopped).await.unwrap();
    apply(&access, &objects("i")).await.unwrap();
    assert_eq!(control::read(&access, NS).await.unwrap(), Some(Recording::Stopped));
    control::set(&access, NS, Recording::Started).await.unwrap();
    assert_eq!(control::read(&access, NS).await.unwrap(), Some(Recording::Started));
}

#[tokio::test]
async fn clean_removes_all_that_tap_made_and_nothing_else() {
    let (double, access) = cluster(&["n1"]).await;
    apply(&access, &objects("i")).await.unwrap();
    let metadata = json!({"name": "dashboards", "labels": ours()});
    put(&double, json!({"apiVersion": RBAC, "kind": "ClusterRole", "metadata": metadata}));
    let done = clean::clean(&access, NS, Duration::from_secs(5)).await.unwrap();
    let kept: Vec<_> =
        done.iter().filter(|c| c.outcome != Outcome::Removed).map(|c| c.name.as_str()).collect();
    assert_eq!(kept, ["dashboards"]);
    assert!(double.objects("v1", "Pod", "").is_empty());
    assert!(double.object("v1", "Namespace", "", NS).is_none());
    assert_eq!(double.objects(RBAC, "ClusterRole", "").len(), 1);
    assert!(double.objects(RBAC, "ClusterRoleBinding", "").is_empty());
}

#[tokio::test]
async fn a_namespace_that_others_made_stays() {
    let (double, access) = cluster(&[]).await;
    put(
        &double,
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NS, "labels": {"team": "net"}}}),
    );
    apply(&access, &objects("i")).await.unwrap();
    let done = clean::clean(&access, NS, Duration::from_secs(5)).await.unwrap();
    let because = "\"test\" manages it, too".to_owned();
    assert_eq!(done.last().unwrap().outcome, Outcome::Kept { because });
}

#[tokio::test]
async fn a_namespace_that_others_live_in_stays() {
    let (double, access) = cluster(&[]).await;
    apply(&access, &objects("i")).await.unwrap();
    put(
        &double,
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "theirs", "namespace": NS}}),
    );
    let done = clean::clean(&access, NS, Duration::from_secs(5)).await.unwrap();
    let because = "Secret theirs is in it, too".to_owned();
    assert_eq!(done.last().unwrap().outcome, Outcome::Kept { because });
}
