//! A cluster without machines: an API server's double, and a real recorder for each node, behind the
//! port-forwards to its agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kuberewind_apiserver_double::{Command as Act, Double, Fate, Node, Reach};
use kuberewind_cluster::names;
use kuberewind_packet::{
    ByteSize, Frame, Interface, NetnsId, Owner, PacketSink as _, Pod, Timestamp,
};
use kuberewind_store::{Limits, MinFree, Store, StoreConfig};
use kuberewind_tests::traffic::numbered;
use kuberewind_tests::{Netns, Program, data_dir, wait_for};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

pub(crate) const NS: &str = names::NAMESPACE;

/// The cluster's id in the `ConfigMap`.
pub(crate) const ID: &str = "5f1c7a3e-77aa-4b0a-9c37-2f1f3f0f8f11";

/// One minute, in the middle of which every recording lies.
pub(crate) const MINUTE: Duration = Duration::from_mins(1);

/// What each node has recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traffic {
    /// Packets of each node.
    pub(crate) packets: u32,
    /// Bytes of each, which do not compress.
    pub(crate) len: usize,
}

/// So much is led to the API server at a time.
const PIECE: usize = 16 << 10;

pub(crate) const LITTLE: Traffic = Traffic { packets: 300, len: 100 };

/// About three megabytes a node.
pub(crate) const MUCH: Traffic = Traffic { packets: 3_000, len: 1_000 };

/// A cluster whose nodes `n1`, `n2` … have each recorded the packets of two pods, `shop/web-N` and
/// `pay/db-N`, in turns, and the nodes in turns: packet `k` of all is node `k mod nodes`'s.
pub(crate) struct Lab {
    pub(crate) double: Double,
    pub(crate) nodes: Vec<TestNode>,
    /// When the packets begin.
    pub(crate) start: Timestamp,
    dir: TempDir,
    // Last: everything above runs on it.
    pub(crate) runtime: Runtime,
}

pub(crate) struct TestNode {
    name: String,
    netns: Netns,
    data: TempDir,
    recorder: Option<Program>,
    way: Way,
}

/// The way from an agent to the API server.
#[derive(Clone)]
struct Way {
    /// Bytes that have passed.
    passed: Arc<AtomicU64>,
    /// No more than so many pass.
    limit: watch::Sender<u64>,
    /// What the agent does not know.
    lacks: watch::Sender<Option<&'static str>>,
}

impl Way {
    fn free() -> Self {
        Self {
            passed: Arc::default(),
            limit: watch::Sender::new(u64::MAX),
            lacks: watch::Sender::new(None),
        }
    }

    async fn pass(&self, bytes: u64) {
        let room = |limit: &u64| self.passed.load(Ordering::Relaxed) + bytes <= *limit;
        let _ = self.limit.subscribe().wait_for(room).await;
        self.passed.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Lab {
    pub(crate) fn new(nodes: u32, traffic: Traffic) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let double = runtime.block_on(Double::start()).expect("a double");
        let start = Timestamp::now().saturating_sub(MINUTE);
        let nodes: Vec<_> =
            (0..nodes).map(|number| TestNode::record(number, nodes, start, traffic)).collect();
        let lab = Self { double, nodes, start, dir: data_dir(), runtime };
        lab.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NS}}));
        for node in &lab.nodes {
            let node =
                Node { name: node.name.clone(), ready: true, labels: [].into(), taints: vec![] };
            lab.act(Act::Node(node));
        }
        lab.put(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": names::CONFIG_MAP, "namespace": NS}, "data": {"clusterId": ID},
        }));
        lab.put(daemonset());
        for number in 0..lab.nodes.len() {
            lab.reach(number, |_| ());
        }
        lab
    }

    pub(crate) fn act(&self, act: Act) {
        let _inside = self.runtime.enter();
        self.double.control(act).expect("the double does it");
    }

    pub(crate) fn put(&self, object: Value) {
        self.act(Act::Put { object });
    }

    pub(crate) fn fate(&self, node: &str, fate: Fate) {
        self.act(Act::Fate { node: Some(node.to_owned()), fate });
    }

    /// How many bytes port-forwards have taken from the node's agent to clients so far.
    pub(crate) fn forwarded(&self, node: &str) -> u64 {
        self.double.forwarded(NS, &self.agent_of(node))
    }

    /// Leads port-forwards to the node's agent to its recorder, `changed`.
    pub(crate) fn reach(&self, number: usize, change: impl FnOnce(&mut Reach)) {
        let node = &self.nodes[number];
        let pod = self.agent_of(&node.name);
        let port = self.runtime.block_on(proxy(node.socket(), node.way.clone()));
        let mut reach = Reach { namespace: NS.into(), pod, port: Some(port), ..Reach::default() };
        change(&mut reach);
        self.act(Act::Reach(reach));
    }

    pub(crate) fn agent_of(&self, node: &str) -> String {
        let pods = self.double.objects("v1", "Pod", NS);
        let pod = pods.iter().find(|pod| pod["spec"]["nodeName"] == node);
        let pod = pod.unwrap_or_else(|| panic!("no agent on {node}"));
        pod["metadata"]["name"].as_str().expect("a name").to_owned()
    }

    /// A file or directory for the test.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `kuberewind pcapdump …` against this cluster.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.command_as(None, arguments)
    }

    pub(crate) fn command_as(&self, token: Option<&str>, arguments: &[&str]) -> Command {
        let kubeconfig = self.path(&format!("config-{}", token.unwrap_or_default()));
        fs::write(&kubeconfig, self.double.kubeconfig(token)).expect("a kubeconfig");
        let mut command = Command::new(env!("CARGO_BIN_EXE_kuberewind"));
        command.arg("pcapdump").arg("--kubeconfig").arg(kubeconfig).args(arguments);
        command.current_dir(self.dir.path());
        command
    }

    /// Runs it to its end: the exit code and all that it said.
    pub(crate) fn run(&self, arguments: &[&str]) -> (i32, String) {
        told(&self.command(arguments).output().expect("kuberewind runs"))
    }

    /// Exports to `name` and gives the report.
    pub(crate) fn export(&self, name: &str, code: i32, arguments: &[&str]) -> Value {
        let (dest, report) = (self.path(name), self.path("report.json"));
        let (dest, report) = (dest.display().to_string(), report.display().to_string());
        let all = [&["--dest", &dest, "--report", &report], arguments].concat();
        let (got, said) = self.run(&all);
        assert_eq!(got, code, "pcapdump {arguments:?}\n{said}");
        serde_json::from_slice(&fs::read(&report).expect("a report")).expect("JSON")
    }

    /// What lies in the directory of the exports and is none.
    pub(crate) fn left_behind(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).expect("a directory").flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| !name.starts_with("config-") && name != "report.json").collect()
    }
}

/// The exit code, and both outputs.
pub(crate) fn told(output: &Output) -> (i32, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout) + &text(&output.stderr);
    (output.status.code().expect("an exit code"), said)
}

impl TestNode {
    fn record(number: u32, of: u32, start: Timestamp, traffic: Traffic) -> Self {
        let name = format!("n{}", number + 1);
        let data = data_dir();
        fill(data.path(), &name, number, of, start, traffic);
        let netns = Netns::new(&name);
        let mut node = Self { name, netns, data, recorder: None, way: Way::free() };
        node.start();
        node
    }

    /// Its recorder's.
    pub(crate) fn socket(&self) -> PathBuf {
        self.data.path().join("agent.sock")
    }

    /// Starts its recorder, which holds what was recorded before.
    pub(crate) fn start(&mut self) {
        let mut command = Command::new("unshare");
        let script = "hostname \"$0\" && exec \"$@\"";
        command.args(["--uts", "sh", "-c", script, &self.name]);
        command.arg(env!("CARGO_BIN_EXE_kuberewind"));
        command.args(["tap", "--local", "--netns", self.netns.name(), "--data-dir"]);
        command.arg(self.data.path()).args(["--set", "pcapdump.minFree=1MB"]);
        let mut recorder = Program::start(&mut command);
        wait_for("a recorder that answers", Duration::from_secs(30), || {
            recorder.assert_running();
            std::os::unix::net::UnixStream::connect(self.socket()).ok()
        });
        self.recorder = Some(recorder);
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        drop(self.recorder.take());
    }

    /// From now on no more than so many bytes leave for the API server.
    pub(crate) fn hold_at(&self, bytes: u64) {
        let passed = self.way.passed.load(Ordering::Relaxed);
        self.way.limit.send_replace(passed + bytes);
    }

    /// Waits until nothing more may leave.
    pub(crate) fn wait_to_be_held(&self) {
        let limit = *self.way.limit.borrow();
        wait_for(&format!("{} to be held up", self.name), Duration::from_mins(1), || {
            (self.way.passed.load(Ordering::Relaxed) + PIECE as u64 > limit).then_some(())
        });
    }

    /// From now on the agent is of version 0.0.9, which does not know a parameter of windows, or a header.
    pub(crate) fn lack(&self, parameter: &'static str) {
        self.way.lacks.send_replace(Some(parameter));
    }

    /// Everything may leave again.
    pub(crate) fn release(&self) {
        self.way.limit.send_replace(u64::MAX);
    }
}

fn fill(dir: &Path, node: &str, number: u32, of: u32, start: Timestamp, traffic: Traffic) {
    let limits = Limits {
        max_time: Duration::from_hours(1),
        max_size: ByteSize::new(400_000_000),
        min_free: MinFree::Bytes(ByteSize::new(0)),
    };
    let config = StoreConfig {
        dir: dir.to_owned(),
        node: node.to_owned(),
        program: "test".to_owned(),
        limits,
        interval: MINUTE,
        lanes: 1,
    };
    let (store, mut appenders) = Store::open(config).expect("a store");
    store.set_recording(true).expect("on");
    let appender = &mut appenders[0];
    let pods = [("shop", "web"), ("pay", "db")];
    let slots =
        pods.map(|(namespace, app)| appender.open_interface(interface(node, namespace, app)));
    for ((global, frame), slot) in frames(number, of, traffic).zip(slots.into_iter().cycle()) {
        let time = start.saturating_add(Duration::from_millis(global.into()));
        let len = u32::try_from(frame.len()).expect("a short frame");
        while !appender.reserve(frame.len() + 64) {
            std::thread::yield_now();
        }
        appender.packet(slot, &Frame::whole(time, len, &frame));
    }
    drop(appenders);
    store.close().expect("closed");
}

/// The packets of node `number` of so many, with their numbers.
pub(crate) fn frames(
    number: u32,
    of: u32,
    traffic: Traffic,
) -> impl Iterator<Item = (u32, Vec<u8>)> {
    let mut noise = Noise(u64::from(number) + 1);
    (0..traffic.packets).map(move |k| {
        let global = k * of + number;
        let mut frame = numbered(global, traffic.len);
        let number_ends = frame.len() - traffic.len + 8;
        noise.fill(&mut frame[number_ends..]);
        (global, frame)
    })
}

pub(crate) fn interface(node: &str, namespace: &str, app: &str) -> Interface {
    let number = node.trim_start_matches('n');
    let pod = Pod {
        namespace: namespace.to_owned(),
        name: format!("{app}-{number}"),
        uid: format!("uid-of-{app}-{number}"),
    };
    let netns = NetnsId(4_026_530_000 + number.parse::<u64>().unwrap_or(0));
    Interface { node: node.to_owned(), owner: Owner::Pod(pod), netns, name: "eth0".to_owned() }
}

/// Bytes that do not compress (xorshift64).
struct Noise(u64);

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            *byte = self.0.to_le_bytes()[3];
        }
    }
}

fn daemonset() -> Value {
    let ours = json!({names::LABEL_NAME.0: names::LABEL_NAME.1});
    let agents = json!({names::LABEL_NAME.0: names::LABEL_NAME.1, names::LABEL_AGENT.0: names::LABEL_AGENT.1});
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": names::DAEMONSET, "namespace": NS, "labels": ours},
        "spec": {
            "selector": {"matchLabels": ours},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": agents},
                "spec": {"containers": [{"name": "agent", "image": "i"}]},
            },
        },
    })
}

/// What an agent answers to a question that is not of its version.
fn refusal(parameter: &str) -> String {
    let body = json!({
        "error": format!("kuberewind 0.0.9 does not know the parameter {parameter}"),
        "unknown": {"version": "0.0.9", "parameters": [parameter]},
    });
    let body = body.to_string();
    let len = body.len();
    format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len}\r\n\r\n{body}"
    )
}

/// Leads connections to a Unix socket; the port. The other end closes when the socket's does.
async fn proxy(socket: PathBuf, way: Way) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(lead(stream, socket.clone(), way.clone()));
        }
    });
    port
}

async fn lead(stream: TcpStream, socket: PathBuf, way: Way) {
    let Ok(agent) = UnixStream::connect(socket).await else { return };
    let (mut agent_out, mut agent_in) = agent.into_split();
    let (mut client_out, mut client_in) = stream.into_split();
    let lacks = *way.lacks.borrow();
    if let Some(lacks) = lacks {
        let mut question = vec![0; PIECE];
        let len = client_out.read(&mut question).await.unwrap_or_default();
        let question = String::from_utf8_lossy(&question[..len]).into_owned();
        if question.contains(&format!("&{lacks}=")) {
            let _ = client_in.write_all(refusal(lacks).as_bytes()).await;
            return;
        }
        let understood = question.replace(&format!("\n{lacks}: "), "\nnot-understood: ");
        let _ = agent_in.write_all(understood.as_bytes()).await;
    }
    let questions = tokio::spawn(async move { copy(&mut client_out, &mut agent_in).await });
    let mut buffer = vec![0; PIECE];
    while let Ok(len @ 1..) = agent_out.read(&mut buffer).await {
        way.pass(len as u64).await;
        if client_in.write_all(&buffer[..len]).await.is_err() {
            break;
        }
    }
    questions.abort();
}
