//! From the plan to the recorder's assignment, with what `status` says about it.

use std::sync::Arc;

use kuberewind_capture::Target;
use kuberewind_cluster::plan::Plan;
use kuberewind_filter::{Forbidden, TargetRules};
use kuberewind_packet::{Owner, Pod};

use crate::agent::recorder::Assignment;
use crate::agent::{PodNotRecorded, PodsStatus};

/// What the supervisor told last.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// With the rules that it goes by; none before the first.
    pub(super) plan: Option<(Plan, Arc<TargetRules>)>,
    /// Why `/proc` cannot be read.
    pub(super) error: Option<String>,
}

impl Told {
    /// Whether it is known which pods are to be recorded.
    pub(super) fn is_known(&self) -> bool {
        self.plan.as_ref().is_some_and(|(plan, _)| plan.pods_known)
    }

    /// Whether the plan goes by these rules.
    pub(super) fn goes_by(&self, rules: &Arc<TargetRules>) -> bool {
        self.plan.as_ref().is_some_and(|(_, by)| Arc::ptr_eq(by, rules))
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
    let plan = told.plan.as_ref().map_or(&nothing, |(plan, _)| plan);
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
    Assignment { targets: targets.collect(), forbidden, problems, pods: Some(pods), unknown }
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
