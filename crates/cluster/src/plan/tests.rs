//! The plan, pod by pod.

use kuberewind_filter::{OwnPods, TargetSettings};
use proptest::prelude::*;

use super::*;

const NODE: u64 = 1;

fn settings() -> TargetSettings {
    TargetSettings {
        regex: "cart|proxy".into(),
        namespaces: vec![],
        excluded_namespaces: vec!["bank".into()],
        bpf_override: false,
        host_network: false,
        capture_self: false,
        own: OwnPods { namespace: "kuberewind".into(), labels: BTreeMap::new() },
    }
}

/// `shop/cart-1` with the UID `uid`.
fn pod(uid: &str, name: &str) -> PodFacts {
    let (namespace, name) = name.split_once('/').unwrap();
    PodFacts {
        uid: uid.into(),
        namespace: namespace.into(),
        name: name.into(),
        phase: "Running".into(),
        ..PodFacts::default()
    }
}

fn on_host(pod: PodFacts) -> PodFacts {
    PodFacts { host_network: true, ..pod }
}

/// UID, namespace (none: still in the node's), age in seconds.
fn found(pods: &[(&str, Option<u64>, u64)]) -> Namespaces {
    let place = |netns: u64| Place { netns: NetnsId(netns), path: format!("/p/{netns}").into() };
    let pods = pods.iter().map(|&(uid, netns, age)| {
        let found = PodNetns { place: netns.map(place), age: Duration::from_secs(age) };
        (Whose::Pod(uid.into()), found)
    });
    Namespaces { node: place(NODE), pods: pods.collect(), unreadable: 0 }
}

/// All is known, and there is nothing to do.
fn nothing() -> Plan {
    Plan { pods_known: true, decided: [NetnsId(NODE)].into(), ..Plan::default() }
}

fn planned(settings: TargetSettings, pods: Vec<PodFacts>, found: &Namespaces) -> Plan {
    let known = PodSnapshot { pods, origin: Origin::ApiServer, problem: None };
    plan(&known, found, &TargetRules::compile(settings).unwrap())
}

fn targets(plan: &Plan) -> Vec<String> {
    plan.targets.iter().map(|target| format!("{} {}", target.owner, target.netns)).collect()
}

fn reasons(plan: &Plan) -> Vec<(&str, &Why)> {
    plan.not_recorded.iter().map(|not| (not.pod.name.as_str(), &not.why)).collect()
}

#[test]
fn chosen_pods_are_recorded_and_the_others_named_with_the_reason() {
    let pods = vec![
        pod("a", "shop/cart-1"),
        pod("b", "shop/till-1"),
        pod("c", "bank/cart-1"),
        pod("d", "kuberewind/cart-agent"),
        pod("e", "shop/cart-2"),
        pod("f", "shop/cart-3"),
        PodFacts { phase: "Succeeded".into(), ..pod("g", "shop/cart-job") },
        on_host(pod("h", "kube/proxy-1")),
    ];
    let found = found(&[
        ("a", Some(10), 9),
        ("b", Some(11), 9),
        ("c", Some(12), 9),
        ("d", Some(13), 9),
        ("f", None, 1),
        ("h", None, 9),
    ]);
    let plan = planned(settings(), pods, &found);
    assert_eq!(targets(&plan), ["shop/cart-1 10"]);
    assert_eq!(plan.targets[0].path, PathBuf::from("/p/10"));
    assert_eq!(
        reasons(&plan),
        [
            ("cart-1", &Why::Rules(Reason::Excluded)),
            ("proxy-1", &Why::Rules(Reason::HostNetwork)),
            ("cart-agent", &Why::Rules(Reason::Own)),
            ("cart-2", &Why::NoProcess),
            ("cart-3", &Why::Entering),
            ("cart-job", &Why::Finished),
            ("till-1", &Why::Rules(Reason::OtherName)),
        ]
    );
    assert_eq!(plan.problems, []);
    assert_eq!(plan.waiting, ["e".to_owned(), "f".to_owned()].into());
}

#[test]
fn a_pod_that_the_api_server_did_not_tell_of_is_not_recorded() {
    let young = planned(settings(), vec![], &found(&[("x", Some(10), 1)]));
    let strangers = vec![Place { netns: NetnsId(10), path: "/p/10".into() }];
    assert_eq!(young, Plan { strangers, ..nothing() });
    let settled = planned(settings(), vec![], &found(&[("x", Some(10), 9)]));
    assert_eq!(targets(&settled), [""; 0]);
    assert_eq!(settled.problems, [Problem::UnknownPod("x".into())]);
}

#[test]
fn processes_that_stay_in_the_nodes_network_are_a_problem_not_a_recording() {
    let pods = || vec![pod("a", "shop/cart-1")];
    assert_eq!(planned(settings(), pods(), &found(&[("a", None, 1)])).problems, []);
    let settled = planned(settings(), pods(), &found(&[("a", None, 9)]));
    assert_eq!(targets(&settled), [""; 0]);
    let problem = settled.problems[0].to_string();
    assert!(problem.starts_with("shop/cart-1 is not recorded: "), "{problem}");
}

#[test]
fn the_nodes_namespace_is_recorded_once_for_all_pods_in_it_and_on_override() {
    let host_network = TargetSettings { host_network: true, ..settings() };
    let pods = vec![on_host(pod("a", "kube/proxy-1")), on_host(pod("b", "kube/proxy-2"))];
    let both = found(&[("a", None, 9), ("b", None, 9)]);
    assert_eq!(targets(&planned(host_network.clone(), pods, &both)), ["host 1"]);
    assert_eq!(
        targets(&planned(host_network, vec![pod("c", "shop/cart-1")], &found(&[]))),
        [""; 0]
    );

    let whole = TargetSettings { bpf_override: true, ..settings() };
    let pods = vec![pod("a", "shop/till-1"), pod("b", "bank/cart-1")];
    let plan = planned(whole, pods, &found(&[("a", Some(10), 9), ("b", Some(11), 9)]));
    assert_eq!(targets(&plan), ["host 1", "shop/till-1 10"]);
}

#[test]
fn an_excluded_pod_in_the_nodes_network_keeps_all_of_it_from_being_recorded() {
    let whole = TargetSettings { bpf_override: true, ..settings() };
    let pods = || vec![on_host(pod("a", "bank/proxy-1")), on_host(pod("b", "kube/proxy-2"))];
    let live = found(&[("a", None, 9), ("b", None, 9)]);
    let plan = planned(whole.clone(), pods(), &live);
    assert_eq!(targets(&plan), [""; 0]);
    assert_eq!(plan.problems, [Problem::NodeForbidden(vec!["bank/proxy-1".into()])]);
    assert_eq!(
        reasons(&plan),
        [("proxy-1", &Why::Rules(Reason::Excluded)), ("proxy-2", &Why::NodeForbidden)]
    );

    // It has finished: nothing stands in the way.
    let mut pods = pods();
    pods[0].phase = "Failed".into();
    assert_eq!(targets(&planned(whole.clone(), pods, &found(&[("b", None, 9)]))), ["host 1"]);

    // A pod that nobody knows may be an excluded one, unless none is excluded.
    for netns in [None, Some(10)] {
        let stranger = found(&[("x", netns, 9)]);
        assert_eq!(targets(&planned(whole.clone(), vec![], &stranger)), [""; 0]);
        let all = TargetSettings { excluded_namespaces: vec![], ..whole.clone() };
        assert_eq!(targets(&planned(all, vec![], &stranger)), ["host 1"]);
    }
}

#[test]
fn packets_of_excluded_pods_are_named_by_address() {
    let with_ip =
        |pod: PodFacts, ip: &str| PodFacts { pod_ips: [ip.parse().unwrap()].into(), ..pod };
    let pods = vec![
        with_ip(pod("a", "bank/cart-1"), "10.0.0.1"),
        with_ip(pod("b", "shop/cart-1"), "10.0.0.2"),
        with_ip(on_host(pod("c", "bank/proxy")), "192.168.0.1"),
        // Its address may already be another pod's.
        PodFacts { phase: "Succeeded".into(), ..with_ip(pod("d", "bank/job"), "10.0.0.3") },
    ];
    let plan = planned(settings(), pods, &found(&[]));
    assert_eq!(plan.forbidden_addresses, ["10.0.0.1".parse().unwrap()].into());
}

#[test]
fn a_namespace_shared_with_an_excluded_pod_is_not_recorded() {
    let pods = || vec![pod("a", "shop/cart-1"), pod("b", "bank/cart-1")];
    let plan = planned(settings(), pods(), &found(&[("a", Some(10), 9), ("b", Some(10), 1)]));
    assert_eq!(targets(&plan), [""; 0]);
    assert!(reasons(&plan).contains(&("cart-1", &Why::SharedWithForbidden)));
    let plan = planned(
        settings(),
        vec![pod("a", "shop/cart-1")],
        &found(&[("a", Some(10), 9), ("x", Some(10), 1)]),
    );
    assert_eq!(targets(&plan), [""; 0]);
}

#[test]
fn of_two_pods_in_one_namespace_the_first_owns_it() {
    let pods = vec![pod("a", "shop/cart-1"), pod("b", "shop/cart-2")];
    let plan = planned(settings(), pods, &found(&[("a", Some(10), 1), ("b", Some(10), 9)]));
    assert_eq!(targets(&plan), ["shop/cart-2 10"]);
    assert!(matches!(reasons(&plan)[..], [("cart-1", Why::SharedWith(_))]));
}

#[test]
fn an_inode_that_is_used_again_is_another_target() {
    let first = planned(settings(), vec![pod("a", "shop/cart-1")], &found(&[("a", Some(10), 9)]));
    let pods = vec![PodFacts { deleted: true, ..pod("a", "shop/cart-1") }, pod("b", "shop/cart-1")];
    let second = planned(settings(), pods, &found(&[("b", Some(10), 1)]));
    assert_eq!(targets(&first), targets(&second));
    assert_ne!(first.targets[0].owner, second.targets[0].owner);
    assert_eq!(reasons(&second), []);
}

#[test]
fn a_deleted_pod_is_recorded_while_its_processes_live() {
    let gone = || vec![PodFacts { deleted: true, ..pod("a", "shop/cart-1") }];
    assert_eq!(
        targets(&planned(settings(), gone(), &found(&[("a", Some(10), 9)]))),
        ["shop/cart-1 10"]
    );
    assert_eq!(planned(settings(), gone(), &found(&[])), nothing());
}

#[test]
fn static_pods_are_found_by_the_kubelets_uid_and_nobody_can_claim_it_too() {
    let static_uid = |pod| PodFacts { static_uid: Some("hash".into()), ..pod };
    let mirror = || static_uid(pod("m", "kube/proxy-1"));
    let found = found(&[("hash", Some(10), 9)]);
    assert_eq!(targets(&planned(settings(), vec![mirror()], &found)), ["kube/proxy-1 10"]);
    let forged = static_uid(pod("f", "shop/cart-1"));
    let plan = planned(settings(), vec![mirror(), forged], &found);
    assert_eq!(targets(&plan), [""; 0]);
    assert_eq!(reasons(&plan), [("proxy-1", &Why::SameUid), ("cart-1", &Why::SameUid)]);
}

#[test]
fn a_container_that_hides_its_pod_is_found_by_its_id() {
    let pods = vec![PodFacts { container_ids: ["c1".into()].into(), ..pod("a", "shop/cart-1") }];
    let mut found = found(&[("x", Some(10), 1)]);
    let place = found.pods.remove(&Whose::Pod("x".into())).unwrap();
    found.pods.insert(Whose::Container("c1".into()), place);
    assert_eq!(targets(&planned(settings(), pods, &found)), ["shop/cart-1 10"]);
}

proptest! {
    #[test]
    fn no_namespace_of_an_excluded_or_unknown_pod_is_ever_a_target(
        known in prop::collection::vec((0usize..6, any::<[bool; 4]>(), 0usize..3), 0..6),
        places in prop::collection::vec((0usize..8, prop::option::of(2u64..6), 0u64..12), 0..8),
        bpf_override: bool, host_network: bool,
    ) {
        let uids = ["a", "b", "c", "d", "e", "f", "x", "y"];
        let pods: Vec<_> = known.iter().map(|&(uid, [on_host, deleted, done, excluded], name)| PodFacts {
            host_network: on_host, deleted, phase: if done { "Failed" } else { "Running" }.into(),
            ..pod(uids[uid], &format!("{}/{}", if excluded { "bank" } else { "shop" }, ["cart", "till", "proxy"][name]))
        }).collect();
        let mut seen = BTreeSet::new();
        let pods: Vec<_> = pods.into_iter().filter(|pod| seen.insert(pod.uid.clone())).collect();
        let places: Vec<_> = places.iter().map(|&(uid, netns, age)| (uids[uid], netns, age)).collect();
        let found = found(&places);
        let settings = TargetSettings { bpf_override, host_network, ..settings() };
        let plan = planned(settings, pods.clone(), &found);
        let mut netns = BTreeSet::new();
        for target in &plan.targets {
            prop_assert!(netns.insert(target.netns), "twice: {:?}", plan);
            for (whose, place) in &found.pods {
                let Whose::Pod(uid) = whose else { continue };
                let facts = pods.iter().find(|pod| pod.uid == *uid);
                let may = facts.is_some_and(|facts| facts.namespace != "bank");
                let there = place.place.as_ref().is_some_and(|place| place.netns == target.netns);
                prop_assert!(may || !there, "{uid} in {plan:?}");
            }
        }
        // Every pod that runs is either recorded or named with a reason.
        for pod in pods.iter().filter(|pod| !pod.deleted && !pod.host_network) {
            let recorded = plan.targets.iter().any(|t| matches!(&t.owner, Owner::Pod(p) if p.uid == pod.uid));
            let named = plan.not_recorded.iter().any(|not| not.pod.uid == pod.uid);
            prop_assert!(recorded != named, "{} in {plan:?}", pod.uid);
        }
    }
}

#[test]
fn a_namespace_is_decided_once_its_pod_is_known_and_a_strangers_is_not() {
    let pods =
        vec![pod("a", "shop/cart-1"), pod("b", "bank/cart-1"), on_host(pod("c", "kube/cni-1"))];
    // The network plugin is in the namespace of a pod that is being made.
    let found =
        found(&[("a", Some(10), 9), ("b", Some(11), 9), ("c", Some(12), 0), ("x", Some(13), 0)]);
    let plan = planned(settings(), pods, &found);
    assert_eq!(plan.decided, [NODE, 10, 11].map(NetnsId).into());
    let strangers: Vec<_> = plan.strangers.iter().map(|place| place.netns.0).collect();
    assert_eq!(strangers, [13]);
}
