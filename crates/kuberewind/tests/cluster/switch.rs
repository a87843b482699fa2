//! `pcapdump stop` and `start`.

use kuberewind_apiserver_double::{Command, Rule};

use crate::lab::Lab;

fn installed(nodes: &[&str]) -> Lab {
    let lab = Lab::with(nodes);
    lab.run(&["tap", "--wait", "20s"]).ended(0);
    lab
}

#[test]
fn stop_and_start_return_when_every_agent_has_followed() {
    let lab = installed(&["n1", "n2"]);
    lab.run(&["pcapdump", "stop"]).ended(0).says("recording stopped on 2 nodes");
    assert_eq!(lab.config_map()["data"]["recording"], "stopped");
    lab.run(&["status"]).ended(3).shows(&["n1", "stopped"]).says("pcapdump start");
    lab.run(&["pcapdump", "start"]).ended(0).says("recording started on 2 nodes");
    lab.run(&["status"]).ended(0).shows(&["n1", "yes"]);
}

#[test]
fn a_node_that_does_not_follow_is_named() {
    let lab = installed(&["n1", "n2"]);
    lab.control(Command::KillNode { name: "n2".into() });
    lab.run(&["pcapdump", "stop"])
        .ended(3)
        .says("recording stopped on 1 node\n")
        .says("node n2 has not stopped (its node does not answer)");
}

#[test]
fn the_switch_is_thrown_even_where_the_agents_cannot_be_asked() {
    let lab = installed(&["n1"]);
    lab.only(vec![Rule::of(
        "*",
        &["get", "patch", "create"],
        &["configmaps", "selfsubjectaccessreviews"],
        None,
    )]);
    lab.run(&["pcapdump", "stop"]).ended(0).says("needs the right `get` on pods/portforward");
    assert_eq!(lab.config_map()["data"]["recording"], "stopped");
}

#[test]
fn nothing_is_switched_where_nothing_is_installed() {
    let lab = Lab::with(&["n1"]);
    lab.run(&["pcapdump", "stop"]).ended(1).says("configmaps \"kuberewind\" not found");
}
