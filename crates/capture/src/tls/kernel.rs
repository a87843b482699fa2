//! The BPF programs in the kernel: loaded, attached, counted.

use std::fs::File;
use std::path::Path;

use kuberewind_packet::NetnsId;
use kuberewind_tls::ObjectPath;
use libbpf_rs::{
    Link, MapCore, MapFlags, MapHandle, Object, ObjectBuilder, PrintLevel, UprobeOpts, set_print,
};

use super::error::TlsError;
use super::find::{Hook, Place};
use super::processes::own;

/// Programs that may sleep read pages that are not in memory yet; Linux 6.0 and later.
static SLEEPABLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tls_sleepable.bpf.o"));
static PLAIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tls.bpf.o"));
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// The programs, loaded.
#[derive(Debug)]
pub(crate) struct Programs {
    object: Object,
}

/// What the programs and this process share.
#[derive(Debug)]
pub(crate) struct Maps {
    targets: MapHandle,
    counters: MapHandle,
    pub(crate) secrets: MapHandle,
    pub(crate) hints: MapHandle,
}

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
}

/// Bits of `CapEff`, from `linux/capability.h`.
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

fn missing_rights(effective: u64) -> Vec<String> {
    let has = |bit: u32| effective & (1 << bit) != 0;
    let needed = [
        (has(CAP_BPF) || has(CAP_SYS_ADMIN), "CAP_BPF: to load BPF programs"),
        (has(CAP_PERFMON) || has(CAP_SYS_ADMIN), "CAP_PERFMON: to attach them to libraries"),
        (has(CAP_SYS_PTRACE), "CAP_SYS_PTRACE: to see which libraries processes use"),
    ];
    needed.into_iter().filter(|(has, _)| !has).map(|(_, text)| text.to_owned()).collect()
}

impl Programs {
    /// Loads the programs and lets them tell of programs that processes begin to run.
    pub(crate) fn load() -> Result<(Self, Maps, Link), TlsError> {
        let effective = procfs::process::Process::myself().and_then(|own| own.status());
        let missing = effective.map(|status| missing_rights(status.capeff)).unwrap_or_default();
        if !missing.is_empty() {
            return Err(TlsError::Rights { missing });
        }
        set_print(Some((PrintLevel::Warn, |_, text| {
            tracing::debug!("libbpf: {}", text.trim_end());
        })));
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
        let maps = Maps {
            targets: map(&object, "targets")?,
            counters: map(&object, "counters")?,
            secrets: map(&object, "secrets")?,
            hints: map(&object, "hints")?,
        };
        let programs = Self { object };
        let executed = programs.program("executed")?.attach();
        let executed = executed.map_err(|source| TlsError::Load { source })?;
        Ok((programs, maps, executed))
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
        let offset = usize::try_from(place.offset);
        let offset = offset.map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
        let program = self.program(name);
        let program = program.map_err(|_| std::io::Error::from(std::io::ErrorKind::NotFound))?;
        // Linux 5.15; only these programs ask for it.
        let cookie = if place.hook.asks_where_the_random_is() { told.cookie() } else { 0 };
        let options = UprobeOpts { cookie, ..UprobeOpts::default() };
        program.attach_uprobe_with_opts(EVERY_PROCESS, own(file), offset, options)
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
        self.targets.update(&key(netns), &1_u32.to_ne_bytes(), MapFlags::ANY)
    }

    /// Keeps secrets of this namespace in the kernel.
    pub(crate) fn remove(&self, netns: NetnsId) -> Result<(), libbpf_rs::Error> {
        self.targets.delete(&key(netns))
    }

    pub(crate) fn counts(&self) -> Counts {
        let count = |index| sum(&self.counters, index);
        Counts { secrets: count(0), elsewhere: count(1), lost: count(2), unreadable: count(3) }
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
    fn the_kernel_takes_both_kinds_of_programs() {
        for object in [PLAIN, SLEEPABLE] {
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
            let missing = missing_rights(effective).into_iter();
            missing.map(|text| text.split(':').next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(0), ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE"]);
        assert_eq!(names(1 << CAP_SYS_ADMIN), ["CAP_SYS_PTRACE"]);
        assert!(names(1 << CAP_BPF | 1 << CAP_PERFMON | 1 << CAP_SYS_PTRACE).is_empty());
    }
}
