//! What a container runtime makes for a pod: a network namespace with a cable, control groups, and
//! processes in both.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::node::Node;
use crate::{Netns, Program};

/// A pod's processes and what holds them. They end when it is dropped.
#[derive(Debug)]
pub(super) struct Sandbox {
    node: Arc<Node>,
    uid: String,
    processes: Vec<Program>,
    groups: Vec<PathBuf>,
    /// None: the node's.
    netns: Option<Netns>,
    /// IPv4 and IPv6, or the node's.
    pub(super) addresses: Vec<String>,
}

/// What else happens while a pod is made.
pub struct Birth<'a> {
    /// Its network namespace is there, and has no name on its node yet.
    pub before: &'a mut dyn FnMut(&Netns),
    /// Its link is up; it has no process yet.
    pub connected: &'a mut dyn FnMut(&Netns),
}

impl Birth<'_> {
    /// Nothing.
    pub(super) fn plain<T>(make: impl FnOnce(&mut Birth<'_>) -> T) -> T {
        make(&mut Birth { before: &mut |_| (), connected: &mut |_| () })
    }
}

/// The number of a container, as runtimes make them up: 64 hexadecimal digits.
pub(super) fn container_id() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{:032x}{:032x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Sandbox {
    /// Makes it, and starts its first process (`pause`, which the API never tells of).
    pub(super) fn start(
        node: &Arc<Node>,
        what: &str,
        uid: &str,
        host_network: bool,
        birth: &mut Birth<'_>,
    ) -> Self {
        // The name comes first, then the network plugins do their work.
        let mut born = |netns: &Netns| {
            (birth.before)(netns);
            node.name(netns);
        };
        let netns = (!host_network).then(|| Netns::new_and(what, &mut born));
        let addresses = match &netns {
            Some(netns) => {
                let addresses = node.connect(netns).addresses.to_vec();
                (birth.connected)(netns);
                addresses
            }
            None => vec![node.address().to_string()],
        };
        let (node, uid) = (node.clone(), uid.to_owned());
        let mut sandbox =
            Self { node, uid, processes: Vec::new(), groups: Vec::new(), netns, addresses };
        let mut pause = Command::new("sleep");
        let pause = sandbox.start_container(&container_id(), pause.arg("infinity"));
        sandbox.processes.push(pause);
        sandbox
    }

    /// Its network namespace.
    pub(super) fn netns(&self) -> &Netns {
        self.netns.as_ref().unwrap_or(&self.node.netns)
    }

    /// Starts a container's first process; the caller keeps it.
    pub(super) fn start_container(&mut self, id: &str, command: &Command) -> Program {
        let group = self.node.groups.make(&self.uid, id);
        let program = self.node.start_in(&group, self.netns(), command);
        self.groups.push(group);
        program
    }

    /// Starts a process in a container of its own, which ends with the sandbox.
    pub(super) fn run(&mut self, id: &str, command: &Command) {
        let program = self.start_container(id, command);
        self.processes.push(program);
    }

    /// Whether its cable carries, and what it leads to: the kernel looks at new links, of which a bridge
    /// is one, once a second at most, and drops what is sent before it has.
    pub(super) fn carries(&self) -> bool {
        let Some(netns) = &self.netns else { return true };
        let are_up = |netns: &Netns| {
            let links = netns.ip(&["-br", "link"]);
            links.lines().all(|link| link.starts_with("lo ") || link.contains(" UP "))
        };
        are_up(netns) && are_up(&self.node.netns)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.processes.clear();
        self.netns.iter().for_each(|netns| self.node.unname(netns));
        for group in self.groups.drain(..).rev() {
            self.node.groups.remove(&group);
        }
    }
}
