//! Real processes in control groups shaped like the kubelet's, in namespaces of their own.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use kuberewind_cluster::netns::{Namespaces, PodNetns, Scanner, Whose};
use kuberewind_packet::NetnsId;

/// A pod made of control groups and processes.
pub(crate) struct Pod {
    pub(crate) uid: String,
    groups: Vec<PathBuf>,
    processes: Vec<Child>,
}

/// The control group hierarchies that this machine has: of v1, of v1 with v2 beside it, or v2 alone.
pub(crate) fn hierarchies() -> Vec<&'static str> {
    let all = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let there = |path: &&str| PathBuf::from(path).join("cgroup.procs").exists();
    let found: Vec<_> = all.into_iter().filter(there).collect();
    assert!(!found.is_empty(), "no control groups are mounted below /sys/fs/cgroup");
    found
}

/// The driver's name for the pod's group, and for a container's below it.
#[derive(Clone, Copy)]
pub(crate) enum Driver {
    Cgroupfs,
    Systemd,
}

impl Pod {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let uid = format!("{:08x}-0000-4000-8000-{count:012x}", std::process::id());
        Self { uid, groups: Vec::new(), processes: Vec::new() }
    }

    fn whose(&self) -> Whose {
        Whose::Pod(self.uid.clone())
    }

    /// The group of container `id`, in the hierarchy that this machine has.
    pub(crate) fn group(&mut self, hierarchy: &str, driver: Driver, id: u8) -> PathBuf {
        let id = format!("{id:064x}");
        let path = match driver {
            Driver::Cgroupfs => format!("kubepods/besteffort/pod{}/{id}", self.uid),
            Driver::Systemd => {
                let uid = self.uid.replace('-', "_");
                let parents = "kubepods.slice/kubepods-besteffort.slice";
                format!("{parents}/kubepods-besteffort-pod{uid}.slice/cri-containerd-{id}.scope")
            }
        };
        // Below a root of its own, as with the kubelet's --cgroup-root.
        let group = PathBuf::from(hierarchy).join(format!("kuberewind-{}", self.uid)).join(path);
        fs::create_dir_all(&group).unwrap();
        self.groups.push(group.clone());
        group
    }

    /// A process that sleeps, in a network namespace of its own or in ours.
    pub(crate) fn spawn(&mut self, own_namespace: bool) -> u32 {
        let mut command = if own_namespace {
            let mut command = Command::new("unshare");
            command.args(["--net", "sleep", "1000"]);
            command
        } else {
            let mut command = Command::new("sleep");
            command.arg("1000");
            command
        };
        let child = command.spawn().unwrap();
        let pid = child.id();
        self.processes.push(child);
        // `unshare` is in its namespace once it has become `sleep`.
        let comm = PathBuf::from(format!("/proc/{pid}/comm"));
        wait(|| fs::read_to_string(&comm).unwrap() == "sleep\n");
        pid
    }

    /// A process in the namespace of another one.
    fn spawn_beside(&mut self, pid: u32) -> u32 {
        let mut command = Command::new("nsenter");
        command.args([&format!("--net=/proc/{pid}/ns/net"), "sleep", "1000"]);
        let child = command.spawn().unwrap();
        let pid = child.id();
        self.processes.push(child);
        let comm = PathBuf::from(format!("/proc/{pid}/comm"));
        wait(|| fs::read_to_string(&comm).unwrap() == "sleep\n");
        pid
    }

    pub(crate) fn kill(&mut self, pid: u32) {
        let index = self.processes.iter().position(|child| child.id() == pid).unwrap();
        let mut child = self.processes.remove(index);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for child in &mut self.processes {
            let _ = child.kill();
            let _ = child.wait();
        }
        for group in &self.groups {
            // Upwards until one is still in use, or is the hierarchy itself.
            let mut upwards = group.ancestors();
            while upwards.next().is_some_and(|group| fs::remove_dir(group).is_ok()) {}
        }
    }
}

/// Our own namespace stands for the node's: a machine's first process may be out of our reach.
pub(crate) fn scanner() -> Scanner {
    Scanner::new("/proc", |pid| {
        let process = if pid == 1 { "self".to_owned() } else { pid.to_string() };
        let link = fs::read_link(format!("/proc/{process}/ns/net"))?;
        let number = link.to_str().and_then(|link| link.strip_prefix("net:[")?.strip_suffix(']'));
        number
            .and_then(|number| number.parse().ok())
            .map(NetnsId)
            .ok_or(ErrorKind::InvalidData.into())
    })
}

fn wait(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "waited for 10 s");
        std::thread::yield_now();
    }
}

pub(crate) fn put(pid: u32, group: &std::path::Path) {
    fs::write(group.join("cgroup.procs"), pid.to_string()).unwrap();
}

fn netns(pid: u32) -> NetnsId {
    let link = fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let link = link.to_str().unwrap();
    NetnsId(link.strip_prefix("net:[").unwrap().strip_suffix(']').unwrap().parse().unwrap())
}

fn place(found: &Namespaces, pod: &Pod) -> Option<(NetnsId, String)> {
    let PodNetns { place, .. } = found.pods.get(&pod.whose())?;
    place.as_ref().map(|place| (place.netns, place.path.display().to_string()))
}

#[test]
fn pods_are_found_in_both_hierarchies_and_with_both_drivers() {
    let mut scanner = scanner();
    for hierarchy in hierarchies() {
        for driver in [Driver::Cgroupfs, Driver::Systemd] {
            let mut pod = Pod::new();
            let group = pod.group(hierarchy, driver, 1);
            let pid = pod.spawn(true);
            put(pid, &group);
            let found = scanner.look().unwrap();
            assert_eq!(place(&found, &pod), Some((netns(pid), format!("/proc/{pid}/ns/net"))));
            assert_eq!(found.node.netns, netns(std::process::id()));
            drop(pod);
        }
    }
}

#[test]
fn a_process_is_followed_from_the_node_into_its_group_and_its_namespace() {
    let mut scanner = scanner();
    let mut pod = Pod::new();
    let group = pod.group(hierarchies()[0], Driver::Cgroupfs, 1);

    let outside = pod.spawn(false);
    let found = scanner.look().unwrap();
    assert_eq!(found.pods.get(&pod.whose()), None);

    // In the group, still in the node's namespace: known, without a place.
    put(outside, &group);
    let found = scanner.look().unwrap();
    assert_eq!(found.pods.get(&pod.whose()).map(|found| &found.place), Some(&None));

    let sandbox = pod.spawn(true);
    put(sandbox, &group);
    let found = scanner.look().unwrap();
    assert_eq!(place(&found, &pod).unwrap().0, netns(sandbox));
}

#[test]
fn the_namespace_outlives_the_process_that_told_of_it_and_ends_with_the_last() {
    let mut scanner = scanner();
    let mut pod = Pod::new();
    let groups = [1, 2, 3].map(|id| pod.group(hierarchies().last().unwrap(), Driver::Systemd, id));
    let sandbox = pod.spawn(true);
    put(sandbox, &groups[0]);
    let container = pod.spawn_beside(sandbox);
    put(container, &groups[1]);
    let inner = pod.spawn(true);
    put(inner, &groups[2]);
    let netns = netns(sandbox);
    assert_ne!(netns, self::netns(inner));

    let path = |pid: u32| format!("/proc/{pid}/ns/net");
    let oldest = place(&scanner.look().unwrap(), &pod).unwrap();
    assert_eq!(oldest.0, netns);
    pod.kill(sandbox);
    assert_eq!(place(&scanner.look().unwrap(), &pod), Some((netns, path(container))));
    pod.kill(container);
    assert_eq!(place(&scanner.look().unwrap(), &pod), Some((self::netns(inner), path(inner))));
    pod.kill(inner);
    assert_eq!(scanner.look().unwrap().pods.get(&pod.whose()), None);
}
