//! Pods that come and go on a node that is recorded: from their first packet on, and nothing is left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kuberewind_packet::Timestamp;
use kuberewind_tests::cluster::{Birth, Cluster, Sounder};
use kuberewind_tests::{CaptureFile, Holdings, Netns, Tcpdump, wait_for, wait_until};

const WITHIN: Duration = Duration::from_secs(30);

/// A node that records all but the namespace `secret`.
fn recorded_node() -> Cluster {
    let cluster = Cluster::start(1);
    cluster.expect(0, &["tap", "--set", "headless=true", "-e", "secret"]);
    cluster
}

/// Everything that the node holds.
fn export(cluster: &Cluster, name: &str) -> CaptureFile {
    cluster.expect(0, &["pcapdump", "--dest", name]);
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
fn a_pod_is_recorded_from_its_first_packet_on() {
    const PODS: u32 = 8;
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
    for (interface, theirs) in &seen {
        assert_eq!(ours.get(interface), Some(theirs), "{interface}");
    }
}

fn contains(bytes: &[u8], number: u32) -> bool {
    bytes.windows(16).any(|window| Sounder::number(window) == Some(number))
}

#[test]
fn two_hundred_pods_come_and_go_and_nothing_is_left_of_them() {
    const PODS: u32 = 200;
    let began = Instant::now();
    let cluster = recorded_node();
    let ear = cluster.listen("n1");
    let live = |number: u32| {
        let namespace = if number % 10 == 9 { "secret" } else { "shop" };
        let connected = |netns: &Netns| ear.sound(&netns.path(), number * 10_000, 1);
        let birth = &mut Birth { before: &mut |_| (), connected: &mut { connected } };
        cluster.pod_with("n1", namespace, &format!("mayfly-{number}"), birth).delete();
    };
    live(PODS);
    wait_until("the first to be let go", WITHIN, || cluster.cables("n1") == 1);
    let before = cluster.holdings("n1");

    let next = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(number) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < PODS) {
                    live(number);
                }
            });
        }
    });
    eprintln!("{PODS} pods came and went within {:?}", began.elapsed());

    let file = export(&cluster, "mayflies.pcapng");
    let recorded = numbers(&file);
    for number in 0..PODS {
        let heard = ear.heard().range(number * 10_000..(number + 1) * 10_000).copied().collect();
        let of = |namespace: &str| {
            let recorded = recorded.get(&format!("{namespace}/mayfly-{number}/eth0"));
            recorded.into_iter().flatten().map(|(number, _)| *number).collect::<BTreeSet<_>>()
        };
        if number % 10 == 9 {
            assert_eq!(of("secret"), BTreeSet::new(), "mayfly-{number} is excluded");
            assert!(heard.iter().all(|number| !lies_in(&cluster.data("n1"), *number)));
        } else {
            assert!(of("shop").is_superset(&heard), "mayfly-{number}: {:?} of {heard:?}", of("shop"));
        }
    }
    // The agent's own is there still.
    wait_until("all namespaces to be let go", WITHIN, || cluster.cables("n1") == 1);
    let now = wait_for("the agent to hold what it held before", WITHIN, || {
        let now = cluster.holdings("n1");
        let Holdings { descriptors, threads, rings, .. } = now;
        let less = descriptors <= before.descriptors && threads <= before.threads;
        (less && rings <= before.rings).then_some(now)
    });
    eprintln!("before: {before:?}\nafter: {now:?}");
    assert!(now.resident < before.resident + (32 << 20), "{before:?} became {now:?}");
}

/// Whether any file of the recording has this number in it.
fn lies_in(dir: &Path, number: u32) -> bool {
    let files = fs::read_dir(dir).unwrap().flatten();
    files.filter_map(|file| fs::read(file.path()).ok()).any(|bytes| contains(&bytes, number))
}
