//! Network namespaces of our own, and the cables between them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::{output, succeed, wait_until};

/// A network namespace, removed when dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes one with `lo` up. Names are `kr-PID-N-what`, so that tests in parallel do not meet.
    pub fn new(what: &str) -> Self {
        Self::new_and(what, |_| ())
    }

    /// As [`Self::new`]; something else happens before anything is in it.
    pub fn new_and(what: &str, born: impl FnOnce(&Self)) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static SWEPT: Once = Once::new();
        SWEPT.call_once(sweep);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::named_and(&format!("kr-{}-{number}-{what}", process::id()), born)
    }

    /// Makes one of exactly this name.
    pub fn named(name: &str) -> Self {
        Self::named_and(name, |_| ())
    }

    fn named_and(name: &str, born: impl FnOnce(&Self)) -> Self {
        succeed(Command::new("ip").args(["netns", "add", name]));
        let netns = Self { name: name.to_owned() };
        born(&netns);
        // No router solicitations, no duplicate address detection: silence unless a test speaks.
        for setting in ["accept_dad=0", "router_solicitations=0"] {
            let setting = format!("net.ipv6.conf.default.{setting}");
            succeed(netns.exec("sysctl").args(["-q", "-w", &setting]));
        }
        netns.ip(&["link", "set", "lo", "up"]);
        netns
    }

    /// Its name in `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A program that will run in it. `ip` becomes the program, so the child's process number is
    /// the program's.
    pub fn exec(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs `ip` in it.
    pub fn ip(&self, arguments: &[&str]) -> String {
        succeed(Command::new("ip").args(["-n", &self.name]).args(arguments))
    }

    /// Whether it has an interface of this name.
    pub fn has_link(&self, name: &str) -> bool {
        let mut command = Command::new("ip");
        output(command.args(["-n", &self.name, "link", "show", name])).status.success()
    }

    /// Removes it.
    pub fn remove(self) {}
}

/// Removes what killed test programs left: namespaces named for a process that is gone.
fn sweep() {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let pid = name.strip_prefix("kr-").and_then(|rest| rest.split('-').next());
        let gone = |pid: &str| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists();
        if pid.is_some_and(gone) {
            output(Command::new("ip").args(["netns", "del", &name]));
        }
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        output(Command::new("ip").args(["netns", "del", &self.name]));
    }
}

/// Two namespaces joined by a cable; each end is called `eth0`.
#[derive(Debug)]
pub struct VethPair {
    /// Where traffic comes from: `10.77.0.1`, `fd77::1`.
    pub sender: Netns,
    /// Where it goes to, and is recorded: `10.77.0.2`, `fd77::2`.
    pub receiver: Netns,
}

impl VethPair {
    /// The name of both ends.
    pub const INTERFACE: &'static str = "eth0";
    /// The sender's addresses.
    pub const SENDER: [&'static str; 2] = ["10.77.0.1", "fd77::1"];
    /// The receiver's addresses.
    pub const RECEIVER: [&'static str; 2] = ["10.77.0.2", "fd77::2"];

    /// Two new namespaces and a cable that takes IP packets of up to `mtu` bytes.
    pub fn new(mtu: u16) -> Self {
        Self::between(Netns::new("sender"), Netns::new("receiver"), mtu)
    }

    /// A cable between two namespaces.
    pub fn between(sender: Netns, receiver: Netns, mtu: u16) -> Self {
        let (mtu, name) = (mtu.to_string(), Self::INTERFACE);
        succeed(Command::new("ip").args(["link", "add", name, "mtu", &mtu]).args([
            "netns",
            sender.name(),
            "type",
            "veth",
            "peer",
            "name",
            name,
            "mtu",
            &mtu,
            "netns",
            receiver.name(),
        ]));
        for (netns, [v4, v6]) in [(&sender, Self::SENDER), (&receiver, Self::RECEIVER)] {
            netns.ip(&["addr", "add", &format!("{v4}/24"), "dev", name]);
            netns.ip(&["addr", "add", &format!("{v6}/64"), "dev", name, "nodad"]);
            netns.ip(&["link", "set", name, "up"]);
        }
        let pair = Self { sender, receiver };
        pair.wait_to_carry();
        pair
    }

    /// The kernel looks at new links once a second at most (`linkwatch`): until it has, IPv6 does not
    /// answer its neighbours, and what is sent to them is dropped in silence.
    fn wait_to_carry(&self) {
        for address in Self::RECEIVER {
            let answers = || {
                let mut ping = self.sender.exec("ping");
                output(ping.args(["-n", "-c", "1", "-W", "0.2", address])).status.success()
            };
            wait_until(&format!("{address} to answer"), Duration::from_secs(10), answers);
        }
    }
}
