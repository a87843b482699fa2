//! The BPF programs in the kernel: loaded, attached, counted.

use std::fs::File;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::path::Path;

use kuberewind_packet::NetnsId;
use kuberewind_tls::ObjectPath;
use libbpf_rs::{
    Link, MapCore, MapFlags, MapHandle, Object, ObjectBuilder, PerfEventOpts, PrintLevel,
    UprobeMultiOpts, set_print,
};

use super::detach::Detacher;
use super::error::TlsError;
use super::find::{Hook, Place};
use super::processes::own;
use crate::opener::Opener;

/// For links of many probes: these are taken away side by side, where the kernel takes others one after the
/// other, a tenth of a second for each. Linux 6.6 and later.
static MULTI: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tls_multi.bpf.o"));
/// Programs that may sleep read pages that are not in memory yet; Linux 6.0 and later.
static SLEEPABLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tls_sleepable.bpf.o"));
static PLAIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tls.bpf.o"));
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// The programs, loaded.
#[derive(Debug)]
pub(crate) struct Programs {
    object: Object,
    /// It is [`MULTI`].
    multi: bool,
    opener: Opener,
}

/// What the programs and this process share.
#[derive(Debug)]
pub(crate) struct Maps {
    targets: MapHandle,
    counters: MapHandle,
    pub(crate) secrets: MapHandle,
    pub(crate) hints: MapHandle,
}

/// A `struct target` of `bpf/tls.bpf.c`.
const NOTHING_SENT: [u8; 16] = [0; 16];

/// What a program is told of the file that it is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// The file's number, of 30 bits.
    pub(crate) file: u32,
    /// Where its library keeps the client's random, if that is known.
    pub(crate) random: Option<ObjectPath>,
}

impl Told {
    /// As `file_of` in `bpf/tls.bpf.c` takes it apart.
    fn cookie(self) -> u64 {
        let (depth, pointer, offset) = match self.random {
            None => (0_u64, 0, 0),
            Some(ObjectPath { pointer: None, offset }) => (1, 0, offset),
            Some(ObjectPath { pointer: Some(pointer), offset }) => (2, pointer, offset),
        };
        u64::from(self.file) << 34 | depth << 32 | u64::from(pointer) << 16 | u64::from(offset)
    }
}

/// What the programs counted since they were loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Secrets sent.
    pub(crate) secrets: u64,
    /// Calls by processes that are not recorded: nothing of them was read.
    pub(crate) elsewhere: u64,
    /// Secrets that found no room in the ring.
    pub(crate) lost: u64,
    /// Calls whose arguments could not be read.
    pub(crate) unreadable: u64,
    /// Secrets beyond what one namespace may send in a moment.
    pub(crate) refused: u64,
}

/// Bits of `CapEff`, from `linux/capability.h`.
const CAP_SYS_PTRACE: u32 = 19;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// `SYS_ADMIN` would do for the first two, but a recorder gives that away.
fn missing_rights(effective: u64, sees_processes: Option<bool>) -> Vec<String> {
    let has = |bit: u32| effective & (1 << bit) != 0;
    let needed = [
        (has(CAP_BPF), "CAP_BPF: to load BPF programs"),
        (has(CAP_PERFMON), "CAP_PERFMON: to attach them to libraries"),
        (
            sees_processes.unwrap_or(has(CAP_SYS_PTRACE)),
            "CAP_SYS_PTRACE: to see which libraries processes use",
        ),
    ];
    needed.into_iter().filter(|(has, _)| !has).map(|(_, text)| text.to_owned()).collect()
}

impl Programs {
    /// Loads the programs and lets them tell of programs that processes begin to run.
    pub(crate) fn load(opener: Opener) -> Result<(Self, Maps, Link), TlsError> {
        let effective = procfs::process::Process::myself().and_then(|own| own.status());
        let missing =
            effective.map(|status| missing_rights(status.capeff, opener.sees_processes()));
        let missing = missing.unwrap_or_default();
        if !missing.is_empty() {
            return Err(TlsError::Rights { missing });
        }
        set_print(Some((PrintLevel::Warn, |_, text| {
            tracing::debug!("libbpf: {}", text.trim_end());
        })));
        let programs = match Self::load_multi(opener.clone()) {
            Ok(programs) => programs,
            Err(error) => {
                tracing::debug!("links of many probes: {error}");
                Self::load_single(opener)?
            }
        };
        let object = &programs.object;
        let maps = Maps {
            targets: map(object, "targets")?,
            counters: map(object, "counters")?,
            secrets: map(object, "secrets")?,
            hints: map(object, "hints")?,
        };
        let executed = programs.program("executed")?.attach();
        let executed = executed.map_err(|source| TlsError::Load { source })?;
        Ok((programs, maps, executed))
    }

    /// Older kernels load the programs, too, but do not attach them: one is attached to where no
    /// instruction is, for a moment.
    fn load_multi(opener: Opener) -> Result<Self, libbpf_rs::Error> {
        let programs = Self { object: load(MULTI)?, multi: true, opener };
        let own = File::open("/proc/self/exe")?;
        let place = Place { hook: Hook::Loader, offset: 0 };
        let link = programs.attach(place, &own, Told { file: 0, random: None })?;
        Detacher::default().detach([link]);
        Ok(programs)
    }

    fn load_single(opener: Opener) -> Result<Self, TlsError> {
        let object = load(SLEEPABLE).or_else(|sleepable| {
            tracing::debug!("programs that may sleep: {sleepable}");
            load(PLAIN).map_err(|source| {
                if Path::new(BTF).exists() {
                    TlsError::Load { source }
                } else {
                    TlsError::NoBtf { path: BTF }
                }
            })
        })?;
        Ok(Self { object, multi: false, opener })
    }

    /// Attaches a program to an instruction of a file, in every process that runs it, now or later.
    pub(crate) fn attach(
        &self,
        place: Place,
        file: &File,
        told: Told,
    ) -> Result<Link, libbpf_rs::Error> {
        const EVERY_PROCESS: i32 = -1;
        let name = match place.hook {
            Hook::OpenSsl => "openssl_kdf_derive",
            Hook::Go => "go_write_key_log",
            Hook::KeyLog => "c_key_log",
            Hook::RustlsExpand => "rustls_expand",
            Hook::RustlsExpanded => "rustls_expanded",
            Hook::RustlsPrf => "rustls_prf",
            Hook::Loader => "loaded",
        };
        let program = self.program(name);
        let program = program.map_err(|_| std::io::Error::from(std::io::ErrorKind::NotFound))?;
        // Linux 5.15; only these programs ask for it.
        let cookie = if place.hook.asks_where_the_random_is() { told.cookie() } else { 0 };
        if self.multi {
            let offset = usize::try_from(place.offset);
            let offset =
                offset.map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
            let (offsets, cookies) = (vec![offset], vec![cookie]);
            let options = UprobeMultiOpts { offsets, cookies, ..UprobeMultiOpts::default() };
            return program.attach_uprobe_multi_with_opts(EVERY_PROCESS, own(file), "", options);
        }
        let probe = self.opener.probe(file, place.offset)?;
        let options = PerfEventOpts { cookie, ..PerfEventOpts::default() };
        let link = program.attach_perf_event_with_opts(probe.as_raw_fd(), options)?;
        // The link closes it.
        let _ = probe.into_raw_fd();
        Ok(link)
    }

    fn program(&self, name: &'static str) -> Result<libbpf_rs::ProgramMut<'_>, TlsError> {
        let mut programs = self.object.progs_mut();
        programs.find(|program| program.name() == name).ok_or(TlsError::Missing { name })
    }
}

pub(crate) fn load(object: &[u8]) -> Result<Object, libbpf_rs::Error> {
    ObjectBuilder::default().open_memory(object)?.load()
}

pub(crate) fn map(object: &Object, name: &'static str) -> Result<MapHandle, TlsError> {
    let mut maps = object.maps();
    let map = maps.find(|map| map.name() == name).ok_or(TlsError::Missing { name })?;
    MapHandle::try_from(&map).map_err(|source| TlsError::Load { source })
}

impl Maps {
    /// Lets secrets of this namespace out of the kernel.
    pub(crate) fn add(&self, netns: NetnsId) -> Result<(), libbpf_rs::Error> {
        self.targets.update(&key(netns), &NOTHING_SENT, MapFlags::ANY)
    }

    /// Keeps secrets of this namespace in the kernel.
    pub(crate) fn remove(&self, netns: NetnsId) -> Result<(), libbpf_rs::Error> {
        self.targets.delete(&key(netns))
    }

    pub(crate) fn counts(&self) -> Counts {
        let count = |index| sum(&self.counters, index);
        Counts {
            secrets: count(0),
            elsewhere: count(1),
            lost: count(2),
            unreadable: count(3),
            refused: count(5),
        }
    }
}

/// A counter of all processors.
pub(crate) fn sum(counters: &MapHandle, index: u32) -> u64 {
    let values = counters.lookup_percpu(&index.to_ne_bytes(), MapFlags::ANY);
    let values = values.ok().flatten().unwrap_or_default();
    let numbers = values.iter().filter_map(|value| value.first_chunk().copied());
    numbers.map(u64::from_ne_bytes).sum()
}

/// Namespaces are numbered with 32 bits; a number of more is none.
pub(crate) fn key(netns: NetnsId) -> [u8; 4] {
    u32::try_from(netns.0).unwrap_or(0).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_takes_every_kind_of_programs() {
        for object in [PLAIN, SLEEPABLE, MULTI] {
            assert!(load(object).is_ok());
        }
    }

    #[test]
    fn what_a_program_is_told_fits_into_a_number() {
        let cookie = |file, random| Told { file, random }.cookie();
        assert_eq!(cookie(1, None), 1 << 34);
        let behind = ObjectPath { pointer: Some(0xa8), offset: 0xb8 };
        assert_eq!(cookie((1 << 30) - 1, Some(behind)), 0xffff_fffe_00a8_00b8);
    }

    #[test]
    fn each_missing_right_is_named_with_what_it_is_for() {
        let names = |effective| {
            let missing = missing_rights(effective, None).into_iter();
            missing.map(|text| text.split(':').next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(0), ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE"]);
        assert_eq!(names(1 << CAP_SYS_PTRACE), ["CAP_BPF", "CAP_PERFMON"]);
        let loads = 1 << CAP_BPF | 1 << CAP_PERFMON;
        assert!(names(loads | 1 << CAP_SYS_PTRACE).is_empty());
        assert!(missing_rights(loads, Some(true)).is_empty());
        assert_eq!(missing_rights(loads | 1 << CAP_SYS_PTRACE, Some(false)).len(), 1);
    }
}
