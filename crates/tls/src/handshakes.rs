//! The handshakes in a recording: which flow began with which hellos.
//!
//! Of each TCP connection the first bytes of both directions are put in order until the `ServerHello`
//! is complete; what remains is the client's random and a few hashes.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use kuberewind_packet::{NetnsId, Timestamp};

use crate::flow::{FlowKey, Place, Sender};
use crate::half::Half;
use crate::hello::{CLIENT_HELLO, ClientHello, Messages, SERVER_HELLO, ServerHello};
use crate::open::{HEADER_LEN, is_header};
use crate::segment::{NoSegment, Segment};
use crate::suite::{Hash, Version};

const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
/// The message that stands for the first `ClientHello` after a retry (RFC 8446 section 4.4.1).
const MESSAGE_HASH: u8 = 254;
/// Hellos stand within so many bytes of a direction, early data included.
const MAX_OPENING: usize = 64 * 1024;

/// A TCP connection that carries TLS, as seen in one network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// Where.
    pub netns: NetnsId,
    /// Who sent the `ClientHello`.
    pub client: SocketAddr,
    /// The other end.
    pub server: SocketAddr,
}

/// What is known of one handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Handshake {
    pub(crate) flow: Flow,
    pub(crate) time: Timestamp,
    pub(crate) client_random: [u8; 32],
    /// Hashes of the first `ClientHello`, one for each function: early secrets are derived from them.
    pub(crate) early: [Vec<u8>; 2],
    /// Once the server answered.
    pub(crate) answer: Option<Answer>,
}

/// What the `ServerHello` made known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) version: Version,
    pub(crate) cipher: u16,
    /// The hash of everything up to the `ServerHello`, with either function.
    pub(crate) transcripts: [Vec<u8>; 2],
}

/// How much is kept in memory. Beyond it the oldest is forgotten, and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeLimits {
    /// TCP connections known at once, about 120 bytes each.
    pub flows: usize,
    /// Handshakes, about 500 bytes each.
    pub handshakes: usize,
    /// Bytes of memory for hellos that are not complete.
    pub bytes: usize,
}

impl Default for HandshakeLimits {
    fn default() -> Self {
        Self { flows: 262_144, handshakes: 131_072, bytes: 32 << 20 }
    }
}

/// What was not kept or not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandshakeCounts {
    /// IP fragments: not put together, so a hello in them is not seen.
    pub fragments: u64,
    /// Connections given up for [`HandshakeLimits`] before both hellos were seen.
    pub unread: u64,
    /// Handshakes forgotten for [`HandshakeLimits::handshakes`].
    pub forgotten: u64,
}

/// The handshakes in a stream of packets.
#[derive(Debug, Default)]
pub struct Handshakes {
    limits: HandshakeLimits,
    flows: HashMap<FlowKey, Opening>,
    /// The flows in the order in which they came.
    order: VecDeque<FlowKey>,
    found: VecDeque<Handshake>,
    /// The number of the first of `found`.
    first: u64,
    held: usize,
    counts: HandshakeCounts,
}

/// A connection's first bytes.
#[derive(Debug)]
enum Opening {
    Reading(Box<Hellos>),
    /// Both hellos are known, or it is not TLS.
    Settled,
}

impl Handshakes {
    /// None yet.
    pub fn new(limits: HandshakeLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes a packet: an Ethernet frame of which `bytes` were captured in a network namespace.
    pub fn see(&mut self, netns: NetnsId, time: Timestamp, original_len: u32, bytes: &[u8]) {
        let segment = match Segment::read(bytes, original_len) {
            Ok(segment) => segment,
            Err(NoSegment::Fragment) => {
                self.counts.fragments += 1;
                return;
            }
            Err(NoSegment::NotTcp) => return,
        };
        let key = FlowKey::at(Place(netns.0), &segment);
        if segment.syn {
            self.begin(key, &segment);
        } else if segment.payload.is_empty() {
            return;
        } else if !self.flows.contains_key(&key) {
            if !begins_with_hello(segment.payload) {
                return;
            }
            self.begin(key, &segment);
        }
        self.read(key, netns, &segment, time);
        self.keep_within_limits();
    }

    /// How many handshakes are known.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// What was not kept.
    pub fn counts(&self) -> HandshakeCounts {
        self.counts
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Handshake> {
        self.found.iter()
    }

    /// A connection begins, unless this is a retransmission.
    fn begin(&mut self, key: FlowKey, segment: &Segment<'_>) {
        if let Some(Opening::Reading(hellos)) = self.flows.get(&key) {
            if hellos.is_same_connection(segment) {
                return;
            }
            self.held -= hellos.held();
        } else if segment.syn && segment.acknowledged.is_some() && self.flows.contains_key(&key) {
            return; // The answer to a SYN tells nothing new of a connection that is settled.
        }
        let hellos = Box::new(Hellos::new(segment));
        self.held += hellos.held();
        if self.flows.insert(key, Opening::Reading(hellos)).is_none() {
            self.order.push_back(key);
        }
    }

    fn read(&mut self, key: FlowKey, netns: NetnsId, segment: &Segment<'_>, time: Timestamp) {
        let Some(opening) = self.flows.get_mut(&key) else { return };
        let Opening::Reading(hellos) = opening else { return };
        self.held -= hellos.held();
        hellos.push(segment, time);
        if let (None, Some(handshake)) = (hellos.number, hellos.handshake(netns, time)) {
            hellos.number = Some(self.first + self.found.len() as u64);
            self.found.push_back(handshake);
        }
        if let Some(answer) = hellos.answer.take() {
            let index = hellos.number.and_then(|number| number.checked_sub(self.first));
            let index = index.and_then(|index| usize::try_from(index).ok());
            if let Some(handshake) = index.and_then(|index| self.found.get_mut(index)) {
                handshake.answer = Some(answer);
            }
        }
        match hellos.over {
            None => self.held += hellos.held(),
            Some(over) => {
                self.counts.unread += u64::from(over == Over::TooLong);
                *opening = Opening::Settled;
            }
        }
    }

    fn keep_within_limits(&mut self) {
        while self.found.len() > self.limits.handshakes {
            self.found.pop_front();
            self.first += 1;
            self.counts.forgotten += 1;
        }
        while self.flows.len() > self.limits.flows || self.held > self.limits.bytes {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(Opening::Reading(hellos)) = self.flows.remove(&oldest) {
                self.held -= hellos.held();
                self.counts.unread += 1;
            }
        }
    }
}

/// The hellos of a connection that is being read.
#[derive(Debug)]
struct Hellos {
    /// Who is taken for the client, and the other.
    ends: [SocketAddr; 2],
    halves: [Half; 2],
    messages: [Messages; 2],
    /// Bytes read in both directions.
    read: usize,
    client: Option<(ClientHello, Vec<u8>)>,
    /// After a `HelloRetryRequest`: that, and the second `ClientHello`.
    retry: Option<Vec<u8>>,
    second: Option<Vec<u8>>,
    answer: Option<Answer>,
    /// The handshake's number, once it has one.
    number: Option<u64>,
    over: Option<Over>,
}

/// Why a connection is read no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Done,
    NotTls,
    TooLong,
}

impl Hellos {
    fn new(segment: &Segment<'_>) -> Self {
        let answers = segment.syn && segment.acknowledged.is_some();
        let mut ends = [segment.source, segment.destination];
        if answers {
            ends.reverse();
        }
        Self {
            ends,
            halves: <[Half; 2]>::default(),
            messages: <[Messages; 2]>::default(),
            read: 0,
            client: None,
            retry: None,
            second: None,
            answer: None,
            number: None,
            over: None,
        }
    }

    /// Whether a SYN is one of this connection.
    fn is_same_connection(&self, segment: &Segment<'_>) -> bool {
        let base = self.halves[self.sender(segment).index()].base();
        base.is_none_or(|base| base == segment.sequence.wrapping_add(1))
    }

    fn sender(&self, segment: &Segment<'_>) -> Sender {
        if segment.source == self.ends[0] { Sender::Client } else { Sender::Server }
    }

    /// Bytes of memory.
    fn held(&self) -> usize {
        let client = self.client.as_ref().map_or(0, |(_, bytes)| bytes.len());
        let rest = [&self.retry, &self.second].into_iter().flatten().map(Vec::len).sum::<usize>();
        let halves = self.halves.iter().map(Half::held).sum::<usize>();
        let messages = self.messages.iter().map(Messages::held).sum::<usize>();
        size_of::<Self>() + client + rest + halves + messages
    }

    fn push(&mut self, segment: &Segment<'_>, now: Timestamp) {
        let sender = self.sender(segment);
        if let Some(acknowledged) = segment.acknowledged {
            self.halves[sender.peer().index()].open(acknowledged);
        }
        let sequence = segment.sequence.wrapping_add(segment.syn.into());
        let half = &mut self.halves[sender.index()];
        half.push(sequence, segment.payload, segment.wire_len, segment.fin, now);
        self.advance(Sender::Client);
        self.advance(Sender::Server);
        // The first may have waited for the second.
        self.advance(Sender::Client);
        self.advance(Sender::Server);
        let held: usize = self.halves.iter().map(Half::held).sum();
        if self.over.is_none() && self.read + held > 2 * MAX_OPENING {
            self.over = Some(Over::TooLong);
        }
    }

    /// Reads whole plain records as far as they go.
    fn advance(&mut self, sender: Sender) {
        while self.over.is_none() {
            let ready = self.halves[sender.index()].ready();
            let Some(header) = ready.first_chunk::<HEADER_LEN>() else {
                if ready.first().is_some_and(|kind| !(CHANGE_CIPHER_SPEC..=23).contains(kind)) {
                    self.over = Some(Over::NotTls);
                }
                return;
            };
            if !is_header(*header) {
                self.over = Some(Over::NotTls);
                return;
            }
            let (kind, len) = (header[0], usize::from(u16::from_be_bytes([header[3], header[4]])));
            let Some(body) = ready.get(HEADER_LEN..HEADER_LEN + len) else { return };
            if sender == Sender::Server && self.client.is_none() {
                return;
            }
            let messages = match kind {
                HANDSHAKE => self.messages[sender.index()].push(body),
                _ => Vec::new(), // compatibility, or early data
            };
            self.halves[sender.index()].consume(HEADER_LEN + len);
            self.read += HEADER_LEN + len;
            for message in messages {
                self.message(sender, message.kind, message.bytes);
            }
        }
    }

    fn message(&mut self, sender: Sender, kind: u8, bytes: Vec<u8>) {
        match (sender, kind) {
            (Sender::Client, CLIENT_HELLO) if self.client.is_none() => {
                match ClientHello::read(&bytes) {
                    Some(hello) => self.client = Some((hello, bytes)),
                    None => self.over = Some(Over::NotTls),
                }
            }
            (Sender::Client, CLIENT_HELLO) => self.second = Some(bytes),
            (Sender::Server, SERVER_HELLO) => match ServerHello::read(&bytes) {
                Some(hello) if hello.retry => self.retry = Some(bytes),
                Some(hello) => {
                    self.answer = self.answer(hello, &bytes);
                    self.over = Some(Over::Done);
                }
                None => self.over = Some(Over::NotTls),
            },
            // Certificates and the like stand behind the hellos; a flow that shows them first is not
            // read from its beginning.
            (_, _) if self.client.is_none() => self.over = Some(Over::NotTls),
            _ => {}
        }
    }

    fn answer(&self, hello: ServerHello, bytes: &[u8]) -> Option<Answer> {
        let (_, first) = self.client.as_ref()?;
        let transcripts = Hash::BOTH.map(|hash| match (&self.retry, &self.second) {
            (Some(retry), Some(second)) => {
                let first = hash.of(&[first]);
                #[expect(clippy::cast_possible_truncation, reason = "32 or 48")]
                let header = [MESSAGE_HASH, 0, 0, hash.len() as u8];
                hash.of(&[&header, &first, retry, second, bytes])
            }
            _ => hash.of(&[first, bytes]),
        });
        Some(Answer { version: hello.version, cipher: hello.cipher, transcripts })
    }

    fn handshake(&self, netns: NetnsId, time: Timestamp) -> Option<Handshake> {
        let (hello, bytes) = self.client.as_ref()?;
        Some(Handshake {
            flow: Flow { netns, client: self.ends[0], server: self.ends[1] },
            time,
            client_random: hello.random,
            early: Hash::BOTH.map(|hash| hash.of(&[bytes])),
            answer: None,
        })
    }
}

/// Whether a payload is the beginning of a `ClientHello`.
fn begins_with_hello(payload: &[u8]) -> bool {
    payload.get(..HEADER_LEN + 1).is_some_and(|bytes| {
        bytes[0] == HANDSHAKE && bytes[1] == 3 && bytes[2] <= 4 && bytes[HEADER_LEN] == CLIENT_HELLO
    })
}
