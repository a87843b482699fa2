//! Each capability of the agent is taken away in turn: what then fails, and what is told of it. What no
//! recorder may do, whatever it is allowed; and that it lends two rights to its opener and keeps neither.

use std::fs;
use std::time::Duration;

use kuberewind_apiserver_double::Command;
use kuberewind_tests::cluster::{Cluster, Pod};
use kuberewind_tests::{
    Netns, Recorder, Status, VethPair, data_dir, succeed, wait_for, wait_until,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

const WITHIN: Duration = Duration::from_secs(40);

/// A node with a pod that is recorded, until its agent begins anew without one of its capabilities.
struct Lacking {
    cluster: Cluster,
    _pod: Pod,
}

impl Lacking {
    fn without(right: &str) -> Self {
        let cluster = Cluster::start(1);
        let pod = cluster.pod("n1", "shop", "cart-1");
        cluster.expect(0, &["tap", "--set", "headless=true,pcapdump.minFree=1MB"]);
        let lacking = Self { cluster, _pod: pod };
        lacking.take_away(right);
        lacking
    }

    /// No surge: the old agent would go on until the new one is ready.
    fn take_away(&self, right: &str) {
        let double = self.cluster.double();
        let set = double.object("apps/v1", "DaemonSet", "kuberewind", "kuberewind-agent");
        let mut set = set.expect("the agents' daemonset");
        let security = &mut set["spec"]["template"]["spec"]["containers"][0]["securityContext"];
        let rights = security["capabilities"]["add"].as_array_mut().expect("capabilities");
        let before = rights.len();
        rights.retain(|name| name != right);
        assert_eq!(rights.len(), before - 1, "the agents do not have {right} at all");
        let rolling = &mut set["spec"]["updateStrategy"]["rollingUpdate"];
        *rolling = json!({"maxSurge": 0, "maxUnavailable": 1});
        let old = self.cluster.agent("n1");
        self.cluster.control(Command::Put { object: set });
        wait_for("another agent", WITHIN, || {
            self.cluster.agent("n1").filter(|now| Some(now) != old.as_ref())
        });
    }

    /// Waits until `kuberewind check` says all of this.
    fn wait_to_be_told(&self, texts: &[&str]) {
        let mut last = String::new();
        let what = format!("check to say {texts:?}");
        wait_for(&what, WITHIN, || {
            let output = self.cluster.kuberewind(&["check", "--for", "pcapdump"]);
            last = String::from_utf8_lossy(&output.stdout).into_owned();
            texts.iter().all(|text| last.contains(text)).then_some(())
        });
    }
}

#[test]
fn without_net_raw_no_ring_is_opened() {
    let ring = "n1: open a capture ring";
    Lacking::without("NET_RAW").wait_to_be_told(&["blocks   agents", ring, "needs CAP_NET_RAW"]);
}

#[test]
fn without_sys_admin_no_network_namespace_is_entered() {
    let entered = "n1: enter the network namespace of shop/cart-1";
    Lacking::without("SYS_ADMIN").wait_to_be_told(&["blocks   agents", entered, "CAP_SYS_ADMIN"]);
}

#[test]
fn without_sys_ptrace_no_network_namespace_is_found_and_tls_stays_encrypted() {
    let found = "n1: find the node's network namespace";
    let tls = "TLS stays encrypted: see TLS secrets: missing CAP_SYS_PTRACE";
    Lacking::without("SYS_PTRACE").wait_to_be_told(&["blocks   agents", found, tls]);
}

/// The recorder has no `SYS_ADMIN` that would do for both.
#[test]
fn without_bpf_or_perfmon_tls_stays_encrypted_and_all_else_is_recorded() {
    for right in ["BPF", "PERFMON"] {
        let tls = format!("TLS stays encrypted: see TLS secrets: missing CAP_{right}");
        Lacking::without(right).wait_to_be_told(&["n1: ready; pods recorded: 1", &tls]);
    }
}

/// Bits of capability sets, from `linux/capability.h`.
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
/// Those of a thread in which a right is one.
const IN_FORCE: [&str; 4] = ["CapInh", "CapPrm", "CapEff", "CapAmb"];

/// What proc(5) says of each thread of a process.
fn threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    tasks.map(|task| fs::read_to_string(task.path().join("status")).unwrap()).collect()
}

fn line<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
}

fn rights(status: &str, sets: &[&str]) -> u64 {
    let set = |name: &&str| u64::from_str_radix(line(status, name), 16).unwrap();
    sets.iter().map(set).fold(0, |all, set| all | set)
}

/// The only child of a recorder.
fn opener_of(recorder: u32) -> u32 {
    let tasks = fs::read_dir(format!("/proc/{recorder}/task")).unwrap().flatten();
    let children = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap());
    let children = children.collect::<String>();
    let mut children = children.split_whitespace().map(|pid| pid.parse().unwrap());
    let opener = children.next().expect("an opener");
    assert_eq!(children.next(), None, "a recorder has one child");
    opener
}

fn ended(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    status.map_or(true, |status| line(&status, "State").starts_with('Z'))
}

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

/// `Seccomp: 2` in proc(5): a filter is in force.
#[test]
fn a_recorder_is_confined_in_each_of_its_threads_and_so_is_its_opener() {
    let (pair, data) = (VethPair::new(1500), data_dir());
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
    let recorder = recorder.program().id();
    for (pid, least) in [(recorder, 4), (opener_of(recorder), 2)] {
        let threads = threads(pid);
        assert!(threads.len() >= least, "only {} threads", threads.len());
        for status in threads {
            assert_eq!((line(&status, "Seccomp"), line(&status, "NoNewPrivs")), ("2", "1"));
        }
    }
}

#[test]
fn a_recorder_has_lent_its_rights_to_its_opener_and_keeps_neither_in_any_thread() {
    let (pair, data) = (VethPair::new(1500), data_dir());
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &["--set", "tap.tls=true"]);
    let recorder = recorder.program().id();
    let both = SYS_ADMIN | SYS_PTRACE;
    for status in threads(recorder) {
        assert_eq!(rights(&status, &IN_FORCE) & both, 0, "{status}");
        assert_eq!(rights(&status, &["CapBnd"]) & both, 0, "{status}");
    }
    for status in threads(opener_of(recorder)) {
        assert_eq!(rights(&status, &["CapEff"]) & both, both, "{status}");
        // Of all others it has at most three: packet sockets, and files of other users.
        assert!(rights(&status, &IN_FORCE).count_ones() <= 4, "{status}");
    }
}

/// A container may not change the bounding set; nothing that is started could use it.
#[test]
fn an_agent_has_lent_its_rights_to_its_opener_and_keeps_neither_in_any_thread() {
    let cluster = Cluster::start(1);
    let _pod = cluster.pod("n1", "shop", "cart-1");
    cluster.expect(0, &["tap", "--set", "headless=true,pcapdump.minFree=1MB"]);
    let agent = cluster.agent_process("n1").expect("an agent");
    let both = SYS_ADMIN | SYS_PTRACE;
    for status in threads(agent) {
        assert_eq!(rights(&status, &IN_FORCE) & both, 0, "{status}");
        assert_eq!(line(&status, "NoNewPrivs"), "1");
    }
    assert_eq!(rights(&threads(opener_of(agent))[0], &["CapEff"]) & both, both);
}

#[test]
fn an_opener_holds_nothing_of_what_it_opened() {
    let (pair, data) = (VethPair::new(1500), data_dir());
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
    let before = open_files(opener_of(recorder.program().id()));
    drop(recorder);
    let more: Vec<Netns> = (0..20).map(|number| Netns::new(&format!("many{number}"))).collect();
    let all: Vec<&Netns> = more.iter().collect();
    let recorder = Recorder::start(data.path(), &all, &[]);
    let opener = opener_of(recorder.program().id());
    assert_eq!(open_files(opener), before);
    // In none of them is a thread of its left: they end when they are to.
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    for task in fs::read_dir(format!("/proc/{opener}/task")).unwrap().flatten() {
        assert_eq!(fs::read_link(task.path().join("ns/net")).unwrap(), own);
    }
}

#[test]
fn an_opener_ends_with_its_recorder_however_that_ends() {
    let pair = VethPair::new(1500);
    for signal in [Signal::KILL, Signal::TERM, Signal::INT] {
        let data = data_dir();
        let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
        let opener = opener_of(recorder.program().id());
        recorder.stop_by(signal);
        wait_until("the opener's end", WITHIN, || ended(opener));
    }
}

#[test]
fn without_its_opener_a_recorder_goes_on_with_what_it_has_and_says_so() {
    let (pair, data) = (VethPair::new(1500), data_dir());
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
    kill(opener_of(recorder.program().id()));
    let told = |status: &Status| status.problems.iter().any(|text| text.contains("(signal: 9"));
    recorder.wait_status("the opener's end in status", WITHIN, told);
    let before = recorder.status().packets;
    succeed(pair.sender.exec("ping").args(["-c1", "-W1", VethPair::RECEIVER[0]]));
    recorder.wait_status("more packets", WITHIN, |status| status.packets > before);
    assert!(recorder.stop_by(Signal::TERM).success());
}

#[test]
fn an_agent_without_its_opener_seals_what_it_has_and_begins_anew_with_another() {
    let cluster = Cluster::start(1);
    let _pod = cluster.pod("n1", "shop", "cart-1");
    cluster.expect(0, &["tap", "--set", "headless=true,pcapdump.minFree=1MB"]);
    let agent = cluster.agent_process("n1").expect("an agent");
    kill(opener_of(agent));
    let another = || cluster.agent_process("n1").is_some_and(|now| now != agent);
    wait_until("another agent", WITHIN, another);
    let ready = "n1: ready; pods recorded: 1";
    wait_until("it to record", WITHIN, || {
        let output = cluster.kuberewind(&["check", "--for", "pcapdump"]);
        String::from_utf8_lossy(&output.stdout).contains(ready)
    });
}
