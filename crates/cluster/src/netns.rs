//! Which network namespace a pod is in, told by its processes.
//!
//! The scan reads `/proc`; [`settle`] decides from what was read. A process is in its pod's control
//! group 2 to 17 ms before it enters the pod's network namespace (every one that was watched), so the
//! node's own namespace is never taken for a pod's: it means "look again".

mod cgroup;
mod scan;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use kuberewind_packet::NetnsId;

pub use cgroup::Membership;
pub use cgroup::membership;
pub use scan::ScanError;
pub use scan::Scanner;

/// A network namespace, and a file by which it can be entered while its process lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its inode number.
    pub netns: NetnsId,
    /// `/host/proc/PID/ns/net`.
    pub path: PathBuf,
}

/// How a process names its pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Whose {
    /// By the UID that the kubelet uses.
    Pod(String),
    /// By a container's id only: of the reader's own pod, seen from a private cgroup namespace.
    Container(String),
}

/// Where a pod's processes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodNetns {
    /// The pod's network namespace; none while all its processes are still in the node's.
    pub place: Option<Place>,
    /// How long the process that tells has been running: the oldest in `place`, or the oldest at all.
    pub age: Duration,
}

/// What one look at `/proc` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespaces {
    /// The node's own.
    pub node: Place,
    /// Every pod that has a process.
    pub pods: BTreeMap<Whose, PodNetns>,
    /// Processes whose control group or namespace we were not allowed to read.
    pub unreadable: usize,
}

/// A process of a pod, as `/proc` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodProcess {
    /// Its number on the node.
    pub pid: u32,
    /// How long it has been running.
    pub age: Duration,
    /// Whose it is.
    pub whose: Whose,
    /// The network namespace that it is in.
    pub netns: NetnsId,
}

/// Decides, pod by pod, which network namespace is the pod's: the one of its oldest process that is
/// not in the node's. The sandbox is older than any container, and a container's first process older
/// than the namespaces that something in it may have made (a container engine, `unshare`).
pub fn settle(
    processes: impl IntoIterator<Item = PodProcess>,
    node: NetnsId,
    path: impl Fn(u32) -> PathBuf,
) -> BTreeMap<Whose, PodNetns> {
    let mut oldest: BTreeMap<Whose, PodProcess> = BTreeMap::new();
    for process in processes {
        match oldest.get_mut(&process.whose) {
            Some(known) if tells_more(&process, known, node) => *known = process,
            Some(_) => {}
            None => {
                oldest.insert(process.whose.clone(), process);
            }
        }
    }
    let place = |process: &PodProcess| {
        let entered = process.netns != node;
        entered.then(|| Place { netns: process.netns, path: path(process.pid) })
    };
    let settled = oldest
        .into_iter()
        .map(|(whose, process)| (whose, PodNetns { place: place(&process), age: process.age }));
    settled.collect()
}

fn tells_more(new: &PodProcess, known: &PodProcess, node: NetnsId) -> bool {
    let rank =
        |process: &PodProcess| (process.netns != node, process.age, std::cmp::Reverse(process.pid));
    rank(new) > rank(known)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    const NODE: NetnsId = NetnsId(4_026_532_318);

    fn process(pid: u32, age_ms: u64, pod: &str, netns: NetnsId) -> PodProcess {
        let age = Duration::from_millis(age_ms);
        PodProcess { pid, age, whose: Whose::Pod(pod.into()), netns }
    }

    fn settled(processes: Vec<PodProcess>) -> BTreeMap<Whose, PodNetns> {
        settle(processes, NODE, |pid| format!("/host/proc/{pid}/ns/net").into())
    }

    fn netns_of(processes: Vec<PodProcess>) -> Option<(u64, String)> {
        let place = settled(processes).remove(&Whose::Pod("a".into()))?.place?;
        Some((place.netns.0, place.path.display().to_string()))
    }

    #[test]
    fn recorded_pods_are_in_their_recorded_namespaces() {
        let text = include_str!("../tests/data/pods-to-processes.json");
        let recorded: Value = serde_json::from_str(text).unwrap();
        for pod in recorded["pods"].as_array().unwrap() {
            let processes = pod["processes"].as_array().unwrap().iter().map(|raw| {
                let lines = raw["cgroup"].as_array().unwrap().iter().map(|l| l.as_str().unwrap());
                let found = membership(&lines.collect::<Vec<_>>().join("\n"));
                let pid = u32::try_from(raw["pid"].as_u64().unwrap()).unwrap();
                let net = raw["net"].as_str().unwrap();
                let number = net.strip_prefix("net:[").unwrap().strip_suffix(']').unwrap();
                let netns = NetnsId(number.parse().unwrap());
                process(pid, u64::from(20_000 - pid), &found.pod_uid.unwrap(), netns)
            });
            let places = settle(processes, NODE, |pid| pid.to_string().into());
            let uid = pod["uid"].as_str().unwrap();
            let found = &places[&Whose::Pod(uid.to_owned())];
            let host_network = pod["hostNetwork"].as_bool().unwrap();
            assert_eq!(found.place.is_none(), host_network, "{}", pod["name"]);
            let sandbox = pod["processes"].as_array().unwrap();
            let sandbox = sandbox.iter().find(|process| process["kind"] == "sandbox").unwrap();
            if let Some(place) = &found.place {
                assert_eq!(format!("net:[{}]", place.netns), sandbox["net"].as_str().unwrap());
            }
        }
    }

    #[test]
    fn a_process_on_its_way_into_the_namespace_does_not_make_it_the_nodes() {
        let sandbox_in = || process(10, 50, "a", NetnsId(7));
        assert_eq!(netns_of(vec![process(10, 3, "a", NODE)]), None);
        assert_eq!(netns_of(vec![sandbox_in()]), Some((7, "/host/proc/10/ns/net".into())));
        // A second container arrives, or an older process of the node's was moved into the group.
        for age in [1, 1000] {
            let arriving = process(11, age, "a", NODE);
            assert_eq!(netns_of(vec![arriving, sandbox_in()]).unwrap().0, 7);
        }
    }

    #[test]
    fn namespaces_made_inside_a_pod_are_not_the_pods() {
        let inner = process(99, 5, "a", NetnsId(8));
        let container = process(20, 90, "a", NetnsId(7));
        assert_eq!(netns_of(vec![inner, container]).unwrap().0, 7);
    }

    #[test]
    fn a_restarted_container_or_a_new_sandbox_is_followed() {
        let sandbox = || process(10, 900, "a", NetnsId(7));
        let restarted = process(30, 1, "a", NetnsId(7));
        assert_eq!(netns_of(vec![sandbox(), restarted.clone()]).unwrap().1, "/host/proc/10/ns/net");
        // The sandbox's process died: another one still holds the namespace.
        assert_eq!(netns_of(vec![restarted.clone()]).unwrap().1, "/host/proc/30/ns/net");
        // A new sandbox, in a namespace of its own.
        assert_eq!(netns_of(vec![process(40, 1, "a", NetnsId(9))]).unwrap().0, 9);
        assert_eq!(netns_of(vec![]), None);
    }

    proptest! {
        #[test]
        fn the_nodes_namespace_is_never_a_pods_and_order_does_not_matter(
            raw in prop::collection::vec((1u32..50, 0u64..9, 0usize..3, 0u64..4), 0..12),
        ) {
            let pods = ["a", "b", "c"];
            let mut processes: Vec<_> = raw.into_iter().map(|(pid, age, pod, netns)| {
                process(pid, age, pods[pod], NetnsId(NODE.0 + netns))
            }).collect();
            processes.sort_by_key(|process| process.pid);
            processes.dedup_by_key(|process| process.pid);
            let forward = settled(processes.clone());
            processes.reverse();
            prop_assert_eq!(&forward, &settled(processes));
            prop_assert!(forward.values().flat_map(|found| &found.place).all(|place| place.netns != NODE));
        }
    }
}
