//! Finds in programs with rustls, by their symbols, the functions that derive secrets.
//!
//! Both are methods of traits that each cryptography behind rustls brings, called through tables of
//! methods, so that their arguments stand where the platform's C would have them:
//! - `HkdfExpander::expand_block` of TLS 1.3 hands out secrets, so it is probed where it begins and where
//!   it returns. The client's random is not among its arguments, but a pointer to it stands on the stack,
//!   among those of the function that calls it.
//! - `Prf::for_secret` of TLS 1.2 has all that is needed among its arguments.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Register};

use super::elf::{Elf, Machine, Result, after};
use super::find::{Hook, Place};
use super::instruction::cheapest;

/// What symbols hold, mangled in the old way or in the new one: the method and its trait.
const EXPAND: [&str; 2] = ["12expand_block", "HkdfExpander"];
const PRF: [&str; 2] = ["10for_secret", "Prf"];
/// Their arguments, and the stack, on which some stand.
const ARGUMENTS: [Register; 7] = [
    Register::RDI,
    Register::RSI,
    Register::RDX,
    Register::RCX,
    Register::R8,
    Register::R9,
    Register::RSP,
];
/// A program may have several cryptographies.
const MOST_FUNCTIONS: usize = 4;
/// Longer functions are others.
const MOST_CODE: u64 = 4096;
/// Places where one function returns.
const MOST_RETURNS: usize = 8;
/// What is looked at to place a probe, in bytes.
const BEGINNING: usize = 64;

/// Where to probe; nothing in programs without rustls or without symbols.
pub(crate) fn places(elf: &mut Elf) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    if elf.machine != Machine::X86 {
        return Ok(places);
    }
    for (function, len) in elf.functions_like(EXPAND, MOST_FUNCTIONS)? {
        let returns = returns(elf, function, len)?;
        let Some(begins) = begin(elf, function)?.filter(|_| !returns.is_empty()) else { continue };
        places.push(Place { hook: Hook::RustlsExpand, offset: begins });
        places
            .extend(returns.into_iter().map(|at| Place { hook: Hook::RustlsExpanded, offset: at }));
    }
    for (function, _) in elf.functions_like(PRF, MOST_FUNCTIONS)? {
        let begins = begin(elf, function)?;
        places.extend(begins.map(|offset| Place { hook: Hook::RustlsPrf, offset }));
    }
    Ok(places)
}

fn begin(elf: &mut Elf, function: u64) -> Result<Option<u64>> {
    let Some(offset) = elf.code_offset_of(function) else { return Ok(None) };
    Ok(Some(after(offset, cheapest(&elf.code(function, BEGINNING)?, &ARGUMENTS))))
}

/// Where a function returns, in the file. Nothing unless all of its code can be read.
fn returns(elf: &mut Elf, function: u64, len: u64) -> Result<Vec<u64>> {
    let mut returns = Vec::new();
    let Some(offset) = elf.code_offset_of(function).filter(|_| len <= MOST_CODE) else {
        return Ok(returns);
    };
    let code = elf.code(function, usize::try_from(len).unwrap_or(0))?;
    let mut decoder = Decoder::with_ip(64, &code, offset, DecoderOptions::NONE);
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if instruction.is_invalid() || returns.len() > MOST_RETURNS {
            return Ok(Vec::new());
        }
        if instruction.flow_control() == FlowControl::Return {
            returns.push(instruction.ip());
        }
    }
    Ok(returns)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use super::*;

    #[test]
    fn this_program_has_no_rustls() {
        let mut own = Elf::open(File::open("/proc/self/exe").unwrap()).unwrap();
        assert_eq!(places(&mut own).unwrap(), []);
    }

    #[test]
    fn a_file_without_symbols_has_nothing() {
        let mut file = tempfile::tempfile().unwrap();
        let library = std::fs::read("/usr/lib/x86_64-linux-gnu/libssl.so.3").unwrap();
        file.write_all(&library).unwrap();
        assert_eq!(places(&mut Elf::open(file).unwrap()).unwrap(), []);
    }
}
