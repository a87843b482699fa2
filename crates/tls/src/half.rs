//! One direction of a TCP connection, put back into order.
//!
//! Retransmissions and overlaps are trimmed (the first copy of a byte counts), what comes early waits,
//! and a hole stays until its bytes come or the owner gives them up with [`Half::skip_hole`].

use std::collections::BTreeMap;

use kuberewind_packet::Timestamp;

/// Sequence numbers further away than this belong to another connection: TCP's largest window.
const FAR: i64 = 1 << 30;
/// What [`Half::consume`] may leave before the bytes not consumed.
const COMPACT_AT: usize = 64 * 1024;

/// One direction. Offsets count from the first byte after the SYN.
#[derive(Debug, Default)]
pub(crate) struct Half {
    /// The sequence number at offset 0.
    base: Option<u32>,
    /// In order, beginning at `start`; the last byte stands just before offset `end`.
    ready: Vec<u8>,
    start: usize,
    end: i64,
    /// What came before its turn, by offset; pieces may overlap.
    later: BTreeMap<i64, Vec<u8>>,
    later_len: usize,
    /// The offset at which the stream ends.
    fin: Option<i64>,
    /// Up to where the receiver has it.
    acknowledged: i64,
    hole_since: Option<Timestamp>,
}

impl Half {
    /// The sequence number of the next byte is known. Does nothing if it was known.
    pub(crate) fn open(&mut self, sequence: u32) {
        self.base.get_or_insert(sequence);
    }

    /// The sequence number that it was opened with.
    pub(crate) fn base(&self) -> Option<u32> {
        self.base
    }

    /// Takes a segment's payload.
    pub(crate) fn push(
        &mut self,
        sequence: u32,
        payload: &[u8],
        wire_len: usize,
        fin: bool,
        now: Timestamp,
    ) {
        self.open(sequence);
        let Some(offset) = self.offset(sequence) else { return };
        if fin {
            let at = offset.saturating_add_unsigned(wire_len as u64);
            self.fin.get_or_insert(at.max(self.end));
        }
        if offset <= self.end {
            if self.append(offset, payload) {
                self.take_later();
            }
        } else if !payload.is_empty() {
            self.keep(offset, payload);
        }
        self.hole_since = if self.has_hole() { self.hole_since.or(Some(now)) } else { None };
    }

    /// The receiver acknowledges everything before `sequence`.
    pub(crate) fn acknowledge(&mut self, sequence: u32) {
        if let Some(offset) = self.offset(sequence) {
            self.acknowledged = self.acknowledged.max(offset);
        }
    }

    /// The sequence number of the first of [`Self::ready`].
    #[expect(clippy::cast_possible_truncation, reason = "sequence numbers are modulo 2^32")]
    #[expect(clippy::cast_sign_loss, reason = "`end` is never negative")]
    pub(crate) fn sequence(&self) -> u32 {
        let ready = self.ready().len() as u32;
        self.base.unwrap_or_default().wrapping_add(self.end as u64 as u32).wrapping_sub(ready)
    }

    /// The bytes that are in order and not consumed.
    pub(crate) fn ready(&self) -> &[u8] {
        self.ready.get(self.start..).unwrap_or_default()
    }

    /// Forgets the first `count` of [`Self::ready`].
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.ready.len());
        if self.start == self.ready.len() {
            self.ready.clear();
            self.start = 0;
        } else if self.start >= COMPACT_AT {
            self.ready.drain(..self.start);
            self.start = 0;
        }
    }

    /// Whether bytes are missing before others that are here, or before the end.
    pub(crate) fn has_hole(&self) -> bool {
        !self.later.is_empty() || self.fin.is_some_and(|fin| fin > self.end)
    }

    /// Since when bytes are missing.
    pub(crate) fn hole_since(&self) -> Option<Timestamp> {
        self.hole_since
    }

    /// Whether the receiver says that it has the missing bytes: they will not be sent again.
    pub(crate) fn hole_is_acknowledged(&self) -> bool {
        self.hole_end().is_some_and(|end| self.acknowledged >= end)
    }

    /// Gives up the missing bytes: what was ready is dropped, what stands behind the hole becomes
    /// ready. Returns how many bytes were missing.
    pub(crate) fn skip_hole(&mut self, now: Timestamp) -> u64 {
        let Some(end) = self.hole_end() else { return 0 };
        let missing = u64::try_from(end - self.end).unwrap_or(0);
        self.consume(self.ready.len());
        self.end = end;
        self.take_later();
        self.hole_since = self.has_hole().then_some(now);
        missing
    }

    /// Forgets everything before `sequence`, whether it is here or missing.
    pub(crate) fn begin_at(&mut self, sequence: u32, now: Timestamp) {
        let Some(offset) = self.offset(sequence) else { return };
        let later = usize::try_from(self.end - offset).unwrap_or(0);
        self.consume(self.ready().len().saturating_sub(later));
        if offset > self.end {
            self.end = offset;
            self.take_later();
            self.hole_since = self.has_hole().then_some(now);
        }
    }

    /// Whether the stream's end was reached.
    pub(crate) fn is_at_end(&self) -> bool {
        self.fin.is_some_and(|fin| fin <= self.end) && self.later.is_empty()
    }

    /// Whether its end was seen, reached or not.
    pub(crate) fn has_fin(&self) -> bool {
        self.fin.is_some()
    }

    /// Bytes held.
    pub(crate) fn held(&self) -> usize {
        self.ready.len() + self.later_len
    }

    /// Bytes that wait behind a hole.
    pub(crate) fn waiting(&self) -> usize {
        self.later_len
    }

    /// Drops all bytes; what comes next is dropped by whoever calls.
    pub(crate) fn clear(&mut self) {
        self.ready = Vec::new();
        self.start = 0;
        self.later = BTreeMap::new();
        self.later_len = 0;
        self.hole_since = None;
    }

    #[expect(clippy::cast_possible_truncation, reason = "sequence numbers are modulo 2^32")]
    #[expect(clippy::cast_sign_loss, reason = "`end` is never negative")]
    #[expect(clippy::cast_possible_wrap, reason = "the distance is signed on purpose")]
    fn offset(&self, sequence: u32) -> Option<i64> {
        let expected = self.base?.wrapping_add(self.end as u64 as u32);
        let distance = i64::from(sequence.wrapping_sub(expected) as i32);
        (distance.abs() < FAR).then_some(self.end + distance)
    }

    fn hole_end(&self) -> Option<i64> {
        self.later.keys().next().copied().or(self.fin).filter(|end| *end > self.end)
    }

    /// Appends what is new of bytes that begin at or before the end; says whether any was.
    fn append(&mut self, offset: i64, bytes: &[u8]) -> bool {
        let old = usize::try_from(self.end - offset).unwrap_or(usize::MAX);
        let Some(new) = bytes.get(old..).filter(|new| !new.is_empty()) else { return false };
        self.ready.extend_from_slice(new);
        self.end = self.end.saturating_add_unsigned(new.len() as u64);
        true
    }

    fn keep(&mut self, offset: i64, bytes: &[u8]) {
        let held = self.later.get(&offset).map_or(0, Vec::len);
        if held < bytes.len() {
            self.later_len += bytes.len() - held;
            self.later.insert(offset, bytes.to_vec());
        }
    }

    fn take_later(&mut self) {
        while let Some(entry) = self.later.first_entry() {
            if *entry.key() > self.end {
                break;
            }
            let (offset, bytes) = entry.remove_entry();
            self.later_len -= bytes.len();
            self.append(offset, &bytes);
        }
    }
}
