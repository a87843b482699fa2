//! What the recorder says of itself, and whether it is ready.

use kuberewind_packet::{LossCause, Timestamp};
use kuberewind_store::Store;

use super::{Plan, Recorder, RecorderError, lock};
use crate::VERSION;
use crate::agent::status::{Bounds, FilterStatus, Memory, Room};
use crate::agent::{Health, Status};

impl Recorder {
    /// What the recorder says of itself.
    pub(crate) fn status(&self) -> Result<Status, RecorderError> {
        let store = self.with_store(Store::status)?;
        let capture = self.with(|stages| stages.capture.status())?;
        let plan = lock(&self.plan);
        let config = plan.settings.config();
        // What the rings lost was told to the store as well.
        let lost = |cause| (cause, store.lost.get(&cause).copied().unwrap_or(0));
        let losses = LossCause::ALL.into_iter().map(lost).collect();
        // What a filter cannot do is no problem of the machine's.
        let problems = capture.problems.iter().filter(|text| !plan.filter.notes().contains(text));
        let mut problems: Vec<_> =
            plan.assignment.problems.iter().chain(problems).cloned().collect();
        problems.extend(self.idle_plaintext(&plan));
        Ok(Status {
            node: self.identity.node.clone(),
            version: VERSION.to_owned(),
            recording: plan.recording,
            since: self.since,
            now: Timestamp::now(),
            data_dir: config.tap.data_dir.clone(),
            packets: store.packets,
            bytes: store.bytes,
            losses,
            oldest: store.oldest,
            newest: store.newest,
            bytes_held: store.bytes_held,
            bounds: Bounds::of(config),
            disk: Room::of(&config.tap.data_dir, config.pcapdump.min_free).ok(),
            filter: FilterStatus::of(&plan.filter),
            memory: Memory::now(&capture, &store),
            tls: self.tls_report(),
            pods: plan.pods(&capture.namespaces, &problems),
            problems,
            namespaces: capture.namespaces,
            undecided: capture.undecided,
            cut: capture.cut,
            threads: capture.threads,
            store,
        })
    }

    /// Whether everything that is to be recorded is, or was said not to be recordable.
    pub(crate) fn readiness(&self) -> Result<Health, RecorderError> {
        let status = self.status()?;
        let plan = lock(&self.plan);
        if let Some(why) = &plan.assignment.unknown {
            return Ok(Health::Failing(why.clone()));
        }
        if !plan.recording {
            return Ok(Health::Ok);
        }
        let missing = plan.opening(&status.namespaces, &status.problems);
        Ok(match missing {
            0 => status.health(),
            count => Health::Failing(format!("{count} capture rings are still being opened")),
        })
    }

    /// Why an entry of `tap.tlsPlaintext` does nothing.
    fn idle_plaintext(&self, plan: &Plan) -> Option<String> {
        let entries = plan.settings.config().tap.tls_plaintext.entries();
        let is_local = plan.assignment.pods.is_none();
        if !entries.is_empty() && self.second_net.is_none() {
            return Some("tap.tlsPlaintext reads nothing: set tap.tls=true, too".to_owned());
        }
        let names_one = entries.iter().any(|entry| entry.namespace.is_some());
        (is_local && names_one).then(|| {
            "an entry of tap.tlsPlaintext reads nothing: on a machine without Kubernetes there is no \
             namespace; give a regex alone"
                .to_owned()
        })
    }
}
