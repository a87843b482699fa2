//! The chart installed by Helm itself, and what our commands make of its release.

use kuberewind_apiserver_double::Command;
use serde_json::{Value, json};

use crate::helm::Release;
use crate::lab::{Lab, NS};

/// Everything that the chart makes.
const KINDS: [(&str, &str); 7] = [
    ("v1", "ServiceAccount"),
    ("v1", "ConfigMap"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io/v1", "Role"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("apps/v1", "DaemonSet"),
];

fn objects(lab: &Lab) -> Vec<Value> {
    KINDS.iter().flat_map(|(version, kind)| lab.double.objects(version, kind, "")).collect()
}

/// Without what the server adds, and how each of the two marks what is its own.
fn plain(mut object: Value) -> Value {
    object.as_object_mut().unwrap().remove("status");
    let metadata = object["metadata"].as_object_mut().unwrap();
    for added in ["managedFields", "uid", "resourceVersion", "creationTimestamp", "generation"] {
        metadata.remove(added);
    }
    metadata["labels"].as_object_mut().unwrap().remove("app.kubernetes.io/managed-by");
    if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
        annotations.retain(|name, _| !name.starts_with("meta.helm.sh/"));
    }
    object
}

/// A cluster with a namespace made as `docs/install.md` says, and no release in it yet.
fn prepared(name: &str) -> (Lab, Release) {
    let lab = Lab::with(&["n1", "n2"]);
    let labels = json!({"pod-security.kubernetes.io/enforce": "privileged"});
    let metadata = json!({"name": NS, "labels": labels});
    lab.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}));
    let kubeconfig = lab.kubeconfig();
    (lab, Release { kubeconfig, namespace: NS.into(), name: name.into() })
}

fn installed(name: &str) -> (Lab, Release) {
    let (lab, release) = prepared(name);
    let said = release.install(&json!({"headless": true})).unwrap();
    assert_eq!((&said["status"], &said["revision"]), (&json!("deployed"), &json!(1)));
    (lab, release)
}

#[test]
fn helm_installs_what_tap_installs() {
    let by_tap = Lab::with(&["n1", "n2"]);
    by_tap.run(&["tap", "--set", "headless=true", "--wait", "20s"]).ended(0);
    let (by_helm, _) = installed("kuberewind");

    let ours: Vec<_> = objects(&by_tap).into_iter().map(plain).collect();
    let helms: Vec<_> = objects(&by_helm).into_iter().map(plain).collect();
    assert_eq!(ours.len(), 8);
    for (ours, helms) in ours.iter().zip(&helms) {
        assert_eq!(ours, helms);
    }
    assert_eq!(ours.len(), helms.len());
    assert_eq!(by_helm.double.objects("v1", "Pod", NS).len(), 2);
    let secrets = by_helm.double.objects("v1", "Secret", NS);
    assert_eq!(secrets.len(), 1);
    assert_eq!(secrets[0]["metadata"]["name"], "sh.helm.release.v1.kuberewind.v1");
    assert_eq!(secrets[0]["type"], "helm.sh/release.v1");
}

#[test]
fn the_commands_work_on_a_release_of_helm_and_leave_its_objects_to_it() {
    let (lab, _) = installed("flight");
    let before = objects(&lab);
    lab.run(&["tap", "^cart-", "--set", "pcapdump.maxSize=2GB"])
        .ended(2)
        .says("Helm")
        .says("  helm upgrade flight ./chart --namespace kuberewind --reuse-values --set 'tap.regex=^cart-' --set pcapdump.maxSize=2GB\n");
    lab.run(&["clean"]).ended(2).says("helm uninstall flight --namespace kuberewind");
    assert_eq!(objects(&lab), before);
    lab.run(&["status"]).ended(0).shows(&["n1"]).shows(&["n2"]);
}

#[test]
fn an_upgrade_changes_what_it_is_told_and_not_what_was_stopped() {
    let (lab, release) = installed("flight");
    lab.run(&["pcapdump", "stop"]).ended(0);
    let said = release.upgrade(&json!({"tap": {"regex": "^cart-", "snaplen": 96}})).unwrap();
    assert_eq!(said["revision"], 2);
    let values = lab.values();
    assert_eq!((&values["tap"]["regex"], &values["headless"]), (&json!("^cart-"), &json!(true)));
    let read_once = &lab.daemonset().unwrap()["spec"]["template"]["metadata"]["annotations"];
    assert!(read_once["kuberewind/read-once"].as_str().unwrap().contains("\"snaplen\":96"));
    assert_eq!(lab.config_map()["data"]["recording"], "stopped");
    lab.run(&["pcapdump", "start"]).ended(0);

    let refused = release.upgrade(&json!({"pcapdump": {"maxTime": "1d"}})).unwrap_err();
    assert!(refused.contains("maxTime"), "{refused}");
    assert_eq!(lab.values(), values);
}

#[test]
fn helm_uninstalls_all_that_it_installed() {
    let (lab, release) = installed("flight");
    lab.run(&["pcapdump", "stop"]).ended(0);
    release.upgrade(&json!({"tap": {"snaplen": 96}})).unwrap();
    release.uninstall().unwrap();
    assert_eq!(objects(&lab), [Value::Null; 0]);
    for kind in ["Secret", "Pod"] {
        assert_eq!(lab.double.objects("v1", kind, ""), [Value::Null; 0]);
    }
    assert!(lab.double.object("v1", "Namespace", "", NS).is_some());
    lab.run(&["status"]).ended(1).says("kuberewind tap");
}

#[test]
fn helm_takes_nothing_over_that_tap_made() {
    let (lab, release) = prepared("flight");
    lab.run(&["tap", "--set", "headless=true", "--wait", "20s"]).ended(0);
    let before = objects(&lab);
    let refused = release.install(&json!({})).unwrap_err();
    assert!(refused.contains("cannot be imported into the current release"), "{refused}");
    assert_eq!(objects(&lab), before);
}

/// A fault of the double would show here as one of Helm's.
#[test]
fn a_right_that_helm_lacks_is_helm_s_to_tell() {
    use kuberewind_apiserver_double::{Rule, User};
    let (lab, release) = prepared("flight");
    let user =
        User { name: "dev".into(), rules: vec![Rule::of("*", &["get", "list"], &["*"], None)] };
    lab.control(Command::Anonymous { user });
    let refused = release.install(&json!({})).unwrap_err();
    assert!(refused.contains("secrets is forbidden") && refused.contains("\"dev\""), "{refused}");
}
