//! What is to be recorded on this node: a pure function of the pods that are known, the namespaces that
//! were found, and the rules. What is not known for certain is not recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use kuberewind_filter::{Candidate, Reason, TargetRules, Verdict};
use kuberewind_packet::{NetnsId, Owner, Pod};

use crate::netns::{Namespaces, Place, PodNetns, Whose};
use crate::pods::{Origin, PodFacts, PodSnapshot};

/// For how long a process may be in the node's network namespace, or of a pod that nobody knows, before
/// that is more than a start in progress.
const STARTING: Duration = Duration::from_secs(5);

/// A network namespace to record, whose it is, and the file by which it can be entered. Two pods that
/// have the same inode number one after the other are two targets: the owner carries the UID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedTarget {
    /// Whose packets they are, by the names that the pod has now.
    pub owner: Owner,
    /// The namespace; whoever opens `path` must find this one.
    pub netns: NetnsId,
    /// `/host/proc/PID/ns/net`
    pub path: PathBuf,
}

/// A pod that is not recorded, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NotRecorded {
    /// Which.
    pub pod: Pod,
    /// Why.
    pub why: Why,
}

/// Why a pod is not recorded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The settings say so.
    Rules(Reason),
    /// It has run to its end.
    Finished,
    /// It has no process on this node yet.
    NoProcess,
    /// Its processes have not entered its network namespace yet.
    Entering,
    /// Two pods name the same UID: whose packets they would be is not known.
    SameUid,
    /// Its network namespace is also used by a pod that must not be recorded.
    SharedWithForbidden,
    /// Its network namespace is recorded as another pod's.
    SharedWith(Pod),
    /// The node's namespace is not recorded, because a pod that must not be recorded uses it too.
    NodeForbidden,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rules(reason) => return reason.fmt(f),
            Self::SharedWith(pod) => {
                return write!(
                    f,
                    "its network namespace is recorded as {}/{}",
                    pod.namespace, pod.name
                );
            }
            Self::Finished => "it has finished",
            Self::NoProcess => "it has no process on this node yet",
            Self::Entering => "its processes have not entered its network namespace yet",
            Self::SameUid => "another pod claims the same UID on this node",
            Self::SharedWithForbidden => {
                "a pod that must not be recorded shares its network namespace"
            }
            Self::NodeForbidden => {
                "a pod that must not be recorded uses the node's network as well"
            }
        })
    }
}

/// Something that keeps what was asked for from being recorded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Problem {
    /// Processes of this pod stay in the node's network namespace, though the pod has one of its own.
    InNodeNetwork(Pod),
    /// The kubelet runs a pod that the API server did not tell of: its UID.
    UnknownPod(String),
    /// The node's namespace is wanted, but these pods use it and must not be recorded.
    NodeForbidden(Vec<String>),
    /// So many processes could not be read.
    Unreadable(usize),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InNodeNetwork(pod) => write!(
                f,
                "{}/{} is not recorded: its processes are in the node's network namespace, though it has hostNetwork: false",
                pod.namespace, pod.name
            ),
            Self::UnknownPod(uid) => write!(
                f,
                "a pod with UID {uid} runs here that the API server has not told of; it is not recorded"
            ),
            Self::NodeForbidden(pods) => write!(
                f,
                "the node's own network is not recorded: {} must not be recorded and cannot be told apart in it",
                pods.join(", ")
            ),
            Self::Unreadable(count) => write!(
                f,
                "{count} processes cannot be read; if they are a pod's, it is not recorded (needs CAP_SYS_PTRACE)"
            ),
        }
    }
}

/// What is to be recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What is recorded: the node's own namespace first, then pods by name.
    pub targets: Vec<PlannedTarget>,
    /// Pods in the node's own namespace, when that is recorded.
    pub in_node: Vec<Pod>,
    /// What is not, and why.
    pub not_recorded: Vec<NotRecorded>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Addresses of pods of which no packet may be stored: to be dropped where the node's own
    /// interfaces are recorded.
    pub forbidden_addresses: BTreeSet<IpAddr>,
    /// UIDs of pods that are to be recorded and whose namespace is not there yet: look again soon.
    pub waiting: BTreeSet<String>,
    /// Namespaces of which it is known whose they are: of pods that were told of, and the node's own.
    pub decided: BTreeSet<NetnsId>,
    /// Namespaces of pods that were not told of, or not yet.
    pub strangers: Vec<Place>,
    /// Whether anybody has told which pods there are; until then nothing is a target.
    pub pods_known: bool,
}

/// Decides what is recorded.
pub fn plan(known: &PodSnapshot, found: &Namespaces, rules: &TargetRules) -> Plan {
    let pods_known = known.origin != Origin::Nobody;
    let mut plan = Plan { pods_known, ..Plan::default() };
    let pods: Vec<_> = known.pods.iter().map(|facts| Judged::new(facts, found, rules)).collect();
    let strangers = strangers(&pods, found);
    plan_pods(&mut plan, &pods, &strangers);
    plan_node(&mut plan, &pods, &strangers, found, rules);
    plan.problems.extend(problems(&pods, &strangers, found));
    if !pods_known {
        // No pod is known: `PodSnapshot::problem` says why, once.
        plan.problems.retain(|problem| !matches!(problem, Problem::UnknownPod(_)));
    }
    plan.forbidden_addresses = forbidden_addresses(&pods);
    plan.decided = decided(&pods, found);
    if pods_known {
        let places = strangers.iter().filter_map(|(_, found)| found.place.clone());
        plan.strangers = places.filter(|place| !plan.decided.contains(&place.netns)).collect();
    }
    plan.not_recorded.sort();
    plan.problems.sort();
    plan
}

/// A pod, what the rules say of it, and where its processes are.
struct Judged<'a> {
    facts: &'a PodFacts,
    verdict: Verdict,
    found: Option<&'a PodNetns>,
}

impl<'a> Judged<'a> {
    fn new(facts: &'a PodFacts, found: &'a Namespaces, rules: &TargetRules) -> Self {
        let PodFacts { namespace, name, host_network, labels, .. } = facts;
        let candidate = Candidate { namespace, name, host_network: *host_network, labels };
        let by_uid = found.pods.get(&Whose::Pod(facts.cgroup_uid().to_owned()));
        let mut ids = facts.container_ids.iter();
        let by_container = || ids.find_map(|id| found.pods.get(&Whose::Container(id.clone())));
        let found = by_uid.or_else(by_container);
        Self { facts, verdict: rules.verdict(&candidate), found }
    }

    fn pod(&self) -> Pod {
        let PodFacts { namespace, name, uid, .. } = self.facts;
        Pod { namespace: namespace.clone(), name: name.clone(), uid: uid.clone() }
    }

    fn place(&self) -> Option<&'a Place> {
        self.found?.place.as_ref()
    }

    fn forbidden(&self) -> bool {
        matches!(self.verdict, Verdict::Skip(reason) if reason.forbids())
    }

    /// Whether it runs or will: a process tells more than the API, which may be late in either way.
    fn is_live(&self) -> bool {
        self.found.is_some() || !(self.facts.deleted || self.facts.finished())
    }
}

/// A pod in the node's network has no namespace of its own: one that it is found in is another's that
/// it does something to, as network plugins do.
fn decided(pods: &[Judged<'_>], found: &Namespaces) -> BTreeSet<NetnsId> {
    let own = pods.iter().filter(|pod| !pod.facts.host_network);
    let places = own.filter_map(Judged::place).map(|place| place.netns);
    places.chain([found.node.netns]).collect()
}

/// Pods that have processes here and that the API server did not tell of.
fn strangers<'a>(pods: &[Judged<'_>], found: &'a Namespaces) -> Vec<(&'a str, &'a PodNetns)> {
    let known: BTreeSet<&str> = pods.iter().map(|pod| pod.facts.cgroup_uid()).collect();
    let strangers = found.pods.iter().filter_map(|(whose, found)| match whose {
        Whose::Pod(uid) if !known.contains(uid.as_str()) => Some((uid.as_str(), found)),
        Whose::Pod(_) | Whose::Container(_) => None,
    });
    strangers.collect()
}

fn plan_pods(plan: &mut Plan, pods: &[Judged<'_>], strangers: &[(&str, &PodNetns)]) {
    let mut claims: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in pods {
        *claims.entry(pod.facts.cgroup_uid()).or_default() += 1;
    }
    let forbidden: BTreeSet<NetnsId> = {
        let places = pods.iter().filter(|pod| pod.forbidden()).filter_map(Judged::place);
        let unknown = strangers.iter().filter_map(|(_, found)| found.place.as_ref());
        places.chain(unknown).map(|place| place.netns).collect()
    };
    let owners = owners(pods);
    for pod in pods {
        let why = match (pod.verdict, pod.place()) {
            _ if !pod.is_live() && pod.facts.deleted => continue,
            _ if claims[pod.facts.cgroup_uid()] > 1 => Why::SameUid,
            (Verdict::Skip(reason), _) => Why::Rules(reason),
            // Of these `plan_node` tells.
            (Verdict::Record, _) if pod.facts.host_network => continue,
            (Verdict::Record, None) if !pod.is_live() => Why::Finished,
            (Verdict::Record, None) => {
                plan.waiting.insert(pod.facts.uid.clone());
                if pod.found.is_some() { Why::Entering } else { Why::NoProcess }
            }
            (Verdict::Record, Some(place)) if forbidden.contains(&place.netns) => {
                Why::SharedWithForbidden
            }
            (Verdict::Record, Some(place)) => match owners.get(&place.netns) {
                Some(owner) if owner.facts.uid != pod.facts.uid => Why::SharedWith(owner.pod()),
                _ => {
                    let Place { netns, path } = place.clone();
                    plan.targets.push(PlannedTarget { owner: Owner::Pod(pod.pod()), netns, path });
                    continue;
                }
            },
        };
        plan.not_recorded.push(NotRecorded { pod: pod.pod(), why });
    }
    plan.targets.sort_by(|a, b| (&a.owner, a.netns).cmp(&(&b.owner, b.netns)));
}

/// Of several pods in one namespace, the one that has been in it longest.
fn owners<'a, 'b>(pods: &'b [Judged<'a>]) -> BTreeMap<NetnsId, &'b Judged<'a>> {
    let mut owners: BTreeMap<NetnsId, &Judged<'_>> = BTreeMap::new();
    let age = |pod: &Judged<'_>| pod.found.map(|found| found.age);
    let claimants =
        pods.iter().filter(|pod| pod.verdict == Verdict::Record && !pod.facts.host_network);
    for pod in claimants {
        let Some(place) = pod.place() else { continue };
        let owner = owners.entry(place.netns).or_insert(pod);
        if age(pod) > age(owner) {
            *owner = pod;
        }
    }
    owners
}

/// The node's own namespace: recorded for pods in the node's network, or all of it on request. Never
/// while a pod is in it that must not be recorded, for their packets cannot be told apart; nor while
/// some namespace is excluded and a pod runs that nobody knows, for its addresses are not known either.
fn plan_node(
    plan: &mut Plan,
    pods: &[Judged<'_>],
    strangers: &[(&str, &PodNetns)],
    found: &Namespaces,
    rules: &TargetRules,
) {
    let live = || pods.iter().filter(|pod| pod.facts.host_network && pod.is_live());
    let asking: Vec<_> = live().filter(|pod| pod.verdict == Verdict::Record).collect();
    if asking.is_empty() && !rules.whole_node() {
        return;
    }
    let named = live()
        .filter(|pod| pod.forbidden())
        .map(|pod| format!("{}/{}", pod.facts.namespace, pod.facts.name));
    let unnamed =
        strangers.iter().filter(|(_, found)| rules.has_exclusions() && found.age >= STARTING);
    let unnamed = unnamed.map(|(uid, _)| format!("the unknown pod {uid}"));
    let forbidding: Vec<_> = named.chain(unnamed).collect();
    if forbidding.is_empty() {
        let Place { netns, path } = found.node.clone();
        plan.targets.insert(0, PlannedTarget { owner: Owner::Host, netns, path });
        plan.in_node = asking.into_iter().map(Judged::pod).collect();
        return;
    }
    plan.problems.push(Problem::NodeForbidden(forbidding));
    let refused =
        asking.into_iter().map(|pod| NotRecorded { pod: pod.pod(), why: Why::NodeForbidden });
    plan.not_recorded.extend(refused);
}

fn problems<'a>(
    pods: &'a [Judged<'_>],
    strangers: &'a [(&str, &PodNetns)],
    found: &Namespaces,
) -> impl Iterator<Item = Problem> + use<'a> {
    let settled = |found: &PodNetns| found.age >= STARTING;
    let outside = pods.iter().filter(move |pod| {
        let of_its_own = pod.verdict == Verdict::Record && !pod.facts.host_network;
        of_its_own && pod.found.is_some_and(|found| found.place.is_none() && settled(found))
    });
    let unknown = strangers.iter().filter(move |(_, found)| settled(found));
    let unreadable = (found.unreadable > 0).then_some(Problem::Unreadable(found.unreadable));
    outside
        .map(|pod| Problem::InNodeNetwork(pod.pod()))
        .chain(unknown.map(|(uid, _)| Problem::UnknownPod((*uid).to_owned())))
        .chain(unreadable)
}

fn forbidden_addresses(pods: &[Judged<'_>]) -> BTreeSet<IpAddr> {
    let forbidden = pods.iter().filter(|pod| pod.forbidden() && !pod.facts.host_network);
    forbidden.filter(|pod| pod.is_live()).flat_map(|pod| &pod.facts.pod_ips).copied().collect()
}

#[cfg(test)]
mod tests;
