//! Whose packets are recorded: assignments, namespaces that come and go, and those nobody decided about.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kuberewind_capture::{Named, NetnsSpec, NetnsWatch, Target};
use kuberewind_packet::Owner;
use regex::Regex;

use super::{Assignment, Plan, Recorder, RecorderError, Stages, lock};
use crate::agent::tls::SecondNet;
use crate::agent::undecided::Undecided;
use crate::config::Chosen;

impl Recorder {
    /// Records exactly this from now on. Rings are opened and closed meanwhile.
    pub(crate) fn assign(&self, assignment: Assignment) {
        let mut plan = lock(&self.plan);
        plan.assignment = assignment;
        let forbidden = Arc::clone(&plan.assignment.forbidden);
        let _ = self.with(|stages| {
            stages.capture.set_forbidden(forbidden);
            self.pursue(stages, &mut plan);
        });
    }

    /// Namespaces come and go; whatever is there is recorded. Returns once every namespace that is there
    /// is recorded, or known not to be recordable.
    pub(super) fn follow_namespaces(
        self: &Arc<Self>,
        specs: Vec<NetnsSpec>,
    ) -> Result<(), RecorderError> {
        let recorder = Arc::downgrade(self);
        let (known, first) = crossbeam_channel::bounded(1);
        let opener = self.identity.opener.clone();
        let watch = NetnsWatch::start(specs, opener, move |targets, problems| {
            if let Some(recorder) = recorder.upgrade() {
                recorder.assign(Assignment { targets, problems, ..Assignment::default() });
            }
            let _ = known.try_send(());
        })?;
        *lock(&self.watch) = Some(watch);
        let _ = first.recv();
        self.settled_targets()
    }

    /// These names are there now. Keeps in memory what comes of namespaces that are new, until an
    /// assignment knows whose they are.
    pub(crate) fn see_names(&self, names: &[Named], age: impl Fn(&Named) -> Duration) {
        let see = |table: &mut Undecided, now| table.name(names, &age, now);
        if self.with(|stages| self.hold(stages, see)).is_err() {
            self.identity.undecided.update(see, false, drop);
        }
    }

    /// Waits until what was assigned is caught, or known not to be catchable.
    pub(crate) fn settled_targets(&self) -> Result<(), RecorderError> {
        self.with(|stages| stages.capture.settled_targets())
    }

    /// Whether everything that is to be recorded is caught, or known not to be catchable.
    pub(crate) fn catches_all(&self) -> bool {
        let Ok(capture) = self.with(|stages| stages.capture.status()) else { return false };
        let plan = lock(&self.plan);
        !plan.recording || plan.opening(&capture.namespaces, &capture.problems) == 0
    }

    /// Records what is planned and nothing else: secrets first, so that none is missed.
    pub(super) fn pursue(&self, stages: &Stages, plan: &mut Plan) {
        let desired = plan.desired();
        if plan.secrets_of != desired.targets {
            plan.secrets_of.clone_from(&desired.targets);
            self.with_tls(|tls| tls.set_targets(&plan.secrets_of));
        }
        if let Some(net) = &self.second_net {
            let config = plan.settings.config();
            net.keep_control_plane(config.tap.tls_control_plane);
            net.choose(chosen(&config.tap.tls_plaintext, &desired.targets));
        }
        stages.capture.decide(desired);
        let sighting = plan.assignment.sighting.as_ref();
        self.holds.store(plan.recording && sighting.is_some(), Ordering::Relaxed);
        self.hold(stages, |undecided, now| {
            if let Some(sighting) = sighting {
                undecided.see(sighting, now);
            }
        });
    }

    /// Keeps in memory what comes of those that are undecided after this change.
    fn hold(&self, stages: &Stages, change: impl FnOnce(&mut Undecided, Instant)) {
        let holds = self.holds.load(Ordering::Relaxed);
        let tell = |undecided| stages.capture.set_undecided(undecided);
        self.identity.undecided.update(change, holds, tell);
    }

    pub(super) fn stop_watches(&self) {
        self.second_net.iter().for_each(SecondNet::stop);
        self.identity.undecided.update(|_, _| (), false, drop);
        let watch = lock(&self.watch).take();
        watch.into_iter().for_each(NetnsWatch::stop);
    }
}

/// Of which of these plaintext is read. Entries are checked before they come into force.
fn chosen(entries: &Chosen, targets: &[Target]) -> Vec<Target> {
    let entries: Vec<_> = entries
        .entries()
        .iter()
        .filter_map(|entry| {
            let regex = entry.regex.as_deref().map(Regex::new).transpose().ok()?;
            Some((entry.namespace.as_deref(), regex))
        })
        .collect();
    let is_chosen = |owner: &Owner| {
        let (namespace, name) = match owner {
            Owner::Pod(pod) => (Some(pod.namespace.as_str()), pod.name.as_str()),
            Owner::Netns(name) => (None, name.as_str()),
            Owner::Host => (None, "host"),
        };
        entries.iter().any(|(wanted, regex)| {
            wanted.is_none_or(|wanted| namespace == Some(wanted))
                && regex.as_ref().is_none_or(|regex| regex.is_match(name))
        })
    };
    targets.iter().filter(|target| is_chosen(&target.owner)).cloned().collect()
}
