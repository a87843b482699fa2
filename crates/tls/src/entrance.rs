//! How readers that decrypt by themselves are led into connections that are older than the packets.
//!
//! Wireshark reads a connection from its hellos on, counts its records, and never goes on where one is
//! missing. So before such a connection's first packet stand frames between the same ends: the hellos
//! as they were, what ends a handshake (sealed with the connection's own keys), an empty record for
//! each one that came before the first that opens, and a record's header where the packets begin within
//! one. Their sequence numbers end where the real ones begin.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use kuberewind_packet::Timestamp;

use crate::decrypt::{Conversation, Entry};
use crate::flow::{FlowKey, Place, Sender};
use crate::frame::{self, ACK, Header, PSH};
use crate::hello::speaks_http2;
use crate::open::{MAX_BODY, header};
use crate::segment::Segment;
use crate::twin::begins_http1;
use crate::{Decryptor, Pin};

/// So many records are stood in for at most, in each direction.
const MAX_FILLERS: u64 = 1 << 16;
/// So many of their bytes stand in one frame, about; the receiver says after each that it has them.
const FRAME: usize = 32 << 10;
/// More connections than these are not led into: a stream without end would fill any memory.
const MAX_FLOWS: usize = 1 << 16;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
/// How long it is waited for a record that opens in each direction.
const PATIENCE: Duration = Duration::from_secs(2);

/// How a connection that is older than the packets is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Not known yet.
    Undecided,
    /// Frames lead into it.
    Led,
    /// It has a twin.
    Twin,
}

/// What a frame that leads into a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lead {
    /// A part of the handshake.
    Handshake,
    /// Empty records.
    Filler,
}

/// A connection of which frames were made, or which is given up.
#[derive(Debug)]
pub struct Decision {
    /// Where its first packet was seen.
    pub place: Place,
    /// The time of that packet.
    pub began: Timestamp,
    /// What leads into it; nothing where it has a twin.
    pub frames: Vec<(Lead, Vec<u8>)>,
}

/// The pinned connections, from their first packet in the file on.
#[derive(Debug, Default)]
pub struct Entrances {
    flows: HashMap<FlowKey, Flow>,
    waiting: Vec<FlowKey>,
}

#[derive(Debug)]
struct Flow {
    /// Newest first.
    pins: Vec<Pin>,
    state: State,
}

#[derive(Debug)]
enum State {
    Unseen,
    Waiting(Box<Waiting>),
    Decided(Way),
}

/// What is known of a connection before it is decided how to show it.
#[derive(Debug)]
struct Waiting {
    place: Place,
    began: Timestamp,
    /// The sequence numbers of each end's first payload.
    starts: [Option<u32>; 2],
    entries: [Option<Entry>; 2],
    /// It was heard to speak HTTP/1.
    http1: bool,
    /// Each end's first words are no beginning of a message of HTTP/1; none before any.
    within: [Option<bool>; 2],
}

impl Entrances {
    /// Learns of a connection that is older than the packets to come.
    pub fn pin(&mut self, place: Place, pin: Pin) {
        let between = FlowKey::between(place, pin.client, pin.server);
        if self.flows.len() >= MAX_FLOWS {
            return;
        }
        let flow = self.flows.entry(between);
        let flow = flow.or_insert_with(|| Flow { pins: Vec::new(), state: State::Unseen });
        if flow.pins.iter().any(|known| known.client_random() == pin.client_random()) {
            return; // seen from two places
        }
        flow.pins.push(pin);
        flow.pins.sort_by_key(|pin| std::cmp::Reverse(pin.hello));
    }

    /// Takes a packet, before the decryptor does. `None`: it is of no pinned connection. If it is the first
    /// one of such, says by which clients' randoms that may go.
    pub fn see(
        &mut self,
        place: Place,
        time: Timestamp,
        original_len: u32,
        bytes: &[u8],
    ) -> Option<Vec<[u8; 32]>> {
        if self.flows.is_empty() {
            return None;
        }
        let segment = Segment::read(bytes, original_len).ok()?;
        let key = FlowKey::shared(place, &segment);
        let flow = self.flows.get_mut(&key)?;
        let mut begun = Vec::new();
        if matches!(flow.state, State::Unseen) {
            begun = flow.pins.iter().filter_map(Pin::client_random).collect();
            // What began with this packet or later needs nobody to lead into it.
            flow.pins.retain(|pin| !segment.syn && pin.hello < time);
            if flow.pins.is_empty() {
                self.flows.remove(&key);
                return Some(begun);
            }
            let (starts, entries) = ([None; 2], [None, None]);
            let (http1, within) = (false, [None; 2]);
            let waiting = Waiting { place, began: time, starts, entries, http1, within };
            flow.state = State::Waiting(Box::new(waiting));
            self.waiting.push(key);
        }
        if let State::Waiting(waiting) = &mut flow.state
            && !segment.payload.is_empty()
        {
            let client = flow.pins.first().map(|pin| pin.client);
            let from_client = client.is_some_and(|client| {
                (client.ip(), client.port()) == (segment.source.ip(), segment.source.port())
            });
            let from = if from_client { Sender::Client } else { Sender::Server };
            waiting.starts[from.index()].get_or_insert(segment.sequence);
        }
        Some(begun)
    }

    /// Takes what is said in a conversation.
    pub fn hear(&mut self, conversation: &Conversation, from: Sender, bytes: &[u8]) {
        let flow = self.flows.get_mut(&between(conversation));
        if let Some(Flow { state: State::Waiting(waiting), .. }) = flow {
            let begins = begins_http1(from, bytes);
            waiting.http1 |= begins;
            waiting.within[from.index()].get_or_insert(!begins);
        }
    }

    /// How a resumed conversation is shown.
    pub fn way(&self, conversation: &Conversation) -> Way {
        match self.flows.get(&between(conversation)).map(|flow| &flow.state) {
            Some(State::Unseen | State::Waiting(_)) => Way::Undecided,
            Some(State::Decided(way)) => *way,
            None => Way::Twin,
        }
    }

    /// Whether some connection is undecided.
    pub fn are_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Decides on connections of which enough is known, or which have waited for long, or on all.
    pub fn decide(
        &mut self,
        decryptor: &mut Decryptor,
        now: Timestamp,
        all: bool,
    ) -> Vec<Decision> {
        for entry in decryptor.take_entries() {
            if let Some(flow) = self.flows.get_mut(&between(&entry.conversation))
                && let State::Waiting(waiting) = &mut flow.state
            {
                let index = entry.from.index();
                waiting.entries[index].get_or_insert(entry);
            }
        }
        let mut decisions = Vec::new();
        let flows = &mut self.flows;
        self.waiting.retain(|key| {
            let Some(flow) = flows.get_mut(key) else { return false };
            let State::Waiting(waiting) = &flow.state else { return false };
            let Waiting { place, began, .. } = **waiting;
            let is_known = waiting.entries.iter().all(Option::is_some);
            if !is_known && !all && now.since(began) < PATIENCE {
                return true;
            }
            let frames = waiting.lead(&flow.pins).unwrap_or_default();
            let way = if frames.is_empty() { Way::Twin } else { Way::Led };
            flow.state = State::Decided(way);
            flow.pins = Vec::new();
            decisions.push(Decision { place, began, frames });
            false
        });
        decisions
    }
}

fn between(conversation: &Conversation) -> FlowKey {
    FlowKey::between(conversation.place, conversation.client, conversation.server)
}

impl Waiting {
    fn lead(&self, pins: &[Pin]) -> Option<Vec<(Lead, Vec<u8>)>> {
        let [client, server] = self.entries.each_ref().map(Option::as_ref);
        let entries = [client?, server?];
        let pin = pins.iter().find(|pin| pin.client_random() == Some(entries[0].origin))?;
        let fits = entries.iter().all(|entry| entry.number <= MAX_FILLERS);
        if !fits
            || entries[1].origin != entries[0].origin
            || speaks_http2(&pin.client_hello, &pin.server_hello) && !self.http1
            || self.is_within_a_message()
        {
            return None;
        }
        let hellos = [record(&pin.client_hello)?, record(&pin.server_hello)?];
        let rests = [self.rest(entries[0])?, self.rest(entries[1])?];
        let mut way = Path::new(&entries[0].conversation);
        for (index, entry) in entries.into_iter().enumerate() {
            let fillers = usize::try_from(entry.number).ok()? * entry.filler_len();
            let made = hellos[index].len() + entry.opening.len() + fillers + rests[index].len();
            way.next[index] = self.starts[index]?.wrapping_sub(u32::try_from(made).ok()?);
        }
        let [client_hello, server_hello] = hellos;
        way.send(Sender::Client, Lead::Handshake, &client_hello);
        way.send(
            Sender::Server,
            Lead::Handshake,
            &[&server_hello[..], &entries[1].opening].concat(),
        );
        way.send(Sender::Client, Lead::Handshake, &entries[0].opening);
        for (entry, rest) in entries.into_iter().zip(rests) {
            way.fill(entry, &rest);
        }
        Some(way.frames)
    }

    /// Whether it begins within a message of HTTP/1. If that has no line's end, Wireshark takes the next one's
    /// head for a part of it, and so on: a twin helps there.
    fn is_within_a_message(&self) -> bool {
        self.http1 && self.within.contains(&Some(true))
    }

    /// The header of a record of which the packets begin in the middle, as far as it is there.
    fn rest(&self, entry: &Entry) -> Option<Vec<u8>> {
        let rest = entry.sequence.wrapping_sub(self.starts[entry.from.index()]?);
        let rest = usize::try_from(rest).ok().filter(|rest| *rest <= MAX_BODY)?;
        match rest {
            0 => Some(Vec::new()),
            _ => Some(header(APPLICATION_DATA, rest)?.to_vec()),
        }
    }
}

/// A plain record of a handshake message.
fn record(message: &[u8]) -> Option<Vec<u8>> {
    Some([&header(HANDSHAKE, message.len())?[..], message].concat())
}

/// Frames between the same ends, one after the other.
struct Path {
    ends: [SocketAddr; 2],
    tags: [u16; 2],
    /// The next sequence number of each end.
    next: [u32; 2],
    frames: Vec<(Lead, Vec<u8>)>,
}

impl Path {
    #[expect(clippy::cast_possible_truncation, reason = "tags may come again")]
    fn new(conversation: &Conversation) -> Self {
        let tag = (conversation.number as u16).wrapping_mul(2);
        Self {
            ends: [conversation.client, conversation.server],
            tags: [tag, tag + 1],
            next: [0; 2],
            frames: Vec::new(),
        }
    }

    fn fill(&mut self, entry: &Entry, rest: &[u8]) {
        let mut payload = Vec::new();
        for filler in entry.fillers() {
            payload.extend(filler);
            if payload.len() >= FRAME {
                self.send(entry.from, Lead::Filler, &std::mem::take(&mut payload));
                self.send(entry.from.peer(), Lead::Filler, &[]);
            }
        }
        payload.extend(rest);
        if !payload.is_empty() {
            self.send(entry.from, Lead::Filler, &payload);
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a frame's payload is below 64 KiB")]
    fn send(&mut self, from: Sender, lead: Lead, payload: &[u8]) {
        let (own, peer) = (from.index(), from.peer().index());
        let header = Header {
            source: self.ends[own],
            destination: self.ends[peer],
            tags: [self.tags[own], self.tags[peer]],
            sequence: self.next[own],
            acknowledged: self.next[peer],
            flags: if payload.is_empty() { ACK } else { PSH | ACK },
        };
        let mut bytes = Vec::new();
        frame::write(&mut bytes, &header, payload);
        self.frames.push((lead, bytes));
        self.next[own] = self.next[own].wrapping_add(payload.len() as u32);
    }
}
