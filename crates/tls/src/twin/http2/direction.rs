//! One direction: as it was while it is whole, and so that it can be read without what is missing once
//! something is.

use std::collections::BTreeSet;

use crate::twin::http2::frame::{
    CONTINUATION, Chain, END_HEADERS, END_STREAM, HEADER_LEN, HEADERS, Header, MAX_FRAME, PADDED,
    PRIORITIZED, PUSH_PROMISE, chain,
};
use crate::twin::http2::hpack::{Broken, Decoder, encode};
use crate::twin::http2::{PREFACE, Piece};

/// While a frame is looked for, so many bytes are kept at most.
const MAX_SEARCHED: usize = 256 << 10;
/// The longest header block, in however many frames.
const MAX_BLOCK: usize = 256 << 10;
/// After so many disappointments no more frames are looked for.
const MAX_RESTARTS: u32 = 8;
/// A header block's byte can stand for a whole entry of the table. What is shown may have so many times the
/// bytes of what was sent, and so many more.
const MOST_TIMES: u64 = 100;
const MOST_MORE: u64 = 16 << 20;
/// Bytes of a priority, and of a promised stream.
const PRIORITY_LEN: usize = 5;
const PROMISED_LEN: usize = 4;

/// A direction.
#[derive(Debug)]
pub(super) struct Direction {
    from_client: bool,
    mode: Mode,
    /// Bytes that are missing before what is shown next.
    lost: u64,
    restarts: u32,
    /// Bytes that came, and that were shown, since something is missing.
    came: u64,
    shown: u64,
    /// Fields whose name or value is not known.
    pub(super) unknown: u64,
}

#[derive(Debug)]
enum Mode {
    /// Nothing is missing.
    Exact(Walk),
    /// Where a frame begins is not known.
    Searching(Search),
    Rewriting(Box<Rewrite>),
    /// It is not what it seemed.
    GivenUp,
}

impl Direction {
    /// From its first byte on.
    pub(super) fn from_the_start(from_client: bool) -> Self {
        let preface = if from_client { PREFACE.len() } else { 0 };
        let walk = Walk { passing: preface, head: Vec::new() };
        Self::new(from_client, Mode::Exact(walk))
    }

    /// Nothing is known of what was before.
    pub(super) fn in_midstream(from_client: bool) -> Self {
        Self::new(from_client, Mode::Searching(Search::default()))
    }

    fn new(from_client: bool, mode: Mode) -> Self {
        Self { from_client, mode, lost: 0, restarts: 0, came: 0, shown: 0, unknown: 0 }
    }

    /// Whether something is missing, so that it is not shown as it was.
    pub(super) fn is_cut(&self) -> bool {
        !matches!(self.mode, Mode::Exact(_))
    }

    pub(super) fn is_given_up(&self) -> bool {
        matches!(self.mode, Mode::GivenUp)
    }

    /// Takes the content of a record, before which `lost` bytes are missing; what is shown of it.
    pub(super) fn take(&mut self, lost: u64, record: &[u8]) -> Option<Piece> {
        if lost > 0 {
            self.cut(lost);
        }
        let shown = match &mut self.mode {
            Mode::Exact(walk) => {
                walk.follow(record);
                record.to_vec()
            }
            _ => self.read_within_bounds(record),
        };
        if shown.is_empty() {
            return None;
        }
        Some(Piece { lost: std::mem::take(&mut self.lost), bytes: shown })
    }

    /// A reader who waits for the rest of a frame must not take what comes for it.
    fn cut(&mut self, lost: u64) {
        let rest = match &self.mode {
            Mode::Exact(walk) => walk.rest(),
            Mode::Rewriting(rewrite) => rewrite.passing,
            Mode::Searching(search) => {
                self.lost += search.bytes.len() as u64;
                0
            }
            Mode::GivenUp => return,
        };
        self.lost += lost.max(rest as u64);
        self.forget();
    }

    /// From here on nothing is known.
    fn forget(&mut self) {
        self.mode = Mode::Searching(Search::default());
    }

    #[cfg(test)]
    pub(super) fn looked_at(&self) -> u64 {
        if let Mode::Searching(search) = &self.mode { search.looked_at } else { 0 }
    }

    fn read_within_bounds(&mut self, record: &[u8]) -> Vec<u8> {
        let shown = self.read(record);
        self.came += record.len() as u64;
        self.shown += shown.len() as u64;
        if self.shown > self.came * MOST_TIMES + MOST_MORE {
            self.mode = Mode::GivenUp;
        }
        shown
    }

    fn read(&mut self, record: &[u8]) -> Vec<u8> {
        let mut rest = record.to_vec();
        loop {
            match &mut self.mode {
                Mode::Searching(search) => {
                    let found = search.push(&rest, self.from_client);
                    self.lost += std::mem::take(&mut search.passed_over);
                    let Some(frames) = found else { return Vec::new() };
                    self.mode = Mode::Rewriting(Box::new(Rewrite::new(self.from_client)));
                    rest = frames;
                }
                Mode::Rewriting(rewrite) => {
                    let mut shown = Vec::new();
                    let unknown = rewrite.decoder.unknown();
                    let read = rewrite.push(&rest, &mut shown);
                    self.unknown += rewrite.decoder.unknown() - unknown;
                    if read.is_err() {
                        // What was shown of this record before is right; the rest is not shown.
                        self.restarts += 1;
                        self.forget();
                        if self.restarts > MAX_RESTARTS {
                            self.mode = Mode::GivenUp;
                        }
                    }
                    return shown;
                }
                Mode::Exact(_) | Mode::GivenUp => return Vec::new(),
            }
        }
    }
}

/// Where frames end in what is not looked into further.
#[derive(Debug)]
struct Walk {
    /// Bytes until the next header.
    passing: usize,
    /// The part of a header that is there.
    head: Vec<u8>,
}

impl Walk {
    fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let passed = self.passing.min(bytes.len());
            self.passing -= passed;
            bytes = &bytes[passed..];
            let wanted = (HEADER_LEN - self.head.len()).min(bytes.len());
            self.head.extend(&bytes[..wanted]);
            bytes = &bytes[wanted..];
            if let Some(header) = self.head.first_chunk() {
                self.passing = Header::parse(*header).map_or(0, |header| header.len);
                self.head.clear();
            }
        }
    }

    /// Bytes until the frame that has begun is over, as far as is known.
    fn rest(&self) -> usize {
        if self.head.is_empty() { self.passing } else { HEADER_LEN - self.head.len() }
    }
}

/// The bytes among which a frame is looked for.
#[derive(Debug, Default)]
struct Search {
    bytes: Vec<u8>,
    /// Where records begin among them.
    starts: Vec<usize>,
    /// Places where a frame may begin, each behind how many bytes are needed to tell more of it.
    open: BTreeSet<(usize, usize)>,
    /// Bytes that were given up, and not counted yet.
    passed_over: u64,
    #[cfg(test)]
    looked_at: u64,
}

impl Search {
    /// Takes a record. Once a place is proved to be one: the bytes from there on.
    fn push(&mut self, record: &[u8], from_client: bool) -> Option<Vec<u8>> {
        if record.is_empty() {
            return None;
        }
        let known = self.bytes.len();
        self.starts.push(known);
        self.bytes.extend(record);
        for at in self.due().into_iter().chain(known..self.bytes.len()) {
            match self.chain(at, from_client) {
                Chain::Proved { from, .. } => {
                    let from = from.min(self.bytes.len());
                    self.passed_over += from as u64;
                    return Some(self.bytes.split_off(from));
                }
                Chain::Open { needed } => {
                    self.open.insert((needed, at));
                }
                Chain::Refuted => {}
            }
        }
        self.keep_within_bounds();
        None
    }

    /// The places of which more can be told now, the first one first.
    fn due(&mut self) -> Vec<usize> {
        let later = self.open.split_off(&(self.bytes.len() + 1, 0));
        let due = std::mem::replace(&mut self.open, later);
        let mut places: Vec<usize> = due.into_iter().map(|(_, at)| at).collect();
        places.sort_unstable();
        places
    }

    fn chain(&mut self, at: usize, from_client: bool) -> Chain {
        #[cfg(test)]
        {
            self.looked_at += 1;
        }
        let number = self.starts.binary_search(&at).ok();
        let end =
            number.map(|number| self.starts.get(number + 1).copied().unwrap_or(self.bytes.len()));
        chain(&self.bytes, at, from_client, end)
    }

    fn keep_within_bounds(&mut self) {
        let len = self.bytes.len();
        if !self.open.is_empty() && len <= MAX_SEARCHED {
            return;
        }
        let first = self.open.iter().map(|(_, at)| *at).min().unwrap_or(len);
        let excess = if len > MAX_SEARCHED { first.max(len / 2) } else { first };
        self.bytes.drain(..excess);
        self.passed_over += excess as u64;
        let open = std::mem::take(&mut self.open).into_iter();
        let kept = open.filter(|(_, at)| *at >= excess);
        self.open = kept.map(|(needed, at)| (needed - excess, at - excess)).collect();
        self.starts.retain(|start| *start >= excess);
        self.starts.iter_mut().for_each(|start| *start -= excess);
    }
}

/// Frames, one after the other, of which only header blocks are changed.
#[derive(Debug)]
struct Rewrite {
    from_client: bool,
    decoder: Decoder,
    /// Bytes of the current frame that are shown as they are.
    passing: usize,
    /// The beginning of a frame that is not.
    frame: Vec<u8>,
    /// A header block of which more is to come.
    block: Option<Block>,
    /// No block was read yet.
    fresh: bool,
}

/// A header block, and the frame that it began in.
#[derive(Debug)]
struct Block {
    header: Header,
    /// What stands before the fields: a priority, or the promised stream.
    before: Vec<u8>,
    fields: Vec<u8>,
}

impl Rewrite {
    fn new(from_client: bool) -> Self {
        let decoder = Decoder::in_midstream();
        Self { from_client, decoder, passing: 0, frame: Vec::new(), block: None, fresh: true }
    }

    /// Takes bytes that follow the last ones; `shown` gets what becomes of them.
    fn push(&mut self, mut bytes: &[u8], shown: &mut Vec<u8>) -> Result<(), Broken> {
        while !bytes.is_empty() {
            let passed = self.passing.min(bytes.len());
            shown.extend(&bytes[..passed]);
            self.passing -= passed;
            bytes = &bytes[passed..];
            let wanted = self.wanted()?.min(bytes.len());
            self.frame.extend(&bytes[..wanted]);
            bytes = &bytes[wanted..];
            self.advance(shown)?;
        }
        Ok(())
    }

    /// How many more bytes of the frame are needed.
    fn wanted(&self) -> Result<usize, Broken> {
        let whole = match self.header()? {
            Some(header) => HEADER_LEN + header.len,
            None => HEADER_LEN,
        };
        Ok(whole - self.frame.len())
    }

    /// The header of a frame of which all is needed.
    fn header(&self) -> Result<Option<Header>, Broken> {
        let Some(bytes) = self.frame.first_chunk() else { return Ok(None) };
        let header = Header::parse(*bytes).ok_or(Broken)?;
        // Kinds that are not known here are let through (section 5.5), those that are must be valid.
        if header.kind <= CONTINUATION && !header.is_valid(self.from_client) {
            return Err(Broken);
        }
        Ok(Some(header))
    }

    fn advance(&mut self, shown: &mut Vec<u8>) -> Result<(), Broken> {
        let Some(header) = self.header()? else { return Ok(()) };
        match (header.kind, &self.block) {
            (CONTINUATION, _) | (HEADERS | PUSH_PROMISE, None) => {}
            // Nothing may stand within a block (section 6.10).
            (_, Some(_)) => return Err(Broken),
            _ => {
                shown.append(&mut self.frame);
                self.passing = header.len;
                return Ok(());
            }
        }
        if self.frame.len() < HEADER_LEN + header.len {
            return Ok(());
        }
        let frame = std::mem::take(&mut self.frame);
        let payload = &frame[HEADER_LEN..];
        if header.kind != CONTINUATION {
            self.block = Some(Block::begin(header, payload)?);
        } else if let Some(block) = &mut self.block {
            if block.header.stream != header.stream
                || block.fields.len() + payload.len() > MAX_BLOCK
            {
                return Err(Broken);
            }
            block.fields.extend(payload);
        } else if self.fresh {
            return Ok(()); // of a block that began before
        } else {
            return Err(Broken);
        }
        if header.flags & END_HEADERS != 0
            && let Some(block) = self.block.take()
        {
            let fields = self.decoder.decode(&block.fields)?;
            self.fresh = false;
            block.write(&encode(&fields), shown);
        }
        Ok(())
    }
}

impl Block {
    /// What a `HEADERS` or `PUSH_PROMISE` frame holds, without padding.
    fn begin(header: Header, mut payload: &[u8]) -> Result<Self, Broken> {
        if header.flags & PADDED != 0 {
            let (padding, rest) = payload.split_first().ok_or(Broken)?;
            let len = rest.len().checked_sub(usize::from(*padding)).ok_or(Broken)?;
            payload = &rest[..len];
        }
        let before = match header.kind {
            PUSH_PROMISE => PROMISED_LEN,
            _ if header.flags & PRIORITIZED != 0 => PRIORITY_LEN,
            _ => 0,
        };
        let (before, fields) = payload.split_at_checked(before).ok_or(Broken)?;
        Ok(Self { header, before: before.to_vec(), fields: fields.to_vec() })
    }

    /// Writes these fields in frames like those that they came in.
    fn write(&self, fields: &[u8], shown: &mut Vec<u8>) {
        let Self { header, before, .. } = self;
        let (first, mut rest) = fields.split_at(fields.len().min(MAX_FRAME - before.len()));
        let kept = header.flags & (END_STREAM | PRIORITIZED);
        let ended = |rest: &[u8]| if rest.is_empty() { END_HEADERS } else { 0 };
        let len = before.len() + first.len();
        let begun = Header { len, flags: kept | ended(rest), ..*header };
        shown.extend(begun.to_bytes());
        shown.extend(before);
        shown.extend(first);
        while !rest.is_empty() {
            let (next, behind) = rest.split_at(rest.len().min(MAX_FRAME));
            rest = behind;
            let header = Header {
                len: next.len(),
                kind: CONTINUATION,
                flags: ended(rest),
                stream: header.stream,
            };
            shown.extend(header.to_bytes());
            shown.extend(next);
        }
    }
}
