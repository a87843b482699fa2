//! Writing blocks.

use super::{
    BLOCK_OVERHEAD, BYTE_ORDER_MAGIC, DECRYPTION_SECRETS, ENHANCED_PACKET, INTERFACE_DESCRIPTION,
    INTERFACE_STATISTICS, LINKTYPE_ETHERNET, NANOSECONDS, PACKET_DATA_AT, PACKET_FIXED, PADDING,
    SECTION_HEADER, Statistics, TLS_KEY_LOG, option, padded,
};
use crate::{Frame, Interface, MAX_CAPTURED, Timestamp};

/// The smallest stretch that [`push_padding`] can fill.
pub const MIN_PADDING: usize = BLOCK_OVERHEAD;

/// How many bytes [`write_packet`] needs for a packet with so many captured bytes.
pub const fn packet_block_len(captured_len: u32) -> usize {
    BLOCK_OVERHEAD + PACKET_FIXED + padded(captured_len as usize)
}

/// Writes an Enhanced Packet Block at the start of `out` and returns its length, which is
/// [`packet_block_len`]; `out` must have that room.
///
/// The capture threads spend their time here: one pass over plain slices.
#[expect(clippy::cast_possible_truncation, reason = "halves of a 64-bit time; a block's length")]
pub fn write_packet(out: &mut [u8], interface: u32, frame: &Frame<'_>) -> usize {
    let captured = frame.captured_len();
    let len = packet_block_len(captured);
    let out = &mut out[..len];
    let time = frame.timestamp.as_nanos();
    let words = [
        ENHANCED_PACKET,
        len as u32,
        interface,
        (time >> 32) as u32,
        time as u32,
        captured,
        frame.original_len,
    ];
    for (place, word) in out.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    let data = &mut out[BLOCK_OVERHEAD - 4 + PACKET_FIXED..];
    let (head, rest) = data.split_at_mut(frame.head.len());
    let (body, tail) = rest.split_at_mut(frame.body.len());
    head.copy_from_slice(frame.head);
    body.copy_from_slice(frame.body);
    let (pad, trailer) = tail.split_at_mut(tail.len() - 4);
    pad.fill(0);
    trailer.copy_from_slice(&(len as u32).to_le_bytes());
    len
}

/// Appends an Enhanced Packet Block; for those who collect blocks without counting bytes.
#[expect(clippy::cast_possible_truncation, reason = "halves of a 64-bit time; a block's length")]
pub fn push_packet(out: &mut Vec<u8>, interface: u32, frame: &Frame<'_>) {
    let captured = frame.captured_len();
    let len = packet_block_len(captured) as u32;
    let time = frame.timestamp.as_nanos();
    let (upper, lower) = ((time >> 32) as u32, time as u32);
    let original = frame.original_len;
    let mut head = [0; PACKET_DATA_AT];
    let words = [ENHANCED_PACKET, len, interface, upper, lower, captured, original];
    for (place, word) in head.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    out.reserve(len as usize);
    out.extend_from_slice(&head);
    out.extend_from_slice(frame.head);
    out.extend_from_slice(frame.body);
    let pad = padded(captured as usize) - captured as usize;
    out.extend_from_slice(&[0; 3][..pad]);
    out.extend_from_slice(&len.to_le_bytes());
}

/// Appends a Decryption Secrets Block with a TLS key log. An interface block must stand before it
/// (mergecap breaks otherwise), and it before the packets that it opens.
#[expect(clippy::cast_possible_truncation, reason = "a key log is cut into blocks by its writer")]
pub fn push_secrets(out: &mut Vec<u8>, key_log: &[u8]) {
    let len = (BLOCK_OVERHEAD + 8 + padded(key_log.len())) as u32;
    for word in [DECRYPTION_SECRETS, len, TLS_KEY_LOG, key_log.len() as u32] {
        out.extend(word.to_le_bytes());
    }
    out.extend(key_log);
    out.resize(out.len() + padded(key_log.len()) - key_log.len(), 0);
    out.extend(len.to_le_bytes());
}

/// Gives the Enhanced Packet Block at the start of `block` another interface number.
pub fn set_interface(block: &mut [u8], interface: u32) {
    block[8..12].copy_from_slice(&interface.to_le_bytes());
}

/// Appends a Section Header Block that names the writing program and, where given, has a comment.
pub fn push_section_header(out: &mut Vec<u8>, program: &str, comment: Option<&str>) {
    push_section_header_in(out, 0, program, comment);
}

/// As [`push_section_header`], in at least `len` bytes (a multiple of 4): such a header can be
/// written again, in the same place, once more is known.
///
/// It is filled with options for local use. [`push_padding`] would not do here: at a block that it
/// does not know, Wireshark stops looking for the file's interfaces, and mergecap then refuses it.
pub fn push_section_header_in(out: &mut Vec<u8>, len: usize, program: &str, comment: Option<&str>) {
    const BEHIND_OPTIONS: usize = 8;
    let end = out.len() + len;
    push_block(out, SECTION_HEADER, |out| {
        out.extend(BYTE_ORDER_MAGIC.to_le_bytes());
        out.extend(1u16.to_le_bytes());
        out.extend(0u16.to_le_bytes());
        out.extend((-1i64).to_le_bytes()); // section length: not said
        if let Some(comment) = comment {
            push_option(out, option::COMMENT, comment.as_bytes());
        }
        push_option(out, option::SHB_USERAPPL, program.as_bytes());
        while let Some(fill @ 4..) = end.checked_sub(out.len() + BEHIND_OPTIONS) {
            push_option(out, option::FILLER, &vec![0; (fill - 4).min(MAX_OPTION)]);
        }
        push_end(out);
    });
}

/// Appends an Interface Description Block: Ethernet, nanoseconds, [`MAX_CAPTURED`].
pub fn push_interface(out: &mut Vec<u8>, interface: &Interface) {
    push_block(out, INTERFACE_DESCRIPTION, |out| {
        out.extend(LINKTYPE_ETHERNET.to_le_bytes());
        out.extend(0u16.to_le_bytes());
        out.extend(MAX_CAPTURED.to_le_bytes());
        push_option(out, option::IF_NAME, interface.if_name().as_bytes());
        push_option(out, option::IF_DESCRIPTION, interface.if_description().as_bytes());
        push_option(out, option::IF_TSRESOL, &[NANOSECONDS]);
        push_end(out);
    });
}

/// Appends an Interface Statistics Block.
pub fn push_statistics(out: &mut Vec<u8>, statistics: &Statistics<'_>) {
    let Statistics { interface, written, from, to, received, dropped, comment } = *statistics;
    push_block(out, INTERFACE_STATISTICS, |out| {
        out.extend(interface.to_le_bytes());
        out.extend(halves(written));
        if let Some(comment) = comment {
            push_option(out, option::COMMENT, comment.as_bytes());
        }
        if let Some(from) = from {
            push_option(out, option::ISB_STARTTIME, &halves(from));
        }
        if let Some(to) = to {
            push_option(out, option::ISB_ENDTIME, &halves(to));
        }
        if let Some(received) = received {
            push_option(out, option::ISB_IFRECV, &received.to_le_bytes());
        }
        if let Some(dropped) = dropped {
            push_option(out, option::ISB_IFDROP, &dropped.to_le_bytes());
        }
        push_end(out);
    });
}

/// Appends a block of exactly `len` bytes that readers skip; `len` is a multiple of 4 and at least
/// [`MIN_PADDING`].
pub fn push_padding(out: &mut Vec<u8>, len: usize) {
    let start = out.len();
    out.resize(start + len, 0);
    write_padding(&mut out[start..]);
}

/// As [`push_padding`], over all of `out`.
#[expect(clippy::cast_possible_truncation, reason = "padding fills less than a buffer")]
pub fn write_padding(out: &mut [u8]) {
    let len = out.len();
    debug_assert!(len >= MIN_PADDING && len.is_multiple_of(4), "no block has {len} bytes");
    out.fill(0);
    out[..4].copy_from_slice(&PADDING.to_le_bytes());
    out[4..8].copy_from_slice(&(len as u32).to_le_bytes());
    out[len - 4..].copy_from_slice(&(len as u32).to_le_bytes());
}

#[expect(clippy::cast_possible_truncation, reason = "blocks are far below 4 GiB")]
fn push_block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    body(out);
    let len = ((out.len() - start + 4) as u32).to_le_bytes();
    out.extend(len);
    out[start + 4..start + 8].copy_from_slice(&len);
}

/// The longest value of an option that needs no padding.
pub const MAX_OPTION: usize = u16::MAX as usize & !3;

/// Longer values than an option can hold are cut: names and comments, never packets.
#[expect(clippy::cast_possible_truncation, reason = "cut to what 16 bits hold")]
fn push_option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(MAX_OPTION)];
    out.extend(code.to_le_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn push_end(out: &mut Vec<u8>) {
    out.extend(option::END.to_le_bytes());
    out.extend([0; 2]);
}

/// A time as pcapng has it: the upper 32 bits first.
#[expect(clippy::cast_possible_truncation, reason = "halves of a 64-bit time")]
fn halves(time: Timestamp) -> [u8; 8] {
    let mut out = [0; 8];
    out[..4].copy_from_slice(&((time.as_nanos() >> 32) as u32).to_le_bytes());
    out[4..].copy_from_slice(&(time.as_nanos() as u32).to_le_bytes());
    out
}
