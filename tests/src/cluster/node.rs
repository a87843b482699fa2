//! A node: process numbers, a network, control groups and a disk of its own.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::groups::Groups;
use super::inside::Inside;
use super::network::{self, Wiring};
use crate::{Netns, Program, output, succeed, wait_until};

/// One node of the laboratory. Its processes see only each other: they are in a process namespace
/// that ends with it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) number: u8,
    pub(super) netns: Netns,
    pub(super) groups: Groups,
    /// What survives its pods.
    dir: PathBuf,
    /// What a reboot would clear.
    memory: TempDir,
    /// The names of its pods' network namespaces.
    names: Names,
    /// The first process.
    holder: Program,
    dead: AtomicBool,
    addresses: AtomicU16,
}

impl Node {
    /// Makes node `nNUMBER` and plugs it into the switch. It ends with the calling thread at the
    /// latest, were that killed.
    pub(super) fn start(number: u8, switch: &Netns, nodes: u8, dir: &Path) -> Self {
        let name = format!("n{number}");
        let netns = Netns::new(&name);
        network::plug_in(&netns, number, switch, nodes);
        let dir = dir.join(&name);
        for below in ["data", "proc"] {
            let path = dir.join(below);
            fs::create_dir_all(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
        let memory = tempfile::Builder::new().prefix("kr-").tempdir_in("/dev/shm");
        let memory = memory.expect("a directory in /dev/shm");
        let names = Names::new(dir.join("netns"));
        let holder = hold(&netns);
        let groups = Groups::new(&name, number.into());
        let (dead, addresses) = (AtomicBool::new(false), AtomicU16::new(2));
        Self { name, number, netns, groups, dir, memory, names, holder, dead, addresses }
    }

    /// The directory on the node's disk that recordings lie in.
    pub(super) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Where whoever wants to see the node's processes mounts its `/proc`, privately.
    pub(super) fn proc(&self) -> PathBuf {
        self.dir.join("proc")
    }

    /// A directory of its own in memory, where a node has `/run/kuberewind`.
    pub(super) fn memory(&self) -> &Path {
        self.memory.path()
    }

    /// Where it has `/run/netns`.
    pub(super) fn names(&self) -> &Path {
        &self.names.0
    }

    /// Gives a pod's network namespace its name, as a container runtime does before anything is in it.
    pub(super) fn name(&self, netns: &Netns) {
        let name = self.names.0.join(netns.name());
        fs::write(&name, "").unwrap_or_else(|error| panic!("{}: {error}", name.display()));
        succeed(Command::new("mount").arg("--bind").arg(netns.path()).arg(name));
    }

    /// Takes the name away.
    pub(super) fn unname(&self, netns: &Netns) {
        Names::remove(&self.names.0.join(netns.name()));
    }

    /// Its address on the bridge of its pods.
    pub(super) fn bridge_address(&self) -> Ipv4Addr {
        network::bridge_address(self.number)
    }

    /// Its address.
    pub(super) fn address(&self) -> Ipv4Addr {
        network::node_address(self.number)
    }

    /// Inside the node's network.
    pub(super) fn inside(&self) -> Inside {
        Inside::network(&self.netns.path())
    }

    /// Gives a pod a cable and addresses.
    pub(super) fn connect(&self, pod: &Netns) -> Wiring {
        let number = self.addresses.fetch_add(1, Ordering::Relaxed);
        network::connect(&self.netns, self.number, pod, number)
    }

    /// Starts a process of a container: in its control group first, then (as runtimes do it) in the
    /// pod's network namespace.
    pub(super) fn start_in(&self, group: &Path, netns: &Netns, command: &Command) -> Program {
        let mut contained = Command::new("sh");
        contained.args(["-ec", "echo 0 > \"$1/cgroup.procs\"; shift; exec \"$@\"", "start"]);
        contained.arg(group).args(["nsenter", &format!("--net={}", netns.path().display())]);
        contained.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                contained.env(name, value);
            }
        }
        self.inside().and_processes(&self.processes()).run(|| Program::start(&mut contained))
    }

    fn processes(&self) -> PathBuf {
        children_of(self.holder.id())
    }

    /// Power off: all its processes die, its network is gone, its disk stays.
    pub(super) fn kill(&self) {
        self.dead.store(true, Ordering::Release);
        self.netns.ip(&["link", "set", network::UPLINK, "down"]);
        self.holder.signal(Signal::KILL);
    }

    /// Whether it was killed.
    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }
}

/// A directory whose mounts show in the agent's container as well, though they come later.
#[derive(Debug)]
struct Names(PathBuf);

impl Names {
    fn new(dir: PathBuf) -> Self {
        fs::create_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        succeed(Command::new("mount").arg("--bind").args([&dir, &dir]));
        succeed(Command::new("mount").arg("--make-shared").arg(&dir));
        Self(dir)
    }

    fn remove(name: &Path) {
        output(Command::new("umount").arg(name));
        let _ = fs::remove_file(name);
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        for name in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            Self::remove(&name.path());
        }
        output(Command::new("umount").arg(&self.0));
    }
}

/// Keeps a process namespace alive whose first process is in the node's network. It leaves orphans to
/// the kernel (SIGCHLD ignored), and dies with this program whatever becomes of it.
fn hold(netns: &Netns) -> Program {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "ip", "netns", "exec", netns.name()]);
    command.args(["unshare", "--pid", "--fork", "--kill-child"]);
    command.args(["sh", "-c", "trap '' CHLD; exec sleep infinity"]);
    let mut holder = Program::start(&mut command);
    let (own, path) = (fs::read_link("/proc/self/ns/pid"), children_of(holder.id()));
    let own = own.expect("our own process namespace");
    wait_until("a node's first process", Duration::from_secs(10), || {
        holder.assert_running();
        fs::read_link(&path).is_ok_and(|children| children != own) && fs::File::open(&path).is_ok()
    });
    holder
}

fn children_of(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/pid_for_children"))
}
