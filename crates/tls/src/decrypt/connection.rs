//! One TCP connection: from segments to content, and the account of it.

use std::net::SocketAddr;

use kuberewind_packet::Timestamp;

use crate::KeyLog;
use crate::decrypt::entry::Entry;
use crate::decrypt::phase::Phase;
use crate::decrypt::session::{Pinned, Session};
use crate::decrypt::side::{Opened, Over, Side, Work};
use crate::decrypt::{Content, Conversation, Event, Limits, Outcome, Reason, Report};
use crate::flow::{Place, Sender};
use crate::hello::{CLIENT_HELLO, SERVER_HELLO};
use crate::open::{HEADER_LEN, Record, is_header};
use crate::segment::Segment;

/// In a connection that does not begin with TLS, so many segments are looked at for its beginning.
const MAX_LOOKS: u32 = 64;
/// A record's header and the type of its first message.
const OPENING_LEN: usize = HEADER_LEN + 1;

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) conversation: Conversation,
    kind: Kind,
    /// Its first packet is its SYN.
    from_syn: bool,
    /// What it may be if it is older than the packets, likely ones first.
    pinned: Vec<Pinned>,
    session: Session,
    sides: [Side; 2],
    ended: [bool; 2],
    first: Timestamp,
    pub(super) last: Timestamp,
}

/// What a connection is known to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unknown {
        looks: u32,
        /// It began with something else; TLS may follow.
        plain: bool,
    },
    Tls,
    /// TLS that cannot be read.
    Closed(Reason),
    /// Something else, or over and accounted for.
    Ignored,
}

/// What is needed to move on.
pub(super) struct Context<'a> {
    pub(super) log: &'a KeyLog,
    pub(super) limits: &'a Limits,
    pub(super) scratch: &'a mut Vec<u8>,
    pub(super) tries: &'a mut u64,
    pub(super) entries: &'a mut Vec<Entry>,
    pub(super) sink: &'a mut dyn FnMut(Event<'_>),
    pub(super) now: Timestamp,
}

impl Connection {
    /// A connection of which this is the first segment seen.
    pub(super) fn new(
        number: u64,
        place: Place,
        segment: &Segment<'_>,
        pinned: Vec<Pinned>,
        now: Timestamp,
    ) -> Self {
        let answers = segment.syn && segment.acknowledged.is_some();
        let (client, server) = if answers {
            (segment.destination, segment.source)
        } else {
            (segment.source, segment.destination)
        };
        Self {
            conversation: Conversation { number, place, client, server, resumed: false },
            kind: Kind::Unknown { looks: 0, plain: false },
            from_syn: segment.syn,
            pinned: if segment.syn { Vec::new() } else { pinned },
            session: Session::default(),
            sides: [Side::new(Sender::Client), Side::new(Sender::Server)],
            ended: [false; 2],
            first: now,
            last: now,
        }
    }

    /// Whether this SYN begins another connection between the same ends.
    pub(super) fn is_succeeded_by(&self, segment: &Segment<'_>) -> bool {
        let base = self.sides[self.sender(segment.source).index()].half.base();
        segment.syn && base.is_some_and(|base| base != segment.sequence.wrapping_add(1))
    }

    /// Bytes held.
    pub(super) fn held(&self) -> usize {
        self.sides.iter().map(Side::held).sum()
    }

    /// Whether it waits for missing bytes.
    pub(super) fn has_hole(&self) -> bool {
        self.sides.iter().any(Side::has_hole)
    }

    fn sender(&self, source: SocketAddr) -> Sender {
        if source == self.conversation.client { Sender::Client } else { Sender::Server }
    }

    /// Takes a segment.
    pub(super) fn push(&mut self, segment: &Segment<'_>, context: &mut Context<'_>) {
        self.last = self.last.max(context.now);
        if matches!(self.kind, Kind::Ignored) {
            return;
        }
        if !matches!(self.kind, Kind::Closed(_)) {
            self.store(segment, context);
            if matches!(self.kind, Kind::Unknown { .. }) {
                self.recognise(segment, context.log);
            }
            self.advance(context);
        }
        if segment.reset {
            self.finish(true, context);
        } else if self.ended == [true; 2] {
            self.finish(false, context);
        }
    }

    /// Puts the payload into its direction.
    fn store(&mut self, segment: &Segment<'_>, context: &Context<'_>) {
        let sender = self.sender(segment.source);
        let sequence = segment.sequence.wrapping_add(segment.syn.into());
        if let Some(acknowledged) = segment.acknowledged {
            let peer = &mut self.sides[sender.peer().index()].half;
            // What is acknowledged in mid-stream may have come before the first packet.
            if self.pinned.is_empty() && !self.conversation.resumed {
                peer.open(acknowledged);
            }
            peer.acknowledge(acknowledged);
        }
        let side = &mut self.sides[sender.index()];
        if side.over().is_some() {
            // Only its end matters.
            side.half.push(sequence, &[], segment.wire_len, segment.fin, context.now);
            return;
        }
        if matches!(self.kind, Kind::Unknown { plain: true, .. }) {
            // What is missing of other words is not waited for.
            side.half.begin_at(sequence, context.now);
        }
        side.half.push(sequence, segment.payload, segment.wire_len, segment.fin, context.now);
        if side.half.waiting() > context.limits.direction && !side.skip_hole(context.now) {
            side.end(Over::Trouble(Reason::PacketsMissing));
        }
    }

    /// Finds out what the connection carries.
    fn recognise(&mut self, segment: &Segment<'_>, log: &KeyLog) {
        let Kind::Unknown { looks, .. } = &mut self.kind else { return };
        if !self.pinned.is_empty() && !segment.payload.is_empty() {
            let begins = opening(segment.payload)
                .is_some_and(|(header, first)| (header[0], first) == (22, CLIENT_HELLO));
            let pinned = std::mem::take(&mut self.pinned);
            if !begins {
                return self.resume(pinned, log);
            }
        }
        if !segment.payload.is_empty() {
            *looks += 1;
        }
        let looks = *looks;
        for sender in [Sender::Client, Sender::Server] {
            let ready = self.sides[sender.index()].half.ready();
            let Some((header, opening)) = opening(ready) else {
                if ready.first().is_some_and(|first| !(20..=23).contains(first)) {
                    return self.not_from_the_start(segment, looks);
                }
                continue;
            };
            match (is_header(header), header[0], opening) {
                (true, 22, CLIENT_HELLO) => {
                    if let Some(acknowledged) = segment.acknowledged
                        && self.sender(segment.source) == sender
                    {
                        // What the client has heard before it says hello is of no handshake.
                        let peer = &mut self.sides[sender.peer().index()].half;
                        peer.begin_at(acknowledged, self.last);
                    }
                    return self.begin(sender);
                }
                (true, 22, SERVER_HELLO) => return self.begin(sender.peer()),
                _ => return self.not_from_the_start(segment, looks),
            }
        }
    }

    /// The connection is older than the packets, and its handshake is known.
    fn resume(&mut self, pinned: Vec<Pinned>, log: &KeyLog) {
        let Some(client) = pinned.first().map(|newest| newest.client) else { return };
        self.begin(self.sender(client));
        self.conversation.resumed = true;
        let sessions = pinned.into_iter().filter(|pinned| pinned.client == client);
        let mut sessions: Vec<_> = sessions.map(|pinned| pinned.session).collect();
        let phases = |sender| {
            let phases = sessions.iter().flat_map(|session| Phase::of(session, sender, log));
            phases.filter(Phase::has_key).collect::<Vec<_>>()
        };
        let phases = [phases(Sender::Client), phases(Sender::Server)];
        if phases.iter().all(Vec::is_empty) {
            let refused = sessions.iter().find_map(|session| session.refused);
            return self.close(Kind::Closed(refused.unwrap_or(Reason::NoSecret)));
        }
        sessions.retain(|session| session.refused.is_none());
        sessions.reverse();
        self.session = sessions.pop().unwrap_or_default();
        self.session.rivals = sessions;
        for (side, phases) in self.sides.iter_mut().zip(phases) {
            if phases.is_empty() {
                side.end(Over::Trouble(Reason::NoSecret));
            } else {
                side.resume(phases, self.session.generation);
            }
        }
    }

    fn begin(&mut self, client: Sender) {
        self.kind = Kind::Tls;
        if client == Sender::Server {
            self.sides.swap(0, 1);
            self.sides[0].becomes(Sender::Client);
            self.sides[1].becomes(Sender::Server);
            let Conversation { client, server, .. } = &mut self.conversation;
            std::mem::swap(client, server);
        }
    }

    /// No hello where one should be. One may come later: protocols agree on TLS (`PostgreSQL`, SMTP), and
    /// proxies are asked for a way (`CONNECT`).
    fn not_from_the_start(&mut self, segment: &Segment<'_>, looks: u32) {
        let is_record = opening(segment.payload).is_some_and(|(header, _)| is_header(header));
        for side in &mut self.sides {
            let ready = side.half.ready().len();
            side.half.consume(ready);
        }
        // Behind another protocol's words only a hello means TLS; anything else may look like a record.
        if is_record && (looks == 1 || !self.from_syn) {
            let reason = if self.from_syn { Reason::PacketsMissing } else { Reason::NoHandshake };
            self.close(Kind::Closed(reason));
        } else if looks > MAX_LOOKS {
            self.close(Kind::Ignored);
        } else {
            self.kind = Kind::Unknown { looks, plain: true };
        }
    }

    fn close(&mut self, kind: Kind) {
        self.kind = kind;
        for side in &mut self.sides {
            side.end(Over::Closed);
        }
    }

    /// Reads both directions as far as they go.
    fn advance(&mut self, context: &mut Context<'_>) {
        if self.kind == Kind::Tls {
            let Self { conversation, session, sides, .. } = self;
            let Context { log, entries, sink, scratch, tries, now: time, .. } = &mut *context;
            let (log, time) = (*log, *time);
            let mut out = |from: Sender, content: Content<'_>| {
                sink(Event::Data { conversation, from, time, content });
            };
            let mut entered =
                |from: Sender, session: &Session, phase: &Phase, found, record: &Record<'_>| {
                    entries.extend(Entry::new(
                        conversation,
                        from,
                        (session, log),
                        (phase, found),
                        record,
                    ));
                };
            let entered = &mut entered;
            let mut work = Work { session, log, scratch, tries, out: &mut out, entered };
            let [client, server] = sides;
            while client.advance(&mut work) | server.advance(&mut work) {}
            // What waits for the other direction must not wait without bound.
            for side in sides {
                if side.half.ready().len() > context.limits.direction {
                    side.end(Over::Trouble(Reason::PacketsMissing));
                }
            }
        }
        self.tell_ends(context);
    }

    fn tell_ends(&mut self, context: &mut Context<'_>) {
        for from in [Sender::Client, Sender::Server] {
            if !self.ended[from.index()] && self.sides[from.index()].has_ended() {
                self.ended[from.index()] = true;
                self.tell_end(from, false, context);
            }
        }
    }

    fn tell_end(&self, from: Sender, reset: bool, context: &mut Context<'_>) {
        if self.kind == Kind::Tls {
            let (conversation, time) = (&self.conversation, context.now);
            (context.sink)(Event::End { conversation, from, time, reset });
        }
    }

    /// Gives up missing bytes that will not come: the receiver has them, or nothing came for long.
    pub(super) fn give_up_holes(&mut self, context: &mut Context<'_>) {
        let now = context.now;
        let mut gave_up = false;
        for side in self.sides.iter_mut().filter(|side| side.has_hole()) {
            let waited =
                side.half.hole_since().map_or_else(Default::default, |since| now.since(since));
            let limits = context.limits;
            if waited >= limits.hole
                && (side.half.hole_is_acknowledged() || waited >= limits.patience)
            {
                gave_up |= side.skip_hole(now);
            }
        }
        if gave_up {
            self.advance(context);
        }
    }

    /// There is no room for it any more.
    pub(super) fn abandon(&mut self, context: &mut Context<'_>) {
        for side in &mut self.sides {
            side.end(Over::Trouble(Reason::Limit));
        }
        self.finish(false, context);
    }

    /// Ends everything that is held, and says what became of it.
    pub(super) fn finish(&mut self, reset: bool, context: &mut Context<'_>) {
        if self.kind == Kind::Tls {
            self.drain(context);
            for from in [Sender::Client, Sender::Server] {
                if reset && !self.ended[from.index()] {
                    self.ended[from.index()] = true;
                    self.tell_end(from, true, context);
                    break; // One reset ends both.
                }
            }
        }
        if let Some(report) = self.report() {
            let (conversation, time) = (&self.conversation, context.now);
            (context.sink)(Event::Report { conversation, time, report });
        }
        self.close(Kind::Ignored);
    }

    /// Reads what stands behind holes.
    fn drain(&mut self, context: &mut Context<'_>) {
        self.sides.iter_mut().for_each(Side::is_last);
        loop {
            self.advance(context);
            let Some(side) = self.sides.iter_mut().find(|side| side.has_hole()) else { break };
            if !side.skip_hole(context.now) {
                side.end(Over::Trouble(Reason::PacketsMissing));
            }
        }
    }

    fn report(&self) -> Option<Report> {
        let outcome = match self.kind {
            Kind::Unknown { .. } | Kind::Ignored => return None,
            Kind::Closed(reason) => Outcome::Sealed(reason),
            Kind::Tls => self.outcome(),
        };
        let [client, server] = [self.sides[0].opened(), self.sides[1].opened()];
        Some(Report {
            first: self.first,
            last: self.last,
            version: self.session.version(),
            client_bytes: client.bytes,
            server_bytes: server.bytes,
            outcome,
        })
    }

    fn outcome(&self) -> Outcome {
        let trouble = self.sides.iter().find_map(|side| match side.over() {
            Some(Over::Trouble(reason)) => Some(reason),
            _ => None,
        });
        let opened = self.sides.each_ref().map(Side::opened);
        let sum = |of: fn(&Opened) -> u64| opened.iter().map(of).sum::<u64>();
        let (records, sealed) = (sum(|side| side.records), sum(|side| side.sealed));
        let quiet = match (sum(|side| side.losses), sum(|side| side.failed)) {
            (0, 0) => None,
            (0, _) if records == 0 => Some(Reason::WrongSecret),
            _ => Some(Reason::PacketsMissing),
        };
        let older = (self.conversation.resumed && records == 0).then(|| {
            if sum(|side| side.missed) > 0 { Reason::WrongSecret } else { Reason::NoHandshake }
        });
        let trouble = trouble.or(older).or(quiet);
        match trouble {
            None if sealed == 0 => Outcome::Sealed(Reason::Unfinished),
            None => Outcome::Opened,
            Some(reason) if records > 0 => Outcome::Partly(reason),
            Some(reason) => Outcome::Sealed(reason),
        }
    }
}

fn opening(bytes: &[u8]) -> Option<([u8; HEADER_LEN], u8)> {
    let opening = bytes.get(..OPENING_LEN)?;
    Some((opening[..HEADER_LEN].try_into().ok()?, opening[HEADER_LEN]))
}
