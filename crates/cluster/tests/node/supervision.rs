//! From pods and rules to targets, on real processes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kuberewind_cluster::plan::Plan;
use kuberewind_cluster::pods::{Origin, PodFacts, PodSnapshot};
use kuberewind_cluster::{Planned, supervise};
use kuberewind_filter::{OwnPods, TargetRules, TargetSettings};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::processes::{Driver, Pod, hierarchies, put, scanner};

fn rules(regex: &str) -> Arc<TargetRules> {
    let settings = TargetSettings {
        regex: regex.into(),
        namespaces: vec![],
        excluded_namespaces: vec![],
        bpf_override: false,
        host_network: false,
        capture_self: false,
        own: OwnPods::default(),
    };
    Arc::new(TargetRules::compile(settings).unwrap())
}

fn told(pod: &Pod, name: &str) -> PodFacts {
    let (uid, namespace, name) = (pod.uid.clone(), "shop".into(), name.into());
    PodFacts { uid, namespace, name, ..PodFacts::default() }
}

fn snapshot(pods: Vec<PodFacts>) -> Arc<PodSnapshot> {
    Arc::new(PodSnapshot { pods, origin: Origin::ApiServer, problem: None })
}

#[tokio::test]
async fn targets_follow_pods_processes_and_rules() {
    let (pods, known) = watch::channel(snapshot(vec![]));
    let (settings, chosen) = watch::channel(rules("cart"));
    let plans = Arc::new(Mutex::new(Vec::<Plan>::new()));
    let heard = plans.clone();
    let tell =
        move |told: Result<Planned<'_>, _>| heard.lock().unwrap().push(told.unwrap().plan.clone());
    let (_undecided, undecided) = watch::channel(BTreeSet::new());
    let task = tokio::spawn(supervise(scanner(), known, chosen, undecided, tell));
    let owners_are = async |expected: &[&str]| {
        let owners = || {
            let plans = plans.lock().unwrap();
            let targets = plans.last().map(|plan| plan.targets.clone()).unwrap_or_default();
            targets.iter().map(|target| target.owner.to_string()).collect::<Vec<_>>()
        };
        let reached = async {
            while owners() != expected {
                tokio::task::yield_now().await;
            }
        };
        let waited = timeout(Duration::from_secs(10), reached).await;
        waited.unwrap_or_else(|_| panic!("{:?} instead of {expected:?}", owners()));
    };

    // The API tells of the pod first, then its sandbox comes.
    let mut cart = Pod::new();
    let facts = told(&cart, "cart-1");
    pods.send(snapshot(vec![facts.clone()])).unwrap();
    let group = cart.group(hierarchies()[0], Driver::Cgroupfs, 1);
    let sandbox = cart.spawn(true);
    put(sandbox, &group);
    owners_are(&["shop/cart-1"]).await;

    // The other way round: it runs, and nobody knows it yet.
    let mut desk = Pod::new();
    let group = desk.group(hierarchies().last().unwrap(), Driver::Systemd, 1);
    put(desk.spawn(true), &group);
    pods.send(snapshot(vec![facts.clone(), told(&desk, "till-1")])).unwrap();
    owners_are(&["shop/cart-1"]).await;
    settings.send(rules("")).unwrap();
    owners_are(&["shop/cart-1", "shop/till-1"]).await;
    settings.send(rules("till")).unwrap();
    owners_are(&["shop/till-1"]).await;
    settings.send(rules("")).unwrap();
    owners_are(&["shop/cart-1", "shop/till-1"]).await;

    // It goes with its last process, though the API has not told yet.
    cart.kill(sandbox);
    owners_are(&["shop/till-1"]).await;

    drop((pods, settings));
    timeout(Duration::from_secs(10), task).await.unwrap().unwrap();
}
