//! One direction of a TLS connection: records cut from the stream and opened.

use std::collections::VecDeque;

use kuberewind_packet::Timestamp;

use crate::KeyLog;
use crate::decrypt::entry::Found;
use crate::decrypt::phase::{Kind, LONGEST_TRY, Numbers, Phase};
use crate::decrypt::session::{EarlyData, Session};
use crate::decrypt::{Content, Reason};
use crate::flow::Sender;
use crate::half::Half;
use crate::hello::{
    CLIENT_HELLO, ClientHello, ENCRYPTED_EXTENSIONS, END_OF_EARLY_DATA, FINISHED, KEY_UPDATE,
    Message, Messages, SERVER_HELLO, ServerHello, accepts_early_data,
};
use crate::open::{HEADER_LEN, MAX_BODY, Record, is_header, least_overhead};
use crate::suite::Version;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const CLOSE_NOTIFY: u8 = 0;

/// After a hole so many record numbers are tried at most where records do not tell theirs: a hole of
/// 256 GiB of full records, or of 350 MiB of empty ones.
const MAX_SLACK: u64 = 1 << 24;
/// In all, a direction may cost so many tries that fail.
const MAX_TRIES: u64 = 1 << 24;
/// Where numbers must be searched for, a shorter record than these many bytes is waited for until there
/// are that many at hand: each try reads the whole record.
const SHORT: usize = 1024;
const AT_HAND: usize = 128 << 10;
/// So few numbers are tried with a record of any length.
const FEW: u64 = 4096;
/// So many records in a row that do not open end a direction.
const MAX_FAILURES: u32 = 8;

/// What the sides share while they work.
pub(super) struct Work<'a> {
    pub(super) session: &'a mut Session,
    pub(super) log: &'a KeyLog,
    /// Where records are opened.
    pub(super) scratch: &'a mut Vec<u8>,
    /// What all directions may cost.
    pub(super) tries: &'a mut u64,
    pub(super) out: &'a mut dyn FnMut(Sender, Content<'_>),
    /// Hears of the first record that opened in a direction that begins in the middle.
    pub(super) entered: &'a mut dyn FnMut(Sender, &Session, &Phase, Found, &Record<'_>),
}

/// Whether it is known where the next record begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bearings {
    Known,
    Lost,
    /// It begins in the middle, and no record opened yet.
    Outside,
}

/// One direction.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) half: Half,
    /// Bytes to drop before the next record begins: the rest of one whose middle was lost.
    discard: u64,
    bearings: Bearings,
    /// Nothing more will come.
    last: bool,
    /// The record that is first was tried with few numbers, and did not open.
    looked: bool,
    reader: Reader,
}

/// A direction without its stream: what is known of the records.
#[derive(Debug)]
struct Reader {
    sender: Sender,
    messages: Messages,
    /// A plain handshake message was lost: what follows of them is not read.
    garbled: bool,
    /// The key in use; none while records are plain.
    current: Option<Phase>,
    next: VecDeque<Phase>,
    /// Those are of more than one handshake.
    rivals: bool,
    /// Which of the session's handshakes `next` was made for.
    generation: u32,
    /// The next record's number, if none was lost.
    number: u64,
    /// How many records may have been lost since the last one that opened.
    slack: u64,
    /// How many bytes were, of those of which nothing else is known.
    skipped: u64,
    tries: u64,
    failures: u32,
    /// Bytes of content lost since the last content, about.
    lost: u64,
    opened: Opened,
    over: Option<Over>,
}

/// What was opened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Opened {
    /// Records of any content.
    pub(super) records: u64,
    /// Bytes of application data.
    pub(super) bytes: u64,
    /// Holes.
    pub(super) losses: u64,
    /// Their bytes.
    wire: u64,
    /// Records that did not open.
    pub(super) failed: u64,
    /// What looked like a record where one was looked for, but did not open.
    pub(super) missed: u64,
    /// Records that were sealed, opened or not.
    pub(super) sealed: u64,
}

/// Why no more is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Its sender said that nothing follows.
    Closed,
    /// It cannot be read on.
    Trouble(Reason),
}

/// A record that stands for others when numbers are searched for.
enum Witness {
    Itself,
    /// One that stands so many records behind, at this place.
    Other {
        ahead: u64,
        at: usize,
    },
    /// One may still come.
    Later,
    /// What looked like a record is none.
    None,
}

/// What became of a record.
enum Step {
    Taken,
    /// It must wait for the other direction.
    Stall,
}

impl Side {
    pub(super) fn new(sender: Sender) -> Self {
        let reader = Reader {
            sender,
            messages: Messages::default(),
            garbled: false,
            current: None,
            next: VecDeque::new(),
            rivals: false,
            generation: 0,
            number: 0,
            slack: 0,
            skipped: 0,
            tries: MAX_TRIES,
            failures: 0,
            lost: 0,
            opened: Opened::default(),
            over: None,
        };
        Self {
            half: Half::default(),
            discard: 0,
            bearings: Bearings::Known,
            last: false,
            looked: false,
            reader,
        }
    }

    /// It begins in the middle, with records of one of these phases.
    pub(super) fn resume(&mut self, phases: Vec<Phase>, generation: u32) {
        self.bearings = Bearings::Outside;
        self.reader.next = phases.into();
        self.reader.generation = generation;
        self.reader.slack = MAX_SLACK;
        self.reader.garbled = true;
        self.reader.rivals = true;
    }

    /// Nothing more will come: what is there is all.
    pub(super) fn is_last(&mut self) {
        self.last = true;
    }

    /// Why no more is read.
    pub(super) fn over(&self) -> Option<Over> {
        self.reader.over
    }

    /// What was opened so far.
    pub(super) fn opened(&self) -> Opened {
        self.reader.opened
    }

    /// The same bytes, as sent by the other end.
    pub(super) fn becomes(&mut self, sender: Sender) {
        self.reader.sender = sender;
    }

    /// Ends the direction; what it holds is dropped.
    pub(super) fn end(&mut self, over: Over) {
        self.reader.over.get_or_insert(over);
        self.half.clear();
        self.reader.messages.reset();
    }

    /// Whether it waits for missing bytes.
    pub(super) fn has_hole(&self) -> bool {
        self.reader.over.is_none() && self.half.has_hole()
    }

    /// Whether nothing more will come of it.
    pub(super) fn has_ended(&self) -> bool {
        match self.reader.over {
            Some(Over::Closed) => true,
            Some(Over::Trouble(_)) => self.half.has_fin(),
            None => self.half.is_at_end(),
        }
    }

    /// Bytes held.
    pub(super) fn held(&self) -> usize {
        self.half.held() + self.reader.messages.held()
    }

    /// Reads all whole records that are there. Says whether there were any.
    pub(super) fn advance(&mut self, work: &mut Work<'_>) -> bool {
        let mut progress = false;
        while self.reader.over.is_none() {
            match self.record(work) {
                Ok(true) => progress = true,
                Ok(false) => break,
                Err(reason) => {
                    self.end(Over::Trouble(reason));
                    progress = true;
                }
            }
        }
        if self.reader.sender == Sender::Server && self.reader.over.is_some() {
            // Nobody will say whether the early data was taken.
            work.session.settle_early_data(true);
        }
        progress
    }

    /// Gives up the bytes that are missing and finds a place to go on. `false`: whole records before
    /// them wait for the other direction, so that nothing can be given up yet.
    pub(super) fn skip_hole(&mut self, now: Timestamp) -> bool {
        let ready = self.half.ready();
        let partial = header(ready).map(|header| (HEADER_LEN + body_len(header), ready.len()));
        let rest = match (self.discard, partial) {
            (0, Some((whole, here))) if whole <= here && self.bearings == Bearings::Known => {
                return false;
            }
            (0, Some((whole, here))) => Some((whole.saturating_sub(here)) as u64),
            (0, None) => None,
            (discard, _) => Some(discard),
        };
        let lost = self.half.skip_hole(now);
        self.reader.opened.losses += 1;
        self.reader.messages.reset();
        self.reader.garbled = true;
        if let Some((whole, _)) = partial.filter(|_| self.bearings == Bearings::Known) {
            self.count_lost(1, (whole - least_overhead(Version::TLS13).min(whole)) as u64);
        }
        let rest = rest.filter(|_| self.bearings == Bearings::Known).unwrap_or(0);
        self.discard = rest.saturating_sub(lost);
        if rest < lost {
            // Where the next record begins, and how many there were, is not known.
            self.lose_bearings();
            let unknown = lost - rest;
            self.reader.skipped = self.reader.skipped.saturating_add(unknown);
            self.count_lost(unknown / least_overhead(Version::TLS13) as u64 + 2, unknown);
        }
        true
    }

    fn lose_bearings(&mut self) {
        self.looked = false;
        if self.bearings == Bearings::Known {
            self.bearings = Bearings::Lost;
        }
    }

    fn count_lost(&mut self, records: u64, bytes: u64) {
        self.reader.slack = (self.reader.slack + records).min(MAX_SLACK);
        let current = self.reader.current.as_ref();
        if current.is_some_and(|phase| matches!(phase.kind, Kind::Application | Kind::Epoch)) {
            self.reader.lost += bytes.max(1);
        }
    }

    /// Reads one record. `false`: more bytes are needed, or the other direction must speak first.
    fn record(&mut self, work: &mut Work<'_>) -> Result<bool, Reason> {
        if self.discard > 0 {
            let here = self.discard.min(self.half.ready().len() as u64);
            self.half.consume(usize::try_from(here).unwrap_or(usize::MAX));
            self.discard -= here;
            if self.discard > 0 {
                return Ok(false);
            }
        }
        self.follow(work)?;
        if self.bearings != Bearings::Known {
            return self.scan(work);
        }
        let ready = self.half.ready();
        let Some(header) = header(ready) else { return Ok(false) };
        if !is_header(header) {
            return Err(if self.reader.opened.losses > 0 {
                Reason::PacketsMissing
            } else {
                Reason::Damaged
            });
        }
        let len = HEADER_LEN + body_len(header);
        let Some(body) = ready.get(HEADER_LEN..len) else { return Ok(false) };
        let record = Record { header, body };
        let step = self.reader.take(&record, work)?;
        match step {
            Step::Stall => Ok(false),
            Step::Taken => {
                self.half.consume(len);
                if self.reader.over.is_some() {
                    self.half.clear();
                }
                Ok(true)
            }
        }
    }

    /// Makes the keys of a handshake that the session came to.
    fn follow(&mut self, work: &Work<'_>) -> Result<(), Reason> {
        if let Some(reason) = work.session.refused {
            return Err(reason);
        }
        if self.reader.generation == work.session.generation {
            return Ok(());
        }
        self.reader.generation = work.session.generation;
        let phases = Phase::of(work.session, self.reader.sender, work.log);
        if !phases.iter().any(Phase::has_key) {
            return Err(Reason::NoSecret);
        }
        self.reader.next.extend(phases);
        Ok(())
    }

    /// Looks for a record that opens. `true`: found one, and read it.
    fn scan(&mut self, work: &mut Work<'_>) -> Result<bool, Reason> {
        if self.reader.current.is_none() && self.reader.next.is_empty() {
            // Before the `ServerHello` there is nothing to recognise a record by.
            return if work.session.server.is_some() || self.reader.sender == Sender::Server {
                Err(Reason::PacketsMissing)
            } else {
                Ok(false)
            };
        }
        loop {
            let ready = self.half.ready();
            let Some(at) = find_record(ready) else {
                // A header may begin in the last bytes.
                self.half.consume(ready.len().saturating_sub(HEADER_LEN - 1));
                return Ok(false);
            };
            self.half.consume(at);
            let ready = self.half.ready();
            let Some(header) = header(ready) else { return Ok(false) };
            let len = HEADER_LEN + body_len(header);
            let Some(body) = ready.get(HEADER_LEN..len) else {
                if self.half.is_at_end() {
                    self.half.consume(1);
                    continue;
                }
                return Ok(false);
            };
            let record = Record { header, body };
            match self.witness(&record) {
                Witness::Itself => {}
                Witness::Later if self.looked => return Ok(false),
                Witness::Later => {
                    // Few numbers are tried with it meanwhile: most connections are young.
                    self.looked = true;
                    let slack = std::mem::replace(&mut self.reader.slack, FEW);
                    let found = self.reader.try_keys(&record, work);
                    self.reader.slack = slack;
                    let Some((number, _)) = found else { return Ok(false) };
                    (self.reader.number, self.reader.slack) = (number, 1);
                }
                Witness::None => {
                    self.half.consume(1);
                    continue;
                }
                Witness::Other { ahead, at } => {
                    let found = record_at(ready, at)
                        .and_then(|(record, _)| self.reader.try_keys(&record, work));
                    if let Some((number, _)) = found {
                        self.reader.number = number.saturating_sub(ahead);
                        self.reader.slack = ahead;
                    }
                }
            }
            if let Some(content) = self.reader.open(&record, work) {
                if self.bearings == Bearings::Outside
                    && let Some(phase) = &self.reader.current
                {
                    let sequence = self.half.sequence();
                    let found = Found { sequence, number: self.reader.number - 1 };
                    (work.entered)(self.reader.sender, work.session, phase, found, &record);
                }
                self.reader.opened.sealed += 1;
                self.reader.content(content, work)?;
                (self.bearings, self.looked) = (Bearings::Known, false);
                self.half.consume(len);
                return Ok(true);
            }
            self.reader.opened.missed += 1;
            if self.reader.tries.min(*work.tries) < LONGEST_TRY {
                return Err(if self.reader.opened.records > 0 {
                    Reason::PacketsMissing
                } else {
                    Reason::Number
                });
            }
            self.looked = false;
            self.half.consume(1);
        }
    }

    /// Which record's number to search for: where it must be tried, the shortest of those that follow
    /// each other from `record` on, which is the first of what is ready.
    fn witness(&self, record: &Record<'_>) -> Witness {
        if self.reader.slack <= FEW || self.reader.tells_numbers() {
            return Witness::Itself;
        }
        let ready = self.half.ready();
        let (mut at, mut ahead) = (0, 0);
        let mut best = (record.body.len(), 0, 0);
        while let Some((record, end)) = record_at(ready, at) {
            if !is_header(record.header) {
                return Witness::None;
            }
            best = best.min((record.body.len(), ahead, at));
            (at, ahead) = (end, ahead + 1);
        }
        let waits = best.0 > SHORT && ready.len() < AT_HAND;
        match best {
            _ if waits && !self.last && !self.half.has_fin() => Witness::Later,
            (_, 0, _) => Witness::Itself,
            (_, ahead, at) => Witness::Other { ahead, at },
        }
    }
}

impl Reader {
    fn take(&mut self, record: &Record<'_>, work: &mut Work<'_>) -> Result<Step, Reason> {
        let kind = record.content_type();
        let version = work.session.version();
        match (kind, version) {
            // Compatibility mode (RFC 8446 appendix D.4).
            (CHANGE_CIPHER_SPEC, None) if work.session.retried => Ok(Step::Taken),
            // Early data that was turned down with a `HelloRetryRequest`.
            (APPLICATION_DATA, None) if work.session.retried && !work.session.awaits_answer() => {
                Ok(Step::Taken)
            }
            (CHANGE_CIPHER_SPEC | APPLICATION_DATA, None) => Ok(Step::Stall),
            (CHANGE_CIPHER_SPEC, Some(Version::TLS13)) => Ok(Step::Taken),
            (CHANGE_CIPHER_SPEC, Some(_)) => self.change_epoch(),
            (APPLICATION_DATA, Some(Version::TLS13)) => {
                if self.sender == Sender::Client && work.session.early == EarlyData::Offered {
                    return Ok(Step::Stall);
                }
                self.sealed(record, work)
            }
            (_, Some(Version::TLS12)) if self.current.is_some() || kind == APPLICATION_DATA => {
                self.sealed(record, work)
            }
            (HANDSHAKE, _) => {
                if self.sender == Sender::Server && work.session.client_random.is_none() {
                    return Ok(Step::Stall);
                }
                if !self.garbled {
                    for message in self.messages.push(record.body) {
                        self.message(&message, work)?;
                    }
                }
                Ok(Step::Taken)
            }
            _ => Ok(Step::Taken),
        }
    }

    /// TLS 1.2: what follows is sealed with the next key.
    fn change_epoch(&mut self) -> Result<Step, Reason> {
        match self.next.pop_front() {
            Some(phase) => {
                self.enter(phase)?;
                Ok(Step::Taken)
            }
            // The `ServerHello` that begins it is still to come.
            None => Ok(Step::Stall),
        }
    }

    fn enter(&mut self, phase: Phase) -> Result<(), Reason> {
        if !phase.has_key() && matches!(phase.kind, Kind::Application | Kind::Epoch) {
            return Err(Reason::NoSecret);
        }
        self.current = Some(phase);
        self.number = 0;
        Ok(())
    }

    fn sealed(&mut self, record: &Record<'_>, work: &mut Work<'_>) -> Result<Step, Reason> {
        self.opened.sealed += 1;
        match self.open(record, work) {
            Some(HANDSHAKE) if self.answers_too_early(work) => {
                self.number -= 1;
                self.opened.records -= 1;
                self.opened.sealed -= 1;
                return Ok(Step::Stall);
            }
            Some(content) => self.content(content, work)?,
            None => self.failed(record, work)?,
        }
        Ok(Step::Taken)
    }

    /// Whether the record that was opened is the answer to a `ClientHello` that is still to come.
    fn answers_too_early(&self, work: &Work<'_>) -> bool {
        self.sender == Sender::Server
            && self.messages.held() == 0
            && work.scratch.first() == Some(&SERVER_HELLO)
            && !work.session.awaits_answer()
    }

    /// Opens a record into the scratch buffer with the key in use or one that may follow.
    fn open(&mut self, record: &Record<'_>, work: &mut Work<'_>) -> Option<u8> {
        let (number, kind) = self.try_keys(record, work)?;
        self.number = number + 1;
        self.slack = 0;
        self.skipped = 0;
        self.failures = 0;
        self.opened.records += 1;
        self.opened.wire += (HEADER_LEN + record.body.len()) as u64;
        Some(kind)
    }

    /// Whether every record tells its own number.
    fn tells_numbers(&self) -> bool {
        self.current.iter().chain(&self.next).all(Phase::tells_numbers)
    }

    /// How many numbers behind the next one are tried.
    fn slack(&self, record: &Record<'_>) -> u64 {
        // Other records than data stand near a connection's beginning, or are plain.
        let most = if record.content_type() == APPLICATION_DATA { MAX_SLACK } else { FEW };
        self.slack.min(most)
    }

    /// What number a record of the key in use may have.
    fn numbers(&self, record: &Record<'_>) -> Numbers {
        let length = self.opened.wire.checked_div(self.opened.records);
        let records = self.skipped.checked_div(length.unwrap_or(0)).unwrap_or(0);
        let first = self.number;
        let more = self.slack(record);
        Numbers { first, more, likely: first.saturating_add(records) }
    }

    fn try_keys(&mut self, record: &Record<'_>, work: &mut Work<'_>) -> Option<(u64, u8)> {
        let left = self.tries.min(*work.tries);
        let mut tries = left;
        let found = self.try_each_key(record, work, &mut tries);
        self.tries -= left - tries;
        *work.tries -= left - tries;
        found
    }

    fn try_each_key(
        &mut self,
        record: &Record<'_>,
        work: &mut Work<'_>,
        tries: &mut u64,
    ) -> Option<(u64, u8)> {
        let (slack, out) = (self.slack(record), &mut *work.scratch);
        let numbers = self.numbers(record);
        if let Some(phase) = &mut self.current {
            if let Some(kind) = phase.open(self.number, record, out) {
                return Some((self.number, kind));
            }
            if slack > 0 {
                let found = phase.find_in_generations(numbers, record, out, tries);
                if found.is_some() {
                    return found;
                }
            }
        }
        let tls13 = work.session.version() == Some(Version::TLS13);
        // TLS 1.2's `ChangeCipherSpec` says when the next key is used, unless it was lost.
        let more = match (tls13, &self.current) {
            (false, Some(_)) if slack == 0 => return None,
            (false, None) => slack.max(2),
            _ => slack,
        };
        let numbers = Numbers { first: 0, more, likely: 0 };
        for index in 0..self.next.len() {
            let phase = &mut self.next[index];
            let found = match phase.open(0, record, out) {
                Some(kind) => Some((0, kind)),
                None if more > 0 => phase.find_in_generations(numbers, record, out, tries),
                None => None,
            };
            if found.is_some() {
                self.current = self.next.drain(..=index).next_back();
                self.settle(work);
                return found;
            }
        }
        None
    }

    /// A connection that is older than the packets turns out to be of this handshake.
    fn settle(&mut self, work: &mut Work<'_>) {
        if let Some(phase) = &self.current
            && std::mem::take(&mut self.rivals)
        {
            self.next.retain(|next| next.origin == phase.origin);
            work.session.settle(&phase.origin);
        }
    }

    /// A record did not open.
    fn failed(&mut self, record: &Record<'_>, work: &Work<'_>) -> Result<(), Reason> {
        let kind = self.current.as_ref().map(|phase| phase.kind);
        let before_handshake = matches!(kind, None | Some(Kind::Early));
        if before_handshake && self.sender == Sender::Client && work.session.early_data_offered() {
            return Ok(()); // Early data that was turned down, or whose secret is not known.
        }
        let unreadable =
            self.next.iter().any(|phase| phase.kind == Kind::Handshake && !phase.has_key());
        if kind.is_none() && unreadable {
            return Ok(()); // The rest of the handshake; the next key will open what follows.
        }
        self.opened.failed += 1;
        self.slack = (self.slack + 1).min(MAX_SLACK);
        if matches!(kind, Some(Kind::Application | Kind::Epoch)) {
            self.lost += record.body.len() as u64;
        }
        self.failures += 1;
        if self.failures < MAX_FAILURES {
            return Ok(());
        }
        Err(if self.opened.records == 0 { Reason::WrongSecret } else { Reason::PacketsMissing })
    }

    /// Reads what the scratch buffer holds.
    fn content(&mut self, kind: u8, work: &mut Work<'_>) -> Result<(), Reason> {
        match kind {
            APPLICATION_DATA => {
                let bytes = work.scratch.as_slice();
                if !bytes.is_empty() {
                    self.opened.bytes += bytes.len() as u64;
                    let lost = std::mem::take(&mut self.lost);
                    (work.out)(self.sender, Content { lost, bytes });
                }
            }
            HANDSHAKE => {
                for message in self.messages.push(work.scratch) {
                    self.message(&message, work)?;
                }
            }
            ALERT if work.scratch.get(1) == Some(&CLOSE_NOTIFY) => self.over = Some(Over::Closed),
            CHANGE_CIPHER_SPEC => {
                self.change_epoch()?;
            }
            _ => {}
        }
        Ok(())
    }

    fn message(&mut self, message: &Message, work: &mut Work<'_>) -> Result<(), Reason> {
        let session = &mut *work.session;
        let phase = self.current.as_ref().map(|phase| phase.kind);
        match (message.kind, self.sender, phase) {
            (CLIENT_HELLO, Sender::Client, None | Some(Kind::Epoch)) => {
                let hello = ClientHello::read(&message.bytes).ok_or(Reason::Damaged)?;
                session.see_client(hello);
            }
            (SERVER_HELLO, Sender::Server, None | Some(Kind::Epoch)) => {
                let hello = ServerHello::read(&message.bytes).ok_or(Reason::Damaged)?;
                session.see_server(hello);
            }
            (ENCRYPTED_EXTENSIONS, Sender::Server, Some(Kind::Handshake)) => {
                session.settle_early_data(accepts_early_data(&message.bytes));
            }
            (END_OF_EARLY_DATA, Sender::Client, Some(Kind::Early))
            | (FINISHED, _, Some(Kind::Handshake)) => {
                if let Some(phase) = self.next.pop_front() {
                    self.enter(phase)?;
                }
            }
            (KEY_UPDATE, _, Some(Kind::Application)) => {
                if let Some(phase) = &mut self.current {
                    *phase = phase.updated();
                    self.number = 0;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn header(ready: &[u8]) -> Option<[u8; HEADER_LEN]> {
    ready.get(..HEADER_LEN)?.try_into().ok()
}

fn body_len(header: [u8; HEADER_LEN]) -> usize {
    u16::from_be_bytes([header[3], header[4]]).into()
}

/// The whole record that begins at `at`, and where it ends.
fn record_at(bytes: &[u8], at: usize) -> Option<(Record<'_>, usize)> {
    let bytes = bytes.get(at..)?;
    let header = header(bytes)?;
    let len = HEADER_LEN + body_len(header);
    Some((Record { header, body: bytes.get(HEADER_LEN..len)? }, at + len))
}

/// Where sealed records may begin.
fn find_record(bytes: &[u8]) -> Option<usize> {
    bytes.windows(HEADER_LEN).position(|window| {
        window[1] == 3
            && window[2] == 3
            && (ALERT..=APPLICATION_DATA).contains(&window[0])
            && (17..=MAX_BODY).contains(&usize::from(u16::from_be_bytes([window[3], window[4]])))
    })
}
