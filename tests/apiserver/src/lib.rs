//! A stateful Kubernetes API server for tests.
//!
//! It answers as a recorded server of Kubernetes 1.36 did: discovery, lists and watches with their
//! bookmarks and 410s, server-side apply with field managers, access reviews, a daemonset controller,
//! and port-forwards over WebSocket that really dial. A test changes the cluster behind its back with
//! [`Command`]s, from Rust or over `POST /control`.

mod body;
mod catalog;
mod control;
mod daemonset;
mod openapi;
mod ownership;
mod portforward;
mod protobuf;
mod rights;
mod schema;
mod select;
mod server;
mod state;
mod status;
mod watch;

use std::{
    collections::HashMap,
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::AbortHandle};

pub use control::{Command, End, Fate, Fault, Node, Reach, Wrong};
pub use rights::{Rule, User};

use control::Settings;
use state::{State, Write};
use status::Failure;

/// How watches end.
#[derive(Debug, Default, Clone, Copy)]
struct Cut {
    abruptly: bool,
}

/// What all connections share. Locks are held briefly and never across an await; `settings` before `state`.
struct Shared {
    settings: Mutex<Settings>,
    state: Mutex<State>,
    /// Running port-forwards with their pod's node.
    sessions: Mutex<Vec<(String, AbortHandle)>>,
    /// Bytes that port-forwards took to clients, by namespace and pod.
    forwarded: Mutex<HashMap<(String, String), Arc<AtomicU64>>>,
    /// writers --version--> watches; only the newest counts
    changed: tokio::sync::watch::Sender<u64>,
    /// control --cut--> watches
    cuts: tokio::sync::watch::Sender<Cut>,
    /// control --whether there is a server--> the listener
    serving: tokio::sync::watch::Sender<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn settings(&self) -> MutexGuard<'_, Settings> {
        lock(&self.settings)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn sessions(&self) -> MutexGuard<'_, Vec<(String, AbortHandle)>> {
        lock(&self.sessions)
    }

    fn forwarded(&self, namespace: &str, pod: &str) -> Arc<AtomicU64> {
        let key = (namespace.to_owned(), pod.to_owned());
        lock(&self.forwarded).entry(key).or_default().clone()
    }

    fn user(&self, authorization: &str) -> Option<User> {
        let settings = self.settings();
        match authorization.strip_prefix("Bearer ") {
            Some(token) => settings.users.get(token).cloned(),
            None => Some(settings.anonymous.clone()),
        }
    }

    /// Lets the controller work until nothing changes, then wakes the watches.
    fn settle(&self) {
        let settings = self.settings();
        let mut state = self.state();
        for _ in 0..100 {
            let before = state.version();
            daemonset::reconcile(&mut state, &settings);
            if state.version() == before {
                break;
            }
        }
        self.changed.send_replace(state.version());
    }

    fn control(&self, command: Command) -> Result<(), Failure> {
        match command {
            Command::Put { object } => put(&mut self.state(), object)?,
            Command::Remove { api_version, kind, namespace, name } => {
                if let Some(resource) = catalog::find_kind(&api_version, &kind) {
                    // Gone already is as good.
                    let _ = self.state().remove(resource, &namespace, &name);
                }
            }
            Command::PodStatus { namespace, name, uid, status } => {
                self.tell_status(&namespace, &name, &uid, status)?;
            }
            Command::Node(node) => {
                self.settings().dead_nodes.retain(|dead| *dead != node.name);
                put(&mut self.state(), node_object(&node))?;
            }
            Command::KillNode { name } => self.kill_node(&name)?,
            Command::Fate { node: None, fate } => {
                self.state().has_kubelets = fate == Fate::Pending;
                self.settings().fate = fate;
            }
            Command::Fate { node: Some(node), fate } => {
                self.settings().fates.insert(node, fate);
            }
            Command::User { token, user } => {
                self.settings().users.insert(token, user);
            }
            Command::Anonymous { user } => self.settings().anonymous = user,
            Command::Bookmarks { every_ms } => {
                self.settings().bookmarks = std::time::Duration::from_millis(every_ms);
            }
            Command::Fault(fault) => self.settings().faults.push(fault),
            Command::CutWatches { abruptly } => {
                self.cuts.send_replace(Cut { abruptly });
            }
            Command::Expire => {
                self.state().compact();
                self.cuts.send_replace(Cut { abruptly: false });
            }
            Command::Serve { serving } => {
                self.serving.send_replace(serving);
            }
            Command::Reach(reach) => {
                let key = (reach.namespace.clone(), reach.pod.clone());
                self.settings().reach.insert(key, reach);
            }
            Command::CutSessions => {
                self.sessions().drain(..).for_each(|(_, session)| session.abort());
            }
        }
        self.settle();
        Ok(())
    }

    fn tell_status(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        status: Value,
    ) -> Result<(), Failure> {
        let Some(pods) = catalog::find("", "v1", "pods") else {
            return Ok(());
        };
        let mut state = self.state();
        if state.get(pods, namespace, name)?["metadata"]["uid"] != uid {
            return Err(Failure::not_found(&status::Target { group: "", resource: "pods", name }));
        }
        let write = Write { manager: "kubelet".into(), status: true, ..Write::default() };
        state.update(pods, namespace, name, &write, |pod| pod["status"] = status)?;
        Ok(())
    }

    fn kill_node(&self, name: &str) -> Result<(), Failure> {
        self.settings().dead_nodes.push(name.to_owned());
        self.sessions()
            .extract_if(.., |(node, _)| node == name)
            .for_each(|(_, session)| session.abort());
        let mut state = self.state();
        let Some(nodes) = catalog::find("", "v1", "nodes") else {
            return Ok(());
        };
        let mut node = state.get(nodes, "", name)?;
        node["status"]["conditions"] = json!([{
            "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
            "message": "Kubelet stopped posting node status.",
        }]);
        put(&mut state, node)?;
        let Some(pods) = catalog::find("", "v1", "pods") else {
            return Ok(());
        };
        for mut pod in state.list(pods, "") {
            if pod["spec"]["nodeName"] == name {
                let conditions = pod["status"]["conditions"].as_array_mut();
                for condition in conditions.into_iter().flatten().filter(|c| c["type"] == "Ready") {
                    condition["status"] = json!("False");
                }
                put(&mut state, pod)?;
            }
        }
        Ok(())
    }
}

fn put(state: &mut State, object: Value) -> Result<(), Failure> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (word(&object["apiVersion"]), word(&object["kind"]));
    let Some(resource) = catalog::find_kind(&api_version, &kind) else {
        return Err(Failure::bad_request(&format!("no resource {api_version} {kind}")));
    };
    let namespace =
        if resource.namespaced { word(&object["metadata"]["namespace"]) } else { String::new() };
    let name = word(&object["metadata"]["name"]);
    let write = Write { manager: "test".into(), ..Write::default() };
    if state.get(resource, &namespace, &name).is_ok() {
        state.update(resource, &namespace, &name, &write, |live| {
            let mut object = object;
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove("resourceVersion");
            }
            *live = object;
        })?;
    } else {
        state.create(resource, &namespace, object, &write)?;
    }
    Ok(())
}

fn node_object(node: &Node) -> Value {
    let mut labels = json!({"kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux"});
    for (key, value) in &node.labels {
        labels[key] = json!(value);
    }
    let mut object = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name, "labels": labels}, "spec": {},
        "status": {
            "conditions": [{
                "type": "Ready", "status": if node.ready { "True" } else { "False" },
                "reason": if node.ready { "KubeletReady" } else { "KubeletNotReady" },
                "message": if node.ready { "kubelet is posting ready status" } else { "container runtime is down" },
            }],
            "addresses": [{"type": "InternalIP", "address": "10.199.0.11"}, {"type": "Hostname", "address": node.name}],
        },
    });
    if !node.taints.is_empty() {
        object["spec"]["taints"] = json!(node.taints);
    }
    object
}

/// A running server. Dropping it ends it and all its connections.
pub struct Double {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: tokio::task::JoinHandle<()>,
}

impl fmt::Debug for Double {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Double").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Double {
    /// Serves on a free port of the loopback.
    pub async fn start() -> io::Result<Self> {
        Self::bind((Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Serves on an address, with the namespaces that every cluster has.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            settings: Mutex::default(),
            state: Mutex::new(State::new()),
            sessions: Mutex::default(),
            forwarded: Mutex::default(),
            changed: tokio::sync::watch::Sender::new(0),
            cuts: tokio::sync::watch::Sender::default(),
            serving: tokio::sync::watch::Sender::new(true),
        });
        for name in ["default", "kube-system"] {
            let namespace =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            put(&mut shared.state(), namespace)
                .map_err(|_| io::Error::other("a fresh server refused a namespace"))?;
        }
        let accepting = tokio::spawn(serve(listener, address, shared.clone()));
        Ok(Self { shared, address, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A kubeconfig that leads here; with a token, as that user.
    pub fn kubeconfig(&self, token: Option<&str>) -> String {
        let user = token.map_or("{}".to_owned(), |token| format!("{{token: {token}}}"));
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: double\n\
             clusters: [{{name: double, cluster: {{server: \"http://{}\"}}}}]\n\
             users: [{{name: user, user: {user}}}]\n\
             contexts: [{{name: double, context: {{cluster: double, user: user}}}}]\n",
            self.address
        )
    }

    /// Writes that kubeconfig to a file.
    pub fn write_kubeconfig(&self, path: &Path) -> io::Result<()> {
        std::fs::write(path, self.kubeconfig(None))
    }

    /// Does something to the cluster. Errors say why the server would not have it.
    pub fn control(&self, command: Command) -> Result<(), Refused> {
        self.shared.control(command).map_err(|failure| Refused(format!("{:?}", failure.body)))
    }

    /// An object as the server has it now.
    pub fn object(
        &self,
        api_version: &str,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Option<Value> {
        let resource = catalog::find_kind(api_version, kind)?;
        self.shared.state().get(resource, namespace, name).ok()
    }

    /// All objects of a kind, in one namespace or (empty) everywhere.
    pub fn objects(&self, api_version: &str, kind: &str, namespace: &str) -> Vec<Value> {
        let resource = catalog::find_kind(api_version, kind);
        resource.map(|resource| self.shared.state().list(resource, namespace)).unwrap_or_default()
    }

    /// How many bytes port-forwards have taken from a pod to clients so far.
    pub fn forwarded(&self, namespace: &str, pod: &str) -> u64 {
        self.shared.forwarded(namespace, pod).load(Ordering::Relaxed)
    }

    /// Every request so far: method and path with its query.
    pub fn requests(&self) -> Vec<String> {
        self.shared.settings().requests.clone()
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.sessions().drain(..).for_each(|(_, session)| session.abort());
        self.shared.cuts.send_replace(Cut { abruptly: true });
    }
}

/// The server would not do what a test wanted.
#[derive(Debug)]
pub struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server refused: {}", self.0)
    }
}

impl std::error::Error for Refused {}

/// Accepts while it is to serve; when it is not, the listener and all connections are dropped.
async fn serve(listener: TcpListener, address: SocketAddr, shared: Arc<Shared>) {
    let mut serving = shared.serving.subscribe();
    let mut listener = Some(listener);
    loop {
        if let Some(listener) = listener.take() {
            tokio::select! {
                () = accept(listener, &shared) => {}
                _ = serving.wait_for(|serving| !serving) => {}
            }
            shared.sessions().drain(..).for_each(|(_, session)| session.abort());
        }
        if serving.wait_for(|serving| *serving).await.is_err() {
            return;
        }
        // Somebody else has the address: for the tests that is the same as a server that is away.
        listener = TcpListener::bind(address).await.ok();
        if listener.is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

async fn accept(listener: TcpListener, shared: &Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // Full tables pass; the next try may do.
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        while connections.try_join_next().is_some() {}
        let shared = shared.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| server::answer(shared.clone(), request));
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // Broken connections are what some tests are about.
            let _ = connection.with_upgrades().await;
        });
    }
}
