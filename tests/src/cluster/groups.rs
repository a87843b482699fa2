//! Control groups shaped like the kubelet's, below a root of the laboratory's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Once;
use std::time::Duration;

use crate::wait_until;

/// What the groups of one node are called below `/sys/fs/cgroup/…`: `kuberewind-PID-n1`, so that what
/// a killed test left is known by its process.
const PREFIX: &str = "kuberewind-";

/// The kubelet's driver: how it names the pods' groups.
#[derive(Clone, Copy, Debug)]
pub(super) enum Driver {
    Cgroupfs,
    Systemd,
}

/// One node's control groups.
#[derive(Debug)]
pub(super) struct Groups {
    root: PathBuf,
    driver: Driver,
}

impl Groups {
    /// `number` chooses among what this machine has: another hierarchy (of v1, or v2) and another
    /// driver for every node.
    pub(super) fn new(node: &str, number: usize) -> Self {
        static SWEPT: Once = Once::new();
        SWEPT.call_once(sweep);
        let hierarchies = hierarchies();
        let hierarchy = hierarchies[number % hierarchies.len()];
        let driver = if number.is_multiple_of(3) { Driver::Systemd } else { Driver::Cgroupfs };
        let root = Path::new(hierarchy).join(format!("{PREFIX}{}-{node}", process::id()));
        fs::create_dir_all(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
        Self { root, driver }
    }

    /// Makes the group of a container; the first one of a pod makes the pod's.
    pub(super) fn make(&self, pod_uid: &str, container_id: &str) -> PathBuf {
        let group = self.root.join(match self.driver {
            Driver::Cgroupfs => format!("kubepods/besteffort/pod{pod_uid}/{container_id}"),
            Driver::Systemd => {
                let uid = pod_uid.replace('-', "_");
                format!(
                    "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{uid}.slice/\
                     cri-containerd-{container_id}.scope"
                )
            }
        });
        fs::create_dir_all(&group).unwrap_or_else(|error| panic!("{}: {error}", group.display()));
        group
    }

    /// Removes a container's group, and the pod's when that was its last. Its processes have been told
    /// to end.
    pub(super) fn remove(&self, group: &Path) {
        wait_until("a control group to be empty", Duration::from_secs(5), || {
            !group.exists() || fs::remove_dir(group).is_ok()
        });
        if let Some(pod) = group.parent().filter(|pod| pod.starts_with(&self.root)) {
            // Other containers of the pod may be there.
            let _ = fs::remove_dir(pod);
        }
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        remove_below(&self.root);
    }
}

/// Every mounted hierarchy that pods can be told by: of v1, of v1 with v2 beside it, or v2 alone.
fn hierarchies() -> Vec<&'static str> {
    let all = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let there = |path: &&str| Path::new(path).join("cgroup.procs").exists();
    let found: Vec<_> = all.into_iter().filter(there).collect();
    assert!(!found.is_empty(), "no control groups are mounted below /sys/fs/cgroup");
    found
}

fn remove_below(group: &Path) {
    let Ok(entries) = fs::read_dir(group) else { return };
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        remove_below(&entry.path());
    }
    // Still in use: the next run sweeps.
    let _ = fs::remove_dir(group);
}

/// Removes what killed test programs left.
fn sweep() {
    for hierarchy in hierarchies() {
        let Ok(entries) = fs::read_dir(hierarchy) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
            let gone =
                |pid: &str| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists();
            if pid.is_some_and(gone) {
                remove_below(&entry.path());
            }
        }
    }
}
