//! From recorded packets and a key log to what was said.
//!
//! Tolerant by one rule: *the tag decides*. Whatever is guessed after a loss (where a record begins,
//! which number it has, which key is in use) is proved by the record's authentication tag before a
//! byte of it is shown; so loss, reordering and doubled packets can cost content but never give wrong
//! content.

mod connection;
mod entry;
mod phase;
mod session;
mod side;

use std::collections::{HashMap, VecDeque, hash_map};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use kuberewind_packet::Timestamp;

use crate::decrypt::connection::{Connection, Context};
pub(crate) use crate::decrypt::entry::Entry;
use crate::decrypt::session::Pinned;
use crate::flow::{FlowKey, Place, Sender};
use crate::segment::Segment;
use crate::suite::Version;
use crate::{KeyLog, KeyLogLine, Pin};

/// Of connections between the same ends so many that are older than the packets are kept.
const MAX_PINNED: usize = 4;

/// A TLS connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// Counted from 0 within one decryptor; not without gaps.
    pub number: u64,
    /// Where its first packet was seen.
    pub place: Place,
    /// Who sent the `ClientHello`.
    pub client: SocketAddr,
    /// The other end.
    pub server: SocketAddr,
    /// It began before its first packet at hand: what was said first is not known.
    pub resumed: bool,
}

/// The content of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content<'a> {
    /// Bytes of this direction that are missing before it; an estimate, never 0 where bytes are.
    pub lost: u64,
    /// The application data.
    pub bytes: &'a [u8],
}

/// What happened in a conversation. `time` is the time of the packet with which it became known, so
/// that events come in the order of time.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Application data.
    Data {
        /// Of this conversation.
        conversation: &'a Conversation,
        /// Who sent it.
        from: Sender,
        /// See [`Event`].
        time: Timestamp,
        /// The data.
        content: Content<'a>,
    },
    /// A direction ended: closed by TLS or TCP, or reset.
    End {
        /// Of this conversation.
        conversation: &'a Conversation,
        /// Who sends no more.
        from: Sender,
        /// See [`Event`].
        time: Timestamp,
        /// By a reset; then both directions are over.
        reset: bool,
    },
    /// Nothing more will come of it; each conversation has one, and it is the last.
    Report {
        /// Of this conversation.
        conversation: &'a Conversation,
        /// See [`Event`].
        time: Timestamp,
        /// What became of it.
        report: Report,
    },
}

/// The account of one conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// When its first packet was seen.
    pub first: Timestamp,
    /// When its last packet was seen.
    pub last: Timestamp,
    /// Once the server chose one.
    pub version: Option<Version>,
    /// Application data from the client, bytes.
    pub client_bytes: u64,
    /// Application data from the server, bytes.
    pub server_bytes: u64,
    /// Whether it could be read.
    pub outcome: Outcome,
}

/// Whether a conversation could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// All of it.
    Opened,
    /// Not all of it.
    Partly(Reason),
    /// Nothing of it.
    Sealed(Reason),
}

/// Why a conversation, or a part of it, could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// No secret of its handshake is known.
    NoSecret,
    /// It is older than the packets.
    NoHandshake,
    /// Packets of it were lost.
    PacketsMissing,
    /// The handshake came to no end; nothing was said.
    Unfinished,
    /// This version is not supported.
    Version(Version),
    /// This cipher suite, by its number in IANA's registry, is not supported.
    Cipher(u16),
    /// The secrets that claim to be its do not open it.
    WrongSecret,
    /// It is older than the packets, and so many records came before them that the number of none was
    /// found.
    Number,
    /// It is not TLS as specified.
    Damaged,
    /// More connections at once, or more bytes waiting, than [`Limits`] allow.
    Limit,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSecret => f.write_str("no secret"),
            Self::NoHandshake => f.write_str("handshake not recorded"),
            Self::PacketsMissing => f.write_str("packets missing"),
            Self::Unfinished => f.write_str("handshake not completed"),
            Self::Version(version) => write!(f, "{version} not supported"),
            Self::Cipher(number) => write!(f, "cipher suite {number:#06x} not supported"),
            Self::WrongSecret => f.write_str("secret does not fit"),
            Self::Number => f.write_str("record number not found"),
            Self::Damaged => f.write_str("not valid TLS"),
            Self::Limit => f.write_str("too many connections at once"),
        }
    }
}

/// How much is kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections, about 1 KiB each; the longest silent ones go first.
    pub connections: usize,
    /// Bytes that wait in one direction for missing ones.
    pub direction: usize,
    /// Bytes that wait in all connections together.
    pub total: usize,
    /// How long missing bytes are waited for that the receiver says it has.
    pub hole: Duration,
    /// How long missing bytes are waited for.
    pub patience: Duration,
    /// Tries that searching for records' numbers may cost in all, 0.2 to 0.7 µs each.
    pub tries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 65_536,
            direction: 2 << 20,
            total: 256 << 20,
            hole: Duration::from_millis(500),
            patience: Duration::from_secs(30),
            tries: 1 << 26,
        }
    }
}

/// Decrypts a stream of packets. Whatever is guessed after a loss is proved by a record's tag before a
/// byte of it is shown.
#[derive(Debug)]
pub struct Decryptor {
    log: KeyLog,
    pinned: HashMap<FlowKey, Vec<Pinned>>,
    limits: Limits,
    connections: HashMap<FlowKey, Box<Connection>>,
    /// When to look at which connection with a hole again.
    waiting: VecDeque<(Timestamp, FlowKey)>,
    held: usize,
    count: u64,
    now: Timestamp,
    scratch: Vec<u8>,
    /// What searching may still cost.
    tries: u64,
    /// Directions that were entered in the middle, and nobody asked for yet.
    entries: Vec<Entry>,
}

impl Decryptor {
    /// A decryptor that has these secrets.
    pub fn new(log: KeyLog, limits: Limits) -> Self {
        Self {
            log,
            pinned: HashMap::new(),
            limits,
            connections: HashMap::new(),
            waiting: VecDeque::new(),
            held: 0,
            count: 0,
            now: Timestamp::MIN,
            scratch: Vec::new(),
            tries: limits.tries,
            entries: Vec::new(),
        }
    }

    /// Learns more secrets, of connections whose first encrypted record is still to come. Once there are
    /// more handshakes than connections may be, what was known before is forgotten: the secrets of a
    /// stream without end would fill any memory.
    pub fn learn(&mut self, lines: impl IntoIterator<Item = KeyLogLine>) {
        if self.log.handshakes() > self.limits.connections {
            self.log = KeyLog::default();
        }
        self.log.extend(lines);
    }

    /// Learns of a connection, seen at `place`, that is older than the packets to come. Where it has its
    /// secrets, too, what is left of the connection is read. As many are kept as connections may be.
    pub fn pin(&mut self, place: Place, pin: &Pin) {
        let Some(new) = Pinned::new(pin) else { return };
        if self.pinned.len() > self.limits.connections {
            self.pinned.clear();
        }
        let between = FlowKey::between(place, pin.client, pin.server);
        let known = self.pinned.entry(between).or_default();
        let random = |pinned: &Pinned| pinned.session.client_random;
        if known.iter().any(|known| random(known) == random(&new)) {
            return; // seen from two places
        }
        known.push(new);
        known.sort_by_key(|pinned| std::cmp::Reverse(pinned.hello));
        known.truncate(MAX_PINNED);
    }

    /// Takes the next packet: an Ethernet frame of which `bytes` were captured. Packets come in the
    /// order of time. `sink` gets what it makes known.
    pub fn see(
        &mut self,
        place: Place,
        time: Timestamp,
        original_len: u32,
        bytes: &[u8],
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        self.now = self.now.max(time);
        self.give_up_holes(sink);
        let Ok(segment) = Segment::read(bytes, original_len) else { return };
        let key = FlowKey::shared(place, &segment);
        let mut context = Context {
            log: &self.log,
            limits: &self.limits,
            scratch: &mut self.scratch,
            tries: &mut self.tries,
            entries: &mut self.entries,
            sink,
            now: self.now,
        };
        let mut begin = || {
            self.count += 1;
            let pinned = self.pinned.get(&key).cloned().unwrap_or_default();
            Box::new(Connection::new(self.count - 1, place, &segment, pinned, self.now))
        };
        let connection = match self.connections.entry(key) {
            hash_map::Entry::Occupied(mut known) => {
                if known.get().is_succeeded_by(&segment) {
                    self.held -= known.get().held();
                    known.get_mut().finish(false, &mut context);
                    known.insert(begin());
                }
                known.into_mut()
            }
            hash_map::Entry::Vacant(_) if !segment.syn && segment.payload.is_empty() => return,
            hash_map::Entry::Vacant(unknown) => unknown.insert(begin()),
        };
        let (held, had_hole) = (connection.held(), connection.has_hole());
        connection.push(&segment, &mut context);
        if self.held - held + connection.held() > self.limits.total {
            connection.abandon(&mut context);
        }
        self.held = self.held - held + connection.held();
        if !had_hole && connection.has_hole() {
            self.waiting.push_back((self.now.saturating_add(self.limits.hole), key));
        }
        if self.connections.len() > self.limits.connections {
            self.evict(sink);
        }
    }

    /// The packets are over.
    pub fn finish(mut self, sink: &mut dyn FnMut(Event<'_>)) {
        let mut left: Vec<_> = std::mem::take(&mut self.connections).into_values().collect();
        left.sort_by_key(|connection| connection.conversation.number);
        for mut connection in left {
            connection.finish(false, &mut self.context(sink));
        }
    }

    /// The directions that were entered in the middle since this was asked last.
    pub(crate) fn take_entries(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.entries)
    }

    /// Bytes that wait in memory.
    pub fn held(&self) -> usize {
        self.held
    }

    fn context<'a>(&'a mut self, sink: &'a mut dyn FnMut(Event<'_>)) -> Context<'a> {
        Context {
            log: &self.log,
            limits: &self.limits,
            scratch: &mut self.scratch,
            tries: &mut self.tries,
            entries: &mut self.entries,
            sink,
            now: self.now,
        }
    }

    fn give_up_holes(&mut self, sink: &mut dyn FnMut(Event<'_>)) {
        while let Some((due, key)) = self.waiting.front().copied() {
            if due > self.now {
                break;
            }
            self.waiting.pop_front();
            let Some(connection) = self.connections.get_mut(&key) else { continue };
            let held = connection.held();
            connection.give_up_holes(&mut Context {
                log: &self.log,
                limits: &self.limits,
                scratch: &mut self.scratch,
                tries: &mut self.tries,
                entries: &mut self.entries,
                sink,
                now: self.now,
            });
            self.held = self.held - held + connection.held();
            if connection.has_hole() {
                self.waiting.push_back((self.now.saturating_add(self.limits.hole), key));
            }
        }
    }

    /// Ends the quarter of the connections that was silent for longest.
    fn evict(&mut self, sink: &mut dyn FnMut(Event<'_>)) {
        let mut by_age: Vec<_> =
            self.connections.iter().map(|(key, connection)| (connection.last, *key)).collect();
        by_age.sort_unstable_by_key(|(last, _)| *last);
        for (_, key) in by_age.iter().take(by_age.len().div_ceil(4)) {
            if let Some(mut connection) = self.connections.remove(key) {
                self.held -= connection.held();
                connection.abandon(&mut self.context(sink));
            }
        }
    }
}
