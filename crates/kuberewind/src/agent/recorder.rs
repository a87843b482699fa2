//! Joins the stages: capture into the store, and the store's windows out.

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use kuberewind_capture::{
    Capture, CaptureConfig, CaptureError, Desired, Named, NamespaceStatus, NetnsSpec, NetnsWatch,
    Opener, Target,
};
use kuberewind_export::wire::{SendError, Sender};
use kuberewind_filter::{CaptureFilter, FilterError, Forbidden};
use kuberewind_packet::{
    LossAt, LossCause, Owner, PacketStream as _, Pod, Span, Timestamp, WindowAccount,
};
use kuberewind_store::{
    Appender, Inlet, Limits, Lock, MinFree, Note, SegmentNumber, Store, StoreConfig, StoreError,
};
use regex::Regex;

use super::cut::Cutter;
use super::status::{Bounds, FilterStatus, Memory, Room};
use super::switch::{Switch, SwitchError};
use super::tls::{self, PlaintextReport, SecondNet, Sent, Shelf, Taps, Tls, TlsReport, TlsSource};
use super::undecided::{Shared, Sighting, Undecided};
use super::wanted::{Wanted, WantedError};
use super::{Health, PodNotRecorded, PodsStatus, Status, WindowQuery};
use crate::config::{self, Chosen, Config, ConfigError, Effective, PcapdumpConfig};
use crate::{PROGRAM, VERSION};

/// An export waits so long for namespaces of which nobody has decided yet; it mostly takes a quarter of
/// this.
const DECIDED_BY: Duration = Duration::from_secs(2);
/// And who hands the directory over, so long.
const DECIDED_AT_CUT: Duration = Duration::from_secs(1);
/// After this every packet stamped before a moment has been handed over by its ring: the retire time twice,
/// and as much as a packet may wait for a busy processor between its stamp and the ring.
pub(crate) const SETTLED: Duration = Duration::from_millis(300);
/// A handover is agreed on at least so long before it, so that it is known everywhere by then,
const NOTICE: Duration = Duration::from_millis(20);
/// and not longer before.
const FORESIGHT: Duration = Duration::from_secs(5);

/// A capture thread for so many CPUs: one drains many rings, at a few per cent of a CPU for each
/// 100,000 packets a second. A namespace stays with one thread, so its packets stay in order.
const CPUS_PER_LANE: usize = 8;
/// More threads would only take memory: the one that writes is the narrow place then.
const MOST_LANES: usize = 4;

/// How many there are that write: capture threads, and the plaintext probes.
fn sinks_of(identity: &Identity) -> usize {
    lanes() + usize::from(identity.tls.is_some())
}

fn lanes() -> usize {
    let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cpus / CPUS_PER_LANE).clamp(1, MOST_LANES)
}

/// Who records.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// The node's name in everything that is written.
    pub(crate) node: String,
    /// Only these interfaces; none = all.
    pub(crate) interfaces: Vec<String>,
    /// Where TLS secrets come from; none = none are read.
    pub(crate) tls: Option<TlsSource>,
    /// Namespaces of which it is not known whether they are recorded.
    pub(crate) undecided: Shared,
    /// Who opens network namespaces.
    pub(crate) opener: Opener,
}

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

/// Why the recorder did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecorderError {
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error(transparent)]
    Wanted(#[from] WantedError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Switch(#[from] SwitchError),
    #[error("send the window: {0}")]
    Send(#[from] SendError<StoreError>),
    #[error("keep in {} whether TLS secrets may leave (tap.tlsExport): {source}", dir.display())]
    Leave { dir: PathBuf, source: std::io::Error },
    #[error("nothing is recorded yet in {}", .0.display())]
    Empty(PathBuf),
    #[error("recording is on: stop it first (`kuberewind pcapdump stop`)")]
    Recording,
    #[error("the recorder is stopping")]
    Stopping,
    #[error("another agent records this node from now on")]
    HandedOver,
    #[error("{at} is no moment for a handover: it is past, or too far away")]
    Untimely { at: Timestamp },
}

impl RecorderError {
    /// Whether the asker can mend it by asking differently.
    pub(crate) const fn is_usage(&self) -> bool {
        match self {
            Self::Filter(_) | Self::Wanted(_) | Self::Config(_) => true,
            Self::Store(error) => error.is_usage(),
            _ => false,
        }
    }
}

/// A running recorder.
pub(crate) struct Recorder {
    identity: Identity,
    since: Timestamp,
    /// Gone once the recorder stops. Held for reading by whoever uses a stage, never while sending.
    stages: RwLock<Option<Stages>>,
    /// One change of settings or targets at a time.
    plan: Mutex<Plan>,
    watch: Mutex<Option<NetnsWatch>>,
    /// Whether packets of undecided namespaces are kept in memory.
    holds: AtomicBool,
    tls: RwLock<TlsState>,
    /// None where TLS is not looked into.
    second_net: Option<SecondNet>,
}

/// Whether TLS is looked into.
enum TlsState {
    Off,
    On(Tls),
    /// It is to be, and cannot.
    Failed(String),
}

struct Stages {
    capture: Capture,
    cutter: Cutter<Appender>,
    /// Held for a moment at a time: a handover waits for nobody who waits for packets.
    sides: RwLock<Sides>,
}

/// Where packets go.
#[derive(Default)]
struct Sides {
    /// None while another recorder has the directory.
    store: Option<Store>,
    /// Where packets wait that come behind a cut.
    inlet: Option<Inlet>,
    cut: Option<Moment>,
}

/// When packets are cut, by both clocks: the wall clock may be set meanwhile.
#[derive(Clone, Copy, Debug)]
struct Moment {
    at: Timestamp,
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

/// What should be: the level that the stages are brought to.
struct Plan {
    settings: Effective,
    filter: Arc<CaptureFilter>,
    recording: bool,
    assignment: Assignment,
    /// What secrets are read of.
    secrets_of: Vec<Target>,
}

impl Recorder {
    /// Opens the store and starts the capture threads. Records nothing before [`Self::assign`] or
    /// [`Self::follow_namespaces`].
    pub(crate) fn start(
        settings: Effective,
        recording: bool,
        identity: Identity,
    ) -> Result<Arc<Self>, RecorderError> {
        limits(settings.config()).check()?;
        compile(settings.config())?;
        let held = Lock::take(&settings.config().tap.data_dir)?;
        let recorder = Self::stand_by(settings, recording, identity)?;
        recorder.record(held, None)?;
        Ok(recorder)
    }

    /// Starts the capture threads, and everything else but the store: what [`Self::assign`] names is
    /// watched, and its packets are dropped until [`Self::keep_from`].
    pub(crate) fn stand_by(
        settings: Effective,
        recording: bool,
        identity: Identity,
    ) -> Result<Arc<Self>, RecorderError> {
        let config = settings.config();
        let filter = Arc::new(compile(config)?);
        let capture = CaptureConfig {
            node: identity.node.clone(),
            filter: Arc::clone(&filter),
            ring_memory: config.tap.ring_memory,
            interfaces: identity.interfaces.clone(),
            opener: identity.opener.clone(),
        };
        // The last one is the plaintext probes'.
        let (cutter, mut sinks) = Cutter::new(sinks_of(&identity));
        let second_net = identity.tls.clone().and_then(|source| {
            Some(SecondNet::new(source, identity.node.clone(), Box::new(sinks.pop()?)))
        });
        let mut taps = identity.tls.as_ref().map(|_| Taps::new());
        let capture = match &mut taps {
            Some(taps) => {
                // Before the cut: of a handshake that goes over it, all of it is seen.
                let tapped = sinks.into_iter().map(|sink| taps.before(sink));
                Capture::start(capture, tapped.collect())?
            }
            None => Capture::start(capture, sinks)?,
        };
        let stages = Stages { capture, cutter, sides: RwLock::default() };
        let assignment = Assignment::default();
        let recorder = Arc::new(Self {
            identity,
            since: Timestamp::now(),
            stages: RwLock::new(Some(stages)),
            plan: Mutex::new(Plan {
                settings,
                filter,
                recording,
                assignment,
                secrets_of: Vec::new(),
            }),
            watch: Mutex::new(None),
            holds: AtomicBool::new(false),
            tls: RwLock::new(TlsState::Off),
            second_net,
        });
        if let Some(taps) = taps {
            recorder.start_tls(taps);
        }
        Ok(recorder)
    }

    /// From this moment on packets are kept, in memory, until they can be written. What was kept before
    /// and is not written is forgotten.
    pub(crate) fn keep_from(&self, at: Timestamp) -> Result<(), RecorderError> {
        let limits = self.config(limits);
        let (inlet, appenders) = Inlet::new(sinks_of(&self.identity), &limits);
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
        let store = Store::open_over(held, config, inlet, from)?;
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

    /// Whether whatever ran when the targets last changed was looked at for TLS.
    pub(crate) fn has_looked(&self) -> bool {
        self.with_tls(Tls::has_looked).unwrap_or(true)
            && self.second_net.as_ref().is_none_or(SecondNet::has_looked)
    }

    /// Whether everything that is to be recorded is caught, or known not to be catchable.
    pub(crate) fn catches_all(&self) -> bool {
        let Ok(capture) = self.with(|stages| stages.capture.status()) else { return false };
        let plan = lock(&self.plan);
        !plan.recording || plan.opening(&capture.namespaces, &capture.problems) == 0
    }

    /// TLS that cannot be looked into keeps nobody from recording.
    fn start_tls(self: &Arc<Self>, taps: Taps) {
        let Some(source) = self.identity.tls.clone() else { return };
        let (writer, reader) = (Arc::downgrade(self), Arc::downgrade(self));
        let notes = Shelf {
            write: Box::new(move |sealed| writer.upgrade()?.note(sealed).ok()),
            reach: Box::new(move || reader.upgrade()?.with_store(Store::reach).ok()),
        };
        let state = match Tls::start(source, taps, self.second_net.as_ref(), notes) {
            Ok(tls) => {
                self.config(|config| follow_tls_settings(&tls, config));
                TlsState::On(tls)
            }
            Err(error) => {
                tracing::warn!("TLS stays encrypted: {error}");
                TlsState::Failed(error.to_string())
            }
        };
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Knows the connections that an earlier recorder knew; reads its notes meanwhile.
    fn recall_tls(&self) -> Result<(), RecorderError> {
        let Some(recall) = self.with_tls(Tls::recall) else {
            self.second_net.iter().for_each(SecondNet::no_secrets);
            return Ok(());
        };
        let all = Span::new(Timestamp::MIN, Timestamp::MAX);
        let notes = self.with_store(|store| store.read_notes(all))?;
        let read = move || {
            if let Err(error) = recall.read(&notes) {
                tracing::error!("read which TLS connections went on: {error}");
            }
        };
        if let Err(error) = thread::Builder::new().name("tls-recall".into()).spawn(read) {
            tracing::error!("start the thread that reads which TLS connections went on: {error}");
        }
        Ok(())
    }

    fn note(&self, bytes: Vec<u8>) -> Result<SegmentNumber, RecorderError> {
        self.with_store(|store| store.note(Timestamp::now(), bytes))?.map_err(Into::into)
    }

    fn with_tls<T>(&self, work: impl FnOnce(&Tls) -> T) -> Option<T> {
        match &*self.tls.read().unwrap_or_else(PoisonError::into_inner) {
            TlsState::On(tls) => Some(work(tls)),
            TlsState::Off | TlsState::Failed(_) => None,
        }
    }

    /// Records what is planned and nothing else: secrets first, so that none is missed.
    fn pursue(&self, stages: &Stages, plan: &mut Plan) {
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

    /// These names are there now. Keeps in memory what comes of namespaces that are new, until an
    /// assignment knows whose they are.
    pub(crate) fn see_names(&self, names: &[Named], age: impl Fn(&Named) -> Duration) {
        let see = |table: &mut Undecided, now| table.name(names, &age, now);
        if self.with(|stages| self.hold(stages, see)).is_err() {
            self.identity.undecided.update(see, false, drop);
        }
    }

    /// Namespaces come and go; whatever is there is recorded. Returns once every namespace that is there
    /// is recorded, or known not to be recordable.
    pub(crate) fn follow_namespaces(
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

    fn stop_watches(&self) {
        self.second_net.iter().for_each(SecondNet::stop);
        self.identity.undecided.update(|_, _| (), false, drop);
        let watch = lock(&self.watch).take();
        watch.into_iter().for_each(NetnsWatch::stop);
    }

    /// Waits until what was assigned is caught, or known not to be catchable.
    pub(crate) fn settled_targets(&self) -> Result<(), RecorderError> {
        self.with(|stages| stages.capture.settled_targets())
    }

    /// Drains the rings, writes what was taken, seals, and unlocks the directory.
    pub(crate) fn stop(&self) -> Result<(), RecorderError> {
        self.stop_watches();
        // Rings are closed one after the other: all of them are read up to one moment.
        let at = Timestamp::now();
        let _ = self.keep_from(at);
        let stages = self.stages.write().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Stages { capture, sides, .. }) = stages else { return Ok(()) };
        capture.stop();
        let rest = self.stop_tls();
        let Some(store) = sides.into_inner().unwrap_or_else(PoisonError::into_inner).store else {
            return Ok(());
        };
        for rest in rest {
            store.note(Timestamp::now(), rest)?;
        }
        Ok(store.close_at(at)?)
    }

    /// Deletes what was recorded, and records no more for as long as this process lives. Asked again it
    /// does nothing.
    ///
    /// # Errors
    /// [`RecorderError::Recording`]: who may only export cannot switch recording off, and so cannot
    /// erase what is being recorded.
    pub(crate) fn erase(&self) -> Result<(), RecorderError> {
        if lock(&self.plan).recording {
            return Err(RecorderError::Recording);
        }
        self.stop_watches();
        let stages = self.stages.write().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Stages { capture, sides, .. }) = stages else { return Ok(()) };
        capture.stop();
        self.stop_tls();
        let sides = sides.into_inner().unwrap_or_else(PoisonError::into_inner);
        let store = sides.store.ok_or(RecorderError::HandedOver)?;
        let _ = tls::leave::allow(&self.data_dir(), true); // nothing is left that could
        Ok(store.erase()?)
    }

    /// The secrets that are not written yet.
    fn stop_tls(&self) -> Vec<Vec<u8>> {
        let mut state = self.tls.write().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, TlsState::Off) {
            TlsState::On(tls) => tls.stop(),
            TlsState::Off | TlsState::Failed(_) => Vec::new(),
        }
    }

    /// Where the recording lies.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.config(|config| config.tap.data_dir.clone())
    }

    /// The settings in force and where each came from.
    pub(crate) fn settings(&self) -> serde_json::Value {
        lock(&self.plan).settings.to_json()
    }

    /// Lays a value tree over the settings. All of it is checked before any of it holds.
    pub(crate) fn change_settings(
        &self,
        changes: &serde_json::Value,
    ) -> Result<serde_json::Value, RecorderError> {
        let mut plan = lock(&self.plan);
        let settings = plan.settings.with_changes(changes)?;
        self.put_in_force(&mut plan, settings)?;
        Ok(plan.settings.to_json())
    }

    /// Takes over these settings, but for the keys that are fixed while recording: the names of those
    /// that differ. All of it is checked before any of it holds.
    pub(crate) fn replace_settings(
        &self,
        newer: &Effective,
    ) -> Result<Vec<&'static str>, RecorderError> {
        let mut plan = lock(&self.plan);
        let (settings, fixed) = plan.settings.replaced_by(newer)?;
        self.put_in_force(&mut plan, settings)?;
        Ok(fixed)
    }

    fn put_in_force(&self, plan: &mut Plan, settings: Effective) -> Result<(), RecorderError> {
        let config = settings.config();
        let filter = Arc::new(compile(config)?);
        let limits = limits(config);
        limits.check()?;
        self.with(|stages| -> Result<(), RecorderError> {
            if filter != plan.filter {
                stages.capture.set_filter(Arc::clone(&filter))?;
            }
            Ok(())
        })??;
        match self.with_store(|store| store.set_limits(limits, config.pcapdump.time_interval)) {
            Err(RecorderError::HandedOver) => {} // it will be opened with them
            set => set??,
        }
        self.with_tls(|tls| follow_tls_settings(tls, config));
        if self.with_sides(|sides| sides.store.is_some())? {
            allow_tls_to_leave(config)?;
        }
        plan.filter = filter;
        plan.settings = settings;
        self.with(|stages| self.pursue(stages, plan))
    }

    /// Switches recording on or off, also for recorders to come on this machine.
    pub(crate) fn switch(&self, on: bool) -> Result<(), RecorderError> {
        Switch::write(&self.data_dir(), on)?;
        self.set_recording(on)
    }

    /// Switches recording on or off.
    pub(crate) fn set_recording(&self, on: bool) -> Result<(), RecorderError> {
        let mut plan = lock(&self.plan);
        if plan.recording == on {
            return Ok(());
        }
        let before = std::mem::replace(&mut plan.recording, on);
        let switched = self.begin_or_end(&mut plan);
        if switched.is_err() {
            plan.recording = before;
        }
        switched
    }

    /// Records from now on, or no more, as is planned.
    fn begin_or_end(&self, plan: &mut Plan) -> Result<(), RecorderError> {
        if plan.recording {
            self.with_store(|store| store.set_recording(true))??;
            self.with(|stages| {
                self.pursue(stages, plan);
                stages.capture.settled_targets();
            })?;
        } else {
            self.with(|stages| {
                self.pursue(stages, plan);
                stages.capture.settled_targets();
                stages.capture.settle(Timestamp::now())
            })??;
            self.with_store(|store| store.set_recording(false))??;
        }
        Ok(())
    }

    /// Sends a window: waits until its end is settled, then reads it from disk; then goes on with
    /// what came since, window by window, for as long as `follow` says so or until the other side
    /// hangs up. Nothing is written to `out` before the window is known to be there.
    pub(crate) fn send<W: Write>(
        &self,
        query: &WindowQuery,
        wanted: &Wanted,
        follow: impl Fn() -> bool,
        out: W,
    ) -> Result<(), RecorderError> {
        let mut asked = query.span(Timestamp::now());
        let mut last = !follow();
        if !last && query.tls {
            asked.to = held_back(asked, asked.to);
        }
        let mut waiting = self.settle(asked.to, asked)?;
        if query.from.is_none() {
            asked.from = self.oldest(asked)?;
        }
        let mut sender = Sender::new(out, query.compress).map_err(SendError::Io)?;
        let until = if last { asked.to } else { Timestamp::MAX };
        let began = Span::new(asked.from, until);
        let mut secrets = query.tls.then(|| Secrets::new(began));
        let mut account = None;
        loop {
            if let Some(secrets) = &mut secrets {
                let log = self.key_log(asked, secrets, wanted)?;
                sender.secrets(&log).map_err(SendError::Io)?;
            }
            let plaintext = query.tls && self.config(|config| config.tap.tls_export);
            let choice = wanted.choice(plaintext);
            let mut window = self.with_store(|store| store.window(asked, choice))?;
            sender.send(&mut window)?;
            let mut told = window.account().clone();
            told.losses.append(&mut waiting);
            let so_far = match account.take() {
                None => told,
                Some(earlier) => WindowAccount::then(earlier, &told),
            };
            if last {
                sender.finish(&so_far).map_err(SendError::Io)?;
                return Ok(());
            }
            account = Some(so_far);
            sender.flush().map_err(SendError::Io)?;
            last = !follow();
            let now = Timestamp::now();
            let rest = Span::new(asked.to, now);
            asked =
                if last || !query.tls { rest } else { Span::new(rest.from, held_back(rest, now)) };
            waiting = self.settle(now, asked)?;
        }
    }

    /// TLS secrets that were written since `asked` began, and what is needed of older connections, as far
    /// as it may leave and was not sent yet.
    fn key_log(
        &self,
        asked: Span,
        secrets: &mut Secrets,
        wanted: &Wanted,
    ) -> Result<Vec<u8>, RecorderError> {
        if !self.config(|config| config.tap.tls_export) {
            return Ok(Vec::new());
        }
        let span = tls::noted(asked);
        let mut notes = self.with_store(|store| store.notes(span))??;
        notes.retain(|note| secrets.is_new(note));
        secrets.forget_before(span.from);
        let Secrets { began, older, .. } = secrets;
        let takes = |owner: &str| wanted.takes_owner(owner);
        let log = self.with_tls(|tls| {
            let mut log = tls.key_log(&notes, *began, takes);
            let room = tls::MOST_SECRETS.saturating_sub(log.len());
            log.push_str(&tls.older_than(began.from, asked.from, takes, older, room));
            log.into_bytes()
        });
        Ok(log.unwrap_or_default())
    }

    /// Where "all that is held" begins.
    fn oldest(&self, asked: Span) -> Result<Timestamp, RecorderError> {
        let oldest = self.with_store(|store| store.status().oldest)?;
        oldest
            .map(|oldest| oldest.min(asked.to))
            .ok_or_else(|| RecorderError::Empty(self.data_dir()))
    }

    /// Every packet stamped before `to` is on disk when this returns, but for what it gives of `span`:
    /// packets of which nobody has decided yet, though they were waited for a little.
    fn settle(&self, to: Timestamp, span: Span) -> Result<Vec<LossAt>, RecorderError> {
        // Who hands over meanwhile does not wait for whoever waits here.
        self.with(|stages| stages.capture.settle(to))??;
        self.second_net.iter().for_each(|net| net.settle(to));
        let waiting = self.await_decisions(span, DECIDED_BY)?;
        self.with_sides(|sides| match &sides.store {
            Some(store) if sides.cut.is_none_or(|cut| to <= cut.at) => Ok(store.sync()?),
            _ => Err(RecorderError::HandedOver),
        })??;
        Ok(waiting)
    }

    /// Waits so long at most until of every packet in `span` it is known whether it is recorded; those of
    /// which it is not.
    fn await_decisions(&self, span: Span, within: Duration) -> Result<Vec<LossAt>, RecorderError> {
        let deadline = Instant::now() + within;
        loop {
            let waiting = self.with(|stages| stages.capture.settle_span(span))??;
            if waiting.is_empty() || Instant::now() >= deadline {
                return Ok(waiting);
            }
            thread::sleep(DECIDED_BY / 40);
        }
    }

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

    fn tls_report(&self) -> Option<TlsReport> {
        match &*self.tls.read().unwrap_or_else(PoisonError::into_inner) {
            TlsState::Off => None,
            TlsState::On(tls) => Some(self.with_plaintext(tls.report())),
            TlsState::Failed(why) => Some(self.with_plaintext(TlsReport::failed(why))),
        }
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

    fn with_plaintext(&self, report: TlsReport) -> TlsReport {
        let plaintext = self.second_net.as_ref().map(SecondNet::report);
        TlsReport { plaintext: plaintext.filter(PlaintextReport::is_used), ..report }
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

    fn config<T>(&self, read: impl FnOnce(&Config) -> T) -> T {
        read(lock(&self.plan).settings.config())
    }

    fn with<T>(&self, work: impl FnOnce(&Stages) -> T) -> Result<T, RecorderError> {
        let stages = self.stages.read().unwrap_or_else(PoisonError::into_inner);
        stages.as_ref().map(work).ok_or(RecorderError::Stopping)
    }

    fn with_sides<T>(&self, work: impl FnOnce(&Sides) -> T) -> Result<T, RecorderError> {
        self.with(|stages| work(&stages.sides.read().unwrap_or_else(PoisonError::into_inner)))
    }

    fn with_store<T>(&self, work: impl FnOnce(&Store) -> T) -> Result<T, RecorderError> {
        self.with_sides(|sides| sides.store.as_ref().map(work))?.ok_or(RecorderError::HandedOver)
    }

    fn change<T>(&self, work: impl FnOnce(&mut Sides) -> T) -> Result<T, RecorderError> {
        self.with(|stages| work(&mut stages.sides.write().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Plan {
    /// What the capture is to be brought to.
    fn desired(&self) -> Desired {
        if !self.recording {
            return Desired::only(Vec::new());
        }
        let Assignment { targets, sighting, .. } = &self.assignment;
        let only = Desired::only(targets.clone());
        let Some(Sighting { looked, decided, .. }) = sighting else { return only };
        Desired { unwanted: decided.clone(), as_of: *looked, ..only }
    }

    /// The node's pods, and the settings' version once they are in force: of those that are to be recorded, the ones whose ring is open.
    fn pods(&self, open: &[NamespaceStatus], problems: &[String]) -> Option<PodsStatus> {
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
    fn opening(&self, open: &[NamespaceStatus], problems: &[String]) -> usize {
        let opening = |target: &&Target| {
            let owner = target.owner.to_string();
            let named = || problems.iter().any(|problem| problem.contains(&owner));
            open.iter().all(|open| open.netns != target.netns) && !named()
        };
        self.assignment.targets.iter().filter(opening).count()
    }
}

/// Where to end when packets are followed: a moment before `now`, so that secrets come before what
/// they open. They are written up to 200 ms after their handshake, and `settle` takes as long.
fn held_back(rest: Span, now: Timestamp) -> Timestamp {
    const MOMENT: Duration = Duration::from_millis(300);
    now.saturating_sub(MOMENT).max(rest.from)
}

/// What of TLS has been sent.
struct Secrets {
    /// When the connections began that are asked for.
    began: Span,
    /// Notes that were sent, by time and hash.
    sent: HashSet<(Timestamp, u64)>,
    /// What was sent of connections that began before.
    older: Sent,
}

impl Secrets {
    fn new(began: Span) -> Self {
        Self { began, sent: HashSet::new(), older: Sent::new() }
    }

    fn is_new(&mut self, note: &Note) -> bool {
        let mut hasher = DefaultHasher::new();
        note.bytes.hash(&mut hasher);
        self.sent.insert((note.at, hasher.finish()))
    }

    /// No more notes of before `time` are asked for.
    fn forget_before(&mut self, time: Timestamp) {
        self.sent.retain(|(at, _)| *at >= time);
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

fn owners(losses: &[LossAt]) -> String {
    let owners: BTreeSet<&str> = losses.iter().map(|at| at.owner.as_str()).collect();
    owners.into_iter().collect::<Vec<_>>().join(", ")
}

/// For those who read the directory without a recorder.
fn allow_tls_to_leave(config: &Config) -> Result<(), RecorderError> {
    let dir = &config.tap.data_dir;
    tls::leave::allow(dir, config.tap.tls_export)
        .map_err(|source| RecorderError::Leave { dir: dir.clone(), source })
}

fn follow_tls_settings(tls: &Tls, config: &Config) {
    tls.keep_control_plane(config.tap.tls_control_plane);
    tls.set_max_size(config.pcapdump.max_size);
}

fn limits(config: &Config) -> Limits {
    let PcapdumpConfig { max_time, max_size, min_free, .. } = config.pcapdump;
    let min_free = match min_free {
        config::MinFree::Bytes(bytes) => MinFree::Bytes(bytes),
        config::MinFree::Percent(percent) => MinFree::Percent(percent),
    };
    Limits { max_time, max_size, min_free }
}

/// The filter that the settings ask for, checked by libpcap before anything else hears of it.
fn compile(config: &Config) -> Result<CaptureFilter, FilterError> {
    let snaplen = config.tap.snaplen.bytes();
    match &config.tap.bpf_override {
        Some(expression) => CaptureFilter::compile(expression, snaplen),
        None => Ok(CaptureFilter::everything_on_ip(snaplen)),
    }
}

/// A lock that a panicking thread left behind still guards a value that is whole: every change is
/// made in one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
