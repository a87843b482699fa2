//! The beginnings of connections: from packets to hellos, and the hash of both.
//!
//! Of each TCP connection the first bytes of both directions are put in order until the `ServerHello`
//! is complete. It is enough to be shown the packets in which records of handshakes begin or go on,
//! each direction's first one first; other packets do no harm.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use kuberewind_packet::{NetnsId, Timestamp};

use crate::flow::{FlowKey, Place, Sender};
use crate::half::Half;
use crate::hello::{CLIENT_HELLO, ClientHello, Messages, SERVER_HELLO, ServerHello, server_name};
use crate::open::{HEADER_LEN, is_header};
use crate::pin::Pin;
use crate::segment::Segment;
use crate::suite::{Hash, Version};

const HANDSHAKE: u8 = 22;
/// The message that stands for the first `ClientHello` after a retry (RFC 8446 section 4.4.1).
const MESSAGE_HASH: u8 = 254;
/// Hellos stand within so many bytes of a direction, early data included.
const MAX_OPENING: usize = 64 * 1024;
/// Connections that are read at a time, and the memory for all of them; the oldest is given up for a
/// new one.
const MAX_FLOWS: usize = 1 << 14;
const MAX_BYTES: usize = 32 << 20;

/// A connection's name within one network namespace: its client's random.
pub(crate) type Name = (NetnsId, [u8; 32]);

/// What became known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A client wants a connection.
    Hello(Hello),
    /// Client and server agreed on a version and a cipher.
    Agreed(Agreed),
}

/// A `ClientHello`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) name: Name,
    pub(crate) time: Timestamp,
    pub(crate) client: SocketAddr,
    pub(crate) server: SocketAddr,
    pub(crate) server_name: Option<String>,
    /// Its hash, with either function: early secrets are derived from it.
    pub(crate) early: [Vec<u8>; 2],
}

/// Both hellos.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agreed {
    pub(crate) name: Name,
    /// None where a second `ClientHello` is not of the same connection.
    pub(crate) pin: Option<Pin>,
    pub(crate) server_name: Option<String>,
    /// TLS 1.3 only: the hash of everything up to the `ServerHello`, with either function.
    pub(crate) transcripts: Option<[Vec<u8>; 2]>,
}

/// The connections whose hellos are being read.
#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    flows: HashMap<FlowKey, Hellos>,
    /// Their keys in the order in which they came, and some of flows that are over.
    order: VecDeque<FlowKey>,
    held: usize,
}

impl Handshakes {
    /// Takes a packet, from the Ethernet header on as far as it was captured.
    pub(crate) fn see(&mut self, netns: NetnsId, time: Timestamp, frame: &[u8]) -> Vec<Seen> {
        let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let Ok(segment) = Segment::read(frame, len) else { return Vec::new() };
        if segment.payload.is_empty() {
            return Vec::new();
        }
        let key = FlowKey::at(Place(netns.0), &segment);
        if !self.flows.get(&key).is_some_and(|hellos| hellos.goes_on_with(&segment)) {
            if !begins_with_hello(segment.payload) {
                return Vec::new();
            }
            self.forget(key);
            self.held += Hellos::SIZE;
            self.flows.insert(key, Hellos::new(&segment));
            self.order.push_back(key);
        }
        let Some(hellos) = self.flows.get_mut(&key) else { return Vec::new() };
        self.held -= hellos.held();
        let mut seen = Vec::new();
        hellos.push(&segment, netns, time, &mut seen);
        self.held += hellos.held();
        if hellos.is_over {
            self.forget(key);
        }
        self.keep_within_limits();
        seen
    }

    fn forget(&mut self, key: FlowKey) {
        if let Some(hellos) = self.flows.remove(&key) {
            self.held -= hellos.held();
        }
    }

    fn keep_within_limits(&mut self) {
        while self.order.len() > 2 * MAX_FLOWS
            || self.flows.len() > MAX_FLOWS
            || self.held > MAX_BYTES
        {
            let Some(oldest) = self.order.pop_front() else { break };
            self.forget(oldest);
        }
    }
}

/// Nothing that could follow what was said.
struct NotTls;

/// The hellos of a connection.
#[derive(Debug)]
struct Hellos {
    client: SocketAddr,
    server: SocketAddr,
    halves: [Half; 2],
    messages: [Messages; 2],
    /// Bytes read in both directions.
    read: usize,
    /// The client's first message, its random, and when it was seen.
    first: Option<First>,
    /// After a `HelloRetryRequest`: that, and the second `ClientHello`.
    retry: Option<Vec<u8>>,
    second: Option<Vec<u8>>,
    /// Both hellos are known, or it is not TLS.
    is_over: bool,
}

#[derive(Debug)]
struct First {
    random: [u8; 32],
    time: Timestamp,
    bytes: Vec<u8>,
}

impl Hellos {
    const SIZE: usize = size_of::<Self>();

    fn new(segment: &Segment<'_>) -> Self {
        Self {
            client: segment.source,
            server: segment.destination,
            halves: <[Half; 2]>::default(),
            messages: <[Messages; 2]>::default(),
            read: 0,
            first: None,
            retry: None,
            second: None,
            is_over: false,
        }
    }

    fn sender(&self, segment: &Segment<'_>) -> Sender {
        if segment.source == self.client { Sender::Client } else { Sender::Server }
    }

    /// Whether it is of this connection, not the beginning of another between the same ends.
    fn goes_on_with(&self, segment: &Segment<'_>) -> bool {
        let base = self.halves[Sender::Client.index()].base().unwrap_or(segment.sequence);
        self.sender(segment) == Sender::Server
            || !begins_with_hello(segment.payload)
            || segment.sequence.wrapping_sub(base) as usize <= MAX_OPENING
    }

    /// Bytes of memory.
    fn held(&self) -> usize {
        let first = self.first.as_ref().map_or(0, |first| first.bytes.len());
        let rest = [&self.retry, &self.second].into_iter().flatten().map(Vec::len).sum::<usize>();
        let halves = self.halves.iter().map(Half::held).sum::<usize>();
        let messages = self.messages.iter().map(Messages::held).sum::<usize>();
        Self::SIZE + first + rest + halves + messages
    }

    fn push(
        &mut self,
        segment: &Segment<'_>,
        netns: NetnsId,
        now: Timestamp,
        seen: &mut Vec<Seen>,
    ) {
        let sender = self.sender(segment);
        if let Some(acknowledged) = segment.acknowledged {
            self.halves[sender.peer().index()].open(acknowledged);
        }
        let half = &mut self.halves[sender.index()];
        half.push(segment.sequence, segment.payload, segment.wire_len, segment.fin, now);
        // Each may have waited for the other.
        for sender in [Sender::Client, Sender::Server, Sender::Client, Sender::Server] {
            self.advance(sender, netns, now, seen);
        }
        let held: usize = self.halves.iter().map(Half::held).sum();
        self.is_over |= self.read + held > 2 * MAX_OPENING;
    }

    /// Reads whole plain records as far as they go.
    fn advance(&mut self, sender: Sender, netns: NetnsId, now: Timestamp, seen: &mut Vec<Seen>) {
        while !self.is_over {
            let ready = self.halves[sender.index()].ready();
            let Some(header) = ready.first_chunk::<HEADER_LEN>() else { return };
            if !is_header(*header) {
                self.is_over = true;
                return;
            }
            let (kind, len) = (header[0], usize::from(u16::from_be_bytes([header[3], header[4]])));
            let Some(body) = ready.get(HEADER_LEN..HEADER_LEN + len) else { return };
            if sender == Sender::Server && self.awaits_client() {
                return;
            }
            let messages = match kind {
                HANDSHAKE => self.messages[sender.index()].push(body),
                _ => Vec::new(), // compatibility, or early data
            };
            self.halves[sender.index()].consume(HEADER_LEN + len);
            self.read += HEADER_LEN + len;
            for message in messages {
                match self.message(sender, message.kind, message.bytes, netns, now) {
                    Ok(news) => seen.extend(news),
                    Err(NotTls) => self.is_over = true,
                }
            }
        }
    }

    /// What a message makes known.
    fn message(
        &mut self,
        sender: Sender,
        kind: u8,
        bytes: Vec<u8>,
        netns: NetnsId,
        now: Timestamp,
    ) -> Result<Option<Seen>, NotTls> {
        match (sender, kind, &self.first) {
            (Sender::Client, CLIENT_HELLO, None) => {
                let random = ClientHello::read(&bytes).ok_or(NotTls)?.random;
                let hello = Hello {
                    name: (netns, random),
                    time: now,
                    client: self.client,
                    server: self.server,
                    server_name: server_name(&bytes),
                    early: Hash::BOTH.map(|hash| hash.of(&[&bytes])),
                };
                self.first = Some(First { random, time: now, bytes });
                Ok(Some(Seen::Hello(hello)))
            }
            (_, _, None) => Err(NotTls),
            (Sender::Client, CLIENT_HELLO, _) => {
                self.second = Some(bytes);
                Ok(None)
            }
            (Sender::Server, SERVER_HELLO, Some(first)) => {
                let hello = ServerHello::read(&bytes).ok_or(NotTls)?;
                if hello.retry {
                    self.retry = Some(bytes);
                    return Ok(None);
                }
                let agreed = self.agreed(first, hello.version, bytes, netns);
                self.is_over = true;
                Ok(agreed.map(Seen::Agreed))
            }
            _ => Ok(None),
        }
    }

    /// Whether what the server says next answers a message that is not read yet.
    fn awaits_client(&self) -> bool {
        self.first.is_none() || (self.retry.is_some() && self.second.is_none())
    }

    /// What is known once the server has said hello in `answer`; of what opens nothing, nothing.
    fn agreed(
        &self,
        first: &First,
        version: Version,
        answer: Vec<u8>,
        netns: NetnsId,
    ) -> Option<Agreed> {
        let transcripts = match version {
            Version::TLS13 => Some(self.transcripts(&first.bytes, &answer)),
            Version::TLS12 => None,
            _ => return None,
        };
        let client_hello = self.second.as_ref().unwrap_or(&first.bytes).clone();
        let server_name = server_name(&client_hello);
        let random = ClientHello::read(&client_hello).map(|hello| hello.random);
        let pin = (random == Some(first.random)).then_some(Pin {
            hello: first.time,
            netns,
            client: self.client,
            server: self.server,
            client_hello,
            server_hello: answer,
        });
        Some(Agreed { name: (netns, first.random), pin, server_name, transcripts })
    }

    fn transcripts(&self, first: &[u8], answer: &[u8]) -> [Vec<u8>; 2] {
        Hash::BOTH.map(|hash| match (&self.retry, &self.second) {
            (Some(retry), Some(second)) => {
                let first = hash.of(&[first]);
                #[expect(clippy::cast_possible_truncation, reason = "32 or 48")]
                let header = [MESSAGE_HASH, 0, 0, hash.len() as u8];
                hash.of(&[&header, &first, retry, second, answer])
            }
            _ => hash.of(&[first, answer]),
        })
    }
}

/// Whether a payload is the beginning of a `ClientHello`, be it very short.
fn begins_with_hello(payload: &[u8]) -> bool {
    let is = |at: usize, wanted: fn(u8) -> bool| payload.get(at).is_none_or(|byte| wanted(*byte));
    is(0, |byte| byte == HANDSHAKE)
        && is(1, |byte| byte == 3)
        && is(2, |byte| byte <= 4)
        && is(HEADER_LEN, |byte| byte == CLIENT_HELLO)
}
