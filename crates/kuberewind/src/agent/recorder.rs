//! Joins the stages: capture into the store, and the store's windows out.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use kuberewind_capture::{Capture, CaptureConfig, CaptureError, NetnsSpec, NetnsWatch, Target};
use kuberewind_export::wire::{SendError, Sender};
use kuberewind_filter::{CaptureFilter, FilterError, StoredFilter};
use kuberewind_packet::{LossCause, PacketStream as _, Span, Timestamp, WindowAccount};
use kuberewind_store::{Keep, Limits, MinFree, Store, StoreConfig, StoreError};

use super::status::{Bounds, FilterStatus, Memory};
use super::switch::{Switch, SwitchError};
use super::{Status, WindowQuery};
use crate::config::{self, Config, ConfigError, Effective, PcapdumpConfig};
use crate::{PROGRAM, VERSION};

/// A capture thread for so many CPUs: one drains many rings, at a few per cent of a CPU for each
/// 100,000 packets a second. A namespace stays with one thread, so its packets stay in order.
const CPUS_PER_LANE: usize = 8;
/// More threads would only take memory: the one that writes is the narrow place then.
const MOST_LANES: usize = 4;

fn lanes() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cpus / CPUS_PER_LANE).clamp(1, MOST_LANES)
}

/// What to record on this machine.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// The node's name in everything that is written.
    pub(crate) node: String,
    /// The network namespaces.
    pub(crate) namespaces: Vec<NetnsSpec>,
    /// Only these interfaces; none = all.
    pub(crate) interfaces: Vec<String>,
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
    Config(#[from] ConfigError),
    #[error(transparent)]
    Switch(#[from] SwitchError),
    #[error("send the window: {0}")]
    Send(#[from] SendError<StoreError>),
    #[error("nothing is recorded yet in {}", .0.display())]
    Empty(PathBuf),
    #[error("the recorder is stopping")]
    Stopping,
}

impl RecorderError {
    /// Whether the asker can mend it by asking differently.
    pub(crate) const fn is_usage(&self) -> bool {
        match self {
            Self::Filter(_) | Self::Config(_) => true,
            Self::Store(error) => error.is_usage(),
            _ => false,
        }
    }
}

/// A running recorder.
pub(crate) struct Recorder {
    source: Source,
    since: Timestamp,
    /// Gone once the recorder stops. Held for reading by whoever uses a stage, never while sending.
    stages: RwLock<Option<Stages>>,
    /// One change of settings or targets at a time.
    plan: Mutex<Plan>,
    watch: Mutex<Option<NetnsWatch>>,
}

struct Stages {
    capture: Capture,
    store: Store,
}

/// What should be: the level that the stages are brought to.
struct Plan {
    settings: Effective,
    filter: Arc<CaptureFilter>,
    recording: bool,
    targets: Vec<Target>,
    problems: Vec<String>,
}

impl Recorder {
    /// Opens the store, starts the capture threads, and follows the namespaces of `source`. Returns
    /// once every namespace that is there is recorded, or known not to be recordable.
    pub(crate) fn start(settings: Effective, source: Source) -> Result<Arc<Self>, RecorderError> {
        let config = settings.config();
        let filter = Arc::new(compile(config)?);
        let recording = Switch::read(&config.tap.data_dir)?.unwrap_or(config.pcapdump.enabled);
        let (store, appenders) = Store::open(StoreConfig {
            dir: config.tap.data_dir.clone(),
            node: source.node.clone(),
            program: PROGRAM.to_owned(),
            limits: limits(config),
            interval: config.pcapdump.time_interval,
            lanes: lanes(),
        })?;
        let capture = CaptureConfig {
            node: source.node.clone(),
            filter: Arc::clone(&filter),
            ring_memory: config.tap.ring_memory,
            interfaces: source.interfaces.clone(),
        };
        let capture = Capture::start(capture, appenders)?;
        let since = Timestamp::now();
        if recording {
            store.set_recording(true)?;
        }
        let specs = source.namespaces.clone();
        let recorder = Arc::new(Self {
            source,
            since,
            stages: RwLock::new(Some(Stages { capture, store })),
            plan: Mutex::new(Plan {
                settings,
                filter,
                recording,
                targets: Vec::new(),
                problems: Vec::new(),
            }),
            watch: Mutex::new(None),
        });
        recorder.follow_namespaces(specs)?;
        Ok(recorder)
    }

    /// Namespaces come and go; whatever is there is recorded.
    fn follow_namespaces(self: &Arc<Self>, specs: Vec<NetnsSpec>) -> Result<(), RecorderError> {
        let recorder = Arc::downgrade(self);
        let (known, first) = crossbeam_channel::bounded(1);
        let watch = NetnsWatch::start(specs, move |targets, problems| {
            if let Some(recorder) = recorder.upgrade() {
                recorder.retarget(targets, problems);
            }
            let _ = known.try_send(());
        })?;
        *lock(&self.watch) = Some(watch);
        let _ = first.recv();
        self.with(|stages| stages.capture.settled_targets())
    }

    fn retarget(&self, targets: Vec<Target>, problems: Vec<String>) {
        let mut plan = lock(&self.plan);
        plan.targets = targets;
        plan.problems = problems;
        if plan.recording {
            let _ = self.with(|stages| stages.capture.set_targets(plan.targets.clone()));
        }
    }

    /// Drains the rings, writes what was taken, seals, and unlocks the directory.
    pub(crate) fn stop(&self) -> Result<(), RecorderError> {
        if let Some(watch) = lock(&self.watch).take() {
            watch.stop();
        }
        let stages = self.stages.write().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Stages { capture, store }) = stages else { return Ok(()) };
        capture.stop();
        Ok(store.close()?)
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
        let config = settings.config();
        let filter = Arc::new(compile(config)?);
        let limits = limits(config);
        limits.check()?;
        self.with(|stages| -> Result<(), RecorderError> {
            stages.capture.set_filter(Arc::clone(&filter))?;
            Ok(stages.store.set_limits(limits, config.pcapdump.time_interval)?)
        })??;
        plan.filter = filter;
        plan.settings = settings;
        Ok(plan.settings.to_json())
    }

    /// Switches recording on or off, also for recorders to come.
    pub(crate) fn set_recording(&self, on: bool) -> Result<(), RecorderError> {
        let mut plan = lock(&self.plan);
        Switch::write(&plan.settings.config().tap.data_dir, on)?;
        if plan.recording == on {
            return Ok(());
        }
        self.with(|stages| -> Result<(), RecorderError> {
            if on {
                stages.store.set_recording(true)?;
                stages.capture.set_targets(plan.targets.clone());
                stages.capture.settled_targets();
            } else {
                stages.capture.set_targets(Vec::new());
                stages.capture.settled_targets();
                stages.capture.settle(Timestamp::now())?;
                stages.store.set_recording(false)?;
            }
            Ok(())
        })??;
        plan.recording = on;
        Ok(())
    }

    /// Sends a window: waits until its end is settled, then reads it from disk; then goes on with
    /// what came since, window by window, for as long as `follow` says so or until the other side
    /// hangs up. Nothing is written to `out` before the window is known to be there.
    pub(crate) fn send<W: Write>(
        &self,
        query: &WindowQuery,
        filter: Option<StoredFilter>,
        follow: impl Fn() -> bool,
        out: W,
    ) -> Result<(), RecorderError> {
        let filter = filter.map(Arc::new);
        let mut asked = query.span(Timestamp::now());
        self.settle(asked.to)?;
        if query.from.is_none() {
            asked.from = self.oldest(asked)?;
        }
        let mut sender = Sender::new(out, query.compress).map_err(SendError::Io)?;
        let mut account = None;
        loop {
            let keep = filter.clone().map(keep);
            let mut window = self.with(|stages| stages.store.window(asked, keep))?;
            sender.send(&mut window)?;
            let so_far = match account.take() {
                None => window.account().clone(),
                Some(earlier) => WindowAccount::then(earlier, window.account()),
            };
            if !follow() {
                sender.finish(&so_far).map_err(SendError::Io)?;
                return Ok(());
            }
            account = Some(so_far);
            sender.flush().map_err(SendError::Io)?;
            asked = Span::new(asked.to, Timestamp::now());
            self.settle(asked.to)?;
        }
    }

    /// Where "all that is held" begins.
    fn oldest(&self, asked: Span) -> Result<Timestamp, RecorderError> {
        let oldest = self.with(|stages| stages.store.status().oldest)?;
        oldest
            .map(|oldest| oldest.min(asked.to))
            .ok_or_else(|| RecorderError::Empty(self.data_dir()))
    }

    /// Every packet stamped before `to` is on disk when this returns.
    fn settle(&self, to: Timestamp) -> Result<(), RecorderError> {
        self.with(|stages| -> Result<(), RecorderError> {
            stages.capture.settle(to)?;
            Ok(stages.store.sync()?)
        })?
    }

    /// What the recorder says of itself.
    pub(crate) fn status(&self) -> Result<Status, RecorderError> {
        let (capture, store) =
            self.with(|stages| (stages.capture.status(), stages.store.status()))?;
        let plan = lock(&self.plan);
        let config = plan.settings.config();
        // What the rings lost was told to the store as well.
        let lost = |cause| (cause, store.lost.get(&cause).copied().unwrap_or(0));
        let losses = LossCause::ALL.into_iter().map(lost).collect();
        // What a filter cannot do is no problem of the machine's.
        let problems = capture.problems.iter().filter(|text| !plan.filter.notes().contains(text));
        Ok(Status {
            node: self.source.node.clone(),
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
            filter: FilterStatus::of(&plan.filter),
            memory: Memory::now(&capture, &store),
            problems: plan.problems.iter().chain(problems).cloned().collect(),
            namespaces: capture.namespaces,
            cut: capture.cut,
            store,
            pods: None,
        })
    }

    fn config<T>(&self, read: impl FnOnce(&Config) -> T) -> T {
        read(lock(&self.plan).settings.config())
    }

    fn with<T>(&self, work: impl FnOnce(&Stages) -> T) -> Result<T, RecorderError> {
        let stages = self.stages.read().unwrap_or_else(PoisonError::into_inner);
        stages.as_ref().map(work).ok_or(RecorderError::Stopping)
    }
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

/// The store's view of a filter: it knows bytes, not expressions.
fn keep(filter: Arc<StoredFilter>) -> Keep {
    Box::new(move |original_len, data| filter.matches(original_len, data))
}

/// A lock that a panicking thread left behind still guards a value that is whole: every change is
/// made in one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
