//! Network namespaces that come and go under a recorder.

use std::collections::BTreeSet;
use std::process::{self, Command};
use std::time::{Duration, Instant};

use crate::{Netns, Program, Recorder, output, succeed, wait_until};

/// So long a namespace may outlive its end.
const LET_GO: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(20);

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Mapped capture rings.
    pub rings: usize,
    /// Bytes of main memory.
    pub resident: u64,
}

impl Holdings {
    /// What it holds now.
    pub fn of(program: &Program) -> Self {
        let below = |what: &str| {
            let dir = format!("/proc/{}/{what}", program.id());
            std::fs::read_dir(dir).expect("a running process").count()
        };
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", program.id()));
        let maps = maps.expect("a running process");
        let rings = maps.lines().filter(|line| line.contains("socket:[")).count();
        let resident = program.resident();
        Self { descriptors: below("fd"), threads: below("task"), rings, resident }
    }
}

/// Names that a recorder is told to follow, whose namespaces come and go; and the hub to which each of
/// them has a cable. The hub's end of a cable goes once nobody holds the namespace any more.
#[derive(Debug)]
pub struct Churn {
    hub: Netns,
    names: Vec<String>,
}

impl Churn {
    /// So many at a time.
    pub fn new(at_a_time: usize) -> Self {
        let name = |number| format!("kr-{}-{number}-churn", process::id());
        Self { hub: Netns::new("hub"), names: (1000..1000 + at_a_time).map(name).collect() }
    }

    /// What to tell the recorder.
    pub fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    /// Makes all of them, waits until they are recorded, ends them, and waits until they are let go;
    /// says how long that took at most.
    pub fn turn(&self, recorder: &Recorder) -> Duration {
        let made: Vec<Netns> = self.names.iter().map(|name| self.make(name)).collect();
        recorder.wait_status("the namespaces to be recorded", SOON, |status| {
            self.names.iter().all(|name| status.namespace(name).is_some())
        });
        drop(made);
        let ended = Instant::now();
        wait_until("the namespaces to be let go", LET_GO, || self.cables().is_empty());
        ended.elapsed()
    }

    fn make(&self, name: &str) -> Netns {
        let netns = Netns::named(name);
        let number = name.split('-').nth(2).unwrap_or_default();
        let cable = format!("c{number}");
        let mut link = Command::new("ip");
        link.args(["link", "add", &cable, "netns", self.hub.name(), "type", "veth"]);
        succeed(link.args(["peer", "name", "eth0", "netns", name]));
        for (netns, end) in [(&self.hub, &*cable), (&netns, "eth0")] {
            netns.ip(&["link", "set", end, "up"]);
        }
        netns
    }

    /// The cables that are there.
    fn cables(&self) -> BTreeSet<String> {
        let shown = self.hub.ip(&["-o", "link", "show", "type", "veth"]);
        let name = |line: &str| Some(line.split(": ").nth(1)?.to_owned());
        shown.lines().filter_map(name).collect()
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        for name in &self.names {
            output(Command::new("ip").args(["netns", "del", name]));
        }
    }
}
