//! `tap --dry-run`.

use kuberewind_apiserver_double::Rule;
use serde_json::{Value, json};

use crate::helm::{self, Case};
use crate::lab::{Lab, NS};

fn shop() -> Lab {
    let lab = Lab::with(&["n1"]);
    lab.pod("shop", "cart-1", &json!({"nodeName": "n1"}));
    lab.pod("shop", "cart-2", &json!({"nodeName": "n1"}));
    lab.pod("shop", "pay-1", &json!({"nodeName": "n1"}));
    lab.pod("shop", "cart-proxy", &json!({"nodeName": "n1", "hostNetwork": true}));
    lab.pod("kube-system", "cart-dns", &json!({"nodeName": "n1"}));
    lab
}

fn changes_nothing(lab: &Lab) {
    let wrote = |request: &&String| {
        !request.starts_with("GET")
            && !request.contains("dryRun=All")
            && !request.contains("accessreviews")
    };
    assert_eq!(lab.double.requests().iter().find(wrote), None);
}

#[test]
fn the_pods_that_would_be_recorded_are_listed_and_the_others_with_the_reason() {
    let lab = shop();
    lab.run(&["tap", "--dry-run", "cart", "-e", "kube-system"])
        .ended(0)
        .says("2 of 5 pods would be recorded")
        .shows(&["shop", "2", "cart-1, cart-2"])
        .shows(&["kube-system", "1", "its namespace is in tap.excludedNamespaces"])
        .shows(&["shop", "1", "its name does not match tap.regex"])
        .shows(&["shop", "1", "it uses the node's network"])
        .says("nothing was changed");
    changes_nothing(&lab);
}

#[test]
fn after_an_installation_every_object_is_checked_by_the_server() {
    let lab = shop();
    lab.run(&["tap", "--wait", "20s"]).ended(0);
    lab.run(&["tap", "--dry-run", "--set", "pcapdump.maxTime=2h"])
        .ended(0)
        .says("pcapdump.maxTime: 1h -> 2h")
        .says("objects that would be: 1 changed, 7 left as they are; nothing was changed");
    assert_eq!(lab.values()["pcapdump"]["maxTime"], "1h");
    let mut map = lab.config_map();
    map["data"]["values.yaml"] = json!("{}");
    lab.put(map);
    lab.run(&["tap", "--dry-run"]).ended(1).says("managed by \"test\"");
}

#[test]
fn who_may_only_look_at_a_namespace_sees_its_pods() {
    let lab = shop();
    lab.only(vec![Rule::core(&["list"], &["pods"], Some("shop"))]);
    lab.run(&["tap", "--dry-run", "-n", "shop"])
        .ended(0)
        .says("3 of 4 pods would be recorded")
        .says("note: the objects were not checked");
    lab.run(&["tap", "--dry-run"]).ended(1).says("needs the right `list` on pods in the whole");
}

fn values() -> Value {
    json!({
        "tap": {
            "regex": "^(cart|yes)-\\d{1,3}$", "namespaces": ["shop", "on"], "excludedNamespaces": ["null"],
            "docker": {"tag": "1.0", "registry": "r.example:5000/x"},
            "labels": {"team": "yes", "n": "012"}, "annotations": {"a": "b: c #d\ne"},
        },
        "pcapdump": {"maxSize": "2GB"},
    })
}

#[test]
fn the_objects_are_those_that_helm_renders() {
    let lab = Lab::with(&[]);
    let file = lab.write("values.json", &values().to_string());
    let line = ["tap", "--dry-run", "-f", file.to_str().unwrap(), "-o"];
    let yaml = lab.run(&[&line[..], &["yaml"]].concat()).ended(0).out;
    let again = lab.run(&[&line[..], &["yaml"]].concat()).ended(0).out;
    assert_eq!(yaml, again);
    changes_nothing(&lab);
    let version = lab.run(&[&line[..], &["json"]].concat()).ended(0).out;
    let list: Value = serde_json::from_str(&version).unwrap();

    let mut ours = helm::documents(&yaml);
    assert_eq!(list["items"], json!(ours));
    let namespace = ours.remove(0);
    assert_eq!(namespace["kind"], "Namespace");
    assert_eq!(namespace["metadata"]["name"], NS);
    let map = ours.iter_mut().find(|object| object["kind"] == "ConfigMap").unwrap();
    let id = map["data"].as_object_mut().unwrap().remove("clusterId");
    let system = lab.double.object("v1", "Namespace", "", "kube-system").unwrap();
    assert_eq!(id.as_ref(), Some(&system["metadata"]["uid"]));

    let case = Case {
        values: values(),
        name: "kuberewind".into(),
        namespace: NS.into(),
        kube_version: "v1.36.1".into(),
    };
    let judged = helm::judge(&[case]);
    assert_eq!(judged[0].refused, None);
    assert_eq!(ours, judged[0].objects);
}
