//! Finds functions of Go programs in the table that Go's own stack traces come from
//! (`runtime.pclntab`, `src/runtime/symtab.go`), which `strip` leaves in place.

use super::elf::{Elf, Result, Section};

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
    functions: u64,
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
        let count = elf.double(at.saturating_add(8))?;
        if count == 0 || count > MAX_FUNCTIONS {
            return Ok(None);
        }
        let names = at.saturating_add(elf.double(at.saturating_add(names))?);
        let functions = at.saturating_add(elf.double(at.saturating_add(functions))?);
        Ok(Some(Self { table, recent, count, names, functions }))
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
        let len = self.table.offset.saturating_add(self.table.len).saturating_sub(self.names);
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
            let at = self.functions.saturating_add(index * 2 * width);
            let (entry, function) = if self.recent {
                (elf.word(at)?.into(), elf.word(at.saturating_add(4))?.into())
            } else {
                (elf.double(at)?, elf.double(at.saturating_add(8))?)
            };
            let function = self.functions.saturating_add(function).saturating_add(name_at);
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
        let header = self.table.offset.saturating_add(24);
        add(elf.double(header)?);
        if let Some(address) = elf.address_of(header) {
            add(elf.relocated(address)?.unwrap_or(0));
        }
        if let Some(module) = elf.section(".go.module")? {
            let place = module.offset.saturating_add(MODULE_TEXT);
            add(elf.double(place).unwrap_or(0));
            add(elf.relocated(module.address.saturating_add(MODULE_TEXT))?.unwrap_or(0));
        }
        // Go's own linker lets execution start at `_rt0_amd64_linux`.
        let architecture = match elf.machine {
            super::elf::Machine::Arm => "_rt0_arm64_linux",
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
    let text: [u8; 64] = elf.bytes(section.offset.saturating_add(33))?;
    let version = String::from_utf8_lossy(&text[..len]).into_owned();
    Ok(version.strip_prefix("go").map(str::to_owned))
}
