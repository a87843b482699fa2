//! The agent of one node of a cluster: what the `ConfigMap` orders and which pods there are becomes what
//! the recorder does.
//!
//! Level-triggered: whenever something may have changed (settings, pods, namespaces, who holds the data
//! directory), everything is brought to where it should be.

mod orders;
mod report;
mod succession;
mod tenure;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kuberewind_capture::{Named, NamedWatch, Opener};
use kuberewind_cluster::netns::Scanner;
use kuberewind_cluster::pods::{PodSnapshot, PodWatch, Timing};
use kuberewind_cluster::settings::{SettingsSnapshot, SettingsWatch};
use kuberewind_cluster::{Access, AccessOptions, names, supervise};
use kuberewind_filter::TargetRules;
use kuberewind_packet::Timestamp;
use kuberewind_store::{Lock, Machine, StoreError};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::block_in_place;

pub(crate) use self::orders::target_settings;

use self::orders::Orders;
use self::report::Told;
use self::succession::retire;
use self::tenure::{Given, Giving, Happened, Heir, Tenure, Wanted, happens};
use super::api;
use super::duty::{Answer, Doing, Duty, Wish};
use super::handover::Request;
use super::recorder::{Assignment, Identity, Recorder, RecorderError};
use super::serve::{Served, listen, withdraw};
use super::tls::{ControlPlane, TlsSource};
use super::undecided::Shared;

/// The pods that were known, for an agent that starts while the API server is away.
const PODS_FILE: &str = "pods.json";
/// The settings that were known, for the same.
const SETTINGS_FILE: &str = "settings.json";

/// Between two attempts to record, while somebody else holds the data directory.
const RETRY: Duration = Duration::from_millis(100);
/// The same when something else is in the way.
const RETRY_LATER: Duration = Duration::from_secs(5);
/// When it is time to say so.
const LONG: Duration = Duration::from_secs(30);
/// How often the agent that gave the data directory away looks whether it is still used,
const LOOK_AT_LOCK: Duration = Duration::from_millis(100);
/// and while it would take it back with nothing lost.
const LOOK_OFTEN: Duration = Duration::from_millis(20);
/// An agent that is to stop waits no longer for its heir.
const LAST_WAIT: Duration = Duration::from_secs(3);

/// Who the agent is, and where things are.
#[derive(Debug, Clone)]
pub(crate) struct NodeConfig {
    /// The node that it records.
    pub(crate) node: String,
    /// The namespace of its own pod, and of its `ConfigMap`.
    pub(crate) namespace: String,
    /// Its own pod.
    pub(crate) pod: String,
    /// The node's `/proc`.
    pub(crate) proc: PathBuf,
    /// Who opens network namespaces and processes' files.
    pub(crate) opener: Opener,
    /// Instead of the pod's service account.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Where the recording lies.
    pub(crate) data_dir: PathBuf,
    /// Where the pod's address answers probes.
    pub(crate) metrics_port: u16,
}

impl NodeConfig {
    /// The API server as pods reach it is in every container's environment.
    fn tls_source(&self) -> TlsSource {
        let variable = |name: &str| std::env::var(name).ok();
        let host = variable("KUBERNETES_SERVICE_HOST").and_then(|host| host.parse().ok());
        let port = variable("KUBERNETES_SERVICE_PORT").and_then(|port| port.parse().ok());
        let api_servers = host.zip(port).map(|(host, port)| SocketAddr::new(host, port));
        let control_plane = ControlPlane { api_servers: api_servers.into_iter().collect() };
        TlsSource { opener: self.opener.clone(), control_plane }
    }

    fn request(&self) -> Request {
        let Self { node, namespace, pod, .. } = self.clone();
        Request { node, namespace, pod, from: None }
    }
}

/// The agent of one node.
pub(crate) struct Node {
    config: NodeConfig,
    duty: Arc<Duty>,
    /// API --wishes--> agent; one at a time, others wait.
    wishes: mpsc::Receiver<(Wish, Answer)>,
    watches: Watches,
    settings: watch::Receiver<Arc<SettingsSnapshot>>,
    pods: watch::Receiver<Arc<PodSnapshot>>,
    /// agent --rules--> supervisor
    rules: watch::Sender<Arc<TargetRules>>,
    /// supervisor --plans--> agent
    plans: watch::Receiver<Told>,
    undecided: Shared,
    /// The newest recorder, for who follows names.
    catching: Catching,
    /// The settings in force.
    orders: Orders,
    /// The newest settings that were looked at, and what is wrong with them.
    looked_at: Option<String>,
    refused: Option<String>,
    tenure: Tenure,
}

/// agent --its recorder, if it has one--> who follows names
type Catching = Arc<Mutex<Weak<Recorder>>>;

/// What the API server is asked for, for as long as they live.
struct Watches {
    settings: SettingsWatch,
    pods: PodWatch,
}

/// What there is before the first settings are known.
struct Beginning {
    config: NodeConfig,
    duty: Arc<Duty>,
    wishes: mpsc::Receiver<(Wish, Answer)>,
    watches: Watches,
    listeners: [Served; 2],
}

impl Node {
    /// Records until `stop`, and then seals what was recorded.
    ///
    /// # Errors
    /// Only what keeps an agent from ever recording: no way to the API server, ports that are taken, a
    /// data directory that cannot be made.
    pub(crate) async fn run(
        config: NodeConfig,
        on_log_level: impl FnOnce(tracing::Level),
        stop: oneshot::Receiver<()>,
    ) -> anyhow::Result<()> {
        make_private(&config.data_dir)?;
        let beginning = Beginning::new(config).await?;
        let mut stop = std::pin::pin!(stop);
        let orders = tokio::select! {
            orders = beginning.first_orders() => orders,
            _ = &mut stop => return Ok(()),
        };
        on_log_level(orders.settings.config().log_level.into());
        let Beginning { config, duty, wishes, watches, listeners } = beginning;
        let (rules, chosen) = watch::channel(Arc::clone(&orders.rules));
        let (told, plans) = watch::channel(Told::default());
        let (undecided, awaited) = Shared::new();
        let catching = Catching::default();
        let names = follow_names(undecided.clone(), Arc::clone(&catching));
        let supervisor = tokio::spawn(supervise(
            Scanner::new(&config.proc, {
                let opener = config.opener.clone();
                move |pid| opener.netns_of_one(pid)
            }),
            watches.pods.snapshots(),
            chosen,
            awaited,
            move |planned| {
                told.send_modify(|told| match planned {
                    Ok(planned) => told.hear(&planned),
                    Err(error) => told.fail(error.to_string()),
                });
            },
        ));
        let mut node = Self {
            config,
            duty,
            wishes,
            settings: watches.settings.snapshots(),
            pods: watches.pods.snapshots(),
            watches,
            rules,
            plans,
            undecided,
            catching,
            looked_at: Some(orders.version.clone()),
            orders,
            refused: None,
            tenure: Tenure::wanted(),
        };
        let ended = tokio::select! {
            ended = node.follow() => ended,
            _ = &mut stop => Ok(()),
        };
        node.leave("the agent is stopping").await;
        supervisor.abort();
        names.into_iter().for_each(NamedWatch::stop);
        for listener in listeners {
            listener.stop().await;
        }
        ended
    }

    async fn follow(&mut self) -> anyhow::Result<()> {
        loop {
            self.take_orders();
            self.take_tenure();
            let pause = self.pause();
            tokio::select! {
                changed = self.settings.changed() => changed.context("follow the settings")?,
                changed = self.pods.changed() => changed.context("follow the pods")?,
                changed = self.plans.changed() => changed.context("follow the pods' namespaces")?,
                Some((wish, answer)) = self.wishes.recv() => {
                    self.grant(wish, answer).await;
                    continue;
                }
                happened = happens(&mut self.tenure) => {
                    if let Happened::Answered(answer) = happened {
                        self.hear(answer).await;
                    }
                    continue;
                }
                () = tokio::time::sleep(pause) => continue,
            }
            self.take_orders();
            self.direct();
        }
    }

    async fn grant(&mut self, wish: Wish, answer: Answer) {
        match wish {
            Wish::HandOver(request, words) => self.give_way(&request, words, answer).await,
            Wish::Taken => self.relieve(Some(answer)),
            Wish::Erase => self.erase(answer).await,
        }
    }

    /// How long nothing needs to be done, if nothing happens.
    fn pause(&self) -> Duration {
        const LONG: Duration = Duration::from_hours(1);
        let until = |at: Instant| at.saturating_duration_since(Instant::now());
        match &self.tenure {
            Tenure::Wanted(wanted) if wanted.is_asking() => LONG,
            Tenure::Wanted(wanted) => until(wanted.retry_at),
            Tenure::Held { giving: Some(giving), .. } => until(giving.at),
            Tenure::Held { giving: None, .. } | Tenure::Erased => LONG,
            Tenure::Given(Given { kept: Some(_), .. }) => LOOK_OFTEN,
            Tenure::Given(Given { kept: None, .. }) => LOOK_AT_LOCK,
        }
    }

    /// Puts newer settings in force, if they make sense; else the last good ones stay.
    fn take_orders(&mut self) {
        let snapshot = self.settings.borrow_and_update().clone();
        let Some(facts) = &snapshot.facts else { return };
        if self.looked_at.as_ref() == Some(&facts.version) {
            return;
        }
        self.looked_at = Some(facts.version.clone());
        let obeyed = Orders::read(facts, &self.config)
            .map_err(|error| error.to_string())
            .and_then(|orders| self.obey(orders).map_err(|error| error.to_string()));
        self.refused = obeyed.err().map(|error| {
            format!(
                "ConfigMap {}/{}: {error}; going on with the last good settings",
                self.config.namespace,
                names::CONFIG_MAP
            )
        });
        if let Some(problem) = &self.refused {
            tracing::error!("{problem}");
        }
    }

    fn obey(&mut self, orders: Orders) -> Result<(), RecorderError> {
        if let Some(recorder) = self.recorder() {
            let differing = block_in_place(|| recorder.replace_settings(&orders.settings))?;
            for key in differing {
                tracing::info!("{key} changed: it takes effect with the next agent");
            }
        }
        tracing::info!("settings {} are in force", orders.version);
        self.rules.send_replace(Arc::clone(&orders.rules));
        self.orders = orders;
        Ok(())
    }

    /// The one that catches packets, whether or not it may write them.
    fn recorder(&self) -> Option<&Arc<Recorder>> {
        match &self.tenure {
            Tenure::Held { recorder, .. } => Some(recorder),
            Tenure::Wanted(wanted) => wanted.heir.as_ref().map(|heir| &heir.recorder),
            Tenure::Given(given) => given.kept.as_ref().map(|kept| &kept.recorder),
            Tenure::Erased => None,
        }
    }

    /// Takes the data directory, when it is wanted and to be had; lets go of it when that is due.
    fn take_tenure(&mut self) {
        let now = Instant::now();
        match &self.tenure {
            Tenure::Wanted(wanted) if wanted.retry_at <= now && !wanted.is_asking() => {
                match Lock::take(&self.config.data_dir) {
                    Ok(lock) => self.begin(lock),
                    Err(StoreError::Locked { .. }) => self.court(),
                    Err(error) => self.postpone(&error.to_string(), RETRY_LATER),
                }
            }
            Tenure::Held { giving: Some(giving), .. } if giving.at <= now => self.release(),
            Tenure::Given(_) => self.look_at_lock(),
            Tenure::Wanted(_) | Tenure::Held { .. } | Tenure::Erased => {}
        }
    }

    /// Records into the directory, which is ours now.
    fn begin(&mut self, lock: Lock) {
        let Tenure::Wanted(wanted) = &mut self.tenure else { return };
        let heir = wanted.heir.take();
        let begun = block_in_place(|| {
            let (recorder, from) = self.ready(heir)?;
            match recorder.record(lock, from) {
                Ok(()) => Ok(recorder),
                Err(error) => Err(given_up(&recorder, error)),
            }
        });
        match begun {
            Ok(recorder) => {
                tracing::info!("recording into {}", self.config.data_dir.display());
                self.hold(recorder);
            }
            Err(error) => self.postpone(&error.to_string(), RETRY_LATER),
        }
    }

    /// One that keeps what it catches, and since when: none = there was nobody before it.
    fn ready(
        &self,
        heir: Option<Heir>,
    ) -> Result<(Arc<Recorder>, Option<Timestamp>), RecorderError> {
        let Some(Heir { recorder, keeps_from, .. }) = heir else {
            let recorder = self.stand_by()?;
            recorder.keep_from(Timestamp::MIN)?;
            recorder.assign(self.assignment());
            // Only then nothing is missing any more.
            recorder.settled_targets()?;
            return Ok((recorder, None));
        };
        let now = Timestamp::now();
        if let Some(from) = keeps_from.filter(|from| *from <= now) {
            return Ok((recorder, Some(from)));
        }
        // Whoever recorded is gone without a word.
        recorder.keep_from(now)?;
        Ok((recorder, Some(now)))
    }

    /// Tells everybody that we record.
    fn hold(&mut self, recorder: Arc<Recorder>) {
        match listen(&self.config.data_dir) {
            Ok(listener) => {
                let socket = Served::start(listener, api::socket_router(Arc::clone(&self.duty)));
                self.tenure =
                    Tenure::Held { recorder: Arc::clone(&recorder), socket, giving: None };
                // In the API only with its targets: until then nobody shall think it ready.
                self.direct();
                self.duty.set(Doing::Recording(recorder));
            }
            Err(error) => {
                let _ = block_in_place(|| recorder.stop());
                self.postpone(
                    &format!("listen on the data directory's socket: {error}"),
                    RETRY_LATER,
                );
            }
        }
    }

    fn stand_by(&self) -> Result<Arc<Recorder>, RecorderError> {
        let Orders { settings, recording, .. } = &self.orders;
        let tls = settings.config().tap.tls.then(|| self.config.tls_source());
        let (node, undecided) = (self.config.node.clone(), self.undecided.clone());
        let opener = self.config.opener.clone();
        let machine = Machine::default();
        let identity = Identity { node, interfaces: Vec::new(), tls, undecided, opener, machine };
        let recorder = Recorder::stand_by(settings.clone(), *recording, identity)?;
        *lock(&self.catching) = Arc::downgrade(&recorder);
        Ok(recorder)
    }

    /// Somebody else of this node records, as it should be for now.
    fn wait_for_owner(&mut self, why: &str) {
        self.try_again(why, RETRY);
        let why = format!("not recording yet: {why}");
        self.duty.set(Doing::Elsewhere { why, stands_by: false });
    }

    fn postpone(&mut self, why: &str, wait: Duration) {
        self.try_again(why, wait);
        self.duty.set(Doing::Nothing(format!("not recording yet: {why}")));
    }

    fn try_again(&mut self, why: &str, wait: Duration) {
        let Tenure::Wanted(Wanted { since, retry_at, said, .. }) = &mut self.tenure else { return };
        let now = Instant::now();
        *retry_at = now + wait;
        if !*said && (wait > RETRY || now.saturating_duration_since(*since) > LONG) {
            tracing::error!("not recording: {why}; trying again");
            *said = true;
        }
    }

    /// Brings the recorder to what is ordered and planned.
    fn direct(&self) {
        let Some(recorder) = self.recorder() else {
            if let Some(sighting) = self.plans.borrow().sighting() {
                self.undecided.update(|table, now| table.see(&sighting, now), false, drop);
            }
            return;
        };
        let is_held = matches!(&self.tenure, Tenure::Held { giving: None, .. });
        block_in_place(|| {
            recorder.assign(self.assignment());
            if is_held && let Err(error) = recorder.set_recording(self.orders.recording) {
                tracing::error!("switch recording: {error}");
            }
        });
    }

    fn assignment(&self) -> Assignment {
        let told = self.plans.borrow().clone();
        let snapshots = [
            self.settings.borrow().problem.clone(),
            self.pods.borrow().problem.clone(),
            self.refused.clone(),
        ];
        let problems = snapshots.into_iter().flatten().collect();
        let in_force = told.goes_by(&self.orders.rules).then(|| self.orders.version.clone());
        report::assignment(&told, problems, in_force)
    }

    /// Ends recording for good, and leaves nothing in the data directory.
    async fn erase(&mut self, answer: Answer) {
        let why = "its recording was erased; the agent is about to be removed";
        self.duty.set(Doing::Nothing(why.to_owned()));
        self.watches.settings.erase();
        self.watches.pods.erase();
        let before = std::mem::replace(&mut self.tenure, Tenure::Erased);
        let Tenure::Held { recorder, socket, .. } = before else {
            let _ = answer.send(Ok(()));
            return;
        };
        let erased = withdraw(&self.config.data_dir)
            .map_err(|error| format!("remove the data directory's socket: {error}"))
            .and_then(|()| block_in_place(|| recorder.erase()).map_err(|error| error.to_string()));
        tracing::info!("the recording was erased");
        let _ = answer.send(erased);
        socket.stop().await;
    }

    async fn leave(&mut self, why: &str) {
        if let Tenure::Held { giving: Some(Giving { at, .. }), .. } = &self.tenure {
            tokio::time::sleep_until((*at).into()).await;
            self.release();
        }
        self.wait_for_heir().await;
        if let Tenure::Wanted(wanted) = &mut self.tenure {
            retire(wanted.heir.take());
        }
        self.give_up(why, || ()).await;
    }

    /// Seals and lets go of the data directory, tells so, and ends the socket's connections.
    async fn give_up(&mut self, why: &str, tell: impl FnOnce()) {
        self.duty.set(Doing::Nothing(why.to_owned()));
        let Tenure::Held { recorder, socket, .. } =
            std::mem::replace(&mut self.tenure, Tenure::wanted())
        else {
            return tell();
        };
        // Before the lock: what is there afterwards is the next one's.
        if let Err(error) = withdraw(&self.config.data_dir) {
            tracing::warn!("remove the data directory's socket: {error}");
        }
        if let Err(error) = block_in_place(|| recorder.stop()) {
            tracing::error!("the recording was not closed in good order: {error}");
        }
        tell();
        socket.stop().await;
    }
}

impl Beginning {
    async fn new(config: NodeConfig) -> anyhow::Result<Self> {
        let (wish, wishes) = mpsc::channel(1);
        let why = "the settings are not known yet";
        let duty = Duty::of_agent(why, wish, config.data_dir.clone());
        let api = SocketAddr::from((Ipv4Addr::LOCALHOST, names::API_PORT));
        let api = TcpListener::bind(api).await.with_context(|| format!("listen on {api}"))?;
        let public = bind_public(config.metrics_port).await?;
        let listeners = [
            Served::start(api, api::router(Arc::clone(&duty))),
            Served::start(public, api::public_router(Arc::clone(&duty))),
        ];
        let options =
            AccessOptions { kubeconfig: config.kubeconfig.clone(), ..AccessOptions::default() };
        let access = Access::open_without_retries(&options).await?;
        tracing::info!("following {}", access.server());
        let client = access.client().clone();
        let file = |name: &str| Some(config.data_dir.join(name));
        let settings = SettingsWatch::start(
            client.clone(),
            &config.namespace,
            file(SETTINGS_FILE),
            Timing::default(),
        );
        let pods = PodWatch::start(client, &config.node, file(PODS_FILE), Timing::default());
        let watches = Watches { settings, pods };
        Ok(Self { config, duty, wishes, watches, listeners })
    }

    /// Waits for settings that make sense. Without any nothing is recorded: what must not be recorded is
    /// not known.
    async fn first_orders(&self) -> Orders {
        let mut snapshots = self.watches.settings.snapshots();
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            let read = snapshot.facts.as_ref().map(|facts| Orders::read(facts, &self.config));
            let wrong = match read {
                Some(Ok(orders)) => {
                    tracing::info!("settings {} are in force", orders.version);
                    return orders;
                }
                Some(Err(error)) => Some(format!(
                    "ConfigMap {}/{}: {error}",
                    self.config.namespace,
                    names::CONFIG_MAP
                )),
                None => snapshot.problem.clone(),
            };
            if let Some(why) = wrong {
                tracing::error!("not recording: {why}");
                self.duty.set(Doing::Nothing(why));
            }
            if snapshots.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Ends one that could not begin.
fn given_up(recorder: &Recorder, error: RecorderError) -> RecorderError {
    if let Err(other) = recorder.stop() {
        tracing::debug!("after {error}: {other}");
    }
    error
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has namespaces opened as soon as they have a name.
fn follow_names(undecided: Shared, catching: Catching) -> Option<NamedWatch> {
    let mut first = true;
    let watch = NamedWatch::start(move |names| {
        // Some are older than this agent.
        let age = |named: &Named| if first { named.age() } else { Duration::ZERO };
        let recorder = lock(&catching).upgrade();
        match recorder {
            Some(recorder) => recorder.see_names(names, age),
            None => undecided.update(|table, now| table.name(names, age, now), false, drop),
        }
        first = false;
    });
    watch
        .inspect_err(|error| tracing::error!("new pods' first packets may be missed: {error}"))
        .ok()
}

/// On every address, IPv6 where there is any.
async fn bind_public(port: u16) -> anyhow::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
            .await
            .with_context(|| format!("listen on port {port} (tap.metrics.port)")),
    }
}

/// The kubelet makes the directory for everybody.
fn make_private(dir: &Path) -> anyhow::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(dir);
    made.and_then(|()| std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)))
        .with_context(|| {
            format!("make the data directory {} ours alone (tap.dataDir)", dir.display())
        })
}
