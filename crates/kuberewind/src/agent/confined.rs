//! What a recorder will never do, so that nobody who takes it over can: the kernel refuses it.
//!
//! A recorder needs `SYS_ADMIN` and `SYS_PTRACE` for two things, to enter network namespaces and to see
//! which they are, and each allows far more. The calls that go further are switched off before the first
//! packet is read, for all threads and for good (seccomp(2)).

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter_all_threads,
};

/// Calls that no recorder makes.
const NEVER: [libc::c_long; 38] = [
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_madvise,
    libc::SYS_execve,
    libc::SYS_execveat,
    // Other files than those that its mounts show.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_by_handle_at,
    libc::SYS_unshare,
    libc::SYS_mknodat,
    libc::SYS_quotactl,
    // The kernel.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_clock_settime,
    libc::SYS_settimeofday,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_keyctl,
];

/// Confines this process, all threads that it has and will have. Where the kernel cannot do that,
/// recording goes on without.
pub(crate) fn confine() {
    let confined = program().and_then(|program| apply_filter_all_threads(&program));
    if let Err(error) = confined {
        tracing::warn!(%error, "the recorder is not confined: no seccomp");
    }
}

fn program() -> Result<BpfProgram, seccompiler::Error> {
    let mut rules: BTreeMap<_, _> = NEVER.into_iter().map(|call| (call, Vec::new())).collect();
    rules.insert(libc::SYS_setns, vec![into_other_than_network()?]);
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch)?;
    Ok(filter.try_into()?)
}

/// `setns(fd, type)`: the kernel compares the file's type with this one, unless it is 0.
fn into_other_than_network() -> Result<SeccompRule, seccompiler::BackendError> {
    let network = u64::from(libc::CLONE_NEWNET.unsigned_abs());
    let other = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, network)?;
    SeccompRule::new(vec![other])
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::ErrorKind;
    use std::os::fd::AsFd;
    use std::process::Command;

    use rustix::io::Errno;
    use rustix::process::chroot;
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

    use super::*;

    /// On a thread of its own: what it does to itself nobody else has to bear.
    fn confined<T: Send>(act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let confined = scope.spawn(|| {
                seccompiler::apply_filter(&program().unwrap()).unwrap();
                act()
            });
            confined.join().unwrap()
        })
    }

    fn enter(name: &str, kind: LinkNameSpaceType) -> Result<(), Errno> {
        let file = File::open(format!("/proc/self/ns/{name}")).unwrap();
        move_into_link_name_space(file.as_fd(), Some(kind))
    }

    #[test]
    fn a_network_namespace_can_be_entered_and_no_other() {
        let entered = confined(|| {
            [
                enter("net", LinkNameSpaceType::Network),
                enter("uts", LinkNameSpaceType::HostNameAndNISDomainName),
                enter("ipc", LinkNameSpaceType::InterProcessCommunication),
            ]
        });
        assert_eq!(entered, [Ok(()), Err(Errno::PERM), Err(Errno::PERM)]);
    }

    #[test]
    fn no_other_root_is_taken_and_no_program_started() {
        let (taken, started) = confined(|| (chroot("/"), Command::new("true").status()));
        assert_eq!(taken, Err(Errno::PERM));
        assert_eq!(started.unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
}
