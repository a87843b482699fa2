//! The command line's side against the API server double.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up has failed")]

mod deploy;
mod forward;

use kuberewind_apiserver_double::{Command, Double, Fate, Node, Rule, User};
use kuberewind_cluster::{Access, AccessOptions, names};
use serde_json::Value;

const NS: &str = names::NAMESPACE;

async fn access_as(double: &Double, token: Option<&str>) -> Access {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config");
    std::fs::write(&path, double.kubeconfig(token)).unwrap();
    let options = AccessOptions { kubeconfig: Some(path), context: None };
    Access::open(&options).await.unwrap()
}

async fn cluster(nodes: &[&str]) -> (Double, Access) {
    let double = Double::start().await.unwrap();
    for name in nodes {
        node(&double, name, true, vec![]);
    }
    let access = access_as(&double, None).await;
    (double, access)
}

fn node(double: &Double, name: &str, ready: bool, taints: Vec<Value>) {
    let node = Node { name: name.into(), ready, labels: [].into(), taints };
    double.control(Command::Node(node)).unwrap();
}

fn put(double: &Double, object: Value) {
    double.control(Command::Put { object }).unwrap();
}

fn fate(double: &Double, node: &str, fate: Fate) {
    let node = Some(node.to_owned());
    double.control(Command::Fate { node, fate }).unwrap();
}

fn user(double: &Double, token: &str, rules: Vec<Rule>) {
    let user = User { name: format!("system:serviceaccount:{NS}:{token}"), rules };
    let token = token.to_owned();
    double.control(Command::User { token, user }).unwrap();
}
