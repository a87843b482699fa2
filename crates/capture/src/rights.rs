//! Which rights recording needs, and which of them this process lacks.

use std::io;

use crate::namespaces::NetnsSpec;
use crate::ring::{Layout, Ring};

/// A ring that takes nothing, as small as the kernel has them.
const TRIAL: Layout = Layout { block: 4096, blocks: 1 };

/// Opens a capture ring (`TPACKET_V3`) on this process's network namespace and closes it again: whether
/// the kernel has what recording needs, and lets us have it.
pub fn try_ring() -> io::Result<()> {
    Ring::trial(TRIAL)
}

/// Bits of `CapEff`, from `linux/capability.h`.
const CAP_NET_RAW: u32 = 13;
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;

/// Which rights are missing to record these namespaces, one by one, each with what it is for.
pub fn missing_rights(specs: &[NetnsSpec]) -> Vec<String> {
    // Where /proc cannot be read, opening the rings will tell.
    let status = procfs::process::Process::myself().and_then(|process| process.status());
    status.map(|status| missing(specs, status.capeff)).unwrap_or_default()
}

fn missing(specs: &[NetnsSpec], effective: u64) -> Vec<String> {
    let others = specs.iter().any(|spec| *spec != NetnsSpec::Host);
    let processes = specs.iter().any(|spec| matches!(spec, NetnsSpec::Pid(_)));
    let needed = [
        (true, CAP_NET_RAW, "CAP_NET_RAW: to open capture sockets"),
        (others, CAP_SYS_ADMIN, "CAP_SYS_ADMIN: to enter other network namespaces"),
        (processes, CAP_SYS_PTRACE, "CAP_SYS_PTRACE: to open the network namespaces of processes"),
    ];
    let lacking =
        needed.into_iter().filter(|(needed, bit, _)| *needed && effective & (1 << bit) == 0);
    lacking.map(|(_, _, text)| text.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(specs: &[NetnsSpec], effective: u64) -> Vec<String> {
        let name = |text: String| text.split(':').next().unwrap_or_default().to_owned();
        missing(specs, effective).into_iter().map(name).collect()
    }

    #[test]
    fn only_what_the_namespaces_need_is_missed() {
        let (blue, process) = (NetnsSpec::Name("blue".into()), NetnsSpec::Pid(1));
        assert_eq!(names(&[NetnsSpec::Host], 0), ["CAP_NET_RAW"]);
        assert_eq!(names(std::slice::from_ref(&blue), 0), ["CAP_NET_RAW", "CAP_SYS_ADMIN"]);
        assert_eq!(names(&[blue, process], 1 << CAP_NET_RAW), ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE"]);
        assert!(names(&[NetnsSpec::Pid(1)], u64::MAX).is_empty());
    }
}
