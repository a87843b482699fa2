//! Installing, changing, and what may come between.

use kuberewind_apiserver_double::{Command, Fate, Rule};
use serde_json::json;

use crate::lab::{Lab, NS};

const TAP: &[&str] = &["tap", "--wait", "20s"];

/// Long enough for what works, and not awaited by what does not.
const SHORT: &[&str] = &["tap", "--wait", "2s"];

#[test]
fn tap_installs_and_names_the_nodes_and_pods_that_are_recorded() {
    let lab = Lab::with(&["n1", "n2"]);
    let ended = lab.run(TAP).ended(0);
    ended
        .says("created Namespace kuberewind")
        .says("created DaemonSet kuberewind/kuberewind-agent")
        .says("2 of 2 nodes have an agent that is ready")
        .shows(&["n1", "1"])
        .shows(&["n2", "1"])
        .says("2 pods are recorded:\n  shop/cart-n1 on n1\n  shop/cart-n2 on n2\n");
    let label = "pod-security.kubernetes.io/enforce";
    let namespace = lab.double.object("v1", "Namespace", "", NS).unwrap();
    assert_eq!(namespace["metadata"]["labels"][label], "privileged");
    let system = lab.double.object("v1", "Namespace", "", "kube-system").unwrap();
    assert_eq!(lab.config_map()["data"]["clusterId"], system["metadata"]["uid"]);
}

#[test]
fn a_second_tap_keeps_what_the_first_one_set_and_tells_the_change() {
    let lab = Lab::with(&["n1"]);
    lab.run(&[TAP, &["^cart-", "-n", "shop,bank", "-e", "kube-system", "-t", "9.9"]].concat())
        .ended(0)
        .says("tap.namespaces: [] -> [shop, bank]");
    lab.run(&[TAP, &["--set", "pcapdump.maxSize=2GB"]].concat())
        .ended(0)
        .says("\n  pcapdump.maxSize: 500MB -> 2GB\n")
        .says("changed ConfigMap kuberewind/kuberewind")
        .never_says("changed DaemonSet")
        .never_says("tap.regex");
    let values = lab.values();
    assert_eq!(values["tap"]["regex"], "^cart-");
    assert_eq!(values["tap"]["namespaces"], json!(["shop", "bank"]));
    assert_eq!(values["tap"]["docker"]["tag"], "9.9");
    assert_eq!(values["pcapdump"]["maxSize"], "2GB");
    lab.run(TAP).ended(0).says("nothing to change");
}

#[test]
fn reset_values_forgets_what_earlier_taps_set() {
    let lab = Lab::with(&["n1"]);
    lab.run(&[TAP, &["^cart-", "--set", "pcapdump.maxTime=2h"]].concat()).ended(0);
    lab.run(&[TAP, &["--reset-values", "--set", "headless=true"]].concat())
        .ended(0)
        .says("pcapdump.maxTime: 2h -> 1h")
        .says("tap.regex: \"^cart-\" -> none");
    assert_eq!(lab.values()["tap"]["regex"], "");
}

#[test]
fn files_go_over_earlier_values_and_set_over_files_and_flags_over_all() {
    let lab = Lab::with(&["n1"]);
    let earlier = "tap.regex=a,tap.namespaces={a},pcapdump.maxTime=2h,pcapdump.maxSize=1GB";
    lab.run(&[TAP, &["--set", earlier]].concat()).ended(0);
    lab.write("kuberewind.yaml", "tap: {regex: b, namespaces: [b]}\npcapdump: {maxTime: 3h}\n");
    lab.run(&[TAP, &["--set", "tap.regex=c,tap.namespaces={c}", "-n", "d"]].concat()).ended(0);
    let values = lab.values();
    assert_eq!(values["pcapdump"]["maxSize"], "1GB");
    assert_eq!(values["pcapdump"]["maxTime"], "3h");
    assert_eq!(values["tap"]["regex"], "c");
    assert_eq!(values["tap"]["namespaces"], json!(["d"]));
}

#[test]
fn what_is_installed_on_demand_goes_again_when_it_is_switched_off() {
    let lab = Lab::with(&["n1"]);
    let policy =
        || lab.double.object("networking.k8s.io/v1", "NetworkPolicy", NS, "kuberewind-agent");
    let on = "tap.networkPolicy=true,tap.metrics.dashboard=true";
    lab.run(&[TAP, &["--set", on]].concat())
        .ended(0)
        .says("created NetworkPolicy kuberewind/kuberewind-agent")
        .says("created ConfigMap kuberewind/kuberewind-dashboard");
    assert!(policy().is_some());
    lab.run(&[TAP, &["--set", "tap.networkPolicy=false"]].concat())
        .ended(0)
        .says("tap.networkPolicy: true -> false")
        .says("removed NetworkPolicy kuberewind-agent")
        .never_says("removed ConfigMap");
    assert!(policy().is_none());
    lab.run(TAP).ended(0).says("nothing to change");
}

#[test]
fn a_kind_that_the_cluster_does_not_know_is_named() {
    let lab = Lab::with(&["n1"]);
    lab.run(&[TAP, &["--set", "tap.metrics.podMonitor=true"]].concat())
        .ended(1)
        .says("the cluster knows no PodMonitor (monitoring.coreos.com/v1)")
        .says("tap.metrics.podMonitor");
}

#[test]
fn values_of_another_version_are_dropped_by_name() {
    let lab = Lab::with(&["n1"]);
    lab.run(TAP).ended(0);
    let mut map = lab.config_map();
    map["data"]["values.yaml"] = json!(r#"{"tap": {"colour": "red", "regex": "^cart-"}}"#);
    map["metadata"]["labels"]["app.kubernetes.io/version"] = json!("0.0.9");
    lab.put(map);
    // What the test changed now belongs to the test.
    lab.run(&[TAP, &["--force-conflicts"]].concat())
        .ended(0)
        .says("an earlier tap's `tap.colour` (unknown key) is dropped");
    assert_eq!(lab.values()["tap"]["regex"], "^cart-");
}

#[test]
fn agents_of_another_version_are_said_to_be_replaced() {
    let lab = Lab::with(&["n1"]);
    lab.run(TAP).ended(0);
    let mut set = lab.daemonset().unwrap();
    set["metadata"]["labels"]["app.kubernetes.io/version"] = json!("0.0.9");
    lab.put(set);
    lab.run(&[TAP, &["--force-conflicts"]].concat())
        .ended(0)
        .says("the agents run kuberewind 0.0.9, this is");
}

#[test]
fn a_wrong_setting_changes_nothing() {
    let lab = Lab::with(&["n1"]);
    for (line, why) in [
        (["--set", "pcapdump.maxTme=1h"], "did you mean `pcapdump.maxTime`?"),
        (["--set", "tap.regex=("], "tap.regex: regex parse error"),
        (["--set", "tap.bpfOverride=tcp prt 1"], "tcp prt 1"),
        (["--set", "tap.dataDir=data"], "tap.dataDir is `data`"),
        (["--wait", "1d"], "no such unit `d`"),
    ] {
        lab.run(&[&["tap"], &line[..]].concat()).ended(2).says(why);
    }
    let changes = |request: &String| !request.starts_with("GET");
    assert!(!lab.double.requests().iter().any(changes), "{:?}", lab.double.requests());
}

#[test]
fn a_stopped_recording_stays_stopped_and_tap_says_so() {
    let lab = Lab::with(&["n1"]);
    lab.run(TAP).ended(0);
    lab.run(&["pcapdump", "stop"]).ended(0);
    lab.run(&[TAP, &["--set", "pcapdump.maxTime=2h"]].concat())
        .ended(0)
        .says("recording was stopped by `kuberewind pcapdump stop` and stays so");
    assert_eq!(lab.config_map()["data"]["recording"], "stopped");
}

#[test]
fn settings_that_a_bpf_override_idles_are_named() {
    let lab = Lab::with(&["n1"]);
    lab.run(&[TAP, &["^cart-", "-n", "shop", "--set", "tap.bpfOverride=port 53"]].concat())
        .ended(0)
        .says("tap.bpfOverride is set, so tap.regex and tap.namespaces has no effect now");
}

#[test]
fn a_release_of_helm_is_left_alone_and_the_same_told_for_helm() {
    let lab = Lab::with(&["n1"]);
    lab.run(TAP).ended(0);
    let mut set = lab.daemonset().unwrap();
    set["metadata"]["labels"]["app.kubernetes.io/managed-by"] = json!("Helm");
    set["metadata"]["annotations"]["meta.helm.sh/release-name"] = json!("flight");
    lab.put(set);
    lab.run(&[TAP, &["^cart|^pay", "-n", "shop", "--set", "pcapdump.maxSize=2GB"]].concat())
        .ended(2)
        .says(
            "  helm upgrade flight ./chart --namespace kuberewind --reuse-values --set 'tap.regex=^cart|^pay' --set-json 'tap.namespaces=[\"shop\"]' --set pcapdump.maxSize=2GB\n",
        );
    assert_eq!(lab.values()["tap"]["regex"], "");
}

#[test]
fn a_second_release_in_another_namespace_is_refused() {
    let lab = Lab::with(&["n1"]);
    lab.run(TAP).ended(0);
    lab.run(&[TAP, &["-s", "other"]].concat())
        .ended(2)
        .says("installed in namespace kuberewind already");
    assert!(lab.double.object("v1", "Namespace", "", "other").is_none());
}

#[test]
fn a_conflict_names_the_field_and_what_takes_it_over() {
    let lab = Lab::with(&["n1"]);
    lab.run(TAP).ended(0);
    let mut map = lab.config_map();
    map["data"]["values.yaml"] = json!("{}");
    lab.put(map);
    lab.run(&[TAP, &["--set", "pcapdump.maxTime=2h"]].concat())
        .ended(1)
        .says(".data.values.yaml is managed by \"test\"")
        .says("--force-conflicts");
    lab.run(&[TAP, &["--set", "pcapdump.maxTime=2h", "--force-conflicts"]].concat()).ended(0);
    assert_eq!(lab.values()["pcapdump"]["maxTime"], "2h");
}

#[test]
fn a_missing_right_is_named() {
    let lab = Lab::with(&["n1"]);
    lab.only(vec![Rule::of("*", &["get", "list"], &["*"], None)]);
    lab.run(TAP).ended(1).says("needs the right `patch` on namespaces in the whole cluster");
}

#[test]
fn somebody_who_may_not_ask_the_agents_is_told_the_nodes() {
    let lab = Lab::with(&["n1"]);
    let all = ["get", "list", "patch", "create", "update"];
    let kinds = [
        "namespaces",
        "serviceaccounts",
        "configmaps",
        "pods",
        "nodes",
        "events",
        "daemonsets",
        "roles",
        "rolebindings",
        "clusterroles",
        "clusterrolebindings",
        "selfsubjectaccessreviews",
    ];
    lab.only(vec![Rule::of("*", &all, &kinds, None)]);
    lab.run(TAP)
        .ended(0)
        .says("n1: an agent is ready")
        .says("needs the right `get` on pods/portforward in namespace kuberewind");
}

#[test]
fn pods_that_pod_security_refuses_are_told_with_the_label_that_allows_them() {
    let lab = Lab::with(&["n1"]);
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let metadata = json!({"name": NS, "labels": labels});
    lab.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}));
    lab.run(SHORT)
        .ended(3)
        .says("node n1 does not record: no pod was made")
        .says("refuses the agents' pods: violates PodSecurity \"restricted:latest\"")
        .says("kubectl label namespace kuberewind pod-security.kubernetes.io/enforce=privileged");
}

#[test]
fn pods_that_a_quota_refuses_are_told_as_such() {
    let lab = Lab::with(&["n1", "n2"]);
    let message = "exceeded quota: compute, requested: limits.memory=512Mi".to_owned();
    lab.fate("n2", Fate::Refused { message });
    lab.run(SHORT)
        .ended(3)
        .says("node n2 does not record: no pod was made")
        .says("exceeded quota: compute")
        .shows(&["n1", "1"]);
}

#[test]
fn an_image_that_cannot_be_pulled_is_named() {
    let lab = Lab::with(&["n1", "n2"]);
    lab.fate("n2", Fate::ImagePull { message: "no such host".into() });
    lab.run(&[SHORT, &["-r", "registry.example/team", "-t", "9.9"]].concat())
        .ended(3)
        .says("node n2 does not record: pod kuberewind-agent-")
        .says("image registry.example/team/kuberewind:9.9 cannot be pulled (ImagePullBackOff: no such host)");
}

#[test]
fn a_bad_image_leaves_the_old_agents_recording_and_says_so() {
    let lab = Lab::with(&["n1", "n2"]);
    lab.run(TAP).ended(0);
    lab.fate("n1", Fate::ImagePull { message: "no such host".into() });
    lab.run(&[SHORT, &["-t", "9.9"]].concat())
        .ended(3)
        .says("node n1 is still recorded by the agent from before: pod kuberewind-agent-")
        .says("kuberewind:9.9 cannot be pulled (ImagePullBackOff: no such host)")
        .says("node n2 is recorded by the agent from before: its turn has not come")
        .shows(&["n1", "1"])
        .shows(&["n2", "1"]);
}

#[test]
fn an_agent_that_is_never_ready_ends_the_wait_with_its_name() {
    let lab = Lab::with(&["n1", "n2"]);
    lab.fate("n2", Fate::NotReady);
    lab.run(SHORT).ended(3).says("node n2 does not record: pod").says("running, but not ready");
}

#[test]
fn a_node_that_is_not_ready_is_listed_and_not_awaited() {
    let lab = Lab::with(&["n1"]);
    lab.node("n2", false);
    lab.run(TAP)
        .ended(0)
        .says("node n2 is not ready and not waited for: container runtime is down");
}

#[test]
fn an_agent_that_does_not_follow_the_settings_is_named() {
    let lab = Lab::with(&["n1", "n2"]);
    lab.agent("n2", |agent| agent.deaf = true);
    lab.run(SHORT).ended(3).shows(&["n2", "?", "does not follow the new settings yet"]);
}

#[test]
fn a_node_that_says_it_does_not_record_is_named() {
    let lab = Lab::with(&["n1", "n2"]);
    let full = json!({"store": {"heldBackByMinFree": true}});
    lab.agent("n2", |agent| agent.says = full);
    lab.run(TAP).ended(3).shows(&["n2", "1", "NOT RECORDING: writing is held back"]);
}

#[test]
fn without_a_cluster_tap_says_what_there_is_to_do() {
    let lab = Lab::with(&[]);
    let kubeconfig = lab.write("none", "apiVersion: v1\nkind: Config\n");
    let none = kubeconfig.to_str().unwrap();
    lab.run(&["tap", "--kubeconfig", none]).ended(1).says("sets no current-context");
    lab.run(&["tap", "--context", "prod"]).ended(1).says("context prod is not in");
}

#[test]
fn a_busy_server_does_not_end_tap() {
    use kuberewind_apiserver_double::{Fault, Wrong};
    let lab = Lab::with(&["n1"]);
    for path in ["daemonsets", "portforward"] {
        let how = Wrong::Internal { message: "etcdserver: request timed out".into() };
        // The first daemonset request is ours to look; those of the wait come later.
        let method = Some("GET".to_owned());
        let fault = Fault { method, path: path.into(), times: 1, how };
        if path == "portforward" {
            lab.control(Command::Fault(fault));
        }
    }
    lab.run(TAP).ended(0);
}
