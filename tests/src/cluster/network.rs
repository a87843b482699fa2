//! The cluster's network: a switch that nodes are plugged into, a bridge on each node for its pods,
//! and routes between all of them, without address translation.
//!
//! | | IPv4 | IPv6 |
//! |---|---|---|
//! | the API server, at the switch | 10.99.0.1 | fd00:99::1 |
//! | node N | 10.99.0.(10+N) | fd00:99::(10+N) |
//! | pods of node N | 10.(100+N).0.0/16 | fd00:(100+N)::/64 |

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

use crate::{Netns, succeed};

/// A node's way out.
pub(super) const UPLINK: &str = "eth0";
const SWITCH: &str = "switch";
const BRIDGE: &str = "cni0";
const BRIDGE_ADDRESS: &str = "02:00:00:00:00:01";

/// Where the API server listens.
pub(super) const API_SERVER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1)), 6443);

/// Where pods reach it, once something speaks TLS for it: see
/// [`Cluster::serve_api_over_tls`](super::Cluster::serve_api_over_tls).
pub(super) const API_SERVICE: SocketAddr = SocketAddr::new(API_SERVER.ip(), 443);

/// A node's address.
pub(super) const fn node_address(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, 10 + node)
}

/// A node's address on its bridge, by which its pods reach it.
pub(super) fn bridge_address(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 100 + node, 0, 1)
}

fn node_v6(node: u8) -> String {
    format!("fd00:99::{}", 10 + node)
}

fn pods_v4(node: u8) -> String {
    format!("10.{}", 100 + u16::from(node))
}

fn pods_v6(node: u8) -> String {
    format!("fd00:{}:", 100 + u16::from(node))
}

/// How a pod is connected.
#[derive(Clone, Debug)]
pub(super) struct Wiring {
    /// IPv4, IPv6.
    pub(super) addresses: [String; 2],
}

/// Makes the switch.
pub(super) fn switch(nodes: u8) -> Netns {
    let netns = Netns::new("api");
    let mut lines = bridge(SWITCH);
    lines.push(format!("addr add {}/24 dev {SWITCH}", API_SERVER.ip()));
    lines.push(format!("addr add fd00:99::1/64 dev {SWITCH} nodad"));
    lines.extend((1..=nodes).flat_map(|node| routes(node, SWITCH)));
    ip_batch(&netns, &lines);
    netns
}

/// With an address of its own: else it takes one of its cables', another one when that is unplugged, and
/// nobody who knows the old one gets through.
fn bridge(name: &str) -> Vec<String> {
    let how = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0";
    let how = format!("address {BRIDGE_ADDRESS} {how}");
    vec![format!("link add {name} {how}"), format!("link set {name} up")]
}

/// The ways to a node's pods.
fn routes(node: u8, device: &str) -> [String; 2] {
    let (v4, v6) = (pods_v4(node), pods_v6(node));
    [
        format!("route add {v4}.0.0/16 via {} dev {device}", node_address(node)),
        format!("route add {v6}:/64 via {} dev {device}", node_v6(node)),
    ]
}

/// Plugs a node into the switch, and makes it a bridge for its pods.
pub(super) fn plug_in(netns: &Netns, node: u8, switch: &Netns, nodes: u8) {
    for setting in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
        succeed(netns.exec("sysctl").args(["-q", "-w", setting]));
    }
    ip_batch(
        switch,
        &[
            format!("link add n{node} type veth peer name {UPLINK} netns {}", netns.name()),
            format!("link set n{node} master {SWITCH} up"),
        ],
    );
    let mut lines = bridge(BRIDGE);
    lines.push(format!("addr add {}.0.1/16 dev {BRIDGE}", pods_v4(node)));
    lines.push(format!("addr add {}:1/64 dev {BRIDGE} nodad", pods_v6(node)));
    lines.push(format!("addr add {}/24 dev {UPLINK}", node_address(node)));
    lines.push(format!("addr add {}/64 dev {UPLINK} nodad", node_v6(node)));
    lines.push(format!("link set {UPLINK} up"));
    let others = (1..=nodes).filter(|other| *other != node);
    lines.extend(others.flat_map(|other| routes(other, UPLINK)));
    ip_batch(netns, &lines);
}

/// Gives a pod its `eth0`, on the node's bridge.
pub(super) fn connect(netns: &Netns, node: u8, pod: &Netns, number: u16) -> Wiring {
    let (v4, v6) = (pods_v4(node), pods_v6(node));
    let [high, low] = number.to_be_bytes();
    let addresses = [format!("{v4}.{high}.{low}"), format!("{v6}:{number:x}")];
    ip_batch(
        netns,
        &[
            format!("link add veth{number} type veth peer name eth0 netns {}", pod.name()),
            format!("link set veth{number} master {BRIDGE} up"),
        ],
    );
    ip_batch(
        pod,
        &[
            format!("addr add {}/16 dev eth0", addresses[0]),
            format!("addr add {}/64 dev eth0 nodad", addresses[1]),
            "link set eth0 up".to_owned(),
            // What is sent at once need not wait for an answer.
            format!("neigh add {v4}.0.1 lladdr {BRIDGE_ADDRESS} dev eth0"),
            format!("route add default via {v4}.0.1 dev eth0"),
            format!("route add default via {v6}:1 dev eth0"),
        ],
    );
    Wiring { addresses }
}

/// Many of `ip`'s commands by one process.
fn ip_batch(netns: &Netns, lines: &[String]) {
    let mut command = Command::new("ip");
    command.args(["-n", netns.name(), "-batch", "-"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("ip: {error}; run `cargo xtask setup`"));
    let text = lines.join("\n") + "\n";
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(text.as_bytes()));
    let done = child.wait_with_output().expect("the end of ip");
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && matches!(written, Some(Ok(()))), "{text}: {errors}");
}
