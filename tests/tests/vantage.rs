//! A conversation between two recorded ends reads in Wireshark as if it was recorded at one.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kuberewind_tests::cluster::{Cluster, Pod};
use kuberewind_tests::judges::{capinfos, tshark};
use kuberewind_tests::traffic::{HttpServer, Iperf};
use kuberewind_tests::{CaptureFile, Recorder, Tcpdump, VethPair, data_dir, succeed, wait_until};
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(30);

/// What Wireshark's expert has to say of TCP, and how often.
fn complaints(file: &Path) -> BTreeMap<String, u64> {
    let lines = tshark(file, &["-q", "-z", "expert,note,tcp"]);
    let complaint = |line: &String| {
        let (count, rest) = line.trim().split_once(' ')?;
        let (_, what) = rest.split_once(" TCP ")?;
        Some((what.trim().to_owned(), count.parse().ok()?))
    };
    lines.iter().filter_map(complaint).collect()
}

/// Those that one packet in a file twice gives rise to.
fn of_doubles(complaints: &BTreeMap<String, u64>) -> BTreeMap<&str, u64> {
    let words = ["etransmission", "uplicate", "ut-Of-Order", "ut-of-order", "segment not captured"];
    let doubles =
        complaints.iter().filter(|(what, _)| words.iter().any(|word| what.contains(word)));
    doubles.map(|(what, count)| (what.as_str(), *count)).collect()
}

fn report(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a report")).expect("JSON")
}

fn captured_tcp(file: &Path) -> usize {
    tshark(file, &["-Y", "tcp"]).len()
}

#[test]
fn a_conversation_between_nodes_has_the_complaints_of_one_end_and_no_more() {
    let cluster = Cluster::start(2);
    let cart = cluster.pod("n1", "shop", "cart-1");
    let till = cluster.pod("n2", "pay", "till-1");
    cluster.cut_segments("n1");
    cluster.cut_segments("n2");
    cluster.expect(0, &["tap", "--set", "headless=true,pcapdump.minFree=0B"]);
    [&cart, &till].into_iter().for_each(Pod::wait_to_carry);
    let mut dump = Tcpdump::start(cart.netns(), "eth0");
    let http = HttpServer::start(till.netns(), 3_000_000);
    let iperf = Iperf::start(till.netns());
    for address in till.addresses() {
        assert_eq!(http.get(cart.netns(), address, "large").len(), 3_000_000);
        for more in [&[][..], &["--reverse"]] {
            let limits = ["--bytes", "20M", "--bitrate", "400M"];
            iperf.burst(cart.netns(), address, &[&limits[..], more].concat());
        }
    }
    let last = kuberewind_tests::cluster::mark();
    cart.send(&last);
    dump.wait_to_hold(&last, WITHIN);
    assert_eq!(dump.stop(), 0, "tcpdump lost packets");

    let file = |name: &str| cluster.dir().join(name);
    let export = |vantage: &str| {
        let (dest, said) = (format!("{vantage}.pcapng"), format!("{vantage}.json"));
        let arguments = ["pcapdump", "--filter", "tcp", "--vantage", vantage, "--dest", &dest];
        cluster.expect(0, &[&arguments[..], &["--report", &said]].concat());
        report(&file(&said))
    };
    let (one, all) = (export("one"), export("all"));

    // tcpdump writes packets as they come to it. Two processors may bring a packet of each to tcpdump and to us
    // in another order, so that there is a complaint about two more with one of us.
    let in_order = file("tcpdump.pcap");
    succeed(Command::new("reordercap").arg(dump.file()).arg(&in_order));
    let (alone, ours) = (complaints(&in_order), complaints(&file("one.pcapng")));
    let (alone, ours) = (of_doubles(&alone), of_doubles(&ours));
    let sum = |complaints: &BTreeMap<&str, u64>| complaints.values().sum::<u64>();
    let tolerated = 2 + sum(&alone) / 20;
    assert!(sum(&ours) <= sum(&alone) + tolerated, "{ours:?}; tcpdump alone: {alone:?}");
    // It is not for want of them.
    let both = complaints(&file("all.pcapng"));
    let both = sum(&of_doubles(&both));
    assert!(both > 1000, "only {both} complaints where both views are in the file");

    // Everything that the client's end saw, and nothing else; what the other saw is counted.
    assert_eq!(captured_tcp(&file("one.pcapng")), captured_tcp(dump.file()));
    let names = tshark(&file("one.pcapng"), &["-T", "fields", "-e", "frame.interface_name"]);
    assert!(names.iter().all(|name| name == "shop/cart-1/eth0"));
    let left_out = &one["vantage"]["leftOut"]["packets"];
    assert_eq!(one["nodes"][1]["leftOut"]["packets"], *left_out);
    let count = |value: &Value| value.as_u64().expect("a count");
    assert_eq!(count(&one["packets"]) + count(left_out), count(&all["packets"]), "{one}\n{all}");
    assert_eq!(one["complete"], true);
    assert!(capinfos(&file("one.pcapng")).strictly_ordered);
    assert_ne!(one["packets"], *left_out, "the two ends saw it in the same pieces");
}

#[test]
fn two_namespaces_of_one_machine_are_two_views() {
    let (pair, data, out) = (VethPair::new(1500), data_dir(), tempfile::tempdir().unwrap());
    let (client, server) = (&pair.sender, &pair.receiver);
    let recorder = Recorder::start(data.path(), &[client, server], &[]);
    let http = HttpServer::start(server, 1_000_000);
    for address in VethPair::RECEIVER {
        assert_eq!(http.get(client, address, "large").len(), 1_000_000);
    }
    let requests = |file: &CaptureFile, netns: &str| {
        let name = format!("{netns}/{}", VethPair::INTERFACE);
        file.packets().filter(|packet| packet.interface == Some(&name)).count()
    };
    let all = ["--filter", "tcp", "--vantage", "all"];
    wait_until("both ends to be on the disk", WITHIN, || {
        let all = recorder.window(&all);
        let [sent, came] = [client, server].map(|netns| requests(&all, netns.name()));
        sent > 0 && sent == came
    });
    let path = out.path().join("report.json");
    let one = recorder.window(&["--filter", "tcp", "--report", path.to_str().unwrap()]);
    let all = recorder.window(&all);
    assert_eq!(requests(&one, client.name()), requests(&all, client.name()));
    assert_eq!(requests(&one, server.name()), 0);
    let report = report(&path);
    assert_eq!(report["vantage"]["leftOut"]["packets"], requests(&all, server.name()));
    assert_eq!(report["vantage"]["connections"], 2);

    // The same without a recorder.
    let dir = data.path().to_owned();
    recorder.stop_by(rustix::process::Signal::TERM);
    let later = kuberewind_tests::window(&dir, 0, &["--filter", "tcp"]);
    assert_eq!(requests(&later, client.name()), requests(&one, client.name()));
    assert_eq!(requests(&later, server.name()), 0);
}

#[test]
fn a_stream_that_goes_on_cannot_choose() {
    let data = data_dir();
    let done = kuberewind_tests::pcapdump(data.path(), &["--follow", "--vantage", "one"]);
    assert_eq!(done.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&done.stderr).contains("--vantage one"));
}
