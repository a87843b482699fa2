//! Kubelets, as far as daemonsets need them: they run the pods that the controller makes.

use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kuberewind_apiserver_double::{Command, Reach};
use rustix::process::Signal;
use serde_json::Value;

use super::agent::{self, Probe};
use super::control_plane::ControlPlane;
use super::node::Node;
use super::objects::{self, Container};
use super::sandbox::{Birth, Sandbox, container_id};
use crate::Program;

/// Between two looks at the pods.
const PERIOD: Duration = Duration::from_millis(20);
/// Between two probes of a pod that is ready. The chart's agents are probed every two seconds; one
/// that is not ready yet is probed at every look.
const PROBE_PERIOD: Duration = Duration::from_millis(500);
/// Between two starts of a container that ends: a kubelet's first back-off is ten seconds.
const BACK_OFF: Duration = Duration::from_secs(1);

/// The kubelets of all nodes, on a thread of their own.
#[derive(Debug)]
pub(super) struct Kubelets {
    agents: Arc<Mutex<Vec<AgentPod>>>,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the kubelets work with.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) plane: Arc<ControlPlane>,
    pub(super) nodes: Vec<Arc<Node>>,
    pub(super) binary: PathBuf,
    pub(super) kubeconfig: PathBuf,
}

/// A pod of a daemonset that runs.
#[derive(Debug)]
pub(super) struct AgentPod {
    pub(super) node: Arc<Node>,
    pub(super) namespace: String,
    pub(super) name: String,
    uid: String,
    /// None before its cable carries, and between two lives.
    pub(super) agent: Option<Program>,
    started: Option<Instant>,
    probe: Probe,
    probed: Option<Instant>,
    container: Container,
    ending: bool,
    /// After the program: control groups are removed when empty.
    pub(super) sandbox: Sandbox,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kubelets {
    /// Starts them.
    pub(super) fn start(ground: Ground) -> Self {
        let agents = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = mpsc::channel();
        let ours = agents.clone();
        let thread = thread::spawn(move || {
            while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                ground.look(&mut lock(&ours));
            }
        });
        Self { agents, stop: Some(stop), thread: Some(thread) }
    }

    /// The agents' pods now. While this is held, nothing changes.
    pub(super) fn agents(&self) -> MutexGuard<'_, Vec<AgentPod>> {
        lock(&self.agents)
    }
}

impl Drop for Kubelets {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its panic was printed when it happened.
            let _ = thread.join();
        }
        // On this thread: when a test fails, programs print what they said.
        self.agents().clear();
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn is_of_a_daemonset(pod: &Value) -> bool {
    pod["metadata"]["ownerReferences"][0]["kind"] == "DaemonSet"
}

/// Whether a test has said that its image cannot be pulled.
fn has_no_image(pod: &Value) -> bool {
    let state = &pod["status"]["containerStatuses"][0]["state"];
    state["waiting"]["reason"] == "ImagePullBackOff"
}

impl Ground {
    /// Level-triggered, as everything in Kubernetes: what is wanted against what is.
    fn look(&self, agents: &mut Vec<AgentPod>) {
        let mut pods = self.plane.double().objects("v1", "Pod", "");
        pods.retain(is_of_a_daemonset);
        for pod in &pods {
            let uid = &pod["metadata"]["uid"];
            let node = self.nodes.iter().find(|node| pod["spec"]["nodeName"] == *node.name);
            let Some(node) = node.filter(|node| !node.is_dead()) else { continue };
            let deleted = !pod["metadata"]["deletionTimestamp"].is_null();
            match agents.iter_mut().find(|agent| *uid == *agent.uid) {
                Some(agent) => {
                    agent.ending |= deleted;
                    self.tend(agent, pod);
                }
                None if deleted => self.remove(pod),
                None if has_no_image(pod) => {}
                None => agents.push(self.admit(pod, node)),
            }
        }
        agents.retain_mut(|agent| {
            let known = pods.iter().any(|pod| pod["metadata"]["uid"] == *agent.uid);
            !(agent.node.is_dead() || agent.has_ended(known))
        });
        for pod in pods.iter().filter(|pod| !pod["metadata"]["deletionTimestamp"].is_null()) {
            let alive = self
                .nodes
                .iter()
                .any(|node| pod["spec"]["nodeName"] == *node.name && !node.is_dead());
            if alive && !agents.iter().any(|agent| pod["metadata"]["uid"] == *agent.uid) {
                self.remove(pod);
            }
        }
    }

    fn remove(&self, pod: &Value) {
        let metadata = &pod["metadata"];
        let [namespace, name, uid] = ["namespace", "name", "uid"].map(|key| text(&metadata[key]));
        self.plane.remove_pod(namespace, name, uid);
    }

    fn admit(&self, pod: &Value, node: &Arc<Node>) -> AgentPod {
        let metadata = &pod["metadata"];
        let [namespace, name, uid] =
            ["namespace", "name", "uid"].map(|key| text(&metadata[key]).to_owned());
        let sandbox = Birth::plain(|birth| Sandbox::start(node, &name, &uid, false, birth));
        self.plane.control(Command::Reach(Reach {
            namespace: namespace.clone(),
            pod: name.clone(),
            netns: Some(sandbox.netns().path()),
            ..Reach::default()
        }));
        AgentPod {
            node: node.clone(),
            namespace,
            name,
            uid,
            agent: None,
            started: None,
            probe: Probe::of(pod, &sandbox.addresses[0]),
            probed: None,
            container: Container { id: String::new(), ready: false, restarts: 0, last: None },
            ending: false,
            sandbox,
        }
    }

    fn tend(&self, pod: &mut AgentPod, object: &Value) {
        if pod.ending {
            return;
        }
        let before = format!("{:?}", pod.container);
        pod.notice_the_end();
        if pod.agent.is_none() && pod.may_start() {
            pod.container.id = container_id();
            let command = agent::command(object, &pod.node, &self.binary, &self.kubeconfig);
            pod.agent = Some(pod.sandbox.start_container(&pod.container.id, &command));
            pod.started = Some(Instant::now());
        }
        pod.probe();
        if format!("{:?}", pod.container) != before {
            let host = pod.node.address().to_string();
            let addresses = &pod.sandbox.addresses;
            let status = objects::running(object, &host, addresses, &pod.container);
            self.plane.tell(&pod.namespace, &pod.name, &pod.uid, status);
        }
    }
}

impl AgentPod {
    /// Whether the API server has been told that it is ready.
    pub(super) fn is_ready(&self) -> bool {
        self.container.ready
    }

    /// How often it was started again.
    pub(super) fn restarts(&self) -> u32 {
        self.container.restarts
    }

    fn notice_the_end(&mut self) {
        let Some(ended) = self.agent.as_mut().and_then(Program::has_ended) else { return };
        let said = self.agent.take().map(|agent| agent.said()).unwrap_or_default();
        eprintln!("the agent on {} has ended: {ended}\n{said}", self.node.name);
        let words = said.lines().last().unwrap_or_default().to_owned();
        self.container.last = Some((ended.code().unwrap_or(137), words));
        self.container.restarts += 1;
        self.container.ready = false;
    }

    fn may_start(&self) -> bool {
        self.started.is_none_or(|started| started.elapsed() > BACK_OFF) && self.sandbox.carries()
    }

    fn probe(&mut self) {
        let due = self.probed.is_none_or(|probed| probed.elapsed() > PROBE_PERIOD);
        if self.agent.is_some() && (due || !self.container.ready) {
            self.container.ready = self.probe.succeeds(&self.node);
            self.probed = Some(Instant::now());
        }
    }

    /// Whether nothing of it runs any more; asks it to end if it should.
    fn has_ended(&mut self, known: bool) -> bool {
        let asked = self.ending;
        self.ending |= !known;
        let Some(agent) = &mut self.agent else { return self.ending };
        if !self.ending {
            return false;
        }
        if agent.has_ended().is_some() {
            return true;
        }
        if !asked || self.started.take().is_some() {
            agent.signal(Signal::TERM);
        }
        false
    }
}
