//! A node's answer: a stream of packets.

use kuberewind_export::wire::{Received, Sender};
use kuberewind_packet::{PacketStream, Timestamp};
use xxhash_rust::xxh3::Xxh3;

use super::recording;

const PREFACE_LEN: usize = 8;
const HEAD_LEN: usize = 12;
const HASH_LEN: usize = 8;

/// What stands in accounts and interfaces.
pub(super) const WORDS: &[&str] = &[
    "KRWIRE\u{1}\0",
    "\u{1}\0\0\0",
    "\u{2}\0\0\0",
    "\u{3}\0\0\0",
    "\u{4}\0\0\0\u{10}\0\0\0\u{10}\0\0\0",
    "\u{5}\0\0\0",
    "\"netns\":",
    "\"losses\":[",
    "null",
    "18446744073709551615",
    "\u{6}\0\0\0",
];

/// Packed and not packed.
pub(super) fn streams() -> Vec<Vec<u8>> {
    let packed = |compress| {
        recording::with_window(|window| {
            let mut sender = Sender::new(Vec::new(), compress).expect("a sender");
            sender.send(window).expect("a window is sent");
            sender.finish(window.account()).expect("and ended")
        })
    };
    vec![packed(false), packed(true)]
}

/// First as it is; then with right checksums, so that what lies behind them is reached.
pub(super) fn read(input: &[u8]) -> String {
    let as_it_is = drain(input);
    let mended = mend(input);
    if mended == input { as_it_is } else { drain(&mended) }
}

fn drain(input: &[u8]) -> String {
    let mut received = match Received::open(input) {
        Ok(received) => received,
        Err(error) => return error.to_string(),
    };
    let mut last = Timestamp::MIN;
    loop {
        match received.advance() {
            Ok(true) => {
                let packet = received.packet();
                assert!(last <= packet.timestamp, "packets step back in time");
                assert!(
                    (packet.interface as usize) < received.interfaces().len(),
                    "of no interface"
                );
                last = packet.timestamp;
            }
            Ok(false) => {
                return format!("whole, {} interfaces", received.interfaces().len());
            }
            Err(error) => {
                assert!(received.advance().is_err(), "an error is followed by a peaceful end");
                return error.to_string();
            }
        }
    }
}

/// Gives each frame, as far as there are whole ones, the checksum that it should have.
fn mend(input: &[u8]) -> Vec<u8> {
    let mut out = input.to_vec();
    let mut hash = Xxh3::new();
    let mut at = PREFACE_LEN;
    hash.update(out.get(..at).unwrap_or_default());
    while let Some(head) = out.get(at..at + HEAD_LEN) {
        let stored = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let body = at + HEAD_LEN + stored;
        if out.len() < body + HASH_LEN {
            break;
        }
        hash.update(&out[at..body]);
        let right = hash.digest().to_le_bytes();
        out[body..body + HASH_LEN].copy_from_slice(&right);
        hash.update(&right);
        at = body + HASH_LEN;
    }
    out
}
