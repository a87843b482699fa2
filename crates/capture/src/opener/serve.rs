//! The opener's side: answers requests until whoever asks is gone.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::acts::{self, Home};
use super::doors::Doors;
use super::message::{Answer, MOST_BYTES, Request, Stage};
use crate::sys;

/// So many requests are answered at once. An answer takes some 50 µs, unless a file is on a file system
/// that has a process answer for it.
const WORKERS: usize = 8;
/// An answer needs little more than a message's room.
const STACK: usize = 256 * 1024;
/// Descriptors beside a message.
const MOST_FILES: usize = 3;

/// Answers what comes through `socket` until its other end is closed. `ready` is called once all threads
/// run that there will be.
pub fn serve_opener(doors: Doors, socket: OwnedFd, ready: impl FnOnce()) -> io::Result<()> {
    let probe_kind = acts::probe_kind().ok();
    let desk = Arc::new(Desk { doors, socket, home: Home::find()?, probe_kind });
    for _ in 1..WORKERS {
        let desk = Arc::clone(&desk);
        let worker = thread::Builder::new().name("opener".to_owned()).stack_size(STACK);
        worker.spawn(move || desk.work())?;
    }
    ready();
    desk.work();
    Ok(())
}

struct Desk {
    doors: Doors,
    socket: OwnedFd,
    home: Home,
    /// None where the kernel has no probes.
    probe_kind: Option<u32>,
}

impl Desk {
    fn work(&self) {
        let mut room = vec![0; MOST_BYTES];
        while let Ok(Some((len, mut beside))) = receive(&self.socket, &mut room) {
            // The last one that comes with a request is where the answer goes.
            let Some(back) = beside.pop() else { continue };
            let (answer, files) = self.answer(&room[..len], beside.pop().as_ref());
            let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
            // Whoever asked may have gone.
            let _ = send(&back, &answer.encode(), &files);
        }
    }

    fn answer(&self, request: &[u8], beside: Option<&OwnedFd>) -> (Answer, Vec<OwnedFd>) {
        let Some(request) = Request::decode(request) else { return invalid() };
        match request {
            Request::Sockets { door, netns, wanted } => {
                let Some(path) = self.doors.path(&door) else { return invalid() };
                match self.home.sockets(&path, netns, wanted) {
                    Ok(opened) => (Answer::done(Vec::new()), opened),
                    Err(refused) => {
                        let numbers = vec![refused.found.0.cast_signed()];
                        let errno = errno(&refused.error);
                        (Answer { stage: refused.stage, errno, numbers }, Vec::new())
                    }
                }
            }
            Request::Which(door) => {
                let Some(path) = self.doors.path(&door) else { return invalid() };
                let which = acts::which(&path);
                let number = which.map(|netns| netns.map_or(0, |netns| netns.0).cast_signed());
                (number.map_or_else(|e| failed(&e), |number| Answer::done(vec![number])), vec![])
            }
            Request::NetnsOf(pids) => {
                let number = |pid: u32| match acts::netns_of(&self.doors.process(pid)) {
                    Ok(netns) => netns.0.cast_signed(),
                    Err(errno) => -i64::from(errno.raw_os_error()),
                };
                (Answer::done(pids.into_iter().map(number).collect()), Vec::new())
            }
            Request::Maps(pid) => with_file(acts::maps(&self.doors.process(pid))),
            Request::Mapped { pid, start, end } => {
                with_file(acts::mapped(&self.doors.process(pid), start, end))
            }
            Request::Probe { offset } => {
                let (Some(kind), Some(file)) = (self.probe_kind, beside) else { return invalid() };
                with_file(sys::open_probe(kind, file.as_fd(), offset))
            }
        }
    }
}

fn with_file(opened: io::Result<OwnedFd>) -> (Answer, Vec<OwnedFd>) {
    match opened {
        Ok(file) => (Answer::done(Vec::new()), vec![file]),
        Err(error) => (failed(&error), Vec::new()),
    }
}

fn failed(error: &io::Error) -> Answer {
    Answer::failed(Stage::Open, errno(error))
}

fn invalid() -> (Answer, Vec<OwnedFd>) {
    (Answer::failed(Stage::Open, libc::EINVAL), Vec::new())
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EINVAL)
}

/// The next message, and the descriptors beside it; none when the other end is closed.
pub(super) fn receive(
    socket: impl AsFd,
    room: &mut [u8],
) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut into = [IoSliceMut::new(room)];
        match recvmsg(&socket, &mut into, &mut beside, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            received => break received?,
        }
    };
    let files = beside.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let files = files.flatten().collect();
    if received.bytes == 0 {
        return Ok(None);
    }
    // What does not fit is cut, and makes no sense then.
    let whole = !received.flags.contains(ReturnFlags::TRUNC);
    Ok(Some((if whole { received.bytes } else { 0 }, files)))
}

/// Sends a message, with descriptors beside it.
pub(super) fn send(socket: impl AsFd, message: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        beside.push(SendAncillaryMessage::ScmRights(files));
    }
    // Nobody there is an error, and no signal.
    rustix::io::retry_on_intr(|| {
        sendmsg(&socket, &[IoSlice::new(message)], &mut beside, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Opener, Wanted};
    use super::*;
    use crate::namespaces::{NetnsSpec, OWN};

    /// A line to an opener on a thread.
    fn served(test: impl FnOnce(&Opener)) {
        let (ours, theirs) = super::super::process::pair().unwrap();
        let doors = Doors::default();
        let server = thread::spawn({
            let doors = doors.clone();
            move || serve_opener(doors, theirs, || {})
        });
        let opener = super::super::process::over(ours, doors);
        test(&opener);
        drop(opener);
        server.join().unwrap().unwrap();
    }

    #[test]
    fn what_it_says_is_what_the_process_itself_would_see() {
        let here = Opener::default();
        served(|opener| {
            let own = opener.which(Path::new(OWN)).unwrap();
            assert_eq!(own, here.which(Path::new(OWN)).unwrap());
            let pids: Vec<u32> = (1..3000).chain([std::process::id()]).collect();
            let known = |found: Vec<io::Result<_>>| {
                found.into_iter().filter_map(Result::ok).collect::<Vec<_>>()
            };
            let (there, seen) = (known(opener.netns_of(&pids)), known(here.netns_of(&pids)));
            assert!(there.len().abs_diff(seen.len()) < 20, "{there:?} {seen:?}");
            assert!(there.contains(&own.unwrap()));
        });
    }

    #[test]
    fn sockets_come_from_the_namespace_that_was_asked_for_and_from_no_other() {
        let own = NetnsSpec::Host.find(&Opener::default()).unwrap();
        served(|opener| {
            let wanted = Wanted { packets: 2, links: true };
            let mut sockets = opener.sockets(&own.path, own.netns, wanted).unwrap();
            assert!((0..3).all(|_| sockets.next().is_ok()) && sockets.next().is_err());
            let other = kuberewind_packet::NetnsId(own.netns.0 + 1);
            let refused = opener.sockets(&own.path, other, wanted).unwrap_err();
            assert_eq!((refused.stage, refused.found), (Stage::Another, own.netns));
        });
    }

    #[test]
    fn a_probe_is_set_in_the_file_that_comes_with_the_request() {
        served(|opener| {
            // Where no instruction is.
            let program = std::fs::File::open("/proc/self/exe").unwrap();
            assert!(opener.probe(&program, 0).is_ok());
            let beyond = program.metadata().unwrap().len() + (1 << 20);
            assert!(opener.probe(&program, beyond).is_err());
        });
    }

    #[test]
    fn what_makes_no_sense_is_answered_and_costs_nothing() {
        served(|opener| {
            for file in ["/etc/passwd", "/proc/1/mem"] {
                assert!(opener.which(Path::new(file)).is_err(), "{file}");
            }
            let maps = std::io::read_to_string(opener.maps(std::process::id()).unwrap()).unwrap();
            assert!(maps.contains("[stack]"), "{maps}");
            assert!(opener.mapped(std::process::id(), (1, 2)).is_err());
        });
    }

    #[test]
    fn whoever_is_not_answered_is_told() {
        let (ours, theirs) = super::super::process::pair().unwrap();
        let opener = super::super::process::over(ours, Doors::default());
        drop(theirs);
        assert!(opener.which(Path::new(OWN)).is_err());
    }
}
