//! `clean`.

use kuberewind_apiserver_double::{Command, Rule};
use serde_json::json;

use crate::lab::{Lab, NS};

fn installed(nodes: &[&str]) -> Lab {
    let lab = Lab::with(nodes);
    lab.run(&["tap", "--wait", "20s"]).ended(0);
    lab
}

#[test]
fn what_was_installed_on_demand_goes_too() {
    let lab = Lab::with(&["n1"]);
    let on = "tap.networkPolicy=true,tap.metrics.dashboard=true";
    lab.run(&["tap", "--wait", "20s", "--set", on]).ended(0);
    lab.run(&["clean"])
        .ended(0)
        .says("removed NetworkPolicy kuberewind/kuberewind-agent")
        .says("removed ConfigMap kuberewind/kuberewind-dashboard")
        .says("removed Namespace kuberewind");
}

#[test]
fn clean_erases_the_recordings_and_removes_everything() {
    let lab = installed(&["n1", "n2"]);
    lab.run(&["clean"])
        .ended(0)
        .says("erased the recording of node n1")
        .says("removed DaemonSet kuberewind/kuberewind-agent")
        .says("removed Namespace kuberewind");
    assert!(lab.has_erased("n1") && lab.has_erased("n2"));
    assert!(lab.daemonset().is_none());
    assert!(lab.double.object("v1", "Namespace", "", NS).is_none());
    lab.run(&["clean"]).ended(0).says("nothing of kuberewind is in namespace kuberewind");
}

#[test]
fn keep_data_leaves_the_recordings() {
    let lab = installed(&["n1"]);
    lab.run(&["clean", "--keep-data"]).ended(0).never_says("erased");
    assert!(!lab.has_erased("n1"));
    assert!(lab.daemonset().is_none());
}

#[test]
fn a_node_that_keeps_its_recording_is_named() {
    let lab = installed(&["n1", "n2", "n3"]);
    lab.agent("n2", |agent| agent.keeps = true);
    lab.control(Command::KillNode { name: "n3".into() });
    lab.run(&["clean", "--wait", "1s"])
        .ended(3)
        .says("node n2 keeps its recording (erase /data/journal: Read-only file system)")
        .says("node n3 keeps its recording (its node does not answer)")
        .says("sudo rm -r /var/lib/kuberewind");
    assert!(lab.has_erased("n1"));
    assert!(lab.daemonset().is_none());
}

#[test]
fn who_may_not_erase_removes_nothing() {
    let lab = installed(&["n1"]);
    let kinds = [
        "namespaces",
        "serviceaccounts",
        "configmaps",
        "pods",
        "daemonsets",
        "secrets",
        "services",
        "roles",
        "rolebindings",
        "clusterroles",
        "clusterrolebindings",
        "selfsubjectaccessreviews",
    ];
    lab.only(vec![Rule::of("*", &["*"], &kinds, None)]);
    lab.run(&["clean"])
        .ended(1)
        .says("erasing the recordings needs the right `get` on pods/portforward")
        .says("--keep-data");
    assert!(lab.daemonset().is_some());
}

#[test]
fn a_release_of_helm_is_helm_s_to_remove() {
    let lab = installed(&["n1"]);
    let mut set = lab.daemonset().unwrap();
    set["metadata"]["labels"]["app.kubernetes.io/managed-by"] = json!("Helm");
    set["metadata"]["annotations"]["meta.helm.sh/release-name"] = json!("flight");
    lab.put(set);
    lab.run(&["clean"]).ended(2).says("helm uninstall flight --namespace kuberewind");
    assert!(!lab.has_erased("n1"));
    assert!(lab.daemonset().is_some());
}
