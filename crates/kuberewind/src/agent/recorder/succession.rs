//! One recorder after another: packets are cut at a moment, one writes what came before and the other what
//! came since.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use kuberewind_packet::{LossAt, Span, Timestamp};
use kuberewind_store::{Inlet, Lock, Store, StoreConfig};

use super::settings::{allow_tls_to_leave, limits};
use super::{Recorder, RecorderError, lock, sinks_of};
use crate::PROGRAM;
use crate::agent::tls::Tls;

/// And who hands the directory over, so long.
const DECIDED_AT_CUT: Duration = Duration::from_secs(1);
/// After this every packet stamped before a moment has been handed over by its ring: the retire time twice,
/// and as much as a packet may wait for a busy processor between its stamp and the ring.
pub(crate) const SETTLED: Duration = Duration::from_millis(300);
/// A handover is agreed on at least so long before it, so that it is known everywhere by then,
const NOTICE: Duration = Duration::from_millis(20);
/// and not longer before.
const FORESIGHT: Duration = Duration::from_secs(5);

/// When packets are cut, by both clocks: the wall clock may be set meanwhile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) at: Timestamp,
    then: Instant,
}

impl Moment {
    fn of(at: Timestamp) -> Self {
        Self { at, then: Instant::now() + at.since(Timestamp::now()) }
    }

    /// Waits until every packet from before it has been handed over by its ring.
    fn wait(self) {
        thread::sleep((self.then + SETTLED).saturating_duration_since(Instant::now()));
    }
}

impl Recorder {
    /// From this moment on packets are kept, in memory, until they can be written. What was kept before
    /// and is not written is forgotten.
    pub(crate) fn keep_from(&self, at: Timestamp) -> Result<(), RecorderError> {
        let limits = self.config(limits);
        let (inlet, appenders) = Inlet::new(sinks_of(&self.identity), &limits);
        self.second_net.iter().for_each(|net| net.cut(at));
        self.with(|stages| stages.cutter.cut(at, appenders))?;
        self.change(|sides| (sides.inlet, sides.cut) = (Some(inlet), Some(Moment::of(at))))
    }

    /// Writes what is kept, and from then on whatever comes. With `from`, another recorder has kept what
    /// came before that moment, and this one what came since.
    pub(crate) fn record(&self, held: Lock, from: Option<Timestamp>) -> Result<(), RecorderError> {
        let is_kept = self.with_sides(|sides| sides.inlet.is_some())?;
        if !is_kept {
            self.keep_from(Timestamp::MIN)?;
        }
        if let (Some(from), Some(net)) = (from, &self.second_net) {
            net.begin(from);
        }
        let inlet = self.change(|sides| sides.inlet.take())?.ok_or(RecorderError::Stopping)?;
        let (config, recording) = {
            let plan = lock(&self.plan);
            let config = plan.settings.config();
            allow_tls_to_leave(config)?;
            let config = StoreConfig {
                dir: config.tap.data_dir.clone(),
                node: self.identity.node.clone(),
                program: PROGRAM.to_owned(),
                limits: limits(config),
                interval: config.pcapdump.time_interval,
                lanes: sinks_of(&self.identity),
            };
            (config, plan.recording)
        };
        let store = Store::open_over(&self.identity.machine, held, config, inlet, from)?;
        if recording {
            match from {
                Some(from) => {
                    // Who dies before that leaves a stretch in the journal that is missing.
                    store.sync()?;
                    store.set_recording_since(from)?;
                }
                None => store.set_recording(true)?,
            }
        }
        self.change(|sides| sides.store = Some(store))?;
        self.recall_tls()?;
        self.heal()
    }

    /// Ends the cut, once no packet of before it can come any more.
    fn heal(&self) -> Result<(), RecorderError> {
        let cut = self.with_sides(|sides| sides.cut)?;
        if let Some(cut) = cut.filter(|cut| cut.at > Timestamp::MIN) {
            cut.wait();
            self.read_rings()?;
        }
        self.with(|stages| stages.cutter.heal())?;
        self.change(|sides| sides.cut = None)
    }

    /// Reads what the rings have handed over by now. One that cannot be read holds nobody up for longer.
    fn read_rings(&self) -> Result<(), RecorderError> {
        if let Err(error) = self.with(|stages| stages.capture.read_rings())? {
            tracing::error!("at a cut through the packets: {error}");
        }
        Ok(())
    }

    /// Agrees to leave all packets from `at` on to another recorder. They are kept in memory, for the case
    /// that it vanishes; then, and once that moment is past, [`Self::hand_over`] is due.
    ///
    /// # Errors
    /// [`RecorderError::Untimely`], and what is recorded is as before.
    pub(crate) fn agree(&self, at: Timestamp) -> Result<(), RecorderError> {
        let untimely = || Err(RecorderError::Untimely { at });
        let now = Timestamp::now();
        if at.since(now) < NOTICE || at.since(now) > FORESIGHT {
            return untimely();
        }
        self.keep_from(at)?;
        if Timestamp::now() < at {
            return Ok(());
        }
        // A packet from behind the cut may have been stored already.
        untimely()
    }

    /// When packets were or will be cut; none if no handover is under way.
    pub(crate) fn cut(&self) -> Option<Timestamp> {
        self.with_sides(|sides| sides.cut.map(|cut| cut.at)).ok().flatten()
    }

    /// Writes what came before the moment agreed on, seals, and lets go of the directory. Packets from then
    /// on are kept until [`Self::record`] or [`Self::stop`].
    pub(crate) fn hand_over(&self) -> Result<(), RecorderError> {
        let cut = self.with_sides(|sides| sides.cut)?.ok_or(RecorderError::Stopping)?;
        cut.wait();
        self.read_rings()?;
        // The next one knows them only from the cut on.
        let undecided = self.await_decisions(Span::new(Timestamp::MIN, cut.at), DECIDED_AT_CUT)?;
        if !undecided.is_empty() {
            tracing::warn!(
                "at the handover nobody has decided about packets of {}",
                owners(&undecided)
            );
        }
        self.second_net.iter().for_each(|net| net.hand_over(cut.at));
        let Some(store) = self.change(|sides| sides.store.take())? else { return Ok(()) };
        for rest in self.with_tls(Tls::rest).unwrap_or_default() {
            if let Err(error) = store.note(Timestamp::now(), rest) {
                tracing::error!("write TLS secrets before the handover: {error}");
            }
        }
        let handed = store.hand_over(cut.at);
        self.with(|stages| stages.cutter.close())?;
        Ok(handed?)
    }
}

fn owners(losses: &[LossAt]) -> String {
    let owners: BTreeSet<&str> = losses.iter().map(|at| at.owner.as_str()).collect();
    owners.into_iter().collect::<Vec<_>>().join(", ")
}
