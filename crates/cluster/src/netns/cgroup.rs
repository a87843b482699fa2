//! Which pod and container a process belongs to, read from `/proc/PID/cgroup`.
//!
//! The kubelet makes one control group per pod and the container runtime one per container below it,
//! in one of these shapes (cgroup v1 has a line per controller, v2 only `0::`):
//!
//! | driver | pod | container |
//! |---|---|---|
//! | cgroupfs | `…/pod8d5b1f5e-3c0a-…` | `ID` (containerd, Docker), `crio-ID` |
//! | systemd | `…-pod8d5b1f5e_3c0a_….slice` | `cri-containerd-ID.scope`, `crio-ID.scope`, `docker-ID.scope` |
//! | both mixed up | `…-pod8d5b1f5e_3c0a_….slice:cri-containerd:ID` | in the same component |
//!
//! From within a cgroup namespace the leading part is missing or is `/..`, so only the pod's own
//! component is looked at. What is deeper than the container belongs to the container: systemd, crun
//! and container engines inside a pod make groups of their own.

/// Whose process it is, as its control group tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// The pod's UID as the kubelet writes it: of a static pod, its hash without dashes. Unknown for
    /// containers of the reader's own pod, when read from within a cgroup namespace.
    pub pod_uid: Option<String>,
    /// The container: 64 hexadecimal digits.
    pub container: Option<String>,
    /// CRI-O's monitor: it sits in the pod's group but stays in the node's network namespace.
    pub monitor: bool,
}

/// Reads the text of a `/proc/PID/cgroup`. Text in no known shape is nobody's process.
pub fn membership(text: &str) -> Membership {
    let mut best = Membership::default();
    for path in text.lines().filter_map(path_of) {
        let found = of_path(path);
        if found.pod_uid.is_some() {
            return found;
        }
        if best.container.is_none() {
            best = found;
        }
    }
    best
}

/// `4:memory:/a/b` → `/a/b`; the path may hold colons.
fn path_of(line: &str) -> Option<&str> {
    let path = line.splitn(3, ':').nth(2)?;
    Some(path.strip_suffix(" (deleted)").unwrap_or(path))
}

fn of_path(path: &str) -> Membership {
    let mut components = path.split(['/', ':']).skip_while(|part| pod_uid(part).is_none());
    if let Some(uid) = components.next().and_then(pod_uid) {
        // Mixed up, the runtime's prefix is a component of its own: `slice:cri-containerd:ID`.
        let named = components.next().unwrap_or_default();
        let container = match components.next() {
            Some(next) if matches!(named, "cri-containerd" | "crio" | "docker") => next,
            _ => named,
        };
        return Membership {
            pod_uid: Some(uid),
            container: container_id(container),
            monitor: container.contains("conmon"),
        };
    }
    let container = path.split(['/', ':']).find_map(container_id);
    Membership { container, ..Membership::default() }
}

/// `pod8d5b1f5e-…` or `kubepods-burstable-pod8d5b1f5e_….slice` → `8d5b1f5e-…`
fn pod_uid(component: &str) -> Option<String> {
    let escaped = match component.strip_suffix(".slice") {
        Some(slice) => {
            let (parent, uid) = slice.rsplit_once("-pod")?;
            let ours = ["kubepods", "burstable", "besteffort"];
            ours.iter().any(|last| parent.ends_with(last)).then_some(uid)?
        }
        None => component.strip_prefix("pod")?,
    };
    let uid = escaped.replace('_', "-");
    is_uid(&uid).then_some(uid)
}

/// A UUID, or the 32 digits that stand for a static pod.
fn is_uid(text: &str) -> bool {
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    match text.len() {
        32 => digits(text),
        36 => {
            let lengths = text.split('-').map(str::len);
            lengths.eq([8, 4, 4, 4, 12]) && text.split('-').all(digits)
        }
        _ => false,
    }
}

/// `ID`, `crio-ID`, `cri-containerd-ID.scope` → `ID`; of a monitor (`crio-conmon-ID.scope`) none.
fn container_id(component: &str) -> Option<String> {
    let scope = component.strip_suffix(".scope").unwrap_or(component);
    let (prefix, id) = scope.rsplit_once('-').unwrap_or(("", scope));
    let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_id && !prefix.contains("conmon")).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    const SHAPES: &str = include_str!("../../tests/data/cgroup-shapes.json");
    const PROCESSES: &str = include_str!("../../tests/data/pods-to-processes.json");
    const PRIVATE: &str = include_str!("../../tests/data/cgroup-from-private-cgroupns.txt");

    fn lines(value: &Value) -> String {
        let lines = value.as_array().unwrap().iter().map(|line| line.as_str().unwrap());
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn every_known_shape_leads_to_its_pod() {
        let shapes: Value = serde_json::from_str(SHAPES).unwrap();
        for example in shapes["examples"].as_array().unwrap() {
            let found = membership(&lines(&example["proc_cgroup"]));
            assert_eq!(found.pod_uid.as_deref(), example["pod_uid"].as_str(), "{example:#}");
            assert_eq!(found.container.as_deref(), example["container_id"].as_str(), "{example:#}");
            let monitor = example["name"].as_str().unwrap().contains("conmon");
            assert_eq!(found.monitor, monitor, "{example:#}");
        }
    }

    #[test]
    fn every_recorded_process_leads_to_its_pod() {
        let recorded: Value = serde_json::from_str(PROCESSES).unwrap();
        let mut count = 0;
        for pod in recorded["pods"].as_array().unwrap() {
            for process in pod["processes"].as_array().unwrap() {
                let found = membership(&lines(&process["cgroup"]));
                assert_eq!(found.pod_uid.as_deref(), pod["uid"].as_str());
                assert_eq!(found.container.as_deref(), process["container_id"].as_str());
                count += 1;
            }
        }
        for process in recorded["other_node_processes"].as_array().unwrap() {
            assert_eq!(membership(&lines(&process["cgroup"])), Membership::default());
        }
        assert_eq!(count, 21);
    }

    #[test]
    fn a_private_cgroup_namespace_hides_only_the_readers_own_pod() {
        let pods: Value = serde_json::from_str(PROCESSES).unwrap();
        let uid_of = |name: &str| {
            let pods = pods["pods"].as_array().unwrap();
            pods.iter().find(|pod| pod["name"] == name).unwrap()["uid"].as_str().unwrap().to_owned()
        };
        for text in PRIVATE.split("### target ").skip(1) {
            let (head, text) = text.split_once('\n').unwrap();
            let name = head.split(' ').next().unwrap();
            let found = membership(text);
            let expected = (name != "besteffort").then(|| uid_of(name));
            assert_eq!(found.pod_uid, expected, "{head}");
            let own_container = head.contains("besteffort (BestEffort) container");
            assert_eq!(found.container.is_none(), own_container, "{head}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "\\PC*") {
            membership(&text);
        }

        #[test]
        fn any_mix_of_known_parts_is_read(
            parts in prop::collection::vec(prop_oneof![
                Just("0::"), Just("/"), Just(":"), Just("pod"), Just(".slice"), Just(".scope"), Just("-pod"),
                Just("kubepods"), Just("crio-conmon-"), Just("\n"), Just(" (deleted)"), Just("é"),
                Just("8d5b1f5e-3c0a-4f6e-9a54-2f6e1c0b7a11"), Just("99dcb84d2a34f7e338778606703258c4"),
            ], 0..24),
        ) {
            let found = membership(&parts.concat());
            prop_assert!(found.pod_uid.is_none_or(|uid| is_uid(&uid)));
        }
    }
}
