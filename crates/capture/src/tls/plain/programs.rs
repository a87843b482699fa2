//! The BPF programs in the kernel, and where they are attached.

use std::fs::File;
use std::io;

use kuberewind_packet::NetnsId;
use libbpf_rs::{Link, MapCore as _, MapFlags, MapHandle, Object, ProgramMut, UprobeMultiOpts};

use super::super::elf::{Elf, Machine};
use super::super::error::TlsError;
use super::super::kernel::{key, load, map, sum};
use super::super::processes::own;

static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/plain.bpf.o"));

/// The functions of OpenSSL and `GnuTLS` that carry data, and the programs at their beginnings. Those of `GnuTLS` take
/// and give what those of OpenSSL do.
const CARRIERS: [(&str, &str); 6] = [
    ("SSL_read", "ssl_read"),
    ("SSL_write", "ssl_write"),
    ("SSL_read_ex", "ssl_read_ex"),
    ("SSL_write_ex", "ssl_write_ex"),
    ("gnutls_record_recv", "ssl_read"),
    ("gnutls_record_send", "ssl_write"),
];
/// Those after which an object may be another connection's.
const ENDS: [&str; 9] = [
    "SSL_free",
    "SSL_clear",
    "SSL_set_bio",
    "SSL_set0_rbio",
    "SSL_set0_wbio",
    "gnutls_deinit",
    "gnutls_transport_set_ptr",
    "gnutls_transport_set_ptr2",
    "gnutls_transport_set_int2",
];

/// The programs, loaded.
#[derive(Debug)]
pub(super) struct Programs {
    object: Object,
}

/// What the programs and this process share.
#[derive(Debug)]
pub(super) struct Maps {
    chosen: MapHandle,
    counters: MapHandle,
    pub(super) pieces: MapHandle,
}

/// What the programs counted since they were loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) pieces: u64,
    pub(super) bytes: u64,
    pub(super) lost: u64,
    pub(super) unplaced: u64,
}

/// Where a file's functions are, in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    /// Each with its program.
    carriers: Vec<(&'static str, u64)>,
    ends: Vec<u64>,
}

impl Places {
    /// Looks into a file. A function that only tells where an object ends is not missed: older
    /// versions lack some.
    pub(super) fn of(file: File) -> Self {
        Self::find(file).unwrap_or_default()
    }

    fn find(file: File) -> Option<Self> {
        let mut elf = Elf::open(file).ok()?;
        if elf.machine == Machine::Other {
            return None;
        }
        let mut offset = |name: &str| {
            let address = match elf.exported(name).ok()? {
                Some(address) => Some(address),
                None => elf.symbol(name).ok()?,
            };
            elf.code_offset_of(address?)
        };
        let carriers = CARRIERS.iter();
        let carriers: Vec<_> =
            carriers.filter_map(|(name, program)| Some((*program, offset(name)?))).collect();
        let ends: Vec<_> = ENDS.iter().filter_map(|name| offset(name)).collect();
        // Without its end a connection might be taken for the next one's.
        (!ends.is_empty()).then_some(Self { carriers, ends })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.carriers.is_empty()
    }
}

impl Programs {
    pub(super) fn load() -> Result<(Self, Maps), TlsError> {
        let object = load(OBJECT).map_err(|source| TlsError::Load { source })?;
        let maps = Maps {
            chosen: map(&object, "chosen")?,
            counters: map(&object, "counters")?,
            pieces: map(&object, "pieces")?,
        };
        Ok((Self { object }, maps))
    }

    /// Looks at the system calls of all processes: those that are within a call of a library tell which
    /// socket it uses.
    pub(super) fn watch_system_calls(&self) -> Result<Link, libbpf_rs::Error> {
        self.program("system_call")?.attach()
    }

    /// Attaches to a file, in every process that runs it, now or later. The ends come first, for a
    /// connection must not outlive its object.
    pub(super) fn attach(
        &self,
        file: &File,
        places: &Places,
    ) -> Result<Vec<Link>, libbpf_rs::Error> {
        let all: Vec<_> = places.carriers.iter().map(|(_, offset)| *offset).collect();
        let mut links = vec![
            self.probe("ssl_forget", file, &places.ends, false)?,
            self.probe("returned", file, &all, true)?,
        ];
        for (program, offset) in &places.carriers {
            links.push(self.probe(program, file, &[*offset], false)?);
        }
        Ok(links)
    }

    /// A link of many probes, which takes neither `CAP_SYS_ADMIN` nor the opener; Linux 6.6.
    fn probe(
        &self,
        name: &'static str,
        file: &File,
        offsets: &[u64],
        retprobe: bool,
    ) -> Result<Link, libbpf_rs::Error> {
        const EVERY_PROCESS: i32 = -1;
        let offsets: Result<Vec<_>, _> = offsets.iter().map(|at| usize::try_from(*at)).collect();
        let offsets = offsets.map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let options = UprobeMultiOpts { offsets, retprobe, ..UprobeMultiOpts::default() };
        let program = self.program(name)?;
        program.attach_uprobe_multi_with_opts(EVERY_PROCESS, own(file), "", options)
    }

    fn program(&self, name: &'static str) -> io::Result<ProgramMut<'_>> {
        let mut programs = self.object.progs_mut();
        let program = programs.find(|program| program.name() == name);
        program.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

impl Maps {
    /// Lets plaintext of this namespace out of the kernel.
    pub(super) fn add(&self, netns: NetnsId) -> Result<(), libbpf_rs::Error> {
        self.chosen.update(&key(netns), &1_u32.to_ne_bytes(), MapFlags::ANY)
    }

    /// Keeps it there.
    pub(super) fn remove(&self, netns: NetnsId) -> Result<(), libbpf_rs::Error> {
        self.chosen.delete(&key(netns))
    }

    pub(super) fn counts(&self) -> Counts {
        let count = |index| sum(&self.counters, index);
        Counts { pieces: count(0), bytes: count(1), lost: count(2), unplaced: count(3) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_takes_the_programs() {
        let (programs, _) = Programs::load().unwrap();
        let _link = programs.watch_system_calls().unwrap();
    }

    #[test]
    fn openssl_is_probed_where_it_reads_and_writes() {
        let library = File::open("/usr/lib/x86_64-linux-gnu/libssl.so.3").unwrap();
        let places = Places::of(library);
        assert_eq!((places.carriers.len(), places.ends.len()), (4, 5));
        let other = File::open("/usr/lib/x86_64-linux-gnu/libcrypto.so.3").unwrap();
        assert!(Places::of(other).is_empty());
    }
}
