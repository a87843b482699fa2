//! Handshakes put together from packets: hello to hello, and their transcript's hash.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;

use kuberewind_packet::{NetnsId, Timestamp};

use crate::hello::{self, CLIENT_HELLO, SERVER_HELLO};
use crate::schedule::Hash;
use crate::segment::Segment;

/// Of each direction so many bytes are kept until the hellos are whole: a `ClientHello` with
/// post-quantum key shares and a long ticket takes a few kilobytes.
const MOST_BYTES: usize = 32 << 10;

/// Segments that came before their time, per direction.
const MOST_LATE: usize = 16;

/// Directions that are put together at a time; the oldest is given up for a new one.
const MOST_DIRECTIONS: usize = 1 << 12;

const RECORD_HEADER: usize = 5;
const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;

/// What stands for the first `ClientHello` in the transcript after a retry (RFC 8446 section 4.4.1).
const MESSAGE_HASH: u8 = 254;

/// A connection's name within one network namespace.
pub(crate) type Name = (NetnsId, [u8; 32]);

/// What became known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A client wants a connection.
    Hello(Hello),
    /// Client and server agreed on one.
    Agreed { name: Name, transcript: Transcript },
}

/// The handshake messages up to the `ServerHello`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Transcript {
    /// In TLS 1.3 secrets follow from their hash.
    Hash(Vec<u8>),
    /// In earlier versions from other things.
    Unused,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) name: Name,
    pub(crate) time: Timestamp,
    pub(crate) client: SocketAddr,
    pub(crate) server: SocketAddr,
    pub(crate) server_name: Option<String>,
    /// Of the `ClientHello` alone, by each hash: which one counts is not known yet.
    pub(crate) early: [Vec<u8>; 2],
}

type Direction = (NetnsId, SocketAddr, SocketAddr);

/// The beginnings of connections.
#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    directions: HashMap<Direction, Assembly>,
    order: VecDeque<Direction>,
}

impl Handshakes {
    /// Takes in a packet of a handshake.
    pub(crate) fn see(&mut self, netns: NetnsId, time: Timestamp, frame: &[u8]) -> Vec<Seen> {
        let Some(segment) = Segment::find(frame) else { return Vec::new() };
        let (from, to) = (segment.source(), segment.destination());
        let direction = (netns, from, to);
        let payload = segment.payload();
        let sequence = segment.sequence();
        let begins = begins_client_hello(payload);
        let anew = begins && self.directions.get(&direction).is_none_or(|a| !a.follows(sequence));
        if anew {
            self.forget(netns, from, to);
        }
        if !self.directions.contains_key(&direction) {
            self.make_room();
            self.order.push_back(direction);
            self.directions.insert(direction, Assembly::new(sequence));
        }
        if let Some(assembly) = self.directions.get_mut(&direction) {
            assembly.add(sequence, payload);
        }
        let server_speaks = self.directions.get(&direction).is_some_and(Assembly::is_servers);
        let (client, server) = if server_speaks { (to, from) } else { (from, to) };
        self.advance(netns, time, client, server)
    }

    fn advance(
        &mut self,
        netns: NetnsId,
        time: Timestamp,
        client: SocketAddr,
        server: SocketAddr,
    ) -> Vec<Seen> {
        let mut seen = Vec::new();
        let Some(assembly) = self.directions.get_mut(&(netns, client, server)) else { return seen };
        let said = messages(&assembly.bytes);
        let Some(first) = message(&said, 0, CLIENT_HELLO) else { return seen };
        let Some(hello) = hello::client(&first[4..]) else { return seen };
        let name = (netns, hello.random);
        if !assembly.told {
            assembly.told = true;
            let early = [Hash::Sha256, Hash::Sha384].map(|hash| hash.digest(&[first]));
            let server_name = hello.server_name;
            seen.push(Seen::Hello(Hello { name, time, client, server, server_name, early }));
        }
        let Some(answer) = self.directions.get(&(netns, server, client)) else { return seen };
        let answered = messages(&answer.bytes);
        if let Some(transcript) = agreed(&said, &answered) {
            seen.push(Seen::Agreed { name, transcript });
            self.forget(netns, client, server);
        }
        seen
    }

    fn forget(&mut self, netns: NetnsId, a: SocketAddr, b: SocketAddr) {
        self.directions.remove(&(netns, a, b));
        self.directions.remove(&(netns, b, a));
    }

    fn make_room(&mut self) {
        while self.directions.len() >= MOST_DIRECTIONS || self.order.len() >= 2 * MOST_DIRECTIONS {
            match self.order.pop_front() {
                Some(oldest) => drop(self.directions.remove(&oldest)),
                None => return,
            }
        }
    }
}

/// The message at a place, if it is of this type.
fn message(messages: &[Vec<u8>], at: usize, kind: u8) -> Option<&[u8]> {
    messages.get(at).map(Vec::as_slice).filter(|message| message[0] == kind)
}

/// The transcript once both have said what the secrets follow from.
fn agreed(client: &[Vec<u8>], server: &[Vec<u8>]) -> Option<Transcript> {
    let hello = |at| {
        let bytes = message(server, at, SERVER_HELLO)?;
        hello::server(&bytes[4..]).map(|hello| (hello, bytes))
    };
    let (first, first_bytes) = hello(0)?;
    if !first.retry {
        let hash = Hash::of_cipher(first.cipher);
        return Some(if first.is_tls13() {
            Transcript::Hash(hash.digest(&[client.first()?, first_bytes]))
        } else {
            Transcript::Unused
        });
    }
    let (second, second_bytes) = hello(1)?;
    let again = message(client, 1, CLIENT_HELLO)?;
    let hash = Hash::of_cipher(second.cipher);
    let replaced = hash.digest(&[client.first()?]);
    #[expect(clippy::cast_possible_truncation, reason = "32 or 48")]
    let head = [MESSAGE_HASH, 0, 0, replaced.len() as u8];
    Some(Transcript::Hash(hash.digest(&[&head, &replaced, first_bytes, again, second_bytes])))
}

/// The handshake messages that are whole, with their headers, up to where the records are encrypted.
fn messages(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut fragments = Vec::new();
    let mut rest = bytes;
    while let [kind, _, _, high, low, ..] = *rest {
        let len = usize::from(u16::from_be_bytes([high, low]));
        let body = &rest[RECORD_HEADER..];
        match kind {
            HANDSHAKE => fragments.extend_from_slice(&body[..body.len().min(len)]),
            CHANGE_CIPHER_SPEC => {}
            _ => break,
        }
        let Some(next) = body.get(len..) else { break };
        rest = next;
    }
    let mut messages = Vec::new();
    let mut rest = fragments.as_slice();
    while let [kind, a, b, c, ..] = *rest {
        let len = 4 + usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
        let Some((message, next)) = rest.split_at_checked(len) else { break };
        messages.push(message.to_vec());
        rest = next;
        if !matches!(kind, CLIENT_HELLO | SERVER_HELLO) {
            break; // what follows the hellos is of no use
        }
    }
    messages
}

fn begins_client_hello(payload: &[u8]) -> bool {
    matches!(payload, [HANDSHAKE, 3, _, _, _, CLIENT_HELLO, ..])
}

/// The first bytes of one direction.
#[derive(Debug)]
struct Assembly {
    /// The sequence number of the first byte.
    start: u32,
    bytes: Vec<u8>,
    /// What came before its time, by its place.
    late: BTreeMap<usize, Vec<u8>>,
    /// Whether its hello was told of.
    told: bool,
}

impl Assembly {
    fn new(start: u32) -> Self {
        Self { start, bytes: Vec::new(), late: BTreeMap::new(), told: false }
    }

    /// Where a byte stands, if it is not from before the start or far behind what is kept.
    fn place(&self, sequence: u32) -> Option<usize> {
        let place = usize::try_from(sequence.wrapping_sub(self.start)).ok()?;
        (place <= MOST_BYTES).then_some(place)
    }

    /// Whether a segment goes on with this, or says it again.
    fn follows(&self, sequence: u32) -> bool {
        self.place(sequence).is_some_and(|place| place <= self.bytes.len())
    }

    fn is_servers(&self) -> bool {
        matches!(self.bytes.as_slice(), [HANDSHAKE, _, _, _, _, SERVER_HELLO, ..])
    }

    fn add(&mut self, sequence: u32, payload: &[u8]) {
        let Some(place) = self.place(sequence) else { return };
        if self.late.len() < MOST_LATE {
            self.late.insert(place, payload.to_vec());
        }
        while let Some((place, payload)) = self.late.pop_first() {
            if place > self.bytes.len() {
                self.late.insert(place, payload);
                return;
            }
            let new = payload.get(self.bytes.len() - place..).unwrap_or_default();
            let room = MOST_BYTES - self.bytes.len();
            self.bytes.extend_from_slice(&new[..new.len().min(room)]);
        }
    }
}
