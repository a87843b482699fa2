//! The cluster and its nodes as interfaces of Wireshark.

use std::fs;
use std::process::Command;

use kuberewind_tests::traffic::number_of;
use kuberewind_tests::{CaptureFile, output, succeed};

use crate::lab::{LITTLE, Lab};

/// tshark in an empty home, with kuberewind in its list of interfaces.
fn tshark(lab: &Lab) -> Command {
    let home = lab.path("home");
    fs::create_dir_all(&home).expect("a home");
    let kubeconfig = lab.path("config-shark");
    fs::write(&kubeconfig, lab.double.kubeconfig(None)).expect("a kubeconfig");
    let at_home = |program: &str| {
        let mut command = Command::new(program);
        command.env("HOME", &home).env("XDG_CONFIG_HOME", home.join(".config"));
        command.env_remove("WIRESHARK_EXTCAP_DIR");
        command
    };
    let mut install = at_home(env!("CARGO_BIN_EXE_kuberewind"));
    succeed(install.args(["extcap", "--install", "--kubeconfig"]).arg(&kubeconfig));
    at_home("tshark")
}

/// The numbers of the packets that tshark captures from an interface.
fn captured(lab: &Lab, arguments: &[&str]) -> Vec<u32> {
    let path = lab.path("captured.pcapng");
    succeed(tshark(lab).args(arguments).arg("-w").arg(&path));
    let file = CaptureFile::read(&path);
    file.packets().map(|packet| number_of(packet.data).expect("one of ours")).collect()
}

#[test]
fn the_cluster_and_each_node_are_listed() {
    let lab = Lab::new(2, LITTLE);
    let listed = succeed(tshark(&lab).arg("-D"));
    for line in [
        "kuberewind-local (kuberewind: this machine's recording)",
        "kuberewind-cluster (kuberewind: the whole cluster)",
        "kuberewind-node-n1 (kuberewind: node n1)",
        "kuberewind-node-n2 (kuberewind: node n2)",
    ] {
        assert!(listed.contains(line), "{line} in\n{listed}");
    }
}

#[test]
fn a_capture_reads_the_whole_cluster_or_a_node_or_some_pods() {
    let lab = Lab::new(2, LITTLE);
    assert_eq!(captured(&lab, &["-i", "kuberewind-cluster"]), (0..600).collect::<Vec<_>>());
    let node = captured(&lab, &["-i", "kuberewind-node-n1"]);
    assert_eq!(node.len(), 300);
    let option = "extcap.kuberewind_cluster.pod:^web-1$";
    let pods = captured(&lab, &["-o", option, "-i", "kuberewind-cluster"]);
    assert!(!pods.is_empty() && pods.iter().all(|number| node.contains(number)), "{pods:?}");
}

#[test]
fn what_is_wrong_is_told_in_wireshark() {
    let lab = Lab::new(1, LITTLE);
    let option = "extcap.kuberewind_cluster.time:1d";
    let said = output(tshark(&lab).args(["-o", option, "-i", "kuberewind-cluster"]));
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("no such unit `d`"), "{said}");
}
