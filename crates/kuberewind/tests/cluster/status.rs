//! `status`.

use kuberewind_apiserver_double::{Command, Fate, Rule};
use serde_json::{Value, json};

use crate::lab::{Lab, NS};

fn installed(nodes: &[&str]) -> Lab {
    let lab = Lab::with(nodes);
    lab.run(&["tap", "--wait", "20s"]).ended(0);
    lab
}

#[test]
fn every_node_has_a_line_with_what_it_holds() {
    let lab = installed(&["n1", "n2"]);
    lab.agent("n2", |agent| agent.says = json!({"losses": {"ring": 12}}));
    let version = env!("CARGO_PKG_VERSION");
    lab.run(&["status"])
        .ended(0)
        .shows(&["NODE", "RECORDING", "PODS", "HOLDS", "DISK", "LOST", "VERSION", "NOTE"])
        .shows(&["n1", "yes", "1", "5m", "41MB of 500MB", "0", version])
        .shows(&["n2", "yes", "1", "5m", "41MB of 500MB", "12 (ring 12)", version]);
}

#[test]
fn nodes_that_cannot_be_asked_are_named_with_the_reason() {
    let lab = installed(&["n1", "n2", "n3"]);
    lab.control(Command::KillNode { name: "n2".into() });
    lab.fate("n4", Fate::ImagePull { message: "no such host".into() });
    lab.node("n4", true);
    lab.agent("n3", |agent| agent.says = json!({"problems": ["shop/cart-7: no CAP_NET_RAW"]}));
    lab.run(&["status"])
        .ended(3)
        .shows(&["n1", "yes"])
        .shows(&["n2", "?", "its node does not answer"])
        .shows(&["n3", "NO", "shop/cart-7: no CAP_NET_RAW"])
        .shows(&["n4", "?", "cannot be pulled (ImagePullBackOff: no such host)"]);
}

#[test]
fn a_node_that_no_pod_was_made_for_is_named() {
    let lab = installed(&["n1"]);
    lab.fate("n2", Fate::Refused { message: "exceeded quota: compute".into() });
    lab.node("n2", true);
    lab.run(&["status"]).ended(3).shows(&["n2", "?", "no pod was made: exceeded quota: compute"]);
}

#[test]
fn the_exporter_s_rights_are_enough() {
    let lab = installed(&["n1"]);
    let role = lab
        .double
        .object("rbac.authorization.k8s.io/v1", "Role", NS, "kuberewind-exporter")
        .unwrap();
    let words = |rule: &Value, key: &str| -> Vec<String> {
        serde_json::from_value(rule[key].clone()).unwrap()
    };
    let mut rules: Vec<Rule> = role["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| Rule {
            verbs: words(rule, "verbs"),
            groups: words(rule, "apiGroups"),
            resources: words(rule, "resources"),
            namespace: Some(NS.to_owned()),
        })
        .collect();
    // Every user has this one.
    rules.push(Rule::of("authorization.k8s.io", &["create"], &["selfsubjectaccessreviews"], None));
    lab.only(rules);
    lab.run(&["status"]).ended(0).shows(&["n1", "yes", "1"]);
}

#[test]
fn as_json_it_is_what_the_agents_say() {
    let lab = installed(&["n1", "n2"]);
    lab.control(Command::KillNode { name: "n2".into() });
    let ended = lab.run(&["status", "--json"]).ended(3);
    let all: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(all[0]["node"], "n1");
    assert_eq!(all[0]["recording"], true);
    assert_eq!(all[0]["status"]["pods"]["recorded"][0]["name"], "cart-n1");
    assert_eq!(all[1]["recording"], false);
    assert_eq!(all[1]["error"], "its node does not answer");
}

#[test]
fn who_holds_too_little_is_told_what_to_set() {
    let lab = installed(&["n1"]);
    lab.agent("n1", |agent| agent.says = json!({"bytesHeld": 499_000_000}));
    lab.run(&["status"]).ended(0).says("n1 holds 5m of 1h").says("--set pcapdump.maxSize=7GB");
}

#[test]
fn a_cluster_that_cannot_be_asked_is_a_failure() {
    let lab = Lab::with(&["n1"]);
    lab.run(&["status"]).ended(1).says("kuberewind is not installed there");
    lab.run(&["tap", "--wait", "20s"]).ended(0);
    lab.only(vec![Rule::of(
        "*",
        &["get", "list", "create"],
        &["pods", "daemonsets", "selfsubjectaccessreviews"],
        None,
    )]);
    lab.run(&["status"]).ended(1).says("needs the right `get` on pods/portforward");
}

#[test]
fn a_session_that_breaks_is_tried_again() {
    use kuberewind_apiserver_double::{Fault, Wrong};
    let lab = installed(&["n1"]);
    let fault = Fault { method: None, path: "portforward".into(), times: 1, how: Wrong::Drop };
    lab.control(Command::Fault(fault));
    lab.run(&["status"]).ended(0).shows(&["n1", "yes"]);
}
