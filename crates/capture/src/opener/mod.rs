//! Who opens what needs rights. A recorder lends its rights to a process of its own that does nothing
//! but open files and sockets, and keeps none of them itself: it is the one that reads what others sent.

mod acts;
mod doors;
mod message;
mod process;
mod serve;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use kuberewind_packet::NetnsId;

pub(crate) use acts::Refused;
pub use doors::Doors;
pub(crate) use message::{Stage, Wanted};
#[doc(hidden)]
pub use message::{look_at_message, messages};
pub use process::OpenerProcess;
pub use serve::serve_opener;

use message::{Answer, MOST_PROCESSES, Request};
use process::Line;

use crate::sys;

/// Opens network namespaces, and files of processes. Clones are the same one. The default is this process
/// itself, with the rights that it has.
#[derive(Clone, Debug, Default)]
pub struct Opener {
    doors: Arc<Doors>,
    /// None: this process does it by itself.
    line: Option<Arc<Line>>,
}

/// Sockets of a network namespace, unbound.
#[derive(Debug)]
pub(crate) struct Sockets(std::vec::IntoIter<OwnedFd>);

impl Sockets {
    /// The next one, in the order of [`Wanted`].
    pub(crate) fn next(&mut self) -> io::Result<OwnedFd> {
        self.0.next().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl Opener {
    /// Where processes are shown.
    pub fn proc(&self) -> &Path {
        self.doors.proc()
    }

    /// Why nothing can be opened any more: the process that did has ended.
    pub fn problem(&self) -> Option<String> {
        self.line.as_ref()?.ended().map(|how| {
            format!(
                "the process that opens network namespaces has ended ({how}): what is recorded goes \
                 on, nothing new begins; restart the recorder"
            )
        })
    }

    /// Whether it may see which network namespaces and files processes use.
    pub(crate) fn sees_processes(&self) -> Option<bool> {
        self.line.as_ref().map(|line| line.sees_processes)
    }

    /// Opens sockets in the network namespace to which a file leads, if it is this one.
    pub(crate) fn sockets(
        &self,
        path: &Path,
        netns: NetnsId,
        wanted: Wanted,
    ) -> Result<Sockets, Refused> {
        let Some(line) = &self.line else {
            return Ok(Sockets(acts::sockets_from_here(path, netns, wanted)?.into_iter()));
        };
        let failed = |error| Refused::at(Stage::Open, error);
        let door = self.doors.door(path).ok_or_else(|| failed(no_door()))?;
        let asked = line.ask(&Request::Sockets { door, netns, wanted });
        let (answer, files) = asked.map_err(failed)?;
        match answer {
            Answer { stage: Stage::Done, .. } => Ok(Sockets(files.into_iter())),
            Answer { stage: Stage::Another, numbers, .. } => {
                let found = numbers.first().and_then(|number| u64::try_from(*number).ok());
                let error = io::ErrorKind::NotFound.into();
                Err(Refused { stage: Stage::Another, error, found: NetnsId(found.unwrap_or(0)) })
            }
            Answer { stage, errno, .. } => {
                Err(Refused::at(stage, io::Error::from_raw_os_error(errno)))
            }
        }
    }

    /// Which network namespace a file leads to; none when it is an ordinary file.
    pub(crate) fn which(&self, path: &Path) -> io::Result<Option<NetnsId>> {
        let Some(line) = &self.line else { return acts::which(path) };
        let door = self.doors.door(path).ok_or_else(no_door)?;
        let (answer, _) = done(line.ask(&Request::Which(door))?)?;
        let number = answer.numbers.first().and_then(|number| u64::try_from(*number).ok());
        Ok(number.filter(|number| *number > 0).map(NetnsId))
    }

    /// The network namespaces of processes, of each its first thread's.
    pub(crate) fn netns_of(&self, pids: &[u32]) -> Vec<io::Result<NetnsId>> {
        let Some(line) = &self.line else {
            let here = |pid: &u32| Ok(acts::netns_of(&self.doors.process(*pid))?);
            return pids.iter().map(here).collect();
        };
        let mut found = Vec::with_capacity(pids.len());
        for pids in pids.chunks(MOST_PROCESSES) {
            match line.ask(&Request::NetnsOf(pids.to_vec())).and_then(done) {
                Ok((answer, _)) if answer.numbers.len() == pids.len() => {
                    found.extend(answer.numbers.into_iter().map(netns_or_error));
                }
                Ok(_) => found.extend(pids.iter().map(|_| Err(malformed()))),
                Err(error) => {
                    let again = || io::Error::new(error.kind(), error.to_string());
                    found.extend(pids.iter().map(|_| Err(again())));
                }
            }
        }
        found
    }

    /// The network namespace of a process.
    pub fn netns_of_one(&self, pid: u32) -> io::Result<NetnsId> {
        self.netns_of(&[pid]).pop().unwrap_or_else(|| Err(malformed()))
    }

    /// A process's list of mappings.
    pub(crate) fn maps(&self, pid: u32) -> io::Result<File> {
        let opened = match &self.line {
            None => acts::maps(&self.doors.process(pid)),
            Some(line) => line.ask(&Request::Maps(pid)).and_then(one),
        };
        opened.map(File::from)
    }

    /// The file that a process has mapped between these addresses.
    pub(crate) fn mapped(&self, pid: u32, (start, end): (u64, u64)) -> io::Result<File> {
        let opened = match &self.line {
            None => acts::mapped(&self.doors.process(pid), start, end),
            Some(line) => line.ask(&Request::Mapped { pid, start, end }).and_then(one),
        };
        opened.map(File::from)
    }

    /// A probe at an instruction of a file, to which a BPF program can be tied.
    pub(crate) fn probe(&self, file: &File, offset: u64) -> io::Result<OwnedFd> {
        let Some(line) = &self.line else {
            return sys::open_probe(acts::probe_kind()?, file.as_fd(), offset);
        };
        one(line.ask_about(Some(file.as_fd()), &Request::Probe { offset })?)
    }
}

fn netns_or_error(number: i64) -> io::Result<NetnsId> {
    u64::try_from(number)
        .map(NetnsId)
        .map_err(|_| io::Error::from_raw_os_error(i32::try_from(-number).unwrap_or(libc::EINVAL)))
}

fn done((answer, files): (Answer, Vec<OwnedFd>)) -> io::Result<(Answer, Vec<OwnedFd>)> {
    match answer.stage {
        Stage::Done => Ok((answer, files)),
        _ => Err(io::Error::from_raw_os_error(answer.errno)),
    }
}

fn one(answered: (Answer, Vec<OwnedFd>)) -> io::Result<OwnedFd> {
    let (_, mut files) = done(answered)?;
    files.pop().ok_or_else(malformed)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the opener's answer makes no sense")
}

/// Where the command line did not name a file, the opener opens none.
fn no_door() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the recorder was not started with this file")
}
