//! Finds the function in which a C library writes a line of its key log, in files without symbols.
//!
//! OpenSSL, `BoringSSL` (`ssl_log_secret`) and `GnuTLS` (`_gnutls_call_keylog_func`) call one such function
//! for every secret, whether or not there is a key log, with the object, the label, the secret and its
//! length. The labels are constants: where one is loaded into the register of the second argument, the
//! next call goes to that function. Each such place has a vote.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpAccess, OpKind,
    Register,
};

use super::elf::{Elf, Result};

/// Labels of the key log that are written by themselves; others are suffixes of these, or chosen
/// between and so not constants.
const LABELS: [&str; 7] = [
    "CLIENT_RANDOM",
    "CLIENT_EARLY_TRAFFIC_SECRET",
    "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
    "SERVER_HANDSHAKE_TRAFFIC_SECRET",
    "CLIENT_TRAFFIC_SECRET_0",
    "SERVER_TRAFFIC_SECRET_0",
    "EXPORTER_SECRET",
];
/// The one that only TLS libraries have, and programs that read key logs.
const TELLING: &str = "SERVER_HANDSHAKE_TRAFFIC_SECRET";
/// How much of a program's constants is searched, in bytes.
const SEARCHED: u64 = 64 << 20;
/// Labels that are looked at: each part of a program may have its own copies.
const MAX_COPIES: usize = 64;
/// Of a label, with the zero behind it.
const LONGEST_LABEL: usize = 32;
/// Places that load labels, of which more are not looked at.
const MAX_REFERENCES: usize = 256;
/// Between a label and the call there are at most so many instructions.
const MOST_INSTRUCTIONS: usize = 40;
/// The bytes of these instructions, and more.
const MOST_CODE: usize = 40 * 8;
/// The longest instruction that is looked for.
const LOAD: usize = 7;
/// A function that fewer different labels are given to is another.
const LEAST_LABELS: usize = 2;

/// Labels, as a file has them.
#[derive(Debug, Default)]
pub(crate) struct Labels {
    /// By the addresses of their copies: those that C can use.
    c: BTreeMap<u64, &'static str>,
    /// They are there, be it without the zeros behind them.
    pub(crate) are_there: bool,
}

/// The labels that this file has.
pub(crate) fn labels(elf: &mut Elf) -> Result<Labels> {
    let mut labels = Labels::default();
    for mut segment in elf.constants() {
        segment.len = segment.len.min(SEARCHED);
        elf.walk(segment, LONGEST_LABEL, |address, bytes| {
            let mut rest = bytes;
            while let Some(skip) = rest.iter().position(|byte| matches!(byte, b'C' | b'S' | b'E')) {
                rest = &rest[skip..];
                let here = address.wrapping_add((bytes.len() - rest.len()) as u64);
                let label = LABELS.into_iter().find(|label| rest.starts_with(label.as_bytes()));
                labels.are_there |= label == Some(TELLING);
                let of_c = |label: &&str| rest.get(label.len()) == Some(&0);
                if let Some(label) = label.filter(of_c).filter(|_| labels.c.len() < MAX_COPIES) {
                    labels.c.insert(here, label);
                }
                rest = &rest[1..];
            }
        })?;
    }
    Ok(labels)
}

/// The address of the function that is given most of the labels.
pub(crate) fn function(elf: &mut Elf, labels: &Labels) -> Result<Option<u64>> {
    let mut votes: BTreeMap<u64, (BTreeSet<&str>, usize)> = BTreeMap::new();
    for (place, label) in references(elf, labels)? {
        let Ok(code) = elf.code(place, MOST_CODE) else { continue };
        if let Some(called) = next_call(&code, place) {
            let (given, count) = votes.entry(called).or_default();
            given.insert(label);
            *count += 1;
        }
    }
    let mut best: Vec<_> =
        votes.into_iter().map(|(called, (given, count))| (given.len(), count, called)).collect();
    best.sort_unstable();
    let winner = best.pop().filter(|(labels, ..)| *labels >= LEAST_LABELS);
    // Two that are given as many labels: neither is certain.
    let rival = best.pop().map_or(0, |(labels, ..)| labels);
    Ok(winner.filter(|(labels, ..)| *labels > rival).map(|(.., called)| called))
}

/// Where a label is loaded into the second argument's register, behind that instruction.
fn references(elf: &mut Elf, labels: &Labels) -> Result<Vec<(u64, &'static str)>> {
    let mut found = Vec::new();
    let (Some((low, _)), Some((high, _))) = (labels.c.first_key_value(), labels.c.last_key_value())
    else {
        return Ok(found);
    };
    for segment in elf.code_segments() {
        elf.walk(segment, LOAD, |address, bytes| {
            for (at, window) in bytes.windows(LOAD).enumerate() {
                let here = address.wrapping_add(at as u64);
                let Some((target, len)) = loaded(window, here) else { continue };
                let label = labels.c.get(&target).filter(|_| (low..=high).contains(&&target));
                if let Some(label) = label.filter(|_| found.len() < MAX_REFERENCES) {
                    found.push((here.wrapping_add(len), *label));
                }
            }
        })?;
    }
    Ok(found)
}

/// What an instruction at the beginning of these bytes loads into RSI, and how long it is.
fn loaded(bytes: &[u8], address: u64) -> Option<(u64, u64)> {
    match *bytes {
        // lea rsi, [rip+d]
        [0x48, 0x8d, 0x35, a, b, c, d] => {
            let distance = i64::from(i32::from_le_bytes([a, b, c, d]));
            Some((address.wrapping_add(7).wrapping_add_signed(distance), 7))
        }
        // mov esi, d: in programs that are not position-independent
        [0xbe, a, b, c, d, ..] => Some((u32::from_le_bytes([a, b, c, d]).into(), 5)),
        _ => None,
    }
}

/// Where the code calls next, unless it loads something else into RSI first or goes elsewhere.
fn next_call(code: &[u8], address: u64) -> Option<u64> {
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    let mut infos = InstructionInfoFactory::new();
    for _ in 0..MOST_INSTRUCTIONS {
        if !decoder.can_decode() {
            return None;
        }
        let instruction = decoder.decode();
        match instruction.flow_control() {
            FlowControl::Call if instruction.op0_kind() == OpKind::NearBranch64 => {
                return Some(instruction.near_branch_target());
            }
            FlowControl::Next | FlowControl::ConditionalBranch => {}
            _ => return None,
        }
        if writes(&mut infos, &instruction, Register::RSI) {
            return None;
        }
    }
    None
}

fn writes(infos: &mut InstructionInfoFactory, of: &Instruction, register: Register) -> bool {
    infos.info(of).used_registers().iter().any(|used| {
        let reads = matches!(used.access(), OpAccess::Read | OpAccess::CondRead);
        !reads && used.register().full_register() == register
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_loaded_as_second_argument_is_known() {
        // lea rsi, [rip+0x10]
        assert_eq!(loaded(&[0x48, 0x8d, 0x35, 0x10, 0, 0, 0], 0x1000), Some((0x1017, 7)));
        // mov esi, 0x402000
        assert_eq!(loaded(&[0xbe, 0, 0x20, 0x40, 0, 0, 0], 0x1000), Some((0x40_2000, 5)));
        // lea rdi, [rip+0x10]
        assert_eq!(loaded(&[0x48, 0x8d, 0x3d, 0x10, 0, 0, 0], 0x1000), None);
    }

    #[test]
    fn the_next_call_is_taken_unless_the_argument_is_another_by_then() {
        // mov rdi, rbx; call +0x20
        let calls = [0x48, 0x89, 0xdf, 0xe8, 0x20, 0, 0, 0];
        assert_eq!(next_call(&calls, 0x1000), Some(0x1028));
        // mov rsi, rbx; call +0x20
        assert_eq!(next_call(&[0x48, 0x89, 0xde, 0xe8, 0x20, 0, 0, 0], 0x1000), None);
        // ret; call +0x20
        assert_eq!(next_call(&[0xc3, 0xe8, 0x20, 0, 0, 0], 0x1000), None);
        assert_eq!(next_call(&[], 0x1000), None);
    }
}
