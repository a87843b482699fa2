//! What a recorder and its opener will never do, so that nobody who takes one over can: the kernel
//! refuses it.
//!
//! An opener needs `SYS_ADMIN` and `SYS_PTRACE` for two things, to enter network namespaces and to see
//! which they are, and each allows far more: it is left with the few calls that it makes. A recorder has
//! neither; the calls that go further than what it does are switched off before the first packet is read,
//! for all threads and for good (seccomp(2)).

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter_all_threads,
};

/// Calls that no recorder makes.
const NEVER: [libc::c_long; 39] = [
    // Other namespaces: its opener enters them.
    libc::SYS_setns,
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

/// Calls that an opener makes, besides `socket` and `setns`, once its threads run.
const OPENER: [libc::c_long; 34] = [
    // Requests and answers.
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    // Files.
    libc::SYS_openat,
    libc::SYS_readlinkat,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_close,
    // Probes.
    libc::SYS_perf_event_open,
    // Memory and threads, as the language and the C library use them.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    // The end, and what a panic says.
    libc::SYS_write,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Confines this process, all threads that it has and will have. Where the kernel cannot do that,
/// recording goes on without.
pub(super) fn confine() {
    let confined = program().and_then(|program| apply_filter_all_threads(&program));
    if let Err(error) = confined {
        tracing::warn!(%error, "the recorder is not confined: no seccomp");
    }
}

/// Confines an opener: all threads that it has, and it can make no others.
pub(super) fn confine_opener() {
    let confined = opener_program().and_then(|program| apply_filter_all_threads(&program));
    if let Err(error) = confined {
        anstream::eprintln!("kuberewind: the opener is not confined: no seccomp: {error}");
    }
}

fn program() -> Result<BpfProgram, seccompiler::Error> {
    let rules = NEVER.into_iter().map(|call| (call, Vec::new())).collect();
    compile(rules, SeccompAction::Allow, refused())
}

fn opener_program() -> Result<BpfProgram, seccompiler::Error> {
    let mut rules: BTreeMap<_, _> = OPENER.into_iter().map(|call| (call, Vec::new())).collect();
    let kinds = [libc::AF_PACKET, libc::AF_NETLINK];
    let kinds = kinds.map(|kind| equals(0, u64::from(kind.unsigned_abs())));
    rules.insert(libc::SYS_socket, kinds.into_iter().collect::<Result<_, _>>()?);
    // `setns(fd, type)`: the kernel compares the file's type with this one, unless it is 0.
    let network = u64::from(libc::CLONE_NEWNET.unsigned_abs());
    rules.insert(libc::SYS_setns, vec![equals(1, network)?]);
    compile(rules, refused(), SeccompAction::Allow)
}

fn refused() -> SeccompAction {
    SeccompAction::Errno(libc::EPERM.unsigned_abs())
}

/// Calls with a rule, and all others.
fn compile(
    rules: BTreeMap<libc::c_long, Vec<SeccompRule>>,
    others: SeccompAction,
    these: SeccompAction,
) -> Result<BpfProgram, seccompiler::Error> {
    let arch = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, others, these, arch)?.try_into()?)
}

fn equals(argument: u8, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    let is = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?;
    SeccompRule::new(vec![is])
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
    fn confined<T: Send>(program: &BpfProgram, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let confined = scope.spawn(|| {
                seccompiler::apply_filter(program).unwrap();
                act()
            });
            confined.join().unwrap()
        })
    }

    fn enter(name: &str, kind: LinkNameSpaceType) -> Result<(), Errno> {
        let file = File::open(format!("/proc/self/ns/{name}")).unwrap();
        move_into_link_name_space(file.as_fd(), Some(kind))
    }

    fn enter_each() -> [Result<(), Errno>; 3] {
        [
            enter("net", LinkNameSpaceType::Network),
            enter("uts", LinkNameSpaceType::HostNameAndNISDomainName),
            enter("ipc", LinkNameSpaceType::InterProcessCommunication),
        ]
    }

    #[test]
    fn a_recorder_enters_no_namespace() {
        let entered = confined(&program().unwrap(), enter_each);
        assert_eq!(entered, [Err(Errno::PERM); 3]);
    }

    #[test]
    fn an_opener_enters_network_namespaces_and_no_other() {
        let entered = confined(&opener_program().unwrap(), enter_each);
        assert_eq!(entered, [Ok(()), Err(Errno::PERM), Err(Errno::PERM)]);
    }

    #[test]
    fn no_other_root_is_taken_and_no_program_started() {
        for program in [program().unwrap(), opener_program().unwrap()] {
            let (taken, started) =
                confined(&program, || (chroot("/"), Command::new("true").status()));
            assert_eq!(taken, Err(Errno::PERM));
            assert_eq!(started.unwrap_err().kind(), ErrorKind::PermissionDenied);
        }
    }
}
