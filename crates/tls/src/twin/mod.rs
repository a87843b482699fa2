//! Twins: decrypted conversations as TCP conversations of their own, for files that cannot hold
//! secrets.
//!
//! A twin never has the real conversation's addresses and ports, nor those of any other flow in the
//! file: Wireshark would take the two for one. Its server's port is the one at which Wireshark
//! dissects what is said; every frame's Ethernet source begins with 02:54:4c:53.

mod http2;
mod moves;
mod protocol;

pub use moves::Moves;
pub(crate) use protocol::begins_http1;
pub use protocol::who_says;

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;

use kuberewind_packet::Timestamp;

use crate::decrypt::{Conversation, Event};
use crate::flow::{FlowKey, Place, Sender};
use crate::frame::{self, ACK, FIN, Header, PSH, RST, SYN};
use crate::segment::Segment;

use crate::twin::http2::Http2;
use crate::twin::protocol::{
    HTTP2_PREFACE, Known, is_http, plain_port, recognise, recognise_in_midstream,
};

/// The most that one segment carries.
const MAX_PAYLOAD: usize = 1400;
/// The receiver says at the latest after so many bytes that it has them; the window is 65,535.
const ACKNOWLEDGE_AT: u32 = 32 * 1024;
/// What is said before it is known which protocol it is.
const MAX_HELD: usize = 64 * 1024;
/// A hole in a twin is never shown larger: sequence numbers must stay comparable.
const MAX_LOST: u64 = 1 << 30;
/// Where other ports are looked for when the client's is taken (RFC 6335 section 6).
const DYNAMIC_PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;

/// The addresses and ports in use in a file: best those of all its real packets.
#[derive(Clone, Debug, Default)]
pub struct PortsTaken {
    /// Hashes of both ends in order: with 2⁶⁴ of them, a false match costs only a port number.
    pairs: HashSet<u64>,
    /// Of twins; none that real packets turned out to need, too.
    made: HashMap<u64, [SocketAddr; 2]>,
    /// Those.
    in_the_way: Vec<[SocketAddr; 2]>,
    /// The ends of the newest packet, which mostly are those of the next one, too.
    newest: Option<[SocketAddr; 2]>,
    /// A real packet bears the twins' mark.
    mark_is_real: bool,
}

impl PortsTaken {
    /// Takes note of a packet: an Ethernet frame of which `bytes` will be in the file.
    pub fn see(&mut self, original_len: u32, bytes: &[u8]) {
        self.mark_is_real |= frame::is_marked(bytes);
        if let Ok(segment) = Segment::read(bytes, original_len) {
            let ends = [segment.source, segment.destination];
            if self.newest == Some(ends) || self.newest == Some([ends[1], ends[0]]) {
                return;
            }
            self.newest = Some(ends);
            let pair = pair(segment.source, segment.destination);
            if !self.pairs.insert(pair)
                && let Some(ends) = self.made.remove(&pair)
            {
                self.in_the_way.push(ends);
            }
        }
    }

    /// The client's end if it is free, else the same address with another port. It is taken then.
    fn free(&mut self, client: SocketAddr, server: SocketAddr) -> Option<SocketAddr> {
        let others = DYNAMIC_PORTS.cycle().skip(usize::from(client.port() % 16384));
        let ports = std::iter::once(client.port()).chain(others.take(DYNAMIC_PORTS.len()));
        let mut ends = ports.map(|port| SocketAddr::new(client.ip(), port));
        let end = ends.find(|end| self.pairs.insert(pair(*end, server)))?;
        self.made.insert(pair(end, server), [end, server]);
        Some(end)
    }
}

fn pair(one: SocketAddr, other: SocketAddr) -> u64 {
    let mut hasher = DefaultHasher::new();
    FlowKey::between(Place::default(), one, other).hash(&mut hasher);
    hasher.finish()
}

/// What was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TwinCounts {
    /// Conversations that were shown.
    pub conversations: u64,
    /// Their frames.
    pub frames: u64,
    /// The bytes of these frames.
    pub bytes: u64,
    /// Conversations for which no port was free.
    pub refused: u64,
    /// Conversations over HTTP/2 of which something is missing, so that header fields were written anew.
    pub http2_cut: u64,
    /// Of these, those in which a direction could not be followed any more.
    pub http2_given_up: u64,
    /// Header fields in them that refer to what was said before, named `unknown-hpack-N`.
    pub unknown_fields: u64,
}

impl TwinCounts {
    /// One that is over.
    fn add(&mut self, http2: Option<&Http2>) {
        if let Some(http2) = http2.filter(|http2| http2.is_cut()) {
            self.http2_cut += 1;
            self.http2_given_up += u64::from(http2.is_given_up());
            self.unknown_fields += http2.unknown_fields();
        }
    }
}

/// Makes frames of what a [`Decryptor`](crate::Decryptor) tells.
#[derive(Debug, Default)]
pub struct Twins {
    taken: PortsTaken,
    by_number: HashMap<u64, Twin>,
    counts: TwinCounts,
    frame: Vec<u8>,
    /// What waited is told with its own time.
    may_go_back: bool,
    /// Where sequence numbers begin.
    sequence: u32,
}

/// One conversation.
#[derive(Debug)]
enum Twin {
    /// Too little was said to choose the port.
    Waiting(Vec<Piece>),
    Shown(Shown),
    Refused,
}

/// What was said before the port is known.
#[derive(Debug)]
struct Piece {
    from: Sender,
    time: Timestamp,
    lost: u64,
    bytes: Vec<u8>,
}

/// A conversation whose ports are chosen.
#[derive(Debug)]
struct Shown {
    ends: [SocketAddr; 2],
    tags: [u16; 2],
    /// The next sequence number of each end.
    next: [u32; 2],
    /// Up to where each end's peer has acknowledged.
    acknowledged: [u32; 2],
    ended: [bool; 2],
    http2: Option<Box<Http2>>,
    /// Of each end, in HTTP/1: what it says belongs to a message whose beginning is missing.
    tails: [Option<Tail>; 2],
}

/// The rest of a message of HTTP/1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tail {
    /// Its last segment is no end of a line: Wireshark waits for it, and would take the head of the next
    /// message for a part of this one, and so each next one.
    is_open: bool,
}

impl Twins {
    /// No twins yet; none will use what is taken.
    pub fn new(taken: PortsTaken) -> Self {
        Self { taken, ..Self::default() }
    }

    /// What waits until it is known what is spoken is told with the time at which it was said, so times may
    /// go back.
    #[must_use]
    pub fn with_own_times(self) -> Self {
        Self { may_go_back: true, ..self }
    }

    /// Sequence numbers begin here. Readers know a conversation from an earlier one between the same ends, of
    /// other twins, by that alone.
    #[must_use]
    pub fn beginning_at(self, sequence: u32) -> Self {
        Self { sequence, ..self }
    }

    /// What was made so far.
    pub fn counts(&self) -> TwinCounts {
        self.counts
    }

    /// Takes note of a packet whose ports no twin may use from now on.
    pub fn avoid(&mut self, original_len: u32, bytes: &[u8]) {
        self.taken.see(original_len, bytes);
    }

    /// Which twins must move, once all packets were seen: real ones need their ports. None where real
    /// packets bear the twins' mark, as a pod may make them do: a recorded packet is never changed.
    pub fn moves(&mut self) -> Moves {
        let mut moves = Moves::default();
        if self.taken.mark_is_real {
            return moves;
        }
        for [client, server] in std::mem::take(&mut self.taken.in_the_way) {
            if let Some(free) = self.taken.free(client, server) {
                moves.add(client, server, free.port());
            }
        }
        moves
    }

    /// Takes an event, in the order in which the decryptor tells them; `sink` gets the frames that
    /// come of it, each with the event's time.
    pub fn hear(&mut self, event: &Event<'_>, sink: &mut dyn FnMut(Timestamp, &[u8])) {
        match event {
            Event::Data { conversation, from, time, content } => {
                let twin = self.by_number.entry(conversation.number);
                let twin = twin.or_insert_with(|| Twin::Waiting(Vec::new()));
                if let Twin::Waiting(pieces) = twin {
                    let bytes = content.bytes.to_vec();
                    pieces.push(Piece { from: *from, time: *time, lost: content.lost, bytes });
                    self.decide(conversation, false, *time, sink);
                } else {
                    self.show(conversation, *time, sink, |shown, out| {
                        shown.say(*from, content.lost, content.bytes, out);
                    });
                }
            }
            Event::End { conversation, from, time, reset } => {
                self.decide(conversation, true, *time, sink);
                self.show(conversation, *time, sink, |shown, out| shown.end(*from, *reset, out));
            }
            Event::Report { conversation, time, .. } => {
                self.decide(conversation, true, *time, sink);
                if let Some(Twin::Shown(shown)) = self.by_number.remove(&conversation.number) {
                    self.counts.add(shown.http2.as_deref());
                }
            }
        }
    }

    /// Whether words wait until it is known what is spoken.
    pub fn is_waiting(&self, conversation: &Conversation) -> bool {
        matches!(self.by_number.get(&conversation.number), Some(Twin::Waiting(_)))
    }

    /// Waits no longer for words by which it is known what is spoken.
    pub fn settle(
        &mut self,
        conversation: &Conversation,
        time: Timestamp,
        sink: &mut dyn FnMut(Timestamp, &[u8]),
    ) {
        self.decide(conversation, true, time, sink);
    }

    /// What is said from now on is shown as a conversation of its own between the same ends, from this sequence
    /// number on: what was shown so far is for another file.
    pub fn begin_anew(
        &mut self,
        conversation: &Conversation,
        sequence: u32,
        time: Timestamp,
        sink: &mut dyn FnMut(Timestamp, &[u8]),
    ) {
        self.settle(conversation, time, sink);
        let Some(Twin::Shown(shown)) = self.by_number.get_mut(&conversation.number) else { return };
        let speaks_http2 = shown.http2.is_some();
        self.counts.add(shown.http2.as_deref());
        let (ends, ended) = (shown.ends, shown.ended);
        *shown = Shown { ended, ..Shown::new(ends, conversation.number, sequence) };
        if speaks_http2 {
            shown.http2 = Some(Box::new(Http2::in_midstream()));
        } else if is_http(ends[1].port()) {
            shown.tails = [Some(Tail::default()); 2];
        }
        self.open(conversation, time, speaks_http2, sink);
    }

    /// Makes the frames that stand before any words.
    fn open(
        &mut self,
        conversation: &Conversation,
        time: Timestamp,
        http2_began_before: bool,
        sink: &mut dyn FnMut(Timestamp, &[u8]),
    ) {
        self.show(conversation, time, sink, |shown, out| {
            shown.begin(out);
            if http2_began_before {
                for (from, opening) in
                    [Sender::Client, Sender::Server].into_iter().zip(Http2::opening())
                {
                    shown.data(from, 0, &opening, out);
                }
            }
        });
    }

    /// Chooses the port once enough was said, or when no more will be.
    fn decide(
        &mut self,
        conversation: &Conversation,
        last: bool,
        time: Timestamp,
        sink: &mut dyn FnMut(Timestamp, &[u8]),
    ) {
        let Some(Twin::Waiting(pieces)) = self.by_number.get_mut(&conversation.number) else {
            return;
        };
        let said = |from: Sender| {
            let pieces = pieces.iter().filter(|piece| piece.from == from);
            pieces.flat_map(|piece| piece.bytes.iter().copied()).take(64).collect::<Vec<_>>()
        };
        let begins = |from: Sender| {
            pieces.iter().find(|piece| piece.from == from).is_none_or(|piece| piece.lost == 0)
        };
        let has_preface = said(Sender::Client).starts_with(HTTP2_PREFACE);
        let server_is_whole = !conversation.resumed && begins(Sender::Server);
        let is_whole = server_is_whole && begins(Sender::Client);
        let known = if is_whole {
            recognise(&said(Sender::Client), &said(Sender::Server))
        } else if has_preface && !begins(Sender::Client) {
            Known::Http2
        } else {
            let starts = || pieces.iter().map(|piece| (piece.from, piece.bytes.as_slice()));
            recognise_in_midstream(starts)
        };
        let http2 = match known {
            Known::Http2 => Some(Http2::in_midstream()),
            _ => has_preface.then(|| Http2::from_the_preface(server_is_whole)),
        };
        let held: usize = pieces.iter().map(|piece| piece.bytes.len()).sum();
        let undecided = matches!(known, Known::TooFew | Known::AwaitsPreface);
        if undecided && !last && held <= MAX_HELD {
            return;
        }
        let mut pieces = std::mem::take(pieces);
        let port = plain_port(known, conversation.server.port());
        if has_preface {
            // A server of HTTP/2 may speak before the client's preface, by which it is recognised.
            pieces.sort_by_key(|piece| piece.from);
        }
        // What acknowledges others' words must not be told with a time of before them.
        let mut latest = Timestamp::MIN;
        for piece in &mut pieces {
            latest = latest.max(if self.may_go_back { piece.time } else { time });
            piece.time = latest;
        }
        let server = SocketAddr::new(conversation.server.ip(), port);
        let Some(client) = self.taken.free(conversation.client, server) else {
            self.counts.refused += 1;
            self.by_number.insert(conversation.number, Twin::Refused);
            return;
        };
        self.counts.conversations += 1;
        let mut shown = Shown::new([client, server], conversation.number, self.sequence);
        if known == Known::Port(80) && http2.is_none() && (conversation.resumed || !is_whole) {
            shown.tails = [Some(Tail::default()); 2];
        }
        shown.http2 = http2.map(Box::new);
        self.by_number.insert(conversation.number, Twin::Shown(shown));
        let begins = pieces.first().map_or(time, |piece| piece.time);
        self.open(conversation, begins, known == Known::Http2, sink);
        for piece in pieces {
            self.show(conversation, piece.time, sink, |shown, out| {
                shown.say(piece.from, piece.lost, &piece.bytes, out);
            });
        }
    }

    /// Lets a twin make frames.
    fn show(
        &mut self,
        conversation: &Conversation,
        time: Timestamp,
        sink: &mut dyn FnMut(Timestamp, &[u8]),
        make: impl FnOnce(&mut Shown, &mut dyn FnMut(&Header, &[u8])),
    ) {
        let Self { by_number, counts, frame, .. } = self;
        if let Some(Twin::Shown(shown)) = by_number.get_mut(&conversation.number) {
            make(shown, &mut |header, payload| {
                frame::write(frame, header, payload);
                counts.frames += 1;
                counts.bytes += frame.len() as u64;
                sink(time, frame);
            });
        }
    }
}

impl Shown {
    #[expect(clippy::cast_possible_truncation, reason = "tags may come again")]
    fn new(ends: [SocketAddr; 2], number: u64, sequence: u32) -> Self {
        let tag = (number as u16).wrapping_mul(2);
        Self {
            ends,
            tags: [tag, tag + 1],
            next: [sequence; 2],
            acknowledged: [sequence; 2],
            ended: [false; 2],
            http2: None,
            tails: [None; 2],
        }
    }

    fn begin(&mut self, out: &mut dyn FnMut(&Header, &[u8])) {
        self.send(Sender::Client, SYN, &[], out);
        self.send(Sender::Server, SYN | ACK, &[], out);
        self.send(Sender::Client, ACK, &[], out);
    }

    /// Shows the content of a record, or what can be understood of it.
    fn say(&mut self, from: Sender, lost: u64, bytes: &[u8], out: &mut dyn FnMut(&Header, &[u8])) {
        let Some(http2) = &mut self.http2 else {
            if self.ends_tail(from, lost, bytes) {
                self.data(from, 0, b"\r\n", out);
            }
            return self.data(from, lost, bytes, out);
        };
        if let Some(piece) = http2.take(from, lost, bytes) {
            self.data(from, piece.lost, &piece.bytes, out);
        }
    }

    /// Whether these are the first words behind a tail that wants the end of a line. Looks for the end of the
    /// tail meanwhile.
    fn ends_tail(&mut self, from: Sender, lost: u64, bytes: &[u8]) -> bool {
        let tail = &mut self.tails[from.index()];
        let Some(Tail { is_open }) = *tail else { return false };
        if begins_http1(from, bytes) {
            *tail = None;
            return is_open && lost == 0;
        }
        let end = bytes.chunks(MAX_PAYLOAD).next_back();
        let is_open = end.map_or(is_open, |segment| !segment.contains(&b'\n'));
        *tail = Some(Tail { is_open });
        false
    }

    fn data(&mut self, from: Sender, lost: u64, bytes: &[u8], out: &mut dyn FnMut(&Header, &[u8])) {
        if self.ended[from.index()] {
            return;
        }
        let lost = u32::try_from(lost.min(MAX_LOST)).unwrap_or(0);
        let next = &mut self.next[from.index()];
        *next = next.wrapping_add(lost);
        for payload in bytes.chunks(MAX_PAYLOAD) {
            self.send(from, PSH | ACK, payload, out);
        }
        let open = self.next[from.index()].wrapping_sub(self.acknowledged[from.index()]);
        if open >= ACKNOWLEDGE_AT {
            self.acknowledge(from, out);
        }
    }

    fn end(&mut self, from: Sender, reset: bool, out: &mut dyn FnMut(&Header, &[u8])) {
        if reset {
            if self.ended != [true; 2] {
                self.send(from, RST | ACK, &[], out);
            }
            self.ended = [true; 2];
        } else if !std::mem::replace(&mut self.ended[from.index()], true) {
            self.send(from, FIN | ACK, &[], out);
            self.acknowledge(from, out);
        }
    }

    /// The peer of `from` says that it has everything.
    fn acknowledge(&mut self, from: Sender, out: &mut dyn FnMut(&Header, &[u8])) {
        self.send(from.peer(), ACK, &[], out);
    }

    fn send(
        &mut self,
        from: Sender,
        flags: u8,
        payload: &[u8],
        out: &mut dyn FnMut(&Header, &[u8]),
    ) {
        let (own, peer) = (from.index(), from.peer().index());
        let acknowledges = flags & ACK != 0;
        let header = Header {
            source: self.ends[own],
            destination: self.ends[peer],
            tags: [self.tags[own], self.tags[peer]],
            sequence: self.next[own],
            acknowledged: if acknowledges { self.next[peer] } else { 0 },
            flags,
        };
        out(&header, payload);
        if acknowledges {
            self.acknowledged[peer] = self.next[peer];
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most MAX_PAYLOAD")]
        let len = payload.len() as u32 + u32::from(flags & (SYN | FIN) != 0);
        self.next[own] = self.next[own].wrapping_add(len);
    }
}
