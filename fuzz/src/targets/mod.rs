//! Everything in this list is fuzzed; what only the binary can read is in its own `fuzz.rs`.

mod capture_file;
mod expression;
mod http2;
mod plaintext;
mod program;
mod recording;
mod text;
mod tls;
mod vantage;
mod wire;

use crate::Target;

/// Each that there is.
pub const TARGETS: [Target; 22] = [
    Target {
        name: "segment",
        seeds: recording::segments,
        words: recording::WORDS,
        read: recording::sealed,
    },
    Target {
        name: "open-segment",
        seeds: recording::segments,
        words: recording::WORDS,
        read: recording::open,
    },
    Target {
        name: "index",
        seeds: recording::indexes,
        words: recording::JSON_WORDS,
        read: recording::index,
    },
    Target {
        name: "journal",
        seeds: recording::journals,
        words: recording::JSON_WORDS,
        read: recording::journal,
    },
    Target { name: "pcapng", seeds: recording::segments, words: &[], read: capture_file::blocks },
    Target {
        name: "replay",
        seeds: capture_file::files,
        words: capture_file::WORDS,
        read: capture_file::replayed,
    },
    Target { name: "wire", seeds: wire::streams, words: wire::WORDS, read: wire::read },
    Target { name: "vantage", seeds: vantage::both_ends, words: &[], read: vantage::read },
    Target {
        name: "filter",
        seeds: expression::some,
        words: expression::WORDS,
        read: expression::compile,
    },
    Target {
        name: "packet-filter",
        seeds: expression::packets,
        words: &[],
        read: expression::matched,
    },
    Target { name: "text", seeds: text::some, words: text::WORDS, read: text::parse },
    Target {
        name: "tls-records",
        seeds: tls::conversations,
        words: tls::WORDS,
        read: tls::records,
    },
    Target { name: "tls-join", seeds: tls::derived, words: tls::WORDS, read: tls::join },
    Target { name: "tls-decrypt", seeds: tls::opened, words: tls::WORDS, read: tls::decrypt },
    Target { name: "tls-older", seeds: tls::older, words: tls::WORDS, read: tls::decrypt },
    Target { name: "http2", seeds: http2::conversations, words: http2::WORDS, read: http2::read },
    Target { name: "key-log", seeds: tls::key_logs, words: tls::WORDS, read: tls::key_log },
    Target { name: "elf", seeds: program::libraries, words: program::WORDS, read: program::read },
    Target {
        name: "elf-key-log",
        seeds: program::key_logs,
        words: program::WORDS,
        read: program::read,
    },
    Target {
        name: "pclntab",
        seeds: program::go_programs,
        words: program::WORDS,
        read: program::read,
    },
    Target { name: "plaintext", seeds: plaintext::events, words: &[], read: plaintext::read },
    Target {
        name: "opener",
        seeds: kuberewind_capture::fuzz::opener_messages,
        words: &[],
        read: kuberewind_capture::fuzz::look_at_message,
    },
];
