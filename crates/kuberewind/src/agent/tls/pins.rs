//! The hellos of connections, with their secrets, for as long as exports may need them.
//!
//! An export of the last minutes has no handshake of a connection that is older. With its hellos and its
//! secrets its records can be opened nevertheless. They lie in this table, and in notes beside the
//! packets for a recorder that starts anew; a note that is about to go is written anew.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use kuberewind_packet::{ByteSize, Timestamp};
use kuberewind_store::{Reach, SegmentNumber};
use kuberewind_tls::{KeyLogLine, Pin};

use super::keep::{self, Kept, KeptPin};
use super::marks::Taken;

/// The table holds no more than this,
const MOST_BYTES: usize = 32 << 20;
/// and no more than this part of `pcapdump.maxSize`, for each pin is written at most twice.
const PART_OF_MAX_SIZE: u64 = 20;

/// What an entry takes besides its text, in memory.
const ENTRY: usize = 512;

/// Longer hellos are not kept. With post-quantum keys they have two kilobytes each.
const LONGEST: usize = 16 << 10;

/// A connection is seen under so many pairs of addresses: before and after they are translated.
const MOST_VIEWS: usize = 4;

/// Secrets of one connection: there are seven labels, and rivals for each.
const MOST_LINES: usize = 16;

/// After it was silent for so long a connection that no held packet is of is over.
const SILENT: Duration = Duration::from_hours(1);

/// A connection that was closed within so long has its handshake in almost every window that it is in,
const SHORT: Duration = Duration::from_secs(10);

/// and packets may come for so long after the last.
const CLOSING: Duration = Duration::from_secs(5);

/// A packet may lie so far behind packets that are younger.
const DISORDER: Duration = Duration::from_secs(2);

/// Of a connection that began so shortly after the window's beginning a part of the handshake may be
/// missing.
const HANDSHAKE: Duration = Duration::from_secs(1);

/// Text in one note, about: a quarter of the shortest segment.
const NOTE: usize = 64 << 10;

/// Whose connection, and its client's random.
type Key = (String, [u8; 32]);

/// See the module.
#[derive(Debug)]
pub(super) struct Pins {
    entries: HashMap<Key, Entry>,
    /// What they take.
    bytes: usize,
    most: usize,
    /// Time of the oldest packet held.
    oldest: Timestamp,
    /// Given up though exports may need them.
    dropped: u64,
}

#[derive(Debug)]
struct Entry {
    /// As it was seen under different addresses.
    views: Vec<Pin>,
    lines: Vec<KeyLogLine>,
    bytes: usize,
    /// No packet of it was seen later.
    seen: Timestamp,
    /// When it was last seen to be closed.
    closed: Option<Timestamp>,
    /// The last segment in which all of it is.
    noted: Option<SegmentNumber>,
}

/// A note to be written, and what is in it.
pub(super) struct Due {
    keys: Vec<Key>,
    pub(super) text: Vec<u8>,
}

/// Who goes later comes first.
type Rank = Reverse<(bool, Timestamp, Option<SegmentNumber>)>;

/// What an owner takes, and its connections.
#[derive(Default)]
struct Share {
    bytes: usize,
    order: Vec<(Rank, [u8; 32])>,
}

/// What of the table an export has been sent: how many lines of each.
pub(crate) type Sent = HashMap<Key, usize>;

impl Default for Pins {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            bytes: 0,
            most: MOST_BYTES,
            oldest: Timestamp::MIN,
            dropped: 0,
        }
    }
}

impl Pins {
    /// `pcapdump.maxSize`
    pub(super) fn set_max_size(&mut self, max_size: ByteSize) {
        let part = usize::try_from(max_size.bytes() / PART_OF_MAX_SIZE).unwrap_or(usize::MAX);
        self.most = part.min(MOST_BYTES);
        self.keep_within();
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Connections that are opened by what is here.
    pub(super) fn opened(&self) -> impl Iterator<Item = &Pin> {
        self.entries.values().filter(|entry| !entry.lines.is_empty()).flat_map(|entry| &entry.views)
    }

    /// The hellos of a connection that was seen at `seen`.
    pub(super) fn add(&mut self, owner: &str, pin: Pin, seen: Timestamp) {
        let Some(random) = pin.client_random() else { return };
        let bytes = keep::pin_len(owner, &pin);
        if pin.client_hello.len() + pin.server_hello.len() > LONGEST {
            self.dropped += 1;
            return;
        }
        let entry = self.entries.entry((owner.to_owned(), random)).or_insert_with(|| {
            self.bytes += ENTRY;
            Entry {
                views: Vec::new(),
                lines: Vec::new(),
                bytes: ENTRY,
                seen,
                closed: None,
                noted: None,
            }
        });
        entry.seen = entry.seen.max(seen);
        let is_known = entry.views.iter().any(|view| view.is_same(&pin));
        if !is_known && entry.views.len() < MOST_VIEWS {
            entry.views.push(pin);
            entry.noted = None;
            entry.bytes += bytes;
            self.bytes += bytes;
        }
        self.keep_within();
    }

    /// A secret; of connections that are not in the table nothing is done.
    pub(super) fn add_line(&mut self, kept: &Kept) {
        let Kept { owner, line, .. } = kept;
        let Some(entry) = self.entries.get_mut(&(owner.clone(), line.client_random)) else {
            return;
        };
        if entry.lines.len() < MOST_LINES && !entry.lines.contains(line) {
            let bytes = keep::write(std::slice::from_ref(kept)).len();
            entry.lines.push(line.clone());
            entry.bytes += bytes;
            self.bytes += bytes;
            self.keep_within();
        }
    }

    /// What an earlier recorder noted. Whether there were packets of it since is not known.
    pub(super) fn recall(&mut self, kept: KeptPin, segment: SegmentNumber, now: Timestamp) {
        let KeptPin { owner, pin, .. } = kept;
        let key = pin.client_random().map(|random| (owner.clone(), random));
        self.add(&owner, pin, now);
        if let Some(entry) = key.and_then(|key| self.entries.get_mut(&key)) {
            entry.noted = entry.noted.max(Some(segment));
        }
    }

    /// Another recording is at hand: what was noted has to be found in it, or written.
    pub(super) fn forget_notes(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.noted = None);
    }

    /// Learns of which connections packets came until `now`.
    pub(super) fn see(&mut self, taken: &Taken, now: Timestamp) {
        for entry in self.entries.values_mut() {
            let views = entry.views.iter();
            let ends = views.map(|pin| (pin.netns, pin.client, pin.server));
            if ends.clone().any(|(netns, one, other)| taken.has(netns, one, other)) {
                let mut ends = ends;
                let closes = ends.any(|(netns, one, other)| taken.has_closed(netns, one, other));
                entry.hear(closes, now);
            }
        }
    }

    /// Forgets connections that are over, and of which no packet is held.
    pub(super) fn forget(&mut self, oldest: Option<Timestamp>, now: Timestamp) {
        self.oldest = oldest.unwrap_or(now);
        let (held, heard) = (self.oldest, now.saturating_sub(SILENT));
        let bytes = &mut self.bytes;
        self.entries.retain(|_, entry| {
            let stays = entry.seen >= held || (entry.closed.is_none() && entry.seen >= heard);
            if !stays {
                *bytes -= entry.bytes;
            }
            stays
        });
    }

    /// Of the owner that has most, short connections that are over go first, then those silent for longest;
    /// with more room than need be, so that not each new one has to look for it.
    fn keep_within(&mut self) {
        if self.bytes <= self.most {
            return;
        }
        let mut owners = self.by_owner();
        while self.bytes > self.most / 8 * 7 {
            let most = owners.iter_mut().max_by_key(|(_, share)| share.bytes);
            let Some((owner, share)) = most else { break };
            let Some((_, random)) = share.order.pop() else { break };
            let Some(entry) = self.entries.remove(&(owner.clone(), random)) else { continue };
            share.bytes -= entry.bytes;
            self.bytes -= entry.bytes;
            self.dropped += u64::from(entry.seen >= self.oldest && !entry.is_short());
        }
    }

    fn by_owner(&self) -> HashMap<String, Share> {
        let mut owners = HashMap::<_, Share>::new();
        for ((owner, random), entry) in &self.entries {
            let share = owners.entry(owner.clone()).or_default();
            share.bytes += entry.bytes;
            share.order.push((Reverse((!entry.is_short(), entry.seen, entry.noted)), *random));
        }
        for share in owners.values_mut() {
            share.order.sort_unstable();
        }
        owners
    }

    /// What has to be written now.
    pub(super) fn due(&self, reach: &Reach) -> Vec<Due> {
        let mut notes: Vec<Due> = Vec::new();
        for (key, entry) in self.entries.iter().filter(|(_, entry)| entry.is_due(reach)) {
            let text = entry.text(&key.0);
            match notes.last_mut() {
                Some(note) if note.text.len() + text.len() <= NOTE => {
                    note.keys.push(key.clone());
                    note.text.extend(text);
                }
                _ => notes.push(Due { keys: vec![key.clone()], text }),
            }
        }
        notes
    }

    /// What was due is written.
    pub(super) fn note(&mut self, due: &Due, segment: SegmentNumber) {
        for key in &due.keys {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.noted = Some(segment);
            }
        }
    }

    /// The text for connections that began before `began`, and that may have had packets at `live` or
    /// later; as far as it was not sent, and no more than `room`.
    pub(super) fn older_than(
        &mut self,
        began: Timestamp,
        live: Timestamp,
        wanted: impl Fn(&str) -> bool,
        sent: &mut Sent,
        room: usize,
    ) -> String {
        let began = began.saturating_add(HANDSHAKE);
        let mut older: Vec<_> = self
            .entries
            .iter()
            .filter(|(key, entry)| {
                entry.seen >= live
                    && entry.views.iter().any(|view| view.hello < began)
                    && wanted(&key.0)
                    && sent.get(*key).is_none_or(|lines| *lines < entry.lines.len())
            })
            .collect();
        older.sort_unstable_by(|(one, a), (other, b)| b.seen.cmp(&a.seen).then(one.cmp(other)));
        let (mut text, mut left_out) = (String::new(), 0);
        for (key, entry) in older {
            let one = entry.key_log();
            if text.len() + one.len() > room {
                left_out += 1;
                continue;
            }
            text.push_str(&one);
            sent.insert(key.clone(), entry.lines.len());
        }
        self.dropped += left_out;
        text
    }
}

impl Entry {
    /// Packets of it came.
    fn hear(&mut self, closes: bool, now: Timestamp) {
        self.seen = self.seen.max(now);
        if closes {
            self.closed = Some(now);
        } else if self.closed.is_some_and(|closed| now.since(closed) > CLOSING) {
            self.closed = None;
        }
    }

    /// Whether it was over soon.
    fn is_short(&self) -> bool {
        let began = self.views.first().map_or(self.seen, |pin| pin.hello);
        self.closed.is_some() && self.seen.since(began) <= SHORT
    }

    /// Whether its note must be written anew: it goes before packets that need it. Who was not closed may
    /// speak after any silence, to a recorder that knows of it by the note alone.
    fn is_due(&self, reach: &Reach) -> bool {
        let Some(noted) = self.noted else { return true };
        if noted >= reach.lasting {
            return false;
        }
        if self.closed.is_none() {
            return true;
        }
        match reach.fading.binary_search_by_key(&noted, |(number, _)| *number) {
            Ok(place) => {
                let newest = reach.fading[place].1;
                newest.is_none_or(|newest| self.seen.saturating_add(DISORDER) >= newest)
            }
            // It is gone.
            Err(_) => reach.oldest.is_some_and(|oldest| self.seen >= oldest),
        }
    }

    /// As it is noted. The first time its secrets have notes of their own.
    fn text(&self, owner: &str) -> Vec<u8> {
        let pins = self.views.iter().map(|pin| KeptPin {
            owner: owner.to_owned(),
            seen: self.seen,
            pin: pin.clone(),
        });
        let mut text = keep::write_pins(&pins.collect::<Vec<_>>());
        if self.noted.is_some() {
            let hello = self.views.first().map_or(Timestamp::MIN, |pin| pin.hello);
            let lines = self.lines.iter();
            let kept =
                lines.map(|line| Kept { hello, owner: owner.to_owned(), line: line.clone() });
            text.extend(keep::write(&kept.collect::<Vec<_>>()));
        }
        text
    }

    /// As it is sent.
    fn key_log(&self) -> String {
        let mut text = String::new();
        self.views.iter().for_each(|pin| writeln!(text, "{pin}").expect("memory"));
        self.lines.iter().for_each(|line| writeln!(text, "{line}").expect("memory"));
        text
    }
}

#[cfg(test)]
mod tests;
