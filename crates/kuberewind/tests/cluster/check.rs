//! What would hinder, before it is tried.

use kuberewind_apiserver_double::{Command, Fate, Node, Rule};
use serde_json::{Value, json};

use crate::lab::{Lab, NS};

fn namespace(lab: &Lab, labels: &Value) {
    let metadata = json!({"name": NS, "labels": labels});
    lab.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}));
}

fn tainted(lab: &Lab, name: &str, taint: Value) {
    let node = Node { name: name.into(), ready: true, labels: [].into(), taints: vec![taint] };
    lab.control(Command::Node(node));
}

/// A node as a kubelet describes it.
fn described(lab: &Lab, name: &str, info: Value) {
    let mut node = lab.double.object("v1", "Node", "", name).unwrap();
    node["status"]["nodeInfo"] = info;
    lab.put(node);
}

fn info(kernel: &str, arch: &str, runtime: &str) -> Value {
    json!({
        "kernelVersion": kernel, "architecture": arch, "operatingSystem": "linux",
        "containerRuntimeVersion": runtime, "bootID": "", "kubeProxyVersion": "",
        "kubeletVersion": "", "machineID": "", "osImage": "", "systemUUID": "",
    })
}

#[test]
fn on_a_fresh_cluster_an_administrator_is_hindered_by_nothing() {
    let lab = Lab::with(&["n1", "n2"]);
    described(&lab, "n1", info("6.1.0-13-amd64", "amd64", "containerd://1.7.2"));
    lab.run(&["check"])
        .ended(0)
        .shows(&["ok", "API server", "Kubernetes v1.36.1"])
        .shows(&["ok", "rights", "all that tap needs"])
        .shows(&["ok", "rights", "all that clean needs"])
        .shows(&["ok", "nodes", "2 of 2 nodes get an agent"])
        .shows(&["ok", "kernel", "n1: Linux 6.1.0-13-amd64"])
        .shows(&["ok", "namespace", "kuberewind is not there yet"])
        .says("nothing hinders\n");
    let changes = |request: &String| {
        let asks = request.contains("selfsubjectaccessreviews") || request.contains("dryRun=All");
        !request.starts_with("GET") && !asks
    };
    assert!(!lab.double.requests().iter().any(changes), "{:?}", lab.double.requests());
}

#[test]
fn where_it_runs_the_agents_are_asked() {
    let lab = Lab::with(&["n1", "n2"]);
    lab.run(&["tap", "--wait", "20s"]).ended(0);
    let room = |free: u64| json!({"disk": {"size": 100_000_000_000_u64, "free": free, "minFree": 12_000_000_000_u64}});
    lab.agent("n1", |agent| agent.says = room(50_000_000_000));
    lab.agent("n2", |agent| agent.says = room(12_100_000_000));
    lab.run(&["check"])
        .ended(0)
        .shows(&["ok", "agents", "n1: ready"])
        .shows(&["ok", "disk", "n1: 50GB free of 100GB"])
        .shows(&["warning", "disk", "n2: 12.1GB free"])
        .shows(&["ok", "admission", "the API server takes the agents' pods"])
        .says("nothing blocks; warnings: 1\n");
    lab.agent("n2", |agent| agent.says = room(12_000_000_000));
    lab.run(&["check"]).ended(1).shows(&["blocks", "disk", "n2: 12GB free"]);
}

#[test]
fn an_agent_that_is_not_ready_blocks() {
    let lab = Lab::with(&["n1"]);
    lab.fate("n1", Fate::ImagePull { message: "no such host".into() });
    lab.run(&["tap", "--wait", "1s"]).ended(3);
    lab.run(&["check"]).ended(1).shows(&[
        "blocks",
        "agents",
        "n1: image localhost/kuberewind",
        "cannot be pulled",
    ]);
}

#[test]
fn missing_rights_are_named_with_the_command_that_they_hinder() {
    let lab = Lab::with(&["n1"]);
    lab.only(vec![
        Rule::core(&["get", "list"], &["pods", "configmaps", "nodes", "namespaces"], None),
        Rule::core(&["create"], &["pods/portforward"], Some(NS)),
        Rule::of("apps", &["get"], &["daemonsets"], None),
    ]);
    lab.run(&["check"])
        .ended(1)
        .says("missing for pcapdump, status: `get` on pods/portforward in namespace kuberewind\n")
        .says("missing for pcapdump stop, pcapdump start: `patch` on configmaps in namespace kuberewind\n")
        .says("`create` on daemonsets.apps in namespace kuberewind")
        .says("`delete` on clusterroles.rbac.authorization.k8s.io in the whole cluster")
        .says("the Role kuberewind-exporter gives what is needed");
}

#[test]
fn who_only_exports_asks_for_that_only() {
    let lab = Lab::with(&["n1"]);
    lab.run(&["tap", "--wait", "20s"]).ended(0);
    lab.only(vec![
        Rule::core(&["get", "list"], &["pods"], Some(NS)),
        Rule::core(&["get", "create"], &["pods/portforward"], Some(NS)),
        Rule::core(&["get"], &["configmaps"], Some(NS)),
        Rule::of("apps", &["get"], &["daemonsets"], Some(NS)),
    ]);
    lab.run(&["check", "--for", "pcapdump"])
        .ended(0)
        .says("nodes without an agent are not named")
        .says("needs the right `list` on nodes");
    lab.run(&["check", "--for", "pcapdump,clean"]).ended(1).never_says("missing for tap");
}

#[test]
fn nodes_without_an_agent_are_named_with_the_reason() {
    let lab = Lab::with(&["n1"]);
    lab.node("n2", false);
    tainted(&lab, "n3", json!({"key": "gpu", "value": "yes", "effect": "NoSchedule"}));
    described(&lab, "n1", info("4.4.0-210-generic", "amd64", "containerd://1.7.2"));
    described(&lab, "n2", info("5.4.0-150-generic", "arm64", "strange://1"));
    lab.run(&["check", "--set", "tap.tolerations={}"])
        .ended(1)
        .shows(&["ok", "nodes", "2 of 3 nodes get an agent"])
        .shows(&["warning", "nodes", "n3: taint gpu=yes:NoSchedule is not tolerated"])
        .shows(&["warning", "nodes", "n2: not ready: container runtime is down"])
        .shows(&["warning", "nodes", "n2: arm64"])
        .shows(&["warning", "container runtimes", "n2: strange"])
        .shows(&["blocks", "kernel", "n1: kernel 4.4.0-210-generic"])
        .shows(&["warning", "kernel", "n2: kernel 5.4.0-150-generic"])
        .says("hinders: decrypting TLS\n");
}

#[test]
fn a_namespace_that_refuses_the_agents_blocks_and_the_label_is_told() {
    let lab = Lab::with(&["n1"]);
    namespace(&lab, &json!({"pod-security.kubernetes.io/enforce": "baseline"}));
    lab.run(&["check"])
        .ended(1)
        .shows(&["blocks", "namespace", "pod-security.kubernetes.io/enforce=baseline"])
        .shows(&["blocks", "admission", "violates PodSecurity \"baseline:latest\""])
        .says("mend: kubectl label namespace kuberewind pod-security.kubernetes.io/enforce=privileged --overwrite");
    namespace(&lab, &json!({"pod-security.kubernetes.io/enforce": "privileged"}));
    lab.run(&["check"]).ended(0);
}

#[test]
fn a_quota_without_room_blocks() {
    let lab = Lab::with(&["n1", "n2", "n3"]);
    namespace(&lab, &json!({}));
    lab.put(json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"namespace": NS, "name": "compute"},
        "spec": {"hard": {"pods": "10", "limits.memory": "1Gi"}},
        "status": {"used": {"pods": "0", "limits.memory": "0"}},
    }));
    lab.run(&["check"]).ended(1).shows(&[
        "blocks",
        "quota",
        "quota compute allows limits.memory 1Gi",
    ]);
    let larger = "tap.resources.limits.memory=256Mi";
    lab.run(&["check", "--set", larger]).ended(0).shows(&["ok", "quota", "enough is left"]);
}

#[test]
fn for_programs_it_is_a_list() {
    let lab = Lab::with(&["n1"]);
    let ended = lab.run(&["check", "-o", "json"]).ended(0);
    let findings: Vec<Value> = serde_json::from_str(&ended.out).unwrap();
    assert!(findings.iter().all(|finding| finding["state"] == "ok"), "{findings:#?}");
    assert!(findings.iter().any(|finding| finding["topic"] == "rights"));
}

#[test]
fn a_cluster_that_does_not_answer_is_a_finding() {
    let lab = Lab::with(&[]);
    lab.control(Command::Serve { serving: false });
    let ended = lab.run(&["check", "-o", "json"]).ended(1);
    let findings: Vec<Value> = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(findings[0]["state"], "blocks");
    assert_eq!(findings[0]["topic"], "API server");
}
