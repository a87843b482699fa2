//! Twins that make way for real connections which came later.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::frame::{is_marked, set_port};
use crate::segment::Segment;

/// Twins that were given ports which real packets turned out to need, and what they get instead. A
/// file that was written can be mended with it.
#[derive(Clone, Debug, Default)]
pub struct Moves {
    /// The client's new port, by client and server.
    ports: HashMap<(SocketAddr, SocketAddr), u16>,
}

impl Moves {
    /// Of a frame so many bytes are enough for [`Self::apply`].
    pub const HEADERS: usize = 14 + 40 + 20;

    pub(super) fn add(&mut self, client: SocketAddr, server: SocketAddr, port: u16) {
        self.ports.insert((client, server), port);
    }

    /// Whether no twin moves.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// Gives a frame, or the beginning of one, its new port; `false` if it is none of these twins'.
    pub fn apply(&self, frame: &mut [u8]) -> bool {
        if !is_marked(frame) {
            return false;
        }
        let Ok(segment) = Segment::read(frame, u32::MAX) else { return false };
        let (source, destination) = (segment.source, segment.destination);
        if let Some(port) = self.ports.get(&(source, destination)) {
            set_port(frame, 0, *port)
        } else if let Some(port) = self.ports.get(&(destination, source)) {
            set_port(frame, 1, *port)
        } else {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{ACK, Header, write};

    #[test]
    fn a_moved_frame_is_as_if_it_had_been_made_there() {
        for [client, server] in [["10.0.0.1", "10.0.0.2"], ["fd00::1", "fd00::2"]] {
            let end = |ip: &str, port| SocketAddr::new(ip.parse().unwrap(), port);
            let (client, server) = (|port| end(client, port), end(server, 80));
            let mut moves = Moves::default();
            moves.add(client(40_000), server, 50_001);
            let made = |source, destination| {
                let header = Header {
                    source,
                    destination,
                    tags: [2, 3],
                    sequence: 7,
                    acknowledged: 9,
                    flags: ACK,
                };
                let mut frame = Vec::new();
                write(&mut frame, &header, b"a payload longer than what is looked at");
                frame
            };
            let mut there = made(client(40_000), server);
            assert!(moves.apply(&mut there));
            assert_eq!(there, made(client(50_001), server));
            let mut back = made(server, client(40_000));
            assert!(moves.apply(&mut back[..Moves::HEADERS]));
            assert_eq!(back, made(server, client(50_001)));

            let mut other = made(client(40_001), server);
            assert!(!moves.apply(&mut other));
            let mut real = made(client(40_000), server);
            real[6] = 0;
            assert!(!moves.apply(&mut real));
            assert!(!moves.apply(&mut made(client(40_000), server)[..30]));
        }
    }
}
