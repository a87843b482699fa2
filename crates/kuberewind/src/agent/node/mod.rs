//! The agent of one node of a cluster: what the `ConfigMap` orders and which pods there are becomes what
//! the recorder does.
//!
//! Level-triggered: whenever something may have changed (settings, pods, namespaces, who holds the data
//! directory), everything is brought to where it should be.

mod orders;
mod report;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kuberewind_capture::{Named, NamedWatch};
use kuberewind_cluster::netns::Scanner;
use kuberewind_cluster::pods::{PodSnapshot, PodWatch, Timing};
use kuberewind_cluster::settings::{SettingsSnapshot, SettingsWatch};
use kuberewind_cluster::{Access, AccessOptions, names, supervise};
use kuberewind_filter::TargetRules;
use kuberewind_store::StoreError;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::block_in_place;

pub(crate) use self::orders::target_settings;

use self::orders::Orders;
use self::report::Told;
use super::api;
use super::duty::{Answer, Doing, Duty, Wish};
use super::handover::{self, Lent, Request};
use super::recorder::{Identity, Recorder, RecorderError};
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
/// How often the agent that gave the data directory away looks whether it is still used.
const LOOK_AT_LOCK: Duration = Duration::from_millis(500);

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
        TlsSource { proc: self.proc.clone(), control_plane }
    }

    fn request(&self) -> Request {
        let Self { node, namespace, pod, .. } = self.clone();
        Request { node, namespace, pod }
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
    /// The settings in force.
    orders: Orders,
    /// The newest settings that were looked at, and what is wrong with them.
    looked_at: Option<String>,
    refused: Option<String>,
    tenure: Tenure,
}

/// Who has the data directory.
enum Tenure {
    /// Not we, yet: when we began to want it, when to try next, and whether we have said so.
    Wanted { since: Instant, retry_at: Instant, said: bool },
    /// We.
    Held { recorder: Arc<Recorder>, socket: Served },
    /// We gave it to another agent.
    Given(Lent),
    /// Nobody: it was erased, and this agent is about to go.
    Erased,
}

impl Tenure {
    fn wanted() -> Self {
        let now = Instant::now();
        Self::Wanted { since: now, retry_at: now, said: false }
    }
}

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
        let names = follow_names(undecided.clone(), Arc::clone(&duty));
        let supervisor = tokio::spawn(supervise(
            Scanner::new(&config.proc),
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
            self.take_tenure().await;
            self.direct();
            let pause = self.pause();
            tokio::select! {
                changed = self.settings.changed() => changed.context("follow the settings")?,
                changed = self.pods.changed() => changed.context("follow the pods")?,
                changed = self.plans.changed() => changed.context("follow the pods' namespaces")?,
                Some((wish, answer)) = self.wishes.recv() => match wish {
                    Wish::HandOver(request) => self.give_way(&request, answer).await,
                    Wish::Erase => self.erase(answer).await,
                },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// How long nothing needs to be done, if nothing happens.
    fn pause(&self) -> Duration {
        match &self.tenure {
            Tenure::Wanted { retry_at, .. } => retry_at.saturating_duration_since(Instant::now()),
            Tenure::Held { .. } | Tenure::Erased => Duration::from_hours(1),
            Tenure::Given(_) => LOOK_AT_LOCK,
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
        if let Tenure::Held { recorder, .. } = &self.tenure {
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

    /// Takes the data directory, when it is wanted and to be had.
    async fn take_tenure(&mut self) {
        let now = Instant::now();
        match &mut self.tenure {
            Tenure::Wanted { retry_at, .. } if *retry_at <= now => {}
            Tenure::Given(lent) => {
                let free = !kuberewind_store::is_locked(&self.config.data_dir);
                if !lent.is_abandoned(free, now) {
                    return;
                }
                tracing::warn!("the agent that took over is gone: recording again");
                self.tenure = Tenure::wanted();
            }
            Tenure::Wanted { .. } | Tenure::Held { .. } | Tenure::Erased => return,
        }
        match self.try_to_record() {
            Ok(recorder) => match listen(&self.config.data_dir) {
                Ok(listener) => {
                    let socket =
                        Served::start(listener, api::socket_router(Arc::clone(&self.duty)));
                    self.tenure = Tenure::Held { recorder: Arc::clone(&recorder), socket };
                    // In the API only with its targets: until then nobody shall think it ready.
                    self.direct();
                    self.duty.set(Doing::Recording(Arc::clone(&recorder)));
                    // Names that came in between.
                    recorder.renew_undecided();
                }
                Err(error) => {
                    let _ = block_in_place(|| recorder.stop());
                    self.postpone(
                        &format!("listen on the data directory's socket: {error}"),
                        RETRY_LATER,
                    );
                }
            },
            Err(RecorderError::Store(error @ StoreError::Locked { .. })) => {
                let why = self.ask_for_it().await.unwrap_or_else(|| error.to_string());
                self.postpone(&why, RETRY);
            }
            Err(error) => self.postpone(&error.to_string(), RETRY_LATER),
        }
    }

    fn try_to_record(&self) -> Result<Arc<Recorder>, RecorderError> {
        let Orders { settings, recording, .. } = &self.orders;
        let tls = settings.config().tap.tls.then(|| self.config.tls_source());
        let (node, undecided) = (self.config.node.clone(), self.undecided.clone());
        let identity = Identity { node, interfaces: Vec::new(), tls, undecided };
        block_in_place(|| Recorder::start(settings.clone(), *recording, identity))
    }

    /// Asks the owner to let go; why it does not. Not before we know what to record: as long as we do
    /// not, the owner does better.
    async fn ask_for_it(&self) -> Option<String> {
        if !self.plans.borrow().is_known() {
            return Some("another agent records until this one knows the node's pods".to_owned());
        }
        let asked = handover::ask(&self.config.data_dir, &self.config.request()).await;
        asked.err().map(|error| format!("{error:#}"))
    }

    fn postpone(&mut self, why: &str, wait: Duration) {
        let Tenure::Wanted { since, retry_at, said } = &mut self.tenure else { return };
        let now = Instant::now();
        *retry_at = now + wait;
        if !*said && (wait > RETRY || now.saturating_duration_since(*since) > LONG) {
            tracing::error!("not recording: {why}; trying again");
            *said = true;
        }
        self.duty.set(Doing::Nothing(format!("not recording yet: {why}")));
    }

    /// Brings the recorder to what is ordered and planned.
    fn direct(&self) {
        let told = self.plans.borrow().clone();
        let Tenure::Held { recorder, .. } = &self.tenure else {
            if let Some(sighting) = told.sighting() {
                self.undecided.update(|table, now| table.see(&sighting, now), false, drop);
            }
            return;
        };
        let snapshots = [
            self.settings.borrow().problem.clone(),
            self.pods.borrow().problem.clone(),
            self.refused.clone(),
        ];
        let problems = snapshots.into_iter().flatten().collect();
        let in_force = told.goes_by(&self.orders.rules).then(|| self.orders.version.clone());
        block_in_place(|| {
            recorder.assign(report::assignment(&told, problems, in_force));
            if let Err(error) = recorder.set_recording(self.orders.recording) {
                tracing::error!("switch recording: {error}");
            }
        });
    }

    /// Gives the data directory to another agent.
    async fn give_way(&mut self, request: &Request, answer: Answer) {
        let Request { namespace, pod, .. } = request;
        let refusal = match &self.tenure {
            Tenure::Held { .. } => request.refusal(&self.config.request()),
            Tenure::Wanted { .. } | Tenure::Given(_) | Tenure::Erased => {
                Some("this agent does not hold the data directory".to_owned())
            }
        };
        if let Some(why) = refusal {
            tracing::warn!("not giving way to {namespace}/{pod}: {why}");
            let _ = answer.send(Err(why));
            return;
        }
        tracing::info!("giving way to {namespace}/{pod}");
        let told = move || drop(answer.send(Ok(())));
        self.give_up(&format!("{namespace}/{pod} records this node now"), told).await;
        self.tenure = Tenure::Given(Lent::new());
    }

    /// Ends recording for good, and leaves nothing in the data directory.
    async fn erase(&mut self, answer: Answer) {
        let why = "its recording was erased; the agent is about to be removed";
        self.duty.set(Doing::Nothing(why.to_owned()));
        self.watches.settings.erase();
        self.watches.pods.erase();
        let before = std::mem::replace(&mut self.tenure, Tenure::Erased);
        let Tenure::Held { recorder, socket } = before else {
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
        self.give_up(why, || ()).await;
    }

    /// Seals and lets go of the data directory, tells so, and ends the socket's connections.
    async fn give_up(&mut self, why: &str, tell: impl FnOnce()) {
        self.duty.set(Doing::Nothing(why.to_owned()));
        let Tenure::Held { recorder, socket } =
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
        let duty = Duty::of_agent("the settings are not known yet", wish);
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

/// Has namespaces opened as soon as they have a name.
fn follow_names(undecided: Shared, duty: Arc<Duty>) -> Option<NamedWatch> {
    let mut first = true;
    let watch = NamedWatch::start(move |names| {
        // Some are older than this agent.
        let age = |named: &Named| if first { named.age() } else { Duration::ZERO };
        match duty.recorder() {
            Ok(recorder) => recorder.see_names(names, age),
            Err(_) => undecided.update(|table, now| table.name(names, age, now), false, drop),
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
