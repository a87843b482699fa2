//! From the plan to the recorder's assignment, with what `status` says about it.

use std::sync::Arc;
use std::time::Instant;

use kuberewind_capture::Target;
use kuberewind_cluster::Planned;
use kuberewind_cluster::plan::Plan;
use kuberewind_filter::{Forbidden, TargetRules};
use kuberewind_packet::{Owner, Pod};

use crate::agent::recorder::Assignment;
use crate::agent::undecided::Sighting;
use crate::agent::{PodNotRecorded, PodsStatus};

/// What the supervisor told last.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// None before the first.
    heard: Option<Heard>,
    /// Why `/proc` cannot be read.
    error: Option<String>,
}

/// A plan, the rules that it goes by, and when the look began that it goes by.
#[derive(Clone, Debug)]
struct Heard {
    plan: Plan,
    rules: Arc<TargetRules>,
    looked: Instant,
}

impl Told {
    /// A further plan.
    pub(super) fn hear(&mut self, planned: &Planned<'_>) {
        let Planned { plan, rules, looked } = *planned;
        let again = self.heard.as_ref().is_some_and(|heard| heard.looked == looked);
        if !again {
            self.error = None;
        }
        self.heard = Some(Heard { plan: plan.clone(), rules: Arc::clone(rules), looked });
    }

    /// `/proc` could not be read.
    pub(super) fn fail(&mut self, error: String) {
        self.error = Some(error);
    }

    /// What it says of the node's network namespaces.
    pub(super) fn sighting(&self) -> Option<Sighting> {
        let Heard { plan, looked, .. } = self.heard.as_ref()?;
        let strangers = plan.strangers.iter().map(|place| (place.netns, place.path.clone()));
        let (decided, strangers) = (plan.decided.clone(), strangers.collect());
        Some(Sighting { looked: *looked, decided, strangers })
    }

    /// Whether it is known which pods are to be recorded.
    pub(super) fn is_known(&self) -> bool {
        self.heard.as_ref().is_some_and(|heard| heard.plan.pods_known)
    }

    /// Whether the plan goes by these rules.
    pub(super) fn goes_by(&self, rules: &Arc<TargetRules>) -> bool {
        self.heard.as_ref().is_some_and(|heard| Arc::ptr_eq(&heard.rules, rules))
    }
}

/// What the recorder is to do. `problems` are of the API server and the settings; `version` is that of
/// the settings that the plan goes by.
pub(super) fn assignment(
    told: &Told,
    mut problems: Vec<String>,
    version: Option<String>,
) -> Assignment {
    let unknown = unknown(told, &problems);
    problems.extend(told.error.clone());
    let nothing = Plan::default();
    let plan = told.heard.as_ref().map_or(&nothing, |heard| &heard.plan);
    problems.extend(plan.problems.iter().map(ToString::to_string));
    let targets = plan.targets.iter().map(|target| Target {
        owner: target.owner.clone(),
        netns: target.netns,
        path: target.path.clone(),
    });
    let not_recorded = plan
        .not_recorded
        .iter()
        .map(|not| PodNotRecorded { pod: not.pod.clone(), why: not.why.to_string() });
    let pods = PodsStatus {
        recorded: recorded(plan),
        not_recorded: not_recorded.collect(),
        waiting: plan.waiting.len(),
        settings_version: version,
    };
    let forbidden = Arc::new(Forbidden::new(plan.forbidden_addresses.clone()));
    let sighting = told.sighting();
    let targets = targets.collect();
    Assignment { targets, sighting, forbidden, problems, pods: Some(pods), unknown }
}

fn recorded(plan: &Plan) -> Vec<Pod> {
    let own = plan.targets.iter().filter_map(|target| match &target.owner {
        Owner::Pod(pod) => Some(pod.clone()),
        Owner::Host | Owner::Netns(_) => None,
    });
    own.chain(plan.in_node.iter().cloned()).collect()
}

/// Why it is not known what to record.
fn unknown(told: &Told, problems: &[String]) -> Option<String> {
    if told.is_known() {
        return None;
    }
    let why = told.error.iter().chain(problems).next().cloned();
    Some(why.unwrap_or_else(|| "the node's pods are not known yet".to_owned()))
}
