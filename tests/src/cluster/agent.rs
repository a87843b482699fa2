//! The agent as its pod's spec wants it run.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::network;
use super::node::Node;

/// How long a probe waits; the kubelet's default is a second.
const PROBE: Duration = Duration::from_secs(1);

/// What the container does, in a mount namespace of its own: the node's `/proc` and everything else
/// read-only, but the data directory and the node's memory for the key of TLS secrets. Its own `/proc`
/// is the node's as well: it has no process numbers of its own. What is mounted in the node's
/// `/run/netns` later is seen here, too (`HostToContainer`).
const CONTAINER: &str = "mount -t proc -o ro proc \"$1\"\n\
    mount -t proc proc /proc\n\
    mount --bind \"$2\" \"$2\"\n\
    mkdir -p /run/kuberewind\n\
    mount --bind \"$3\" /run/kuberewind\n\
    mount --make-rprivate /run/netns 2>/dev/null || :\n\
    while umount -R /run/netns 2>/dev/null; do :; done\n\
    mount --rbind \"$4\" /run/netns\n\
    mount -o remount,bind,ro /\n\
    shift 4\n\
    exec \"$@\"";

/// The command of a pod's one container, with the rights that its spec gives, its environment and
/// arguments, and what only a laboratory says: where things are.
pub(super) fn command(pod: &Value, node: &Node, binary: &Path, kubeconfig: &Path) -> Command {
    let container = &pod["spec"]["containers"][0];
    let (proc, data, memory) = (node.proc(), node.data(), node.memory());
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "slave", "--cgroup"]);
    command.args(["sh", "-ec", CONTAINER, "agent"]);
    command.args([proc.as_path(), &data, memory, node.names()]);
    let mounts = container["volumeMounts"].as_array();
    let names = mounts.into_iter().flatten().find(|mount| mount["mountPath"] == "/run/netns");
    let names = names.expect("the names of network namespaces are mounted");
    assert_eq!(names["mountPropagation"], "HostToContainer", "later names are not seen");
    let capabilities = &container["securityContext"]["capabilities"];
    assert_eq!(capabilities["drop"][0], "ALL", "the agent gives up no rights: {container}");
    let rights = words(&capabilities["add"]).map(|right| format!(",+{}", right.to_lowercase()));
    let bounding = format!("--bounding-set=-all{}", rights.collect::<String>());
    command.args(["setpriv", "--no-new-privs", "--inh-caps=-all", "--ambient-caps=-all"]);
    command.arg(bounding).arg(binary).args(words(&container["args"]));
    command.arg("--proc").arg(proc).arg("--kubeconfig").arg(kubeconfig);
    command.arg("--data-dir").arg(data);
    // Kubelets tell every container where the API server is.
    let api = network::API_SERVICE;
    command.env("KUBERNETES_SERVICE_HOST", api.ip().to_string());
    command.env("KUBERNETES_SERVICE_PORT", api.port().to_string());
    for variable in container["env"].as_array().into_iter().flatten() {
        let field = variable["valueFrom"]["fieldRef"]["fieldPath"].as_str().unwrap_or_default();
        let pointer = format!("/{}", field.replace('.', "/"));
        let value = pod.pointer(&pointer).and_then(Value::as_str).or(variable["value"].as_str());
        command.env(text(&variable["name"]), value.unwrap_or_default());
    }
    command
}

fn words(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().map(text)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The readiness probe of a pod's spec.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    address: SocketAddr,
    path: String,
}

impl Probe {
    /// As the spec has it, with the port by its name.
    pub(super) fn of(pod: &Value, address: &str) -> Self {
        let container = &pod["spec"]["containers"][0];
        let get = &container["readinessProbe"]["httpGet"];
        let mut ports = container["ports"].as_array().into_iter().flatten();
        let port = ports.find(|port| port["name"] == get["port"]).expect("the probe's port");
        let port = port["containerPort"].as_u64().and_then(|port| u16::try_from(port).ok());
        let address = address.parse().expect("a pod's address");
        let address = SocketAddr::new(address, port.expect("a port number"));
        Self { address, path: text(&get["path"]).to_owned() }
    }

    /// Whether it succeeds, asked from the pod's node as the kubelet does.
    pub(super) fn succeeds(&self, node: &Node) -> bool {
        node.inside().run(|| self.status()).is_some_and(|status| (200..400).contains(&status))
    }

    fn status(&self) -> Option<u16> {
        let mut stream = TcpStream::connect_timeout(&self.address, PROBE).ok()?;
        stream.set_read_timeout(Some(PROBE)).ok()?;
        let Self { address, path } = self;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
            .ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        line.split(' ').nth(1)?.parse().ok()
    }
}

/// Where the data of an agent's node lies.
pub(super) fn socket(node: &Node) -> PathBuf {
    node.data().join("agent.sock")
}
