//! What should be recorded, and how far the capture is from it.

use std::sync::Arc;

use kuberewind_capture::{Desired, NamespaceStatus, Target};
use kuberewind_filter::{CaptureFilter, Forbidden};
use kuberewind_packet::{Owner, Pod};

use crate::agent::undecided::Sighting;
use crate::agent::{PodNotRecorded, PodsStatus};
use crate::config::Effective;

/// What is to be recorded, and what is known about it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Assignment {
    /// The network namespaces.
    pub(crate) targets: Vec<Target>,
    /// What the look at the node told that this goes by; none on a machine without Kubernetes.
    pub(crate) sighting: Option<Sighting>,
    /// Of these nothing is stored where the node's own namespace is recorded.
    pub(crate) forbidden: Arc<Forbidden>,
    /// What cannot be recorded, and why.
    pub(crate) problems: Vec<String>,
    /// The node's pods, `recorded` being those that the targets are of; none on a machine without
    /// Kubernetes.
    pub(crate) pods: Option<PodsStatus>,
    /// Why it is not known yet what to record.
    pub(crate) unknown: Option<String>,
}

/// What should be: the level that the stages are brought to.
pub(super) struct Plan {
    pub(super) settings: Effective,
    pub(super) filter: Arc<CaptureFilter>,
    pub(super) recording: bool,
    pub(super) assignment: Assignment,
    /// What secrets are read of.
    pub(super) secrets_of: Vec<Target>,
}

impl Plan {
    /// What the capture is to be brought to.
    pub(super) fn desired(&self) -> Desired {
        if !self.recording {
            return Desired::only(Vec::new());
        }
        let Assignment { targets, sighting, .. } = &self.assignment;
        let only = Desired::only(targets.clone());
        let Some(Sighting { looked, decided, .. }) = sighting else { return only };
        Desired { unwanted: decided.clone(), as_of: *looked, ..only }
    }

    /// The node's pods, and the settings' version once they are in force: of those that are to be recorded,
    /// the ones whose ring is open.
    pub(super) fn pods(&self, open: &[NamespaceStatus], problems: &[String]) -> Option<PodsStatus> {
        let mut pods = self.assignment.pods.clone()?;
        if !self.recording {
            return Some(pods);
        }
        if !self.is_reached(open, problems) {
            pods.settings_version = None;
        }
        let target = |pod: &Pod| {
            let owner = Owner::Pod(pod.clone());
            self.assignment.targets.iter().find(|target| target.owner == owner)
        };
        let is_open = |pod: &Pod| {
            target(pod).is_none_or(|target| open.iter().any(|open| open.netns == target.netns))
        };
        let closed: Vec<Pod> = pods.recorded.extract_if(.., |pod| !is_open(pod)).collect();
        let why = "its capture ring is not open";
        pods.not_recorded
            .extend(closed.into_iter().map(|pod| PodNotRecorded { pod, why: why.to_owned() }));
        Some(pods)
    }

    /// Whether exactly the targets are recorded, but for those of which a problem tells.
    fn is_reached(&self, open: &[NamespaceStatus], problems: &[String]) -> bool {
        let wanted = |open: &NamespaceStatus| {
            self.assignment.targets.iter().any(|target| target.netns == open.netns)
        };
        self.opening(open, problems) == 0 && open.iter().all(wanted)
    }

    /// How many targets have no ring yet, and no problem tells why.
    pub(super) fn opening(&self, open: &[NamespaceStatus], problems: &[String]) -> usize {
        let opening = |target: &&Target| {
            let owner = target.owner.to_string();
            let named = || problems.iter().any(|problem| problem.contains(&owner));
            open.iter().all(|open| open.netns != target.netns) && !named()
        };
        self.assignment.targets.iter().filter(opening).count()
    }
}
