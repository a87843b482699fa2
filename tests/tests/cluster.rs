//! The whole system on a cluster: the real command line and real agents on three nodes.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kuberewind_tests::cluster::{Beside, Cluster, Pod, Seen, mark};
use kuberewind_tests::judges::{capinfos, tshark};
use kuberewind_tests::traffic::{
    DnsServer, HttpServer, Iperf, Mixed, Rate, sctp_init, send, udp_super_packets, write_pcap,
};
use kuberewind_tests::{CaptureFile, Packet, Program, succeed, wait_until};

const WITHIN: Duration = Duration::from_secs(30);

/// Three nodes, pods of two namespaces that are recorded, and of one that is not.
struct Shop {
    cluster: Cluster,
    cart: Pod,
    basket: Pod,
    till: Pod,
    drawer: Pod,
    stock: Pod,
    vault: Pod,
    proxy: Pod,
}

impl Shop {
    /// Records.
    fn open() -> Self {
        let cluster = Cluster::start(3);
        let shop = Self {
            cart: cluster.pod("n1", "shop", "cart-1"),
            basket: cluster.pod("n1", "shop", "basket-1"),
            till: cluster.pod("n2", "pay", "till-1"),
            drawer: cluster.pod("n2", "pay", "drawer-1"),
            stock: cluster.pod("n3", "shop", "stock-1"),
            vault: cluster.pod("n2", "secret", "vault-1"),
            proxy: cluster.host_network_pod("n1", "kube-system", "proxy-1"),
            cluster,
        };
        let said = shop.cluster.expect(0, &["tap", "--set", "headless=true", "-e", "secret"]);
        for pod in shop.recorded() {
            assert!(said.contains(&pod.full_name()), "{} in\n{said}", pod.full_name());
            pod.wait_to_carry();
        }
        assert!(!said.contains("secret/vault-1"), "{said}");
        shop
    }

    fn recorded(&self) -> [&Pod; 5] {
        [&self.cart, &self.basket, &self.till, &self.drawer, &self.stock]
    }

    fn dumps(&self) -> [Beside; 5] {
        self.recorded().map(Beside::start)
    }

    fn stop(&self, dumps: [Beside; 5]) -> Vec<Seen> {
        let dumps = dumps.into_iter().zip(self.recorded());
        dumps.map(|(dump, pod)| dump.stop(pod)).collect()
    }

    /// TCP, UDP, SCTP and ICMP over IPv4 and IPv6, between nodes and within one, also from and to a
    /// pod that is not recorded.
    fn talk(&self) {
        let Self { cart, basket, till, drawer, stock, vault, .. } = self;
        let http = HttpServer::start(till.netns(), 1_000_000);
        let dns = DnsServer::start(stock.netns());
        let iperf = Iperf::start(basket.netns());
        for version in [0, 1] {
            for client in [cart, drawer] {
                let address = till.addresses()[version];
                assert_eq!(http.get(client.netns(), address, ""), "hello from nginx\n");
                assert_eq!(http.get(client.netns(), address, "large").len(), 1_000_000);
                sctp_init(client.netns(), address);
            }
            let address = stock.addresses()[version];
            assert_eq!(dns.ask(basket.netns(), address, "A", false), "192.0.2.7");
            assert_eq!(dns.ask(basket.netns(), address, "AAAA", true), "2001:db8::7");
            iperf.burst(stock.netns(), basket.addresses()[version], &["--bytes", "10M"]);
            udp_super_packets(cart.netns(), basket.addresses()[version], 40_000, 20);
            for (from, to) in [(cart, basket), (cart, stock), (vault, till), (stock, vault)] {
                ping(from, to.addresses()[version]);
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let pcap = dir.path().join("mixed.pcap");
        let count = write_pcap(&pcap, Mixed::new(11, 1500).take(10_000));
        for from in [cart, drawer] {
            assert_eq!(send(from.netns(), "eth0", &pcap, Rate::PerSecond(20_000)), count);
        }
    }
}

fn ping(from: &Pod, address: &str) {
    succeed(from.netns().exec("ping").args(["-n", "-c", "1", "-W", "2", address]));
}

/// The laboratory itself: what an agent will see of it is what it would see of a real node.
#[test]
fn pods_reach_each_other_and_see_only_the_processes_of_their_node() {
    let cluster = Cluster::start(3);
    let mut pods = vec![
        cluster.pod("n1", "shop", "cart-1"),
        cluster.pod("n1", "shop", "cart-2"),
        cluster.pod("n2", "pay", "till-1"),
        cluster.pod("n3", "shop", "stock-1"),
    ];
    pods.iter().for_each(Pod::wait_to_carry);
    for from in &pods {
        for to in &pods {
            to.addresses().iter().for_each(|address| ping(from, address));
        }
    }
    let mut look = Command::new("unshare");
    look.args(["--mount", "sh", "-ec", "mount -t proc proc /proc; cat /proc/*/cgroup"]);
    let mut look = pods[0].start(&look);
    assert!(look.ended(Duration::from_secs(10)).success(), "{}", look.said());
    let seen = |pod: &Pod| {
        let uid = pod.uid();
        [uid.to_owned(), uid.replace('-', "_")].iter().any(|uid| look.said().contains(uid))
    };
    assert_eq!(pods.iter().map(seen).collect::<Vec<_>>(), [true, true, false, false]);
}

#[test]
fn every_packet_of_every_pod_comes_home_in_order_and_by_name() {
    let shop = Shop::open();
    let dumps = shop.dumps();
    shop.talk();
    let seen = shop.stop(dumps);

    // Gone before the export, and still in it by its name.
    let names: BTreeSet<_> = shop.recorded().map(name_of).into();
    let Shop { cluster, stock, vault, proxy, .. } = shop;
    stock.delete();
    let path = cluster.dir().join("home.pcapng");
    cluster.expect(0, &["pcapdump", "--time", "5m", "--vantage", "all", "--dest", "home.pcapng"]);
    let home = CaptureFile::read(&path);
    for seen in &seen {
        let same = seen.assert_same(&home);
        assert!(same > 50, "only {same} packets of {}", seen.if_name);
    }
    assert!(capinfos(&path).strictly_ordered);

    // Whose packets they are, as Wireshark tells it; nobody else's.
    assert_eq!(told_names(&path), names);
    let others = [vault.full_name(), proxy.full_name(), "kuberewind/".into(), "eth0".into()];
    for name in home.interfaces() {
        assert!(!others.iter().any(|other| name.starts_with(other)), "{name}");
    }
    for kind in ["ip && sctp", "ipv6 && sctp", "icmp", "icmpv6", "dns && ip", "http && ipv6"] {
        assert_ne!(tshark(&path, &["-Y", kind]).len(), 0, "no packet is `{kind}`");
    }

    // The same without names.
    let said =
        cluster.expect(0, &["pcapdump", "--time", "5m", "--vantage", "all", "--dest", "home.pcap"]);
    assert!(said.contains("--format pcapng does"), "{said}");
    let plain = CaptureFile::read(&cluster.dir().join("home.pcap"));
    let bare = |packet: Packet<'_>| (packet.timestamp, packet.original_len, packet.data.to_vec());
    let plain: Vec<_> = plain.packets().map(bare).collect();
    assert!(home.packets().map(bare).eq(plain.into_iter().take(home.packets().count())));
}

#[test]
fn a_node_that_dies_mid_export_is_named_and_the_rest_is_whole() {
    let shop = Shop::open();
    let dumps = shop.dumps();
    shop.talk();
    let seen = shop.stop(dumps);

    // So slow that it is certainly under way when the node dies.
    let cluster = &shop.cluster;
    let before = cluster.forwarded("n2");
    cluster.reach("n2", |reach| reach.bytes_per_second = Some(20_000));
    let mut command = cluster.command(&["pcapdump", "--vantage", "all", "--dest", "rest.pcapng"]);
    let mut export = Program::start(command.args(["--report", "report.json"]));
    wait_until("the export of n2 to be under way", Duration::from_secs(20), || {
        export.assert_running();
        cluster.forwarded("n2") > before + 20_000
    });
    cluster.kill_node("n2");
    let code = export.ended(WITHIN * 2).code();
    assert_eq!(code, Some(3), "{}", export.said());
    assert!(export.said().contains("n2"), "{}", export.said());
    let report = fs::read_to_string(cluster.dir().join("report.json")).unwrap();
    assert!(report.contains("\"n2\""), "{report}");

    let path = cluster.dir().join("rest.pcapng");
    let rest = CaptureFile::read(&path);
    assert!(capinfos(&path).strictly_ordered);
    let on = |node: &str| {
        let pods = shop.recorded().into_iter().zip(&seen);
        pods.filter(|(pod, _)| pod.node() == node).map(|(_, seen)| seen).collect::<Vec<_>>()
    };
    for seen in on("n1").into_iter().chain(on("n3")) {
        assert!(seen.assert_same(&rest) > 50);
    }
    // What came of n2 before it died is true as far as it goes.
    for seen in on("n2") {
        let theirs: HashSet<_> = seen.theirs.packets().map(|packet| packet.data).collect();
        let since = seen.theirs.packets().next().map(|packet| packet.timestamp);
        let ours = rest.packets().filter(|packet| packet.interface == Some(&seen.if_name));
        let mut ours = ours.filter(|packet| Some(packet.timestamp) >= since);
        assert!(ours.all(|packet| theirs.contains(packet.data)), "{}", seen.if_name);
    }
    assert!(cluster.expect(3, &["status"]).contains("n2"));
}

#[test]
fn stop_and_start_hold_on_every_node() {
    let shop = Shop::open();
    let cluster = &shop.cluster;
    let (before, between, after) = (mark(), mark(), mark());
    let send = |frame: &[u8]| shop.recorded().iter().for_each(|pod| pod.send(frame));
    let said = cluster.expect(0, &["status"]);
    assert!(["n1", "n2", "n3"].iter().all(|node| said.contains(node)), "{said}");

    send(&before);
    cluster.expect(0, &["pcapdump", "stop"]);
    cluster.expect(3, &["status"]);
    send(&between);
    // A restart does not begin it again, nor does `tap`.
    cluster.kill_agent("n1", WITHIN);
    cluster.wait_for_agents(WITHIN);
    cluster.expect(0, &["tap", "--set", "headless=true"]);
    cluster.expect(3, &["status"]);
    send(&between);
    cluster.expect(0, &["pcapdump", "start"]);
    cluster.expect(0, &["status"]);
    send(&after);

    cluster.expect(0, &["pcapdump", "--vantage", "all", "--dest", "all.pcapng"]);
    let all = CaptureFile::read(&cluster.dir().join("all.pcapng"));
    for pod in shop.recorded() {
        let name = format!("{}/eth0", pod.full_name());
        let count = |frame: &[u8]| {
            let here = all.packets().filter(|packet| packet.interface == Some(&name));
            here.filter(|packet| packet.data == frame).count()
        };
        assert!(count(&before) > 0 && count(&after) > 0, "{name}");
        assert_eq!(count(&between), 0, "{name}");
    }
}

#[test]
fn clean_leaves_nothing_but_what_it_was_told_to_keep() {
    let shop = Shop::open();
    let cluster = &shop.cluster;
    cluster.expect(0, &["clean", "--keep-data"]);
    cluster.wait_for_no_agents(WITHIN);
    assert_eq!(left(cluster), Vec::<String>::new());
    for node in ["n1", "n2", "n3"] {
        assert_ne!(files(&cluster.data(node)), Vec::<OsString>::new(), "{node}");
    }
    cluster.expect(0, &["tap", "--set", "headless=true", "-e", "secret"]);
    cluster.expect(0, &["clean"]);
    cluster.wait_for_no_agents(WITHIN);
    assert_eq!(left(cluster), Vec::<String>::new());
    for node in ["n1", "n2", "n3"] {
        assert_eq!(files(&cluster.data(node)), Vec::<OsString>::new(), "{node}");
    }
}

/// Every object that is kuberewind's.
fn left(cluster: &Cluster) -> Vec<String> {
    let kinds = [
        ("apps/v1", "DaemonSet"),
        ("v1", "Pod"),
        ("v1", "ConfigMap"),
        ("v1", "ServiceAccount"),
        ("v1", "Namespace"),
        ("rbac.authorization.k8s.io/v1", "Role"),
        ("rbac.authorization.k8s.io/v1", "RoleBinding"),
        ("rbac.authorization.k8s.io/v1", "ClusterRole"),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
    ];
    let objects =
        kinds.iter().flat_map(|(version, kind)| cluster.double().objects(version, kind, ""));
    let names = objects.map(|object| format!("{} {}", object["kind"], object["metadata"]["name"]));
    names.filter(|name| name.contains("kuberewind")).collect()
}

fn files(dir: &Path) -> Vec<OsString> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).collect()
}

/// Name, node and UID.
fn name_of(pod: &Pod) -> (String, String) {
    (format!("{}/eth0", pod.full_name()), format!("node={} pod-uid={}", pod.node(), pod.uid()))
}

fn told_names(path: &Path) -> BTreeSet<(String, String)> {
    let fields =
        ["-T", "fields", "-e", "frame.interface_name", "-e", "frame.interface_description"];
    let lines: BTreeSet<_> = tshark(path, &fields).into_iter().collect();
    let told = lines.iter().map(|line| {
        let (name, description) = line.split_once('\t').expect("two fields");
        let (who, netns) = description.rsplit_once(' ').expect("several words");
        assert!(netns.starts_with("netns="), "{description}");
        (name.to_owned(), who.to_owned())
    });
    told.collect()
}
