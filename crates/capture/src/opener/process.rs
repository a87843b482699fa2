//! The recorder's side: the opener's process, and the line to it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::Opener;
use super::doors::Doors;
use super::message::{Answer, MOST_BYTES, Request};
use super::serve::{receive, send};

/// `CAP_SYS_PTRACE`, from `linux/capability.h`.
const CAP_SYS_PTRACE: u32 = 19;

/// A line to an opener.
#[derive(Debug)]
pub(super) struct Line {
    /// recorder --requests--> opener; when full: whoever asks waits. With each comes where its answer
    /// goes, so that nobody waits for another's.
    socket: OwnedFd,
    pub(super) sees_processes: bool,
    ended: OnceLock<String>,
}

impl Line {
    pub(super) fn ask(&self, request: &Request) -> io::Result<(Answer, Vec<OwnedFd>)> {
        self.ask_about(None, request)
    }

    pub(super) fn ask_about(
        &self,
        file: Option<BorrowedFd<'_>>,
        request: &Request,
    ) -> io::Result<(Answer, Vec<OwnedFd>)> {
        let (answers, back) = pair()?;
        let beside: Vec<_> = file.into_iter().chain([back.as_fd()]).collect();
        send(&self.socket, &request.encode(), &beside).map_err(|_| gone())?;
        // The opener has the only one now: if it ends, the other end is told.
        drop(back);
        let mut room = vec![0; MOST_BYTES];
        let (len, files) = receive(&answers, &mut room)?.ok_or_else(gone)?;
        let answer = Answer::decode(&room[..len]).ok_or_else(super::malformed)?;
        Ok((answer, files))
    }

    pub(super) fn ended(&self) -> Option<&str> {
        self.ended.get().map(String::as_str)
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the opener's process has ended")
}

/// Both ends of a line.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    Ok(rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)?)
}

pub(super) fn over(socket: OwnedFd, doors: Doors) -> Opener {
    let status = procfs::process::Process::myself().and_then(|own| own.status());
    // It is begun with the rights that this process has now.
    let sees_processes = status.is_ok_and(|status| status.capeff & (1 << CAP_SYS_PTRACE) != 0);
    let line = Line { socket, sees_processes, ended: OnceLock::new() };
    Opener { doors: Arc::new(doors), line: Some(Arc::new(line)) }
}

/// An opener's process that runs.
#[derive(Debug)]
pub struct OpenerProcess {
    child: Child,
    line: Arc<Line>,
}

impl OpenerProcess {
    /// Starts a program that calls [`serve_opener`](super::serve_opener) with its standard input and
    /// these doors. It has the rights that this process has now.
    pub fn start(mut program: Command, doors: Doors) -> io::Result<(Opener, Self)> {
        let (ours, theirs) = pair()?;
        // A terminal's Ctrl-C is for the recorder, which still has to seal what it recorded.
        program.stdin(theirs).stdout(Stdio::null()).env_clear().process_group(0);
        let child = program.spawn()?;
        // The program holds the other end of the line.
        drop(program);
        let opener = over(ours, doors);
        let Some(line) = opener.line.clone() else { return Err(gone()) };
        Ok((opener, Self { child, line }))
    }

    /// Waits for its end, which comes with the recorder's own or too early.
    pub fn wait(mut self) {
        let how = self.child.wait().map_or_else(|error| error.to_string(), |how| how.to_string());
        let _ = self.line.ended.set(how);
    }
}
