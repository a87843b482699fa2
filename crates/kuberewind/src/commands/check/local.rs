//! Of this machine.

use std::io;
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability};
use kuberewind_capture::{NetnsSpec, TlsError, missing_rights, try_ring, try_tls};
use kuberewind_export::figures;
use rustix::fs::{Access, access, statfs};

use super::super::{settings, tap};
use super::finding::Finding;
use super::kernel;
use crate::agent::Room;
use crate::cli::CheckArgs;
use crate::client::{Client, NotRunning};
use crate::config::Config;
use crate::exit::one_line;

/// Where the kernel keeps the layout of its structures, for BPF programs.
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Where `ip netns` and container runtimes keep network namespaces by name.
const NETNS: &str = "/run/netns";

/// Sockets of container runtimes, which tell that one is here.
const RUNTIMES: [(&str, &str); 5] = [
    ("containerd", "/run/containerd/containerd.sock"),
    ("k3s's containerd", "/run/k3s/containerd/containerd.sock"),
    ("CRI-O", "/run/crio/crio.sock"),
    ("Docker", "/run/docker.sock"),
    ("Podman", "/run/podman/podman.sock"),
];

/// Capabilities, each with what is not possible without it.
const CAPABILITIES: [(Capability, &str); 5] = [
    (Capability::CAP_NET_RAW, "recording"),
    (Capability::CAP_SYS_ADMIN, "recording other network namespaces (--netns)"),
    (Capability::CAP_SYS_PTRACE, "recording a process's network namespace (--netns PID), and TLS"),
    (Capability::CAP_BPF, "decrypting TLS"),
    (Capability::CAP_PERFMON, "decrypting TLS"),
];

/// Numbers of file systems (statfs(2)) that a recording should not lie on.
const UNFIT: [(u32, &str); 5] = [
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x0102_1994, "memory (tmpfs)"),
    (0x794c_7630, "an overlay, as in a container"),
];

pub(super) fn look(args: &CheckArgs) -> anyhow::Result<Vec<Finding>> {
    let settings = settings::load(&args.settings)?;
    let config = settings.config();
    let mut findings = capabilities();
    findings.extend(capture());
    findings.extend(tls());
    findings.push(runtimes());
    findings.push(namespaces());
    findings.extend(disk(config));
    findings.push(recorder(config));
    Ok(findings)
}

fn capabilities() -> Vec<Finding> {
    let lacks = |capability: Capability| {
        let has = caps::has_cap(None, CapSet::Effective, capability);
        // An old kernel does not know the newest two: SYS_ADMIN stands for them there and everywhere.
        let stands_in = matches!(capability, Capability::CAP_BPF | Capability::CAP_PERFMON)
            && caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap_or(false);
        !(has.unwrap_or(false) || stands_in)
    };
    let needed = !missing_rights(&[NetnsSpec::Host]).is_empty();
    let mut findings: Vec<Finding> = CAPABILITIES
        .into_iter()
        .filter(|(capability, _)| lacks(*capability))
        .map(|(capability, what)| {
            let found = format!("{capability} is missing");
            let blocks = needed && capability == Capability::CAP_NET_RAW;
            let finding = if blocks { Finding::blocks } else { Finding::warning };
            finding("rights", found).hinders(what).mend("run it with sudo")
        })
        .collect();
    if findings.is_empty() {
        let all: Vec<_> = CAPABILITIES.iter().map(|(name, _)| name.to_string()).collect();
        findings.push(Finding::ok("rights", all.join(", ")));
    }
    findings
}

fn capture() -> Vec<Finding> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let kernel = kernel::judge("", &release, false)
        .unwrap_or_else(|| Finding::ok("kernel", format!("Linux {release}")));
    let ring = match try_ring() {
        Ok(()) => Finding::ok("capture", "packet sockets with a ring (AF_PACKET, TPACKET_V3)"),
        Err(error) => {
            let mend = match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
                Some(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) => "run it with sudo",
                Some(rustix::io::Errno::AFNOSUPPORT) => {
                    "a kernel with CONFIG_PACKET, or `modprobe af_packet`"
                }
                _ => "a kernel with CONFIG_PACKET",
            };
            Finding::blocks("capture", format!("no packet socket with a ring: {error}"))
                .hinders("recording")
                .mend(mend)
        }
    };
    vec![kernel, ring]
}

fn tls() -> Vec<Finding> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    if let Some(old) = kernel::judge("", &release, true) {
        return vec![Finding { topic: "TLS", ..old }];
    }
    let warning = |found: String| Finding::warning("TLS", found).hinders("decrypting TLS");
    let btf = if Path::new(BTF).exists() {
        Finding::ok("TLS", format!("the kernel's BTF, {BTF}"))
    } else {
        warning(format!("no {BTF}")).mend("a kernel with CONFIG_DEBUG_INFO_BTF")
    };
    let probes = match try_tls() {
        Ok(()) => Finding::ok("TLS", "the probes load"),
        Err(error @ TlsError::Rights { .. }) => {
            warning(one_line(&error.into())).mend("run it with sudo")
        }
        Err(error) => warning(one_line(&error.into()))
            .mend("a kernel with CONFIG_BPF_SYSCALL and CONFIG_UPROBE_EVENTS; in lockdown mode it refuses them"),
    };
    vec![btf, probes]
}

fn runtimes() -> Finding {
    let there: Vec<String> = RUNTIMES
        .into_iter()
        .filter(|(_, path)| Path::new(path).exists())
        .map(|(name, path)| format!("{name} ({path})"))
        .collect();
    let found = if there.is_empty() { "none found".to_owned() } else { there.join(", ") };
    Finding::ok("container runtimes", found)
}

fn namespaces() -> Finding {
    match std::fs::read_dir(NETNS) {
        Ok(entries) => {
            let count = entries.filter_map(Result::ok).count();
            Finding::ok("namespaces", format!("{count} named network namespaces in {NETNS}"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Finding::ok("namespaces", "no named network namespaces")
        }
        Err(error) => Finding::warning("namespaces", format!("{NETNS}: {error}"))
            .hinders("recording network namespaces by name (--netns NAME)")
            .mend("run it with sudo"),
    }
}

fn disk(config: &Config) -> Vec<Finding> {
    let dir = &config.tap.data_dir;
    let there = nearest(dir);
    let shown = dir.display();
    let mut findings = Vec::new();
    if let Err(error) = access(&there, Access::WRITE_OK | Access::EXEC_OK) {
        findings.push(
            Finding::blocks("disk", format!("{} cannot be written: {error}", there.display()))
                .hinders("recording")
                .mend("run it with sudo, or name another directory with --data-dir"),
        );
    }
    let kind = statfs(&there).ok().and_then(|fs| {
        // The numbers have 32 bits, and some the highest of them.
        let number = u32::try_from(fs.f_type & 0xffff_ffff).ok()?;
        UNFIT.into_iter().find(|(unfit, _)| *unfit == number)
    });
    if let Some((_, name)) = kind {
        findings.push(
            Finding::warning("disk", format!("{shown} is on {name}"))
                .hinders("a recording that lasts, and that is this machine's alone")
                .mend("name a directory on a disk of this machine with --data-dir"),
        );
    }
    match Room::of(&there, config.pcapdump.min_free) {
        Ok(room) => findings.push(judge_room("", &room, config.pcapdump.max_size.bytes())),
        Err(error) => findings.push(Finding::warning("disk", format!("{shown}: {error}"))),
    }
    findings
}

/// Whether what `pcapdump.maxSize` may still take is free. `whose` begins the line.
pub(super) fn judge_room(whose: &str, room: &Room, wanted: u64) -> Finding {
    let left = room.left();
    let found = format!(
        "{whose}{} free of {}, of which pcapdump.minFree keeps {}; the recording may still take {}",
        figures::bytes(room.free),
        figures::bytes(room.size),
        figures::bytes(room.min_free),
        figures::bytes(wanted),
    );
    let mend = "free some of the disk, or set a smaller pcapdump.maxSize or pcapdump.minFree";
    if left == 0 {
        Finding::blocks("disk", found).hinders("recording: nothing is written").mend(mend)
    } else if left < wanted {
        Finding::warning("disk", found).hinders("as long a recording as asked for").mend(mend)
    } else {
        Finding::ok("disk", found)
    }
}

/// The directory itself, or what it will be made in.
fn nearest(dir: &Path) -> PathBuf {
    let there = dir.ancestors().find(|dir| dir.exists());
    there.unwrap_or(Path::new("/")).to_owned()
}

fn recorder(config: &Config) -> Finding {
    let dir = &config.tap.data_dir;
    match Client::connect(dir).and_then(|mut client| client.status()) {
        Ok(status) => {
            let (problem, failing) = tap::problem(&status);
            let found = format!("kuberewind {} records into {}", status.version, dir.display());
            if failing {
                Finding::blocks("recorder", format!("{found}: {problem}"))
                    .hinders("recording")
                    .mend("`kuberewind status --local` tells more")
            } else {
                Finding::ok("recorder", found)
            }
        }
        Err(error) if error.is::<NotRunning>() => Finding::ok("recorder", "none is running"),
        Err(error) => Finding::warning("recorder", one_line(&error)).mend("run it with sudo"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn a_disk_that_is_too_full_blocks_and_one_that_is_nearly_warns() {
        let state = |free, wanted| {
            let room = Room { size: 1000, free, min_free: 120 };
            judge_room("", &room, wanted).state
        };
        assert_eq!(state(120, 500), State::Blocks);
        assert_eq!(state(500, 500), State::Warning);
        assert_eq!(state(700, 500), State::Ok);
    }
}
