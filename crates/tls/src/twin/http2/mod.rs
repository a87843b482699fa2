//! HTTP/2 of which something is missing, shown so that readers understand the rest.
//!
//! A header block refers to tables that earlier blocks filled (HPACK). A reader who misses one of these
//! shows nothing of what follows, or worse, other fields than were sent. So from a hole on, or from the
//! first byte at hand of a connection that is older, each direction is shown from the first frame that is
//! proved to be one, with its header blocks written anew without tables; what refers to entries that nobody
//! can know is named so. All other frames stay as they were. A direction of which nothing is missing is
//! shown byte by byte.

mod direction;
mod frame;
mod hpack;

use crate::flow::Sender;
use crate::twin::http2::direction::Direction;
use crate::twin::http2::frame::{Chain, chain};

/// What a client says first (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Settings that change nothing.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Bytes to show, and how many are missing before them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) lost: u64,
    pub(super) bytes: Vec<u8>,
}

/// A conversation.
#[derive(Debug)]
pub(super) struct Http2 {
    directions: [Direction; 2],
}

impl Http2 {
    /// One whose client is heard from its first byte on; `server_too`: so is its server.
    pub(super) fn from_the_preface(server_too: bool) -> Self {
        let server = if server_too { Direction::from_the_start } else { Direction::in_midstream };
        Self { directions: [Direction::from_the_start(true), server(false)] }
    }

    /// One that began before.
    pub(super) fn in_midstream() -> Self {
        Self { directions: [true, false].map(Direction::in_midstream) }
    }

    /// What must stand before anything else of one that began before.
    pub(super) fn opening() -> [Vec<u8>; 2] {
        [[PREFACE, &SETTINGS].concat(), SETTINGS.to_vec()]
    }

    /// Takes the content of a record, before which `lost` bytes are missing; what is shown of it.
    pub(super) fn take(&mut self, from: Sender, lost: u64, record: &[u8]) -> Option<Piece> {
        self.directions[from.index()].take(lost, record)
    }

    /// Whether something is missing of it.
    pub(super) fn is_cut(&self) -> bool {
        self.directions.iter().any(Direction::is_cut)
    }

    /// Whether a direction could not be followed.
    pub(super) fn is_given_up(&self) -> bool {
        self.directions.iter().any(Direction::is_given_up)
    }

    /// Header fields shown whose name or value nobody can know.
    pub(super) fn unknown_fields(&self) -> u64 {
        self.directions.iter().map(|direction| direction.unknown).sum()
    }
}

/// Whether these records, of a conversation that began before them, are HTTP/2: at least two frames in all
/// are proved to be such.
pub(super) fn is_spoken<'a>(records: impl Iterator<Item = (Sender, &'a [u8])>) -> bool {
    let frames = records.map(|(from, record)| {
        match chain(record, 0, from == Sender::Client, Some(record.len())) {
            Chain::Proved { count, .. } => count,
            Chain::Open { .. } | Chain::Refuted => 0,
        }
    });
    frames.sum::<usize>() >= 2
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::hpack::tests::{Encoder, Written, written};
    use super::hpack::{Decoder, Field};
    use super::*;
    use crate::twin::http2::frame::{CONTINUATION, END_HEADERS, HEADER_LEN, HEADERS, Header};

    /// What one end sends.
    #[derive(Clone, Debug)]
    enum Sent {
        /// Fields, in so many frames, with padding and a priority or not.
        Block(Vec<Written>, usize, bool, bool),
        Data(Vec<u8>),
        Ping,
    }

    fn sent() -> impl Strategy<Value = Sent> {
        prop_oneof![
            (prop::collection::vec(written(), 1..6), 1..4_usize, any::<bool>(), any::<bool>())
                .prop_map(|(fields, parts, padded, first)| Sent::Block(
                    fields, parts, padded, first
                )),
            prop::collection::vec(any::<u8>(), 0..600).prop_map(Sent::Data),
            Just(Sent::Ping),
        ]
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let header = Header { len: payload.len(), kind, flags, stream };
        [&header.to_bytes(), payload].concat()
    }

    /// What was sent: its frames, the fields of each stream, and all frames with data.
    #[derive(Default)]
    struct Truth {
        frames: Vec<Vec<u8>>,
        fields: BTreeMap<u32, Vec<Field>>,
        data: Vec<Vec<u8>>,
    }

    fn send(all: &[Sent], size: usize) -> Truth {
        let (mut truth, mut encoder) = (Truth::default(), Encoder::new(size));
        for (number, sent) in all.iter().enumerate() {
            let stream = u32::try_from(2 * number + 1).unwrap();
            match sent {
                Sent::Block(written, parts, padded, prioritized) => {
                    let (block, fields) = encoder.encode(written);
                    truth.fields.insert(stream, fields);
                    let each = block.len().div_ceil(*parts);
                    let mut parts = block.chunks(each).peekable();
                    let first = parts.next().unwrap();
                    let ended = |more: bool| if more { 0 } else { END_HEADERS };
                    let mut payload = Vec::new();
                    let flags = u8::from(*padded) * 0x8 + u8::from(*prioritized) * 0x20;
                    payload.extend([3].iter().filter(|_| *padded));
                    payload.extend([0, 0, 0, 0, 9].iter().filter(|_| *prioritized));
                    payload.extend(first);
                    payload.extend([0; 3].iter().filter(|_| *padded));
                    let flags = flags | ended(parts.peek().is_some());
                    let mut frames = frame(HEADERS, flags, stream, &payload);
                    while let Some(part) = parts.next() {
                        let flags = ended(parts.peek().is_some());
                        frames.extend(frame(CONTINUATION, flags, stream, part));
                    }
                    truth.frames.push(frames);
                }
                Sent::Data(bytes) => {
                    let data = frame(0, 0, stream, bytes);
                    truth.data.push(data.clone());
                    truth.frames.push(data);
                }
                Sent::Ping => truth.frames.push(frame(6, 0, 0, &[7; 8])),
            }
        }
        truth
    }

    /// Asserts that a reader finds nothing in these pieces that was not sent; gives how many blocks.
    fn read(truth: &Truth, pieces: &[Piece]) -> usize {
        let mut blocks = 0;
        let holes = pieces.chunk_by(|_, next| next.lost == 0);
        for whole in holes {
            let bytes: Vec<u8> = whole.iter().flat_map(|piece| piece.bytes.clone()).collect();
            let (mut rest, mut block) = (&bytes[..], Vec::new());
            while let Some(header) = rest.first_chunk::<HEADER_LEN>() {
                let header = Header::parse(*header).unwrap();
                // The last one may have been cut by what was lost.
                let Some(frame) = rest.get(..HEADER_LEN + header.len) else { break };
                rest = &rest[frame.len()..];
                let payload = &frame[HEADER_LEN..];
                match header.kind {
                    0 => assert!(truth.data.iter().any(|data| data == frame), "{frame:?}"),
                    HEADERS | CONTINUATION => {
                        let skipped = if header.flags & 0x20 == 0 { 0 } else { 5 };
                        block.extend(&payload[skipped..]);
                        if header.flags & END_HEADERS != 0 {
                            check(truth, header.stream, &std::mem::take(&mut block));
                            blocks += 1;
                        }
                    }
                    _ => {}
                }
            }
        }
        blocks
    }

    fn check(truth: &Truth, stream: u32, block: &[u8]) {
        let read = Decoder::in_midstream().decode(block).unwrap();
        let fields = &truth.fields[&stream];
        assert_eq!(read.len(), fields.len());
        for (read, field) in read.iter().zip(fields) {
            if read.name.starts_with(b"unknown-hpack-") {
                assert!(read.value.is_empty() || read.value == field.value);
            } else {
                assert_eq!(read, field);
            }
        }
    }

    proptest! {
        #[test]
        fn cut_anywhere_and_with_a_hole_anywhere_nothing_is_shown_that_was_not_sent(
            all in prop::collection::vec(sent(), 4..40),
            size in 40..400_usize,
            own_records in any::<bool>(),
            lengths in prop::collection::vec(1..900_usize, 1..20),
            cut: Index,
            hole: Index,
        ) {
            let truth = send(&all, size);
            let stream = truth.frames.concat();
            let records: Vec<Vec<u8>> = if own_records {
                truth.frames.clone()
            } else {
                let (mut rest, mut records) = (&stream[..], Vec::new());
                for len in lengths.iter().cycle() {
                    if rest.is_empty() { break; }
                    let (record, behind) = rest.split_at((*len).min(rest.len()));
                    records.push(record.to_vec());
                    rest = behind;
                }
                records
            };
            let (cut, hole) = (cut.index(records.len()), hole.index(records.len()));
            let mut http2 = Http2::in_midstream();
            let (mut pieces, mut lost) = (Vec::new(), 0);
            for (number, record) in records.iter().enumerate().skip(cut) {
                if number == hole {
                    lost = record.len() as u64;
                    continue;
                }
                pieces.extend(http2.take(Sender::Client, std::mem::take(&mut lost), record));
            }
            let blocks = read(&truth, &pieces);
            prop_assert!(!http2.is_given_up());
            if own_records {
                let whole = truth.frames.iter().enumerate().skip(cut);
                let whole = whole.filter(|(number, frame)| *number != hole && frame[3] == HEADERS);
                prop_assert_eq!(blocks, whole.count());
            }
        }

        #[test]
        fn no_records_make_it_panic_or_keep_much(
            records in prop::collection::vec((any::<bool>(), 0..3_u64, prop::collection::vec(any::<u8>(), 0..300)), 0..30),
            from_the_start: bool,
        ) {
            let mut http2 = if from_the_start { Http2::from_the_preface(true) } else { Http2::in_midstream() };
            for (client, lost, record) in records {
                let from = if client { Sender::Client } else { Sender::Server };
                http2.take(from, lost, &record);
            }
        }
    }

    #[test]
    fn a_search_in_many_small_records_looks_at_each_place_a_few_times() {
        // Frames of data that are never proved to be such: each leads to the middle of another.
        let long = Header { len: 16_384, kind: 0, flags: 0, stream: 1 }.to_bytes();
        let stream = long.iter().chain(&[0; 3]).cycle().take(200_000);
        let mut http2 = Http2::in_midstream();
        for byte in stream {
            http2.take(Sender::Client, 0, &[*byte]);
        }
        let looked_at = http2.directions[0].looked_at();
        assert!(looked_at < 200_000 * 20, "{looked_at}");
    }

    #[test]
    fn while_nothing_is_missing_every_byte_is_as_it_was() {
        let truth = send(&[Sent::Ping, Sent::Data(vec![1; 50]), Sent::Ping], 100);
        let mut http2 = Http2::from_the_preface(true);
        for record in std::iter::once(&PREFACE.to_vec()).chain(&truth.frames) {
            let piece = http2.take(Sender::Client, 0, record);
            assert_eq!(piece, Some(Piece { lost: 0, bytes: record.clone() }));
        }
        assert!(!http2.is_cut());
        // In the middle of a frame of 100 bytes 10 are lost; its rest must not be taken for frames.
        let data = frame(0, 0, 9, &[5; 100]);
        http2.take(Sender::Client, 0, &data[..49]);
        assert_eq!(http2.take(Sender::Client, 10, &data[59..]), None);
        let ping = frame(6, 0, 0, &[7; 8]);
        let piece = http2.take(Sender::Client, 0, &ping).unwrap();
        assert_eq!(piece.bytes, ping);
        assert!(piece.lost >= 60, "{}", piece.lost);
    }
}
