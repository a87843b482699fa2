//! A cluster for the command line: the API server's double, and agents that answer but record nothing.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use kuberewind_apiserver_double::{Command, Double, Fate, Node, Reach, Rule, User};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

pub(crate) const NS: &str = "kuberewind";

/// How often pods of agents are looked for.
const LOOK: Duration = Duration::from_millis(10);

/// A node's agent as the test wants it.
#[derive(Clone, Default)]
pub(crate) struct Agent {
    /// Laid over the status (RFC 7396).
    pub(crate) says: Value,
    /// Refuses to erase.
    pub(crate) keeps: bool,
    /// Does not follow the `ConfigMap`.
    pub(crate) deaf: bool,
    /// Was asked to erase.
    pub(crate) erased: bool,
}

type Agents = Arc<Mutex<HashMap<String, Agent>>>;

#[derive(Clone)]
struct Answering {
    node: String,
    double: Arc<Double>,
    agents: Agents,
}

pub(crate) struct Lab {
    pub(crate) double: Arc<Double>,
    agents: Agents,
    dir: tempfile::TempDir,
    runtime: Runtime,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Lab {
    /// A cluster of ready nodes.
    pub(crate) fn with(nodes: &[&str]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let double = Arc::new(runtime.block_on(Double::start()).unwrap());
        let dir = tempfile::tempdir().unwrap();
        double.write_kubeconfig(&dir.path().join("config")).unwrap();
        let lab = Self { double, agents: Agents::default(), dir, runtime };
        for name in nodes {
            lab.node(name, true);
        }
        lab
    }

    /// A node, and an agent that is reached as soon as the cluster makes a pod for it.
    pub(crate) fn node(&self, name: &str, ready: bool) {
        let node = Node { name: name.into(), ready, labels: [].into(), taints: vec![] };
        self.control(Command::Node(node));
        let known = self.agents.lock().unwrap().insert(name.to_owned(), Agent::default());
        if known.is_none() {
            let answering = Answering {
                node: name.to_owned(),
                double: self.double.clone(),
                agents: self.agents.clone(),
            };
            self.runtime.spawn(answer(answering));
        }
    }

    pub(crate) fn agent(&self, node: &str, change: impl FnOnce(&mut Agent)) {
        change(self.agents.lock().unwrap().get_mut(node).unwrap());
    }

    pub(crate) fn has_erased(&self, node: &str) -> bool {
        self.agents.lock().unwrap()[node].erased
    }

    pub(crate) fn control(&self, command: Command) {
        self.double.control(command).unwrap();
    }

    pub(crate) fn fate(&self, node: &str, fate: Fate) {
        self.control(Command::Fate { node: Some(node.to_owned()), fate });
    }

    pub(crate) fn put(&self, object: Value) {
        self.control(Command::Put { object });
    }

    pub(crate) fn pod(&self, namespace: &str, name: &str, spec: &Value) {
        self.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}));
        let labels =
            json!({"app": name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-')});
        let mut full = json!({"containers": [{"name": "main", "image": "i"}]});
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        self.put(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name, "labels": labels},
            "spec": full, "status": {"phase": "Running"},
        }));
    }

    /// From now on commands run as somebody who may do only this.
    pub(crate) fn only(&self, rules: Vec<Rule>) {
        let user = User { name: "dev".into(), rules };
        self.control(Command::User { token: "dev".into(), user });
        let path = self.dir.path().join("config");
        std::fs::write(path, self.double.kubeconfig(Some("dev"))).unwrap();
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Runs a command line to its end.
    pub(crate) fn run(&self, line: &[&str]) -> Ended {
        let output = assert_cmd::Command::cargo_bin("kuberewind")
            .unwrap()
            .args(line)
            .env("KUBECONFIG", self.dir.path().join("config"))
            .env("HOME", self.dir.path())
            .current_dir(self.dir.path())
            .timeout(Duration::from_mins(1))
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// What leads to the cluster.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("config")
    }

    pub(crate) fn config_map(&self) -> Value {
        self.double.object("v1", "ConfigMap", NS, "kuberewind").expect("a ConfigMap")
    }

    /// The values that the agents follow.
    pub(crate) fn values(&self) -> Value {
        let map = self.config_map();
        serde_json::from_str(map["data"]["values.yaml"].as_str().unwrap()).unwrap()
    }

    pub(crate) fn daemonset(&self) -> Option<Value> {
        self.double.object("apps/v1", "DaemonSet", NS, "kuberewind-agent")
    }
}

impl Ended {
    #[track_caller]
    pub(crate) fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.out.contains(text) || self.err.contains(text), "`{text}` is not in\n{self}");
        self
    }

    #[track_caller]
    pub(crate) fn never_says(self, text: &str) -> Self {
        assert!(!self.out.contains(text) && !self.err.contains(text), "`{text}` is in\n{self}");
        self
    }

    /// A row of a table: its cells in order, somewhere on one line.
    #[track_caller]
    pub(crate) fn shows(self, cells: &[&str]) -> Self {
        let is_row = |line: &str| {
            let mut rest = line;
            cells.iter().all(|cell| match rest.split_once(cell) {
                Some((_, after)) => {
                    rest = after;
                    true
                }
                None => false,
            })
        };
        assert!(self.out.lines().any(is_row), "{cells:?} is no row of\n{self}");
        self
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { code, out, err } = self;
        write!(f, "exit code {code:?}\n--- stdout\n{out}--- stderr\n{err}")
    }
}

/// Serves one node's agent, and leads port-forwards to it.
async fn answer(answering: Answering) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let routes = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/erase", post(erase))
        .with_state(answering.clone());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let mut led = Vec::new();
    loop {
        for pod in answering.double.objects("v1", "Pod", "") {
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let name = word(&pod["metadata"]["name"]);
            let is_agent = pod["metadata"]["labels"]["app.kubernetes.io/component"] == "agent";
            if is_agent && pod["spec"]["nodeName"] == answering.node && !led.contains(&name) {
                let namespace = word(&pod["metadata"]["namespace"]);
                let reach =
                    Reach { namespace, pod: name.clone(), port: Some(port), ..Reach::default() };
                answering.double.control(Command::Reach(reach)).unwrap();
                led.push(name);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn erase(State(answering): State<Answering>) -> (StatusCode, Json<Value>) {
    let map = answering.double.object("v1", "ConfigMap", NS, "kuberewind").unwrap();
    if map["data"]["recording"] != "stopped" {
        let error = json!({"error": "recording is on: stop it first"});
        return (StatusCode::INTERNAL_SERVER_ERROR, Json(error));
    }
    let mut agents = answering.agents.lock().unwrap();
    let agent = agents.get_mut(&answering.node).unwrap();
    if agent.keeps {
        let error = json!({"error": "erase /data/journal: Read-only file system"});
        return (StatusCode::INTERNAL_SERVER_ERROR, Json(error));
    }
    agent.erased = true;
    (StatusCode::OK, Json(Value::Null))
}

async fn status(State(answering): State<Answering>) -> Json<Value> {
    let agent = answering.agents.lock().unwrap()[&answering.node].clone();
    let maps = answering.double.objects("v1", "ConfigMap", "");
    let map = maps.into_iter().find(|map| map["metadata"]["name"] == "kuberewind");
    let map = map.filter(|_| !agent.deaf).unwrap_or_default();
    let recording = map["data"]["recording"] != "stopped";
    let mut status = usual(&answering.node, recording, &map["metadata"]["resourceVersion"]);
    merge(&mut status, &agent.says);
    Json(status)
}

fn usual(node: &str, recording: bool, settings_version: &Value) -> Value {
    let pod =
        json!({"namespace": "shop", "name": format!("cart-{node}"), "uid": format!("u-{node}")});
    json!({
        "node": node, "version": env!("CARGO_PKG_VERSION"), "recording": recording,
        "since": "2026-11-22T21:00:00Z", "now": "2026-11-22T21:30:00Z",
        "dataDir": "/var/lib/kuberewind", "packets": 1000, "bytes": 100_000, "cut": 0,
        "losses": {}, "oldest": "2026-11-22T21:25:00Z", "newest": "2026-11-22T21:30:00Z",
        "bytesHeld": 41_000_000,
        "bounds": {"maxTime": "1h", "maxSize": 500_000_000, "minFree": "12%", "timeInterval": "1m"},
        "filter": {"expression": null, "notes": []},
        "memory": {"rings": 0, "ringBudget": 0, "buffers": 0, "resident": 0},
        "namespaces": [{
            "owner": {"pod": pod}, "netns": 1, "since": "2026-11-22T21:00:00Z", "ringBytes": 0,
            "lost": {}, "interfaces": [],
        }],
        "problems": [],
        "store": {
            "oldest": null, "newest": null, "bytesHeld": 0, "segments": 1, "packetsHeld": 1000,
            "packets": 1000, "bytes": 0, "lost": {}, "interfaces": [], "writeErrors": 0,
            "lastError": null, "bufferBytes": 0, "heldBackByMinFree": false, "lastWritten": null,
            "recording": recording,
        },
        "pods": {
            "recorded": [pod], "notRecorded": [], "waiting": 0, "settingsVersion": settings_version,
        },
    })
}

fn merge(under: &mut Value, over: &Value) {
    match (under, over) {
        (_, Value::Null) => {}
        (Value::Object(under), Value::Object(over)) => {
            for (name, value) in over {
                merge(under.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over.clone(),
    }
}
