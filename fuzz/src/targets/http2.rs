//! HTTP/2 as twins show it: whole, from somewhere on, with holes.

use std::net::SocketAddr;

use kuberewind_packet::Timestamp;
use kuberewind_tls::{Content, Conversation, Event, Place, Segment, Sender, Twins};

use super::tls::said;

/// Heads of frames, fields of header blocks.
pub(super) const WORDS: &[&str] = &[
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "\0\0\0\u{4}\u{1}\0\0\0\0",
    "\0\0\u{1}\u{1}\u{5}\0\0\0\u{3}",
    "\0\0\u{1}\u{9}\u{4}\0\0\0\u{3}",
    "\0\0\u{8}\u{6}\0\0\0\0\0",
    "\0\0\u{4}\u{8}\0\0\0\0\0",
    "@\u{1}a\u{1}b",
    " ",
    "?",
];

/// How a record's bits are read.
const FROM_SERVER: u8 = 1;
const AFTER_A_HOLE: u8 = 2;
const RECORD: usize = 3;
/// Nothing grows more than this when its header fields are written out, and what goes with it.
const MOST_BYTES: u64 = 64 << 20;

/// Whether it began before, then `flags length:u16 bytes` for each record.
pub(super) fn conversations() -> Vec<Vec<u8>> {
    let records = said("http2");
    let record = |(from_server, bytes): &(bool, Vec<u8>)| {
        let bytes = &bytes[..bytes.len().min(3_000)];
        let len = u16::try_from(bytes.len()).unwrap_or(0).to_le_bytes();
        [&[u8::from(*from_server)][..], &len, bytes].concat()
    };
    let input = |cut: usize| {
        let records = records[cut..].iter().map(record).collect::<Vec<_>>().concat();
        [vec![u8::from(cut > 0)], records].concat()
    };
    (0..records.len().min(12)).map(input).collect()
}

pub(super) fn read(input: &[u8]) -> String {
    let Some((resumed, mut rest)) = input.split_first() else { return String::new() };
    let end = |port: u16| SocketAddr::from(([10, 0, 0, 1], port));
    let conversation = Conversation {
        number: 0,
        place: Place(1),
        client: end(40_000),
        server: end(443),
        resumed: resumed % 2 == 1,
    };
    let mut twins = Twins::default();
    while let Some(([flags, low, high], behind)) = rest.split_first_chunk::<RECORD>() {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(behind.len());
        let (bytes, behind) = behind.split_at(len);
        rest = behind;
        let from = if flags & FROM_SERVER == 0 { Sender::Client } else { Sender::Server };
        let lost = if flags & AFTER_A_HOLE == 0 { 0 } else { u64::from(*flags) };
        let content = Content { lost, bytes };
        let event = Event::Data {
            conversation: &conversation,
            from,
            time: Timestamp::from_nanos(1),
            content,
        };
        twins.hear(&event, &mut |_, frame| {
            let len = u32::try_from(frame.len()).unwrap_or(0);
            assert!(Segment::read(frame, len).is_ok(), "a twin's frame is no TCP");
        });
    }
    let counts = twins.counts();
    assert!(counts.bytes < MOST_BYTES, "{} bytes of {}", counts.bytes, input.len());
    format!("{} {:?}", counts.conversations, counts.frames.checked_ilog2())
}
