//! Pods that come and go on a node that is recorded: from their first packet on, and nothing is left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kuberewind_apiserver_double::Command;
use kuberewind_packet::Timestamp;
use kuberewind_tests::cluster::{Beside, Birth, Cluster, Pod, Sounder, mark};
use kuberewind_tests::traffic::{Rate, numbered, start_sending, write_pcap};
use kuberewind_tests::{
    CaptureFile, Holdings, Netns, Tcpdump, pcapdump, status, wait_until, window,
};
use rustix::process::Signal;
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(30);

/// A node that records all but the namespace `secret`.
fn recorded_node() -> Cluster {
    let cluster = Cluster::start(1);
    cluster.expect(0, &["tap", "--set", "headless=true", "-e", "secret"]);
    cluster
}

/// Everything that the node holds.
fn export(cluster: &Cluster, name: &str) -> CaptureFile {
    cluster.expect(0, &["pcapdump", "--vantage", "all", "--dest", name]);
    CaptureFile::read(&cluster.dir().join(name))
}

/// The numbers in a file and when each came, by interface.
fn numbers(file: &CaptureFile) -> BTreeMap<String, BTreeMap<u32, Timestamp>> {
    let mut all: BTreeMap<String, BTreeMap<u32, Timestamp>> = BTreeMap::new();
    for packet in file.packets() {
        let Some(number) = Sounder::number(packet.data) else { continue };
        let interface = packet.interface.unwrap_or_default().to_owned();
        all.entry(interface).or_default().entry(number).or_insert(packet.timestamp);
    }
    all
}

#[test]
fn a_pod_is_recorded_before_it_has_a_process() {
    const PODS: u32 = 8;
    /// Opening a ring takes a hundredth of a second, on a machine that has nothing else to do.
    const GAP: Duration = Duration::from_millis(50);
    let cluster = recorded_node();
    let ear = cluster.listen("n1");
    let mut seen = BTreeMap::new();
    for pod in 0..PODS {
        let name = format!("young-{pod}");
        let tcpdump = Mutex::new(None);
        let made = thread::scope(|scope| {
            let before = |netns: &Netns| {
                *tcpdump.lock().unwrap() = Some(Tcpdump::start(netns, "any"));
            };
            let connected = |netns: &Netns| {
                let (path, ear): (PathBuf, _) = (netns.path(), &ear);
                // A third of a second long, while its first process comes.
                scope.spawn(move || ear.sound(&path, pod * 10_000, 150));
            };
            let birth = &mut Birth { before: &mut { before }, connected: &mut { connected } };
            cluster.pod_with("n1", "shop", &name, birth)
        });
        let mut tcpdump = tcpdump.into_inner().unwrap().unwrap();
        let last = *ear.heard().last().unwrap();
        wait_until("tcpdump to have it all", WITHIN, || {
            fs::read(tcpdump.file()).is_ok_and(|bytes| contains(&bytes, last))
        });
        assert_eq!(tcpdump.stop(), 0);
        let theirs = numbers(&CaptureFile::read(tcpdump.file())).remove("").unwrap();
        seen.insert(format!("shop/{name}/eth0"), theirs);
        made.delete();
    }
    let ours = numbers(&export(&cluster, "young.pcapng"));
    for (interface, theirs) in &seen {
        let ours = ours.get(interface).cloned().unwrap_or_default();
        let first = theirs.first_key_value().unwrap().1;
        let gap = ours.first_key_value().map(|(_, recorded)| recorded.since(*first));
        eprintln!("{interface}: {} of {} packets, gap {gap:?}", ours.len(), theirs.len());
    }
    for (interface, theirs) in &mut seen {
        let first = *theirs.first_key_value().unwrap().1;
        let ours = ours.get(interface).unwrap_or_else(|| panic!("{interface} is not recorded"));
        let (number, recorded) = ours.first_key_value().unwrap();
        assert!(recorded.since(first) < GAP, "{interface}: from {number} on");
        assert_eq!(*ours, theirs.split_off(number), "{interface}");
    }
}

fn contains(bytes: &[u8], number: u32) -> bool {
    bytes.windows(16).any(|window| Sounder::number(window) == Some(number))
}

#[test]
fn two_hundred_pods_come_and_go_and_nothing_is_left_of_them() {
    const PODS: u32 = 200;
    /// The runtime keeps threads that wait for work; one more per export, say.
    const POOL: usize = 4;
    let began = Instant::now();
    let cluster = recorded_node();
    let ear = cluster.listen("n1");
    // Much shorter than a kubelet can make it.
    let live = |number: u32| {
        let namespace = if number % 10 == 9 { "secret" } else { "shop" };
        let connected = |netns: &Netns| ear.sound(&netns.path(), number * 10_000, 1);
        let birth = &mut Birth { before: &mut |_| (), connected: &mut { connected } };
        let pod = cluster.pod_with("n1", namespace, &format!("mayfly-{number}"), birth);
        ear.sound(&pod.netns().path(), number * 10_000 + 5000, 50);
        pod.delete();
    };
    live(PODS);
    wait_until("the first to be let go", WITHIN, || cluster.cables("n1") == 1);
    let before = cluster.holdings("n1");

    let next = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(number) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < PODS)
                {
                    live(number);
                }
            });
        }
    });
    eprintln!("{PODS} pods came and went within {:?}", began.elapsed());

    let file = export(&cluster, "mayflies.pcapng");
    let on_disk = numbers_in(&cluster.data("n1"));
    let recorded = numbers(&file);
    for number in 0..PODS {
        let heard = heard(&ear, number * 10_000);
        let of = |namespace: &str| {
            let recorded = recorded.get(&format!("{namespace}/mayfly-{number}/eth0"));
            recorded.into_iter().flatten().map(|(number, _)| *number).collect::<BTreeSet<_>>()
        };
        if number % 10 == 9 {
            assert_eq!(of("secret"), BTreeSet::new(), "mayfly-{number} is excluded");
            assert!(heard.is_disjoint(&on_disk), "mayfly-{number} is excluded");
        } else {
            assert!(
                of("shop").is_superset(&heard),
                "mayfly-{number}: {:?} of {heard:?}",
                of("shop")
            );
        }
    }
    // The agent's own is there still.
    wait_until("all namespaces to be let go", WITHIN, || cluster.cables("n1") == 1);
    let mut now = cluster.holdings("n1");
    // Probes stay in a file for a minute after the last process that ran it.
    wait_until("the agent to hold what it held before", WITHIN + Duration::from_mins(1), || {
        let after = cluster.holdings("n1");
        if after != now {
            eprintln!("it held {before:?} and holds {after:?}");
        }
        now = after;
        let Holdings { descriptors, threads, rings, .. } = now;
        let idle = before.threads + POOL;
        descriptors <= before.descriptors && threads <= idle && rings <= before.rings
    });
    eprintln!("before: {before:?}\nafter: {now:?}");
    assert!(now.resident < before.resident + (32 << 20), "{before:?} became {now:?}");
}

/// Every number in any file of a recording.
fn numbers_in(dir: &Path) -> BTreeSet<u32> {
    let files = fs::read_dir(dir).unwrap().flatten();
    let files = files.filter_map(|file| fs::read(file.path()).ok());
    files
        .flat_map(|bytes| bytes.windows(16).filter_map(Sounder::number).collect::<Vec<_>>())
        .collect()
}

/// The numbers from `base` on that arrived at the node.
fn heard(ear: &Sounder, base: u32) -> BTreeSet<u32> {
    ear.heard().range(base..base + 10_000).copied().collect()
}

fn is_recorded(file: &CaptureFile, interface: &str, heard: &BTreeSet<u32>) -> bool {
    let recorded = numbers(file).remove(interface).unwrap_or_default();
    heard.iter().all(|number| recorded.contains_key(number))
}

/// A pod that says something right after its link is up.
fn pod_that_sounds(cluster: &Cluster, ear: &Sounder, full_name: &str, base: u32) -> Pod {
    let connected = |netns: &Netns| ear.sound(&netns.path(), base, 3);
    let birth = &mut Birth { before: &mut |_| (), connected: &mut { connected } };
    let (namespace, name) = full_name.split_once('/').unwrap();
    cluster.pod_with("n1", namespace, name, birth)
}

#[test]
fn pods_that_come_while_the_api_server_is_away_are_recorded_once_it_is_back_and_excluded_ones_never()
 {
    let cluster = recorded_node();
    let data = cluster.data("n1");
    let ear = cluster.listen("n1");
    let old = pod_that_sounds(&cluster, &ear, "shop/old", 10_000);
    wait_until("the pod to be recorded", WITHIN, || {
        is_recorded(
            &export(&cluster, &format!("{}.pcapng", mark()[60])),
            "shop/old/eth0",
            &heard(&ear, 10_000),
        )
    });
    let told =
        || fs::read_to_string(data.join("pods.json")).is_ok_and(|text| text.contains("\"old\""));
    wait_until("the pod to be written down", WITHIN, told);

    cluster.control(Command::Serve { serving: false });
    let (late, spy) = (
        pod_that_sounds(&cluster, &ear, "shop/late", 20_000),
        pod_that_sounds(&cluster, &ear, "secret/spy", 30_000),
    );
    wait_until("two to be undecided", WITHIN, || {
        status(&data).is_some_and(|s| s.undecided.namespaces == 2 && s.undecided.packets > 0)
    });
    // An export says what it does not have.
    let done = pcapdump(&data, &["--dest", "/dev/null/no.pcapng"]);
    assert_ne!(done.status.code(), Some(0));
    let report = cluster.dir().join("report.json");
    let arguments = ["--report", &report.display().to_string()];
    let partial = window(&data, 3, &arguments);
    assert!(is_recorded(&partial, "shop/old/eth0", &heard(&ear, 10_000)));
    let report: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    assert!(report.to_string().contains("\"undecided\""), "{report}");

    // The next agent knows no more than this one.
    cluster.signal_agent("n1", Signal::TERM);
    wait_until("the next agent to wait for a decision", WITHIN, || {
        status(&data).is_some_and(|status| {
            let told = |what| status.problems.iter().any(|problem| problem.contains(what));
            status.undecided.namespaces == 2 && told("known before the restart") && told(late.uid())
        })
    });
    for (pod, base) in [(&old, 11_000), (&late, 21_000), (&spy, 31_000)] {
        ear.sound(&pod.netns().path(), base, 3);
    }
    for base in [20_000, 30_000] {
        assert!(heard(&ear, base).is_disjoint(&numbers_in(&data)), "nobody has decided");
    }

    cluster.control(Command::Serve { serving: true });
    let back = Instant::now();
    wait_until("the agent to be content", WITHIN, || {
        status(&data)
            .is_some_and(|status| status.problems.is_empty() && status.undecided.namespaces == 0)
    });
    eprintln!("all is well {:?} after the API server came back", back.elapsed());
    // Whoever goes on from what the server has forgotten lists anew.
    cluster.control(Command::Expire);
    cluster.control(Command::CutWatches { abruptly: true });
    let fresh = pod_that_sounds(&cluster, &ear, "shop/fresh", 40_000);
    let cut = Instant::now();
    wait_until("the pod to be decided about", WITHIN, || {
        status(&data).is_some_and(|status| status.undecided.namespaces == 0)
    });
    eprintln!("all is well {:?} after the watches expired", cut.elapsed());
    cluster.wait_for_agents(WITHIN);
    // What the first of the two agents let go of is counted.
    let file = window(&data, 3, &[]);
    let of = |base: u32| heard(&ear, base).into_iter().filter(|n| *n < base + 1000).collect();
    for (pod, base) in [(&old, 10_000), (&old, 11_000), (&late, 21_000), (&fresh, 40_000)] {
        let interface = format!("{}/eth0", pod.full_name());
        assert!(is_recorded(&file, &interface, &of(base)), "{interface} from {base}");
    }
    for base in [30_000, 31_000] {
        assert!(of(base).is_disjoint(&numbers_in(&data)), "the excluded pod");
    }
}

#[test]
fn settings_change_in_mid_traffic_and_a_pod_that_stays_loses_nothing() {
    let cluster = Cluster::start(1);
    let (cart, till, vault) = (
        cluster.pod("n1", "shop", "cart-1"),
        cluster.pod("n1", "shop", "till-1"),
        cluster.pod("n1", "pay", "vault-1"),
    );
    cluster.expect(0, &["tap", "--set", "headless=true"]);
    for pod in [&cart, &till, &vault] {
        pod.wait_to_carry();
    }
    let dir = tempfile::tempdir().unwrap();
    let pcap = dir.path().join("traffic.pcap");
    write_pcap(&pcap, (0..200_000).map(|number| numbered(number, 100)));
    let beside = Beside::start(&cart);
    let mut traffic = start_sending(cart.netns(), "eth0", &pcap, Rate::PerSecond(4000));

    // `tap` returns once every agent goes by the new settings.
    let settings: [&[&str]; 9] = [
        &["cart"],
        &["cart", "--set", "tap.namespaces={shop}"],
        &["", "--set", "tap.namespaces={shop,pay}"],
        &["--set", "tap.excludedNamespaces={pay}"],
        &["--set", "tap.bpfOverride=ip or ip6"],
        &["--set", "tap.bpfOverride=not arp"],
        &["--set", "tap.bpfOverride=null"],
        &["--set", "pcapdump.maxSize=300MB"],
        &["--set", "pcapdump.maxTime=30m", "--set", "pcapdump.timeInterval=5s"],
    ];
    let mut excluded = None;
    for change in settings {
        cluster.expect(0, &[&["tap", "--set", "headless=true"], change].concat());
        traffic.assert_running();
        if change.iter().any(|word| word.contains("excluded")) {
            let frame = mark();
            vault.send(&frame);
            excluded = Some(frame);
        }
    }
    traffic.signal(Signal::TERM);
    let seen = beside.stop(&cart);
    let all = export(&cluster, "all.pcapng");
    let count = seen.assert_same(&all);
    eprintln!("{count} packets of the pod that stayed");
    assert!(count > 10_000);
    let excluded = excluded.unwrap();
    let of_vault = |name: Option<&str>| name.is_some_and(|name| name.starts_with("pay/"));
    assert!(!all.packets().any(|p| of_vault(p.interface) && p.data == excluded));
}
