//! Joins the stages: capture into the store, and the store's windows out.

mod error;
mod export;
mod plan;
mod report;
mod settings;
mod succession;
mod targets;
#[cfg(test)]
mod tests;
mod tls_state;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;

use kuberewind_capture::{Capture, CaptureConfig, NetnsSpec, NetnsWatch, Opener};
use kuberewind_packet::Timestamp;
use kuberewind_store::{Appender, Inlet, Lock, Machine, Store};

pub(crate) use self::error::RecorderError;
pub(crate) use self::plan::Assignment;
pub(crate) use self::succession::SETTLED;

use self::plan::Plan;
use self::settings::{compile, limits};
use self::succession::Moment;
use self::tls_state::TlsState;
use super::cut::Cutter;
use super::tls::{self, SecondNet, Taps, TlsSource};
use super::undecided::Shared;
use crate::config::{Config, Effective};

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
    /// The clocks and the disk that the store goes by.
    pub(crate) machine: Machine,
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

impl Recorder {
    /// Opens the store, and records these namespaces whenever they are there. Returns once those that are
    /// there now are recorded, or known not to be recordable.
    pub(crate) fn start(
        settings: Effective,
        recording: bool,
        identity: Identity,
        namespaces: Vec<NetnsSpec>,
    ) -> Result<Arc<Self>, RecorderError> {
        limits(settings.config()).check()?;
        compile(settings.config())?;
        let held = Lock::take(&settings.config().tap.data_dir)?;
        let recorder = Self::stand_by(settings, recording, identity)?;
        recorder.keep_from(Timestamp::MIN)?;
        recorder.follow_namespaces(namespaces)?;
        // Only then nothing is missing any more.
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

    /// Drains the rings, writes what was taken, seals, and unlocks the directory.
    pub(crate) fn stop(&self) -> Result<(), RecorderError> {
        self.stop_watches();
        // Rings are closed one after the other: all of them are read up to one moment.
        let at = Timestamp::now();
        let _ = self.keep_from(at);
        let Some((Sides { store: Some(store), .. }, rest)) = self.take_down() else {
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
        let Some((sides, _)) = self.take_down() else { return Ok(()) };
        let store = sides.store.ok_or(RecorderError::HandedOver)?;
        let _ = tls::leave::allow(&self.data_dir(), true); // nothing is left that could
        Ok(store.erase()?)
    }

    /// Ends capture and TLS: where packets went, and the secrets that are not written yet. None if that
    /// was done before.
    fn take_down(&self) -> Option<(Sides, Vec<Vec<u8>>)> {
        let stages = self.stages.write().unwrap_or_else(PoisonError::into_inner).take();
        let Stages { capture, sides, .. } = stages?;
        capture.stop();
        let rest = self.stop_tls();
        Some((sides.into_inner().unwrap_or_else(PoisonError::into_inner), rest))
    }

    /// Where the recording lies.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.config(|config| config.tap.data_dir.clone())
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

/// A lock that a panicking thread left behind still guards a value that is whole: every change is
/// made in one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
