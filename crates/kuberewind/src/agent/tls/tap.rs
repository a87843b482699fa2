//! Picks handshakes out of the packets on their way to the store.
//!
//! It costs the capture thread a look at three headers and two bytes per packet, and a mark for its
//! connection; only packets of a handshake are copied.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Sender, TrySendError};
use kuberewind_packet::{Frame, Interface, Loss, NetnsId, PacketSink, Slot, Timestamp};
use kuberewind_tls::Segment;

use super::marks::Marks;

/// Of each packet so many bytes are looked at and copied: the longest record and the headers.
const LONGEST: usize = 20 << 10;

/// Records that began in a packet and go on in the next ones, at a time; more are not followed.
const MOST_UNFINISHED: usize = 1 << 10;

/// A `ClientHello` that takes more packets is not followed.
const MOST_PACKETS: u8 = 32;

/// A packet that belongs to a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HandshakePacket {
    pub(crate) netns: NetnsId,
    pub(crate) time: Timestamp,
    /// From the Ethernet header on.
    pub(crate) bytes: Vec<u8>,
}

/// A sink before another one.
pub(crate) struct Tap<S> {
    inner: S,
    /// By slot.
    netns: Vec<NetnsId>,
    unfinished: HashMap<Direction, Unfinished>,
    /// capture thread --handshake packets--> joiner; when full: counted and left out
    out: Sender<HandshakePacket>,
    left_out: Arc<AtomicU64>,
    /// capture thread --who speaks--> joiner
    marks: Arc<Marks>,
}

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Direction(Slot, SocketAddr, SocketAddr);

/// A record of which more is to come.
#[derive(Clone, Copy, Debug)]
struct Unfinished {
    bytes: usize,
    packets: u8,
}

impl<S> Tap<S> {
    pub(crate) fn new(
        inner: S,
        out: Sender<HandshakePacket>,
        left_out: Arc<AtomicU64>,
        marks: Arc<Marks>,
    ) -> Self {
        Self { inner, netns: Vec::new(), unfinished: HashMap::new(), out, left_out, marks }
    }

    fn look(&mut self, slot: Slot, frame: &Frame<'_>) {
        let mut joined = Vec::new();
        let bytes = if frame.head.is_empty() {
            frame.body
        } else {
            let body = &frame.body[..frame.body.len().min(LONGEST)];
            joined.extend_from_slice(frame.head);
            joined.extend_from_slice(body);
            &joined
        };
        let Ok(segment) = Segment::read(bytes, frame.original_len) else { return };
        let Some(&netns) = self.netns.get(slot.0 as usize) else { return };
        let closes = segment.fin || segment.reset;
        self.marks.mark(netns, segment.source, segment.destination, closes);
        if !segment.payload.is_empty() && self.belongs(slot, &segment) {
            self.pass_on(netns, frame.timestamp, bytes);
        }
    }

    /// Whether a handshake record begins in the segment, or goes on.
    fn belongs(&mut self, slot: Slot, segment: &Segment<'_>) -> bool {
        let begins = record(segment.payload);
        if begins.is_none() && self.unfinished.is_empty() {
            return false;
        }
        let direction = Direction(slot, segment.source, segment.destination);
        let left = match (begins, self.unfinished.get(&direction)) {
            (Some(len), _) => Unfinished { bytes: len, packets: MOST_PACKETS },
            (None, Some(unfinished)) => *unfinished,
            (None, None) => return false,
        };
        let bytes = left.bytes.saturating_sub(segment.wire_len);
        let packets = left.packets.saturating_sub(1);
        if bytes == 0 || packets == 0 {
            self.unfinished.remove(&direction);
        } else if self.unfinished.len() < MOST_UNFINISHED
            || self.unfinished.contains_key(&direction)
        {
            self.unfinished.insert(direction, Unfinished { bytes, packets });
        }
        true
    }

    fn pass_on(&self, netns: NetnsId, time: Timestamp, bytes: &[u8]) {
        let bytes = bytes[..bytes.len().min(LONGEST)].to_vec();
        match self.out.try_send(HandshakePacket { netns, time, bytes }) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                self.left_out.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl<S: PacketSink> PacketSink for Tap<S> {
    fn open_interface(&mut self, interface: Interface) -> Slot {
        let netns = interface.netns;
        let slot = self.inner.open_interface(interface);
        let place = slot.0 as usize;
        if self.netns.len() <= place {
            self.netns.resize(place + 1, netns);
        }
        self.netns[place] = netns;
        slot
    }

    fn close_interface(&mut self, slot: Slot) {
        self.unfinished.retain(|Direction(of, ..), _| *of != slot);
        self.inner.close_interface(slot);
    }

    fn reserve(&mut self, bytes: usize) -> bool {
        self.inner.reserve(bytes)
    }

    fn packet(&mut self, slot: Slot, frame: &Frame<'_>) {
        self.look(slot, frame);
        self.inner.packet(slot, frame);
    }

    fn loss(&mut self, slot: Slot, loss: Loss) {
        self.inner.loss(slot, loss);
    }

    fn tick(&mut self) {
        self.inner.tick();
    }

    fn flush(&mut self) {
        self.inner.flush();
    }
}

/// The length of the handshake record that begins here, its header included (RFC 8446 section 5.1).
/// The second `ClientHello` after a retry stands behind a `ChangeCipherSpec` (appendix D.4).
fn record(payload: &[u8]) -> Option<usize> {
    const CHANGE_CIPHER_SPEC: usize = 6;
    match payload {
        [22, 3, _, high, low, ..] => Some(5 + usize::from(u16::from_be_bytes([*high, *low]))),
        [20, 3, _, 0, 1, 1, 22, 3, _, high, low, ..] => {
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            Some(CHANGE_CIPHER_SPEC + 5 + len)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::{Receiver, bounded};
    use kuberewind_packet::Owner;
    use proptest::prelude::*;

    struct Nowhere;

    impl PacketSink for Nowhere {
        fn open_interface(&mut self, _: Interface) -> Slot {
            Slot(0)
        }
        fn close_interface(&mut self, _: Slot) {}
        fn reserve(&mut self, _: usize) -> bool {
            true
        }
        fn packet(&mut self, _: Slot, _: &Frame<'_>) {}
        fn loss(&mut self, _: Slot, _: Loss) {}
        fn tick(&mut self) {}
        fn flush(&mut self) {}
    }

    fn tap(room: usize) -> (Tap<Nowhere>, Receiver<HandshakePacket>) {
        let (out, packets) = bounded(room);
        let mut tap = Tap::new(Nowhere, out, Arc::default(), Arc::default());
        let (node, name) = ("n1".to_owned(), "eth0".to_owned());
        tap.open_interface(Interface { node, owner: Owner::Host, netns: NetnsId(7), name });
        (tap, packets)
    }

    /// An Ethernet frame with IPv4 and TCP, `tags` VLAN tags, from `port`.
    fn tcp(tags: usize, port: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([0x81, 0, 0, 5].repeat(tags));
        frame.extend([8, 0, 0x45, 0]);
        frame.extend(u16::try_from(40 + payload.len()).unwrap().to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend(port.to_be_bytes());
        frame.extend([1, 187, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
        frame.extend(payload);
        frame
    }

    fn give(tap: &mut Tap<Nowhere>, bytes: &[u8]) {
        let len = u32::try_from(bytes.len()).unwrap();
        let (head, body) = bytes.split_at(bytes.len().min(18));
        let time = Timestamp::from_nanos(1);
        tap.packet(Slot(0), &Frame::whole(time, len, bytes));
        tap.packet(Slot(0), &Frame { timestamp: time, original_len: len, head, body });
    }

    fn hello(len: u16) -> Vec<u8> {
        let mut payload = vec![22, 3, 1];
        payload.extend(len.to_be_bytes());
        payload.resize(5 + usize::from(len), 9);
        payload
    }

    #[test]
    fn handshakes_are_passed_on_and_nothing_else_is() {
        let (mut tap, packets) = tap(100);
        let whole = tcp(0, 1, &hello(300));
        let tagged = tcp(2, 1, &hello(300));
        let retried = tcp(0, 1, &[&[20, 3, 3, 0, 1, 1][..], &hello(200)].concat());
        for frame in [&whole, &tagged, &retried] {
            give(&mut tap, frame);
            for _ in 0..2 {
                assert_eq!(packets.try_recv().unwrap().bytes, *frame);
            }
        }
        give(&mut tap, &tcp(0, 1, &[23, 3, 3, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9]));
        give(&mut tap, &tcp(0, 1, b"GET / HTTP/1.1\r\n"));
        give(&mut tap, &tcp(0, 1, &[]));
        assert!(packets.is_empty());
    }

    #[test]
    fn a_record_in_several_packets_is_passed_on_whole() {
        let (mut tap, packets) = tap(100);
        let frame = |bytes: &[u8]| tcp(0, 5, bytes);
        let send = |tap: &mut Tap<Nowhere>, bytes: &[u8]| {
            let len = u32::try_from(bytes.len()).unwrap();
            tap.packet(Slot(0), &Frame::whole(Timestamp::MIN, len, bytes));
        };
        let record = hello(2_000);
        for part in record.chunks(900) {
            send(&mut tap, &frame(part));
            // Another connection's data in between is none of it.
            send(&mut tap, &tcp(0, 6, b"data"));
        }
        send(&mut tap, &frame(b"the application's data"));
        let got: Vec<_> = packets.try_iter().map(|packet| packet.bytes).collect();
        assert_eq!(got, record.chunks(900).map(frame).collect::<Vec<_>>());
        assert!(tap.unfinished.is_empty());
    }

    #[test]
    fn what_the_joiner_does_not_take_is_counted() {
        let (mut tap, _packets) = tap(1);
        for _ in 0..5 {
            give(&mut tap, &tcp(0, 1, &hello(300)));
        }
        assert_eq!(tap.left_out.load(Ordering::Relaxed), 9);
    }

    proptest! {
        #[test]
        fn no_packet_makes_it_panic_or_remember_without_bound(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 0..50),
            ports in prop::collection::vec(any::<u16>(), 0..50),
        ) {
            let (mut tap, _packets) = tap(1);
            for frame in &frames {
                give(&mut tap, frame);
            }
            for port in ports {
                give(&mut tap, &tcp(0, port, &hello(9_000)[..200]));
            }
            prop_assert!(tap.unfinished.len() <= MOST_UNFINISHED);
        }
    }
}
