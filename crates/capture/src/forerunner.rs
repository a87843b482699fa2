//! Takes the packets that come while a ring is being opened. A ring waits for the kernel (RCU) before it
//! takes anything: ten milliseconds, and many more on a busy machine. A socket without one does not.

use std::io;

use kuberewind_filter::Instruction;
use kuberewind_packet::{MAX_CAPTURED, Timestamp};

use crate::hold::{Hold, Missed};
use crate::ring::Written;
use crate::seam::Seam;
use crate::sys::PacketSocket;

/// A socket that gets packets from the start, as many as the kernel keeps for it: some hundred.
#[derive(Debug)]
pub(crate) struct Forerunner {
    socket: PacketSocket,
    since: Timestamp,
}

impl Forerunner {
    /// Starts on a socket that is new.
    pub(crate) fn start(socket: PacketSocket, program: &[Instruction]) -> io::Result<Self> {
        let since = Timestamp::now();
        socket.attach(program)?;
        socket.tell_all()?;
        socket.bind_everywhere()?;
        Ok(Self { socket, since })
    }

    /// Gives `hold` what came until a ring was open, for certain, at `to`. The two overlap: the seam
    /// tells which packets both of them took.
    pub(crate) fn finish(self, hold: &mut Hold, to: Timestamp) -> Seam {
        let mut buffer = vec![0; MAX_CAPTURED as usize];
        let mut written = Written::default();
        while let Ok(Some(told)) = self.socket.receive(&mut buffer) {
            let (seconds, nanoseconds) = told.time;
            if Timestamp::from_parts(seconds, nanoseconds) <= to {
                written.push(&told, &buffer[..told.captured.min(buffer.len())]);
            }
        }
        if let Some(block) = written.block() {
            hold.keep_early(&block);
        }
        let drops = self.socket.take_statistics().map_or(0, |counted| counted.drops);
        hold.miss(Missed { packets: drops.into(), from: self.since, to });
        let mut seam = Seam::begin(self.since);
        seam.joined(to);
        // To close it takes as long as to open a ring.
        let closing = std::thread::Builder::new().name("capture-close".to_owned());
        let _ = closing.spawn(move || drop(self.socket));
        seam
    }
}
