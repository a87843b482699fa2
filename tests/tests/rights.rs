//! Each capability of the agent is taken away in turn: what then fails, and what is told of it. And what
//! no recorder may do, whatever it is allowed.

use std::fs;
use std::time::Duration;

use kuberewind_apiserver_double::Command;
use kuberewind_tests::cluster::{Cluster, Pod};
use kuberewind_tests::{Recorder, VethPair, data_dir, wait_for};
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

/// `SYS_ADMIN` contains both, for as long as the agent has that.
#[test]
fn without_bpf_or_perfmon_nothing_is_missing() {
    for right in ["BPF", "PERFMON"] {
        let lacking = Lacking::without(right);
        lacking.wait_to_be_told(&["n1: ready; pods recorded: 1"]);
        let status = lacking.cluster.expect(0, &["status", "--json"]);
        assert!(!status.contains("TLS stays encrypted"), "without {right}: {status}");
    }
}

/// `Seccomp: 2` in proc(5): a filter is in force.
#[test]
fn a_recorder_is_confined_in_each_of_its_threads() {
    let (pair, data) = (VethPair::new(1500), data_dir());
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
    let tasks = format!("/proc/{}/task", recorder.program().id());
    let mut threads = 0;
    for task in fs::read_dir(tasks).unwrap().flatten() {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        assert!(status.contains("\nSeccomp:\t2\n"), "{status}");
        threads += 1;
    }
    assert!(threads > 3, "only {threads} threads");
}
