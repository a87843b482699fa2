//! A cluster without Kubernetes: nodes, pods and kubelets of the laboratory's own, and the API
//! server's double. Agents and the command line are the real ones.
//!
//! What makes a node a node to an agent: process numbers of its own, so that it sees only the
//! processes of its node; a network of its own, joined to the others by a switch; control groups as
//! the kubelet and container runtimes name them; and a disk that outlives its pods. An agent has the
//! rights that the chart gives it, and not one more.

mod agent;
mod beside;
mod control_plane;
mod groups;
mod inside;
mod kubelet;
mod network;
mod node;
mod objects;
mod pod;
mod sandbox;
mod sounder;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{self, Output};
use std::sync::Arc;
use std::time::Duration;

use kuberewind_apiserver_double::{Command, Double, Reach};
use rustix::process::Signal;
use tempfile::TempDir;

use control_plane::ControlPlane;
use kubelet::{Ground, Kubelets};
use node::Node;

pub use beside::Beside;
pub use beside::Seen;
pub use beside::mark;
pub use pod::Pod;
pub use sandbox::Birth;
pub use sounder::Sounder;

use crate::{Holdings, Netns, Program, kuberewind, output, self_signed, wait_until};

/// Nodes, joined by a network, and an API server. Everything of it ends when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    // In the order in which they end.
    kubelets: Kubelets,
    plane: Arc<ControlPlane>,
    nodes: Vec<Arc<Node>>,
    switch: Netns,
    kubeconfig: PathBuf,
    dir: TempDir,
}

impl Cluster {
    /// A cluster of nodes `n1`, `n2` …, empty.
    pub fn start(nodes: u8) -> Self {
        let dir = tempfile::Builder::new().prefix("kr-").tempdir().expect("a temporary directory");
        let switch = network::switch(nodes);
        let numbers = 1..=nodes;
        let start = |number| Arc::new(Node::start(number, &switch, nodes, dir.path()));
        let nodes: Vec<_> = numbers.map(start).collect();
        let plane = Arc::new(ControlPlane::start(&switch.path(), network::API_SERVER));
        for node in &nodes {
            let (name, ready) = (node.name.clone(), true);
            let node = kuberewind_apiserver_double::Node {
                name,
                ready,
                labels: std::collections::HashMap::default(),
                taints: Vec::new(),
            };
            plane.control(Command::Node(node));
        }
        let kubeconfig = dir.path().join("kubeconfig");
        plane.double().write_kubeconfig(&kubeconfig).expect("a kubeconfig");
        let kubelets = Kubelets::start(Ground {
            plane: plane.clone(),
            nodes: nodes.clone(),
            binary: kuberewind().get_program().into(),
            kubeconfig: kubeconfig.clone(),
        });
        Self { kubelets, plane, nodes, switch, kubeconfig, dir }
    }

    fn node(&self, name: &str) -> &Arc<Node> {
        let node = self.nodes.iter().find(|node| node.name == name);
        node.unwrap_or_else(|| panic!("there is no node {name}"))
    }

    /// The API server.
    pub fn double(&self) -> &Double {
        self.plane.double()
    }

    /// Does something to the cluster behind the API server's back.
    pub fn control(&self, command: Command) {
        self.plane.control(command);
    }

    /// Starts a pod on a node. Packets that are sent to it at once may be lost: see
    /// [`Pod::wait_to_carry`].
    pub fn pod(&self, node: &str, namespace: &str, name: &str) -> Pod {
        Birth::plain(|birth| self.pod_with(node, namespace, name, birth))
    }

    /// As [`Self::pod`], with something else happening meanwhile.
    pub fn pod_with(&self, node: &str, namespace: &str, name: &str, birth: &mut Birth<'_>) -> Pod {
        Pod::make(&self.plane, self.node(node), namespace, name, false, birth)
    }

    /// Starts a pod in its node's network.
    pub fn host_network_pod(&self, node: &str, namespace: &str, name: &str) -> Pod {
        let (plane, node) = (&self.plane, self.node(node));
        Birth::plain(|birth| Pod::make(plane, node, namespace, name, true, birth))
    }

    /// `kuberewind …` on the administrator's machine: beside the API server, in an empty directory
    /// ([`Self::dir`]), with a kubeconfig.
    pub fn command(&self, arguments: &[&str]) -> process::Command {
        let mut command = self.switch.exec(&kuberewind().get_program().to_string_lossy());
        command.args(arguments).current_dir(self.dir()).env("HOME", self.dir());
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// Runs `kuberewind …` to its end.
    pub fn kuberewind(&self, arguments: &[&str]) -> Output {
        output(&mut self.command(arguments))
    }

    /// Runs `kuberewind …` and gives standard output; panics when its exit code is not `code`.
    pub fn expect(&self, code: i32, arguments: &[&str]) -> String {
        let done = self.kuberewind(arguments);
        let (said, errors) =
            (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert_eq!(done.status.code(), Some(code), "kuberewind {arguments:?}\n{errors}\n{said}");
        format!("{said}{errors}")
    }

    /// From now on a node sends no super-packets to others: what leaves a pod in one piece arrives in
    /// segments, as over a real wire.
    pub fn cut_segments(&self, node: &str) {
        self.node(node).netns.ip(&["link", "set", network::UPLINK, "gso_max_segs", "1"]);
    }

    /// Has nginx speak TLS for the API server, where pods find it: at
    /// [`Self::api_service`]. The certificate is anybody's.
    pub fn serve_api_over_tls(&self) -> Program {
        let (key, certificate) = self.certificate();
        let (path, api) = (self.dir().display(), network::API_SERVER);
        let configuration = format!(
            "daemon off; worker_processes 1; user root; pid {path}/nginx.pid; error_log stderr;\n\
             events {{}}\n\
             http {{ access_log off; client_body_temp_path {path}/b; proxy_temp_path {path}/p;\n\
             fastcgi_temp_path {path}/f; uwsgi_temp_path {path}/u; scgi_temp_path {path}/s;\n\
             server {{ listen {} ssl; ssl_certificate {}; ssl_certificate_key {};\n\
             location / {{ proxy_pass http://{api}; proxy_http_version 1.1; }} }} }}\n",
            network::API_SERVICE,
            certificate.display(),
            key.display(),
        );
        let file = self.dir().join("nginx.conf");
        fs::write(&file, configuration).expect("nginx's configuration");
        Program::start(self.switch.exec("nginx").arg("-c").arg(&file))
    }

    /// `KUBERNETES_SERVICE_HOST` and `_PORT`, as every pod has them.
    pub const fn api_service(&self) -> SocketAddr {
        network::API_SERVICE
    }

    /// A key, and a certificate of its own making.
    pub fn certificate(&self) -> (PathBuf, PathBuf) {
        let [key, certificate] = ["key.pem", "certificate.pem"].map(|name| self.dir().join(name));
        if !certificate.exists() {
            self_signed("localhost", &key, &certificate);
        }
        (key, certificate)
    }

    /// Where commands run, and exports go.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A node's data directory.
    pub fn data(&self, node: &str) -> PathBuf {
        self.node(node).data()
    }

    /// Hears what pods of a node say to it.
    pub fn listen(&self, node: &str) -> Sounder {
        let node = self.node(node);
        Sounder::start(&node.inside(), node.bridge_address())
    }

    /// How many of its pods' cables a node has. One goes once nobody holds the pod's network any more.
    pub fn cables(&self, node: &str) -> usize {
        let shown = self.node(node).netns.ip(&["-o", "link", "show", "type", "veth"]);
        shown.lines().filter(|line| line.contains(": veth")).count()
    }

    /// What a node's agent holds.
    pub fn holdings(&self, node: &str) -> Holdings {
        let agents = self.kubelets.agents();
        let agent = agents.iter().find(|agent| agent.node.name == node);
        let program = agent.and_then(|agent| agent.agent.as_ref());
        Holdings::of(program.unwrap_or_else(|| panic!("no agent runs on {node}")))
    }

    /// CPU time of a node's agent so far.
    pub fn cpu_time(&self, node: &str) -> Duration {
        let agents = self.kubelets.agents();
        let agent = agents.iter().find(|agent| agent.node.name == node);
        let program = agent.and_then(|agent| agent.agent.as_ref());
        program.unwrap_or_else(|| panic!("no agent runs on {node}")).cpu_time()
    }

    /// The socket of a node's agent.
    pub fn socket(&self, node: &str) -> PathBuf {
        agent::socket(self.node(node))
    }

    /// The name of the pod of a node's agent.
    pub fn agent(&self, node: &str) -> Option<String> {
        let agents = self.kubelets.agents();
        agents.iter().find(|agent| agent.node.name == node).map(|agent| agent.name.clone())
    }

    /// What a node's agent has said.
    pub fn agent_said(&self, node: &str) -> String {
        let agents = self.kubelets.agents();
        let agent = agents.iter().find(|agent| agent.node.name == node);
        agent.and_then(|agent| Some(agent.agent.as_ref()?.said())).unwrap_or_default()
    }

    /// What the agents of a node have said, by the names of their pods: an upgrade runs two for a moment.
    pub fn agents_said(&self, node: &str) -> Vec<(String, String)> {
        let agents = self.kubelets.agents();
        let here = agents.iter().filter(|agent| agent.node.name == node);
        let said = |program: Option<&Program>| program.map(Program::said).unwrap_or_default();
        here.map(|agent| (agent.name.clone(), said(agent.agent.as_ref()))).collect()
    }

    /// Sends a signal to the agent in a pod; a kubelet starts it again when it ends. Whether it runs.
    pub fn signal_agent_in(&self, pod: &str, signal: Signal) -> bool {
        let agents = self.kubelets.agents();
        let agent = agents.iter().find(|agent| agent.name == pod);
        let program = agent.and_then(|agent| agent.agent.as_ref());
        program.map(|program| program.signal(signal)).is_some()
    }

    /// The process of a node's agent.
    pub fn agent_process(&self, node: &str) -> Option<u32> {
        let agents = self.kubelets.agents();
        let agent = agents.iter().find(|agent| agent.node.name == node)?;
        agent.agent.as_ref().map(Program::id)
    }

    /// The main memory that the agents of a node take, in bytes.
    pub fn resident(&self, node: &str) -> Vec<u64> {
        let agents = self.kubelets.agents();
        let here = agents.iter().filter(|agent| agent.node.name == node);
        let ids = here.filter_map(|agent| agent.agent.as_ref()).map(Program::id);
        let resident = |id| {
            // One that has just ended has none.
            let statm = fs::read_to_string(format!("/proc/{id}/statm")).unwrap_or_default();
            let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
            pages.unwrap_or(0) * 4096
        };
        ids.map(resident).collect()
    }

    /// A program that will run beside a node's agent: in its pod's network.
    pub fn in_agent(&self, node: &str, program: &str) -> process::Command {
        let agents = self.kubelets.agents();
        let agent = agents.iter().find(|agent| agent.node.name == node);
        let agent = agent.unwrap_or_else(|| panic!("no agent is on {node}"));
        agent.sandbox.netns().exec(program)
    }

    /// The IPv4 address of the pod of a node's agent.
    pub fn agent_address(&self, node: &str) -> Option<String> {
        let agents = self.kubelets.agents();
        let agent = agents.iter().find(|agent| agent.node.name == node);
        agent.and_then(|agent| agent.sandbox.addresses.first().cloned())
    }

    /// Sends a signal to a node's agent; a kubelet starts it again when it ends.
    pub fn signal_agent(&self, node: &str, signal: Signal) {
        let agents = self.kubelets.agents();
        let agent = agents.iter().find(|agent| agent.node.name == node);
        let program = agent.and_then(|agent| agent.agent.as_ref());
        program.unwrap_or_else(|| panic!("no agent runs on {node}")).signal(signal);
    }

    /// Kills a node's agent, and waits until its kubelet knows: what counts as ready then is the
    /// next one.
    pub fn kill_agent(&self, node: &str, within: Duration) {
        let restarts = || {
            let agents = self.kubelets.agents();
            let agent = agents.iter().find(|agent| agent.node.name == node);
            agent.unwrap_or_else(|| panic!("no agent is on {node}")).restarts()
        };
        let before = restarts();
        self.signal_agent(node, Signal::KILL);
        wait_until("the kubelet to see the agent's end", within, || restarts() > before);
    }

    /// How many bytes port-forwards have taken from a node's agent to clients so far.
    pub fn forwarded(&self, node: &str) -> u64 {
        let agents = self.kubelets.agents();
        let agent = agents.iter().find(|agent| agent.node.name == node);
        agent.map_or(0, |agent| self.double().forwarded(&agent.namespace, &agent.name))
    }

    /// Changes how port-forwards reach a node's agent.
    pub fn reach(&self, node: &str, change: impl FnOnce(&mut Reach)) {
        let agents = self.kubelets.agents();
        let agent = agents.iter().find(|agent| agent.node.name == node);
        let agent = agent.unwrap_or_else(|| panic!("no agent is on {node}"));
        let mut reach = Reach {
            namespace: agent.namespace.clone(),
            pod: agent.name.clone(),
            netns: Some(agent.sandbox.netns().path()),
            ..Reach::default()
        };
        change(&mut reach);
        self.control(Command::Reach(reach));
    }

    /// A node loses power.
    pub fn kill_node(&self, name: &str) {
        self.node(name).kill();
        self.control(Command::KillNode { name: name.to_owned() });
    }

    /// Waits until an agent is ready on every node that lives.
    pub fn wait_for_agents(&self, within: Duration) {
        let live = self.nodes.iter().filter(|node| !node.is_dead()).count();
        wait_until("every node's agent to be ready", within, || {
            let agents = self.kubelets.agents();
            agents.iter().filter(|agent| agent.is_ready()).count() == live
        });
    }

    /// Waits until no agent runs any more.
    pub fn wait_for_no_agents(&self, within: Duration) {
        wait_until("all agents to end", within, || self.kubelets.agents().is_empty());
    }
}
