//! Finds functions of Go programs in the table that Go's own stack traces come from
//! (`runtime.pclntab`, `src/runtime/symtab.go`), which `strip` leaves in place.

use super::elf::{Elf, Machine, Result, Section, after};

/// Magic numbers of Go 1.20, 1.18 and 1.16.
const GO_1_20: u32 = 0xffff_fff1;
const GO_1_18: u32 = 0xffff_fff0;
const GO_1_16: u32 = 0xffff_fffa;
/// Where the linker puts the table; the second in position-independent programs of some versions.
const SECTIONS: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];
const MAX_FUNCTIONS: u64 = 4_000_000;
/// Where Go's part of the text starts, in `runtime.moduledata` from Go 1.26 on.
const MODULE_TEXT: u64 = 176;

/// The functions of a Go program.
#[derive(Debug)]
pub(crate) struct Functions {
    table: Section,
    recent: bool,
    count: u64,
    names: u64,
    /// Where the table of functions stands.
    entries: u64,
}

/// A function, by where it starts: from the start of the text since Go 1.18, before as an address.
#[derive(Clone, Copy, Debug)]
struct Entry(u64);

impl Functions {
    /// None when this is no Go program, or one of before Go 1.16.
    pub(crate) fn of(elf: &mut Elf) -> Result<Option<Self>> {
        let mut found = None;
        for name in SECTIONS {
            found = found.or(elf.section(name)?);
        }
        let Some(table) = found else { return Ok(None) };
        let at = table.offset;
        let magic = elf.word(at)?;
        let recent = match magic {
            GO_1_20 | GO_1_18 => true,
            GO_1_16 => false,
            _ => return Ok(None),
        };
        let (names, functions) = if recent { (32, 64) } else { (24, 56) };
        let count = elf.double(after(at, 8))?;
        if count == 0 || count > MAX_FUNCTIONS {
            return Ok(None);
        }
        let names = after(at, elf.double(after(at, names))?);
        let functions = after(at, elf.double(after(at, functions))?);
        Ok(Some(Self { table, recent, count, names, entries: functions }))
    }

    /// Places at which the function may start, the likeliest first: newer programs do not say where
    /// the text starts, so that the caller has to look at the code.
    pub(crate) fn places(&self, elf: &mut Elf, name: &str) -> Result<Vec<u64>> {
        let Some(entry) = self.entry_named(elf, name)? else { return Ok(Vec::new()) };
        if !self.recent {
            return Ok(vec![entry.0]);
        }
        let starts = self.text_starts(elf)?;
        Ok(starts.into_iter().map(|start| start.wrapping_add(entry.0)).collect())
    }

    fn entry_named(&self, elf: &mut Elf, name: &str) -> Result<Option<Entry>> {
        let len = after(self.table.offset, self.table.len).saturating_sub(self.names);
        let text = [b"\0", name.as_bytes(), b"\0"].concat();
        let Some(found) = elf.find(self.names, len, &text)? else { return Ok(None) };
        let wanted = found + 1 - self.names;
        self.find(elf, |elf, offset| Ok(offset == wanted && elf.is_text(found + 1, name)?))
    }

    /// The first function whose name's place pleases.
    fn find(
        &self,
        elf: &mut Elf,
        mut pleases: impl FnMut(&mut Elf, u64) -> Result<bool>,
    ) -> Result<Option<Entry>> {
        let (width, name_at) = if self.recent { (4, 4) } else { (8, 8) };
        for index in 0..self.count {
            let at = after(self.entries, index * 2 * width);
            let (entry, function) = if self.recent {
                (elf.word(at)?.into(), elf.word(after(at, 4))?.into())
            } else {
                (elf.double(at)?, elf.double(after(at, 8))?)
            };
            let function = after(after(self.entries, function), name_at);
            let name = elf.word(function)?;
            if pleases(elf, name.into())? {
                return Ok(Some(Entry(entry)));
            }
        }
        Ok(None)
    }

    fn text_starts(&self, elf: &mut Elf) -> Result<Vec<u64>> {
        let mut starts = Vec::new();
        let mut add = |start: u64| {
            if start != 0 && !starts.contains(&start) {
                starts.push(start);
            }
        };
        // The header says it up to Go 1.25; in position-independent programs the loader writes it.
        let header = after(self.table.offset, 24);
        add(elf.double(header)?);
        if let Some(address) = elf.address_of(header) {
            add(elf.relocated(address)?.unwrap_or(0));
        }
        if let Some(module) = elf.section(".go.module")? {
            let place = after(module.offset, MODULE_TEXT);
            add(elf.double(place).unwrap_or(0));
            add(elf.relocated(after(module.address, MODULE_TEXT))?.unwrap_or(0));
        }
        // Go's own linker lets execution start at `_rt0_amd64_linux`.
        let architecture = match elf.machine {
            Machine::Arm => "_rt0_arm64_linux",
            _ => "_rt0_amd64_linux",
        };
        if let Some(entry) = self.entry_named(elf, architecture)? {
            add(elf.entry.wrapping_sub(entry.0));
        }
        if let Some(text) = elf.section(".text")? {
            add(text.address);
        }
        Ok(starts)
    }
}

/// Go's version, as the program itself tells it (`debug/buildinfo`, Go 1.18 and later).
pub(crate) fn version(elf: &mut Elf) -> Result<Option<String>> {
    const INLINE: u8 = 2;
    let Some(section) = elf.section(".go.buildinfo")? else { return Ok(None) };
    let header: [u8; 34] = elf.bytes(section.offset)?;
    let len = usize::from(header[32]);
    if !header.starts_with(b"\xff Go buildinf:") || header[15] & INLINE == 0 || len > 64 {
        return Ok(None);
    }
    let text: [u8; 64] = elf.bytes(after(section.offset, 33))?;
    let version = String::from_utf8_lossy(&text[..len]).into_owned();
    Ok(version.strip_prefix("go").map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use proptest::prelude::*;

    use super::super::find::{Finding, Hook, Place, inspect};

    /// Where the text starts, in the file and when it runs.
    const TEXT: u64 = 0x100;
    const BASE: u64 = 0x40_0000;

    /// How a program says where its text starts.
    #[derive(Clone, Copy, Debug)]
    enum Says {
        Header,
        Entry,
        Section,
    }

    fn numbers(numbers: &[u64]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// A Go program of three functions, of which the third is wanted.
    fn program(says: Says) -> Vec<u8> {
        let names = b"\0_rt0_amd64_linux\0other\0crypto/tls.(*Config).writeKeyLog\0";
        let text_start = if matches!(says, Says::Header) { BASE + TEXT } else { 0 };
        let mut table = words(&[super::GO_1_20, 0x0801_0000]);
        let functions = 72 + names.len() as u64;
        table.extend(numbers(&[3, 0, text_start, 72, 0, 0, 0, functions]));
        table.extend(names);
        // Where each starts and where its data are; then these: where it starts and its name.
        table.extend(words(&[0, 28, 16, 36, 32, 44, 48]));
        table.extend(words(&[0, 1, 16, 18, 32, 24]));

        let mut text = vec![0x90; 64];
        // cmp rsp, [r14+16]; jbe
        text[32..38].copy_from_slice(&[0x49, 0x3b, 0x66, 0x10, 0x76, 0x10]);
        let section_names = b"\0.text\0.gopclntab\0.shstrtab\0";
        let table_at = TEXT + text.len() as u64;
        let names_at = table_at + table.len() as u64;
        let sections_at = (names_at + section_names.len() as u64).next_multiple_of(8);
        let entry = if matches!(says, Says::Entry) { BASE + TEXT } else { 1 };

        let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
        bytes.extend(numbers(&[entry, 64, sections_at]));
        bytes.extend(words(&[0, 0x0038_0040, 0x0040_0001, 0x0003_0004]));
        bytes.extend(words(&[1, 5]));
        bytes.extend(numbers(&[0, BASE, BASE, sections_at, sections_at, 0x1000]));
        bytes.resize(usize::try_from(TEXT).unwrap(), 0);
        bytes.extend(text);
        bytes.extend(&table);
        bytes.extend(section_names);
        bytes.resize(usize::try_from(sections_at).unwrap(), 0);
        let text_address = if matches!(says, Says::Section) { BASE + TEXT } else { 7 };
        let parts = [
            (0, 0, 0, 0),
            (1, text_address, TEXT, 64),
            (7, BASE + table_at, table_at, table.len() as u64),
            (18, 0, names_at, section_names.len() as u64),
        ];
        for (name, address, offset, len) in parts {
            bytes.extend(words(&[name, 1]));
            bytes.extend(numbers(&[0, address, offset, len, 0, 0, 0]));
        }
        bytes
    }

    fn look(bytes: &[u8]) -> super::Result<Finding> {
        let mut file: File = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        inspect(file)
    }

    #[test]
    fn the_function_is_found_whatever_says_where_the_text_starts() {
        for says in [Says::Header, Says::Entry, Says::Section] {
            let finding = look(&program(says)).unwrap();
            let place = Place { hook: Hook::Go, offset: TEXT + 32 + 4 };
            assert_eq!(finding.places, [place], "{says:?}");
        }
    }

    #[test]
    fn a_function_that_does_not_begin_as_go_s_do_is_not_touched() {
        let mut bytes = program(Says::Header);
        bytes[usize::try_from(TEXT).unwrap() + 32] = 0x90;
        let finding = look(&bytes).unwrap();
        assert_eq!(finding.places, []);
        assert!(finding.unsupported.is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_mutation_of_a_program_does_harm(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), prop_oneof![
                any::<u64>(), Just(0), Just(u64::MAX), 0_u64..1024,
            ], 1_usize..=8), 1..8),
            cut in any::<prop::sample::Index>(),
            is_cut in any::<bool>(),
        ) {
            let mut bytes = program(Says::Entry);
            for (place, value, width) in changes {
                let place = place.index(bytes.len() - 8);
                bytes[place..place + width].copy_from_slice(&value.to_le_bytes()[..width]);
            }
            if is_cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            let _ = look(&bytes);
        }
    }
}
