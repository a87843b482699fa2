//! What needs rights: opening sockets in other network namespaces, and files of other processes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use kuberewind_packet::NetnsId;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::message::{Stage, Wanted};
use crate::links;
use crate::namespaces::{OWN, parse_link};
use crate::sys::PacketSocket;

/// `NSFS_MAGIC`
const NSFS: i64 = 0x6e73_6673;

/// Why there are no sockets.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) stage: Stage,
    pub(crate) error: io::Error,
    /// Of [`Stage::Another`]: which namespace is there.
    pub(crate) found: NetnsId,
}

impl Refused {
    pub(crate) fn at(stage: Stage, error: impl Into<io::Error>) -> Self {
        Self { stage, error: error.into(), found: NetnsId(0) }
    }
}

/// The namespace that a thread comes from.
#[derive(Debug)]
pub(crate) struct Home {
    file: OwnedFd,
    netns: NetnsId,
}

impl Home {
    pub(crate) fn find() -> io::Result<Self> {
        let file = open(Path::new(OWN), OFlags::RDONLY)?;
        let netns = number(&file)?;
        Ok(Self { file, netns })
    }

    fn enter(file: impl AsFd) -> Result<(), Errno> {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
    }

    /// Opens sockets in the network namespace to which a file leads, if it is this one. The thread is
    /// at home afterwards.
    ///
    /// # Panics
    ///
    /// If the kernel does not let it back: it would keep the other namespace alive.
    pub(crate) fn sockets(
        &self,
        path: &Path,
        netns: NetnsId,
        wanted: Wanted,
    ) -> Result<Vec<OwnedFd>, Refused> {
        let file = open(path, OFlags::RDONLY).map_err(|e| Refused::at(Stage::Open, e))?;
        let found = number(&file).map_err(|e| Refused::at(Stage::Open, e))?;
        if found != netns {
            let error = io::ErrorKind::NotFound.into();
            return Err(Refused { stage: Stage::Another, error, found });
        }
        if netns == self.netns {
            return sockets(wanted);
        }
        Self::enter(&file).map_err(|e| Refused::at(Stage::Enter, e))?;
        let opened = sockets(wanted);
        Self::enter(&self.file).expect("the way back to the own network namespace");
        opened
    }
}

fn sockets(wanted: Wanted) -> Result<Vec<OwnedFd>, Refused> {
    let mut opened = Vec::with_capacity(3);
    for _ in 0..wanted.packets {
        let socket = PacketSocket::open().map_err(|e| Refused::at(Stage::Packets, e))?;
        opened.push(socket.into());
    }
    if wanted.links {
        opened.push(links::open_socket().map_err(|e| Refused::at(Stage::Links, e))?);
    }
    Ok(opened)
}

/// Which namespace a file leads to; none when it is an ordinary file: `/run/netns/NAME` is one for a
/// moment, until the namespace is mounted on it.
pub(crate) fn which(path: &Path) -> io::Result<Option<NetnsId>> {
    let file = open(path, OFlags::RDONLY)?;
    if rustix::fs::fstatfs(&file)?.f_type as i64 != NSFS {
        return Ok(None);
    }
    Ok(Some(number(&file)?))
}

/// The network namespace of a process's first thread.
pub(crate) fn netns_of(process: &Path) -> Result<NetnsId, Errno> {
    let link = rustix::fs::readlinkat(CWD, process.join("ns/net"), Vec::new())?;
    link.to_str().ok().and_then(parse_link).ok_or(Errno::INVAL)
}

pub(crate) fn maps(process: &Path) -> io::Result<OwnedFd> {
    open(&process.join("maps"), OFlags::RDONLY)
}

/// Opens the file that a process has mapped there. The link in `map_files` leads to the very file, with
/// or without a name (Linux 4.3, `CAP_SYS_ADMIN` or `CAP_CHECKPOINT_RESTORE`).
pub(crate) fn mapped(process: &Path, start: u64, end: u64) -> io::Result<OwnedFd> {
    let link = process.join(format!("map_files/{start:x}-{end:x}"));
    // Only pointed at so far: to open a device or a pipe may do something.
    let there = open(&link, OFlags::PATH)?;
    if FileType::from_raw_mode(rustix::fs::fstat(&there)?.st_mode) != FileType::RegularFile {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    open(&crate::tls::own(&there), OFlags::RDONLY)
}

/// The kernel's number for probes in programs.
pub(crate) fn probe_kind() -> io::Result<u32> {
    let text = std::fs::read_to_string("/sys/bus/event_source/devices/uprobe/type")?;
    text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

fn open(path: &Path, how: OFlags) -> io::Result<OwnedFd> {
    let flags = how | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

fn number(file: impl AsFd) -> io::Result<NetnsId> {
    Ok(NetnsId(rustix::fs::fstat(file)?.st_ino))
}

/// On a thread of its own: to enter a namespace needs one that has nothing else to do.
pub(crate) fn sockets_from_here(
    path: &Path,
    netns: NetnsId,
    wanted: Wanted,
) -> Result<Vec<OwnedFd>, Refused> {
    let open = || {
        let home = Home::find().map_err(|e| Refused::at(Stage::Open, e))?;
        home.sockets(path, netns, wanted)
    };
    std::thread::scope(|scope| {
        let opening = std::thread::Builder::new().name("capture-enter".to_owned());
        let opening = opening.spawn_scoped(scope, open);
        let opened = opening.map_err(|e| Refused::at(Stage::Open, e))?.join();
        opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
