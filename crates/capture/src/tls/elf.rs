//! Reads ELF files that nobody vouches for.
//!
//! Any process of a recorded pod can bring a file here, so: nothing is mapped (a file that shrinks
//! under a mapping would end the recorder), every read has a fixed size, every walk a bound, and the
//! bytes read from one file have a budget. Memory for one file stays under 1 MiB.

use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt;

use memchr::memmem;

/// At most this much of a file is read before it is given up.
const BUDGET: u64 = 512 << 20;
/// At most so many places of a file are looked at: under a second.
const LOOKS: u32 = 20_000_000;
/// Bytes read at a time.
const BLOCK: usize = 32 << 10;
/// Places of a file that are read side by side.
const BLOCKS: usize = 4;
const MAX_SEGMENTS: u16 = 128;
const MAX_SECTIONS: u16 = 4096;
const MAX_DYNAMIC: u64 = 1024;
/// Symbols that share a bucket of the hash table.
const MAX_CHAIN: u32 = 4096;
const MAX_NOTES: u32 = 64;
/// Symbols whose names are looked at when only a part of it is known.
const MAX_LIKE: u32 = 64;
/// Of a symbol's name, before and behind the part that is known.
const MAX_NAME: u64 = 512;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_NOTE: u32 = 4;
const PF_X: u32 = 1;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
const SHT_SYMTAB: u32 = 2;
const SHT_NOBITS: u32 = 8;
/// Bytes of an entry of a symbol table.
const SYMBOL: usize = 24;
const STT_FUNC: u8 = 2;
const NT_GNU_BUILD_ID: u32 = 3;

/// Why a file cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Not an ELF file of 64 bits, little-endian.
    NotElf,
    /// It refers to places that it does not have, or could not be read.
    Cut,
    /// Too much of it would have to be read.
    TooLong,
}

pub(crate) type Result<T> = std::result::Result<T, Malformed>;

/// Whose instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Machine {
    /// amd64
    X86,
    /// arm64
    Arm,
    /// Another.
    Other,
}

/// A file, read in blocks, within a budget.
#[derive(Debug)]
struct Source {
    file: File,
    len: u64,
    budget: u64,
    looks: u32,
    blocks: Vec<Block>,
    next: usize,
}

#[derive(Debug)]
struct Block {
    start: u64,
    bytes: Vec<u8>,
}

impl Source {
    fn new(file: File) -> Result<Self> {
        let len = file.metadata().map_err(|_| Malformed::Cut)?.len();
        Ok(Self { file, len, budget: BUDGET, looks: LOOKS, blocks: Vec::new(), next: 0 })
    }

    fn read(&mut self, at: u64, to: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < to.len() {
            let at = at.checked_add(done as u64).ok_or(Malformed::Cut)?;
            let bytes = self.block(at)?;
            let len = bytes.len().min(to.len() - done);
            to[done..done + len].copy_from_slice(&bytes[..len]);
            done += len;
        }
        Ok(())
    }

    /// At least one byte, as many as are at hand.
    fn block(&mut self, at: u64) -> Result<&[u8]> {
        self.looks = self.looks.checked_sub(1).ok_or(Malformed::TooLong)?;
        if at >= self.len {
            return Err(Malformed::Cut);
        }
        let start = at / BLOCK as u64 * BLOCK as u64;
        let index = match self.blocks.iter().position(|block| block.start == start) {
            Some(index) => index,
            None => self.load(start)?,
        };
        let skipped = usize::try_from(at - start).map_err(|_| Malformed::Cut)?;
        self.blocks[index]
            .bytes
            .get(skipped..)
            .filter(|rest| !rest.is_empty())
            .ok_or(Malformed::Cut)
    }

    fn load(&mut self, start: u64) -> Result<usize> {
        self.budget = self.budget.checked_sub(BLOCK as u64).ok_or(Malformed::TooLong)?;
        let mut bytes = vec![0; BLOCK];
        let mut len = 0;
        while len < BLOCK {
            match self.file.read_at(&mut bytes[len..], start + len as u64) {
                Ok(0) => break,
                Ok(more) => len += more,
                Err(_) => return Err(Malformed::Cut),
            }
        }
        bytes.truncate(len);
        let block = Block { start, bytes };
        if self.blocks.len() < BLOCKS {
            self.blocks.push(block);
            return Ok(self.blocks.len() - 1);
        }
        self.next = (self.next + 1) % BLOCKS;
        self.blocks[self.next] = block;
        Ok(self.next)
    }
}

/// A stretch of the file that is mapped when it runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    kind: u32,
    flags: u32,
    /// Where it stands in the file.
    pub(crate) offset: u64,
    address: u64,
    /// Its length in the file.
    pub(crate) len: u64,
}

/// A named part of the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Section {
    kind: u32,
    link: u32,
    /// Where it is when it runs.
    pub(crate) address: u64,
    /// Where it stands in the file.
    pub(crate) offset: u64,
    /// Its length.
    pub(crate) len: u64,
}

/// An ELF file of 64 bits, little-endian.
#[derive(Debug)]
pub(crate) struct Elf {
    source: Source,
    pub(crate) machine: Machine,
    /// Where execution starts.
    pub(crate) entry: u64,
    segments: Vec<Segment>,
    sections_at: u64,
    sections: u16,
    section_names: u16,
}

impl Elf {
    pub(crate) fn open(file: File) -> Result<Self> {
        let mut source = Source::new(file)?;
        let mut header = [0; 64];
        source.read(0, &mut header).map_err(|_| Malformed::NotElf)?;
        if !header.starts_with(b"\x7fELF\x02\x01") || half(&header, 54) != 56 {
            return Err(Malformed::NotElf);
        }
        let machine = match half(&header, 18) {
            62 => Machine::X86,
            183 => Machine::Arm,
            _ => Machine::Other,
        };
        let mut elf = Self {
            source,
            machine,
            entry: double(&header, 24),
            segments: Vec::new(),
            sections_at: double(&header, 40),
            sections: if half(&header, 58) == 64 { half(&header, 60).min(MAX_SECTIONS) } else { 0 },
            section_names: half(&header, 62),
        };
        let first = double(&header, 32);
        for index in 0..u64::from(half(&header, 56).min(MAX_SEGMENTS)) {
            let bytes: [u8; 56] = elf.bytes(after(first, index * 56))?;
            elf.segments.push(Segment {
                kind: word(&bytes, 0),
                flags: word(&bytes, 4),
                offset: double(&bytes, 8),
                address: double(&bytes, 16),
                len: double(&bytes, 32),
            });
        }
        Ok(elf)
    }

    /// Bytes of the file.
    pub(crate) fn bytes<const N: usize>(&mut self, offset: u64) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.source.read(offset, &mut bytes)?;
        Ok(bytes)
    }

    pub(crate) fn word(&mut self, offset: u64) -> Result<u32> {
        self.bytes(offset).map(u32::from_le_bytes)
    }

    pub(crate) fn double(&mut self, offset: u64) -> Result<u64> {
        self.bytes(offset).map(u64::from_le_bytes)
    }

    /// Where what is at this address when it runs stands in the file.
    pub(crate) fn offset_of(&self, address: u64) -> Option<u64> {
        place(self.loaded(), address)
    }

    /// The same for an instruction; none where the file has already ended.
    pub(crate) fn code_offset_of(&self, address: u64) -> Option<u64> {
        let code = self.loaded().filter(|segment| segment.flags & PF_X != 0);
        place(code, address).filter(|offset| *offset < self.source.len)
    }

    /// Where what stands here in the file is when it runs.
    pub(crate) fn address_of(&self, offset: u64) -> Option<u64> {
        self.loaded().find_map(|segment| {
            let within = offset.checked_sub(segment.offset)?;
            (within < segment.len).then(|| segment.address.wrapping_add(within))
        })
    }

    /// So many bytes of code; fewer at the end of the file.
    pub(crate) fn code(&mut self, address: u64, len: usize) -> Result<Vec<u8>> {
        let offset = self.code_offset_of(address).ok_or(Malformed::Cut)?;
        let rest = usize::try_from(self.source.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut code = vec![0; rest.min(len)];
        self.source.read(offset, &mut code)?;
        Ok(code)
    }

    fn loaded(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.kind == PT_LOAD)
    }

    /// What is mapped to be run.
    pub(crate) fn code_segments(&self) -> Vec<Segment> {
        self.loaded().filter(|segment| segment.flags & PF_X != 0).copied().collect()
    }

    /// What is mapped, but not to be run: constants.
    pub(crate) fn constants(&self) -> Vec<Segment> {
        let loaded = self.loaded().copied();
        let (code, constants): (Vec<_>, Vec<_>) =
            loaded.partition(|segment| segment.flags & PF_X != 0);
        // Linkers of old put constants beside the code.
        if constants.len() < 2 { [code, constants].concat() } else { constants }
    }

    fn section_at(&mut self, index: u16) -> Result<(u32, Section)> {
        let at = after(self.sections_at, u64::from(index) * 64);
        let bytes: [u8; 64] = self.bytes(at)?;
        let section = Section {
            kind: word(&bytes, 4),
            link: word(&bytes, 40),
            address: double(&bytes, 16),
            offset: double(&bytes, 24),
            len: double(&bytes, 32),
        };
        Ok((word(&bytes, 0), section))
    }

    /// A part by its name, unless it has no bytes in the file.
    pub(crate) fn section(&mut self, wanted: &str) -> Result<Option<Section>> {
        if self.section_names >= self.sections {
            return Ok(None);
        }
        let names = self.section_at(self.section_names)?.1;
        for index in 0..self.sections {
            let (name, section) = self.section_at(index)?;
            let name = after(names.offset, u64::from(name));
            if section.kind != SHT_NOBITS && self.is_text(name, wanted)? {
                return Ok(Some(section));
            }
        }
        Ok(None)
    }

    /// Whether this text, and then a zero, stands here.
    pub(crate) fn is_text(&mut self, mut offset: u64, wanted: &str) -> Result<bool> {
        for expected in wanted.bytes().chain([0]) {
            match self.source.block(offset) {
                Ok(bytes) if bytes[0] == expected => offset += 1,
                Ok(_) | Err(Malformed::Cut) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Values of the dynamic section, by tag.
    fn dynamic<const N: usize>(&mut self, tags: [u64; N]) -> Result<[Option<u64>; N]> {
        let mut found = [None; N];
        let Some(dynamic) =
            self.segments.iter().find(|segment| segment.kind == PT_DYNAMIC).copied()
        else {
            return Ok(found);
        };
        for index in 0..(dynamic.len / 16).min(MAX_DYNAMIC) {
            let at = after(dynamic.offset, index * 16);
            let (tag, value) = (self.double(at)?, self.double(after(at, 8))?);
            if tag == 0 {
                break;
            }
            if let Some(place) = tags.iter().position(|wanted| *wanted == tag) {
                found[place] = Some(value);
            }
        }
        Ok(found)
    }

    /// The address of a function that this file offers to others. Looks it up as the dynamic loader
    /// does, in the hash table: a dozen reads in a file of any size.
    pub(crate) fn exported(&mut self, name: &str) -> Result<Option<u64>> {
        let tables = self.dynamic([DT_GNU_HASH, DT_SYMTAB, DT_STRTAB])?;
        let [Some(hashes), Some(symbols), Some(names)] =
            tables.map(|address| address.and_then(|address| self.offset_of(address)))
        else {
            return Ok(None);
        };
        let hash = gnu_hash(name);
        let (buckets, first, blooms) =
            (self.word(hashes)?, self.word(after(hashes, 4))?, self.word(after(hashes, 8))?);
        if buckets == 0 {
            return Ok(None);
        }
        let table = after(hashes, 16 + u64::from(blooms) * 8);
        let mut index = self.word(after(table, u64::from(hash % buckets) * 4))?;
        let chains = after(table, u64::from(buckets) * 4);
        for _ in 0..MAX_CHAIN {
            let Some(place) = index.checked_sub(first) else { return Ok(None) };
            let chain = self.word(after(chains, u64::from(place) * 4))?;
            if chain | 1 == hash | 1 {
                let symbol = after(symbols, u64::from(index) * SYMBOL as u64);
                if let Some(address) = self.function_at(symbol, names, name)? {
                    return Ok(Some(address));
                }
            }
            if chain & 1 == 1 {
                return Ok(None);
            }
            index = index.saturating_add(1);
        }
        Ok(None)
    }

    /// The address of a symbol, if it is a function of this file and of this name.
    fn function_at(&mut self, symbol: u64, names: u64, wanted: &str) -> Result<Option<u64>> {
        let bytes: [u8; SYMBOL] = self.bytes(symbol)?;
        let defined = half(&bytes, 6) != 0 && bytes[4] & 0xf == STT_FUNC;
        let name = after(names, u64::from(word(&bytes, 0)));
        Ok((defined && self.is_text(name, wanted)?).then(|| double(&bytes, 8)))
    }

    /// The address of a function by the full symbol table, which `strip` removes.
    pub(crate) fn symbol(&mut self, name: &str) -> Result<Option<u64>> {
        let Some((symbols, names)) = self.symbol_table()? else { return Ok(None) };
        // Two walks, each straight through: first for the name, then for who bears it.
        let text = [name.as_bytes(), b"\0"].concat();
        let mut place = 0;
        while let Some(found) = self.find(names.offset + place, names.len - place, &text)? {
            let offset = found - names.offset;
            if let Some((address, _)) = self.function_named(symbols, offset)? {
                return Ok(Some(address));
            }
            place = offset + 1;
        }
        Ok(None)
    }

    /// Functions whose names hold all of these words, at most `most`: addresses and lengths, by the full
    /// symbol table.
    pub(crate) fn functions_like<const N: usize>(
        &mut self,
        words: [&str; N],
        most: usize,
    ) -> Result<Vec<(u64, u64)>> {
        let mut functions = Vec::new();
        let Some((symbols, names)) = self.symbol_table()? else { return Ok(functions) };
        let Some(first) = words.first() else { return Ok(functions) };
        let (mut at, end) = (names.offset, names.offset + names.len);
        for _ in 0..MAX_LIKE {
            let Some(found) = self.find(at, end - at, first.as_bytes())? else { break };
            let (name, start) = self.text_around(found, names.offset)?;
            let is_it = words.iter().all(|word| memmem::find(&name, word.as_bytes()).is_some());
            if is_it && let Some(function) = self.function_named(symbols, start - names.offset)? {
                functions.push(function);
            }
            if functions.len() >= most {
                break;
            }
            at = found + 1;
        }
        Ok(functions)
    }

    /// The text that a place stands in, and where that begins, not before `from`; cut where it is long.
    fn text_around(&mut self, at: u64, from: u64) -> Result<(Vec<u8>, u64)> {
        let reach = MAX_NAME.min(at - from);
        let room = MAX_NAME.min(self.source.len - at);
        let mut bytes = vec![0; usize::try_from(reach + room).unwrap_or(0)];
        self.source.read(at - reach, &mut bytes)?;
        let before = usize::try_from(reach).unwrap_or(0);
        let start = bytes[..before].iter().rposition(|byte| *byte == 0).map_or(0, |zero| zero + 1);
        let len = bytes[start..].iter().position(|byte| *byte == 0).unwrap_or(bytes.len() - start);
        Ok((bytes[start..start + len].to_vec(), at - (before - start) as u64))
    }

    fn symbol_table(&mut self) -> Result<Option<(Section, Section)>> {
        for index in 0..self.sections {
            let (_, symbols) = self.section_at(index)?;
            if symbols.kind == SHT_SYMTAB {
                let names = u16::try_from(symbols.link).map_err(|_| Malformed::Cut)?;
                let names = self.section_at(names.min(self.sections - 1))?.1;
                let end = |section: &Section| section.offset.checked_add(section.len);
                let fits = |section| end(section).is_some_and(|end| end <= self.source.len);
                return Ok((fits(&symbols) && fits(&names)).then_some((symbols, names)));
            }
        }
        Ok(None)
    }

    /// The address and the length of the function with this name.
    fn function_named(&mut self, symbols: Section, name: u64) -> Result<Option<(u64, u64)>> {
        for index in 0..symbols.len / SYMBOL as u64 {
            let bytes: [u8; SYMBOL] = self.bytes(symbols.offset + index * SYMBOL as u64)?;
            let function = half(&bytes, 6) != 0 && bytes[4] & 0xf == STT_FUNC;
            if function && u64::from(word(&bytes, 0)) == name {
                return Ok(Some((double(&bytes, 8), double(&bytes, 16))));
            }
        }
        Ok(None)
    }

    /// Where these bytes (at most 256) first stand in a stretch of the file.
    pub(crate) fn find(&mut self, offset: u64, len: u64, wanted: &[u8]) -> Result<Option<u64>> {
        let end = after(offset, len).min(self.source.len);
        let mut at = offset;
        // What was seen last, for what stands over the edge of two blocks.
        let mut tail: Vec<u8> = Vec::new();
        while at < end {
            let block = self.source.block(at)?;
            let room = usize::try_from(end - at).unwrap_or(usize::MAX);
            let block = &block[..block.len().min(room)];
            let before = tail.len() as u64;
            tail.extend_from_slice(block);
            if let Some(found) = memmem::find(&tail, wanted) {
                return Ok(Some(at - before + found as u64));
            }
            at += block.len() as u64;
            let keep = tail.len().min(wanted.len().saturating_sub(1));
            tail.drain(..tail.len() - keep);
        }
        Ok(None)
    }

    /// Shows all of a segment, some at a time and with the address of the first byte; each part begins
    /// with the last bytes of the one before, one fewer than `overlap`.
    pub(crate) fn walk(
        &mut self,
        segment: Segment,
        overlap: usize,
        mut show: impl FnMut(u64, &[u8]),
    ) -> Result<()> {
        let (mut at, end) =
            (segment.offset, after(segment.offset, segment.len).min(self.source.len));
        let mut shown: Vec<u8> = Vec::new();
        while at < end {
            let keep = shown.len().min(overlap.saturating_sub(1));
            shown.drain(..shown.len() - keep);
            let block = self.source.block(at)?;
            let room = usize::try_from(end - at).unwrap_or(usize::MAX);
            let block = &block[..block.len().min(room)];
            let before = at - segment.offset - keep as u64;
            shown.extend_from_slice(block);
            at += block.len() as u64;
            show(segment.address.wrapping_add(before), &shown);
        }
        Ok(())
    }

    /// What a relative relocation writes at this address when the file is loaded.
    pub(crate) fn relocated(&mut self, address: u64) -> Result<Option<u64>> {
        const RELATIVE: [u64; 2] = [8, 1027];
        let [Some(table), Some(len)] = self.dynamic([DT_RELA, DT_RELASZ])? else {
            return Ok(None);
        };
        let Some(table) = self.offset_of(table) else { return Ok(None) };
        for index in 0..len.min(self.source.len) / 24 {
            let bytes: [u8; 24] = self.bytes(after(table, index * 24))?;
            if double(&bytes, 0) == address && RELATIVE.contains(&(double(&bytes, 8) & 0xffff_ffff))
            {
                return Ok(Some(double(&bytes, 16)));
            }
        }
        Ok(None)
    }

    /// The linker's hash over the file, as hexadecimal digits.
    pub(crate) fn build_id(&mut self) -> Result<Option<String>> {
        let notes: Vec<Segment> =
            self.segments.iter().filter(|segment| segment.kind == PT_NOTE).copied().collect();
        for segment in notes {
            let (mut at, end) = (segment.offset, after(segment.offset, segment.len));
            for _ in 0..MAX_NOTES {
                if after(at, 12) > end {
                    break;
                }
                let (name, len, kind) =
                    (self.word(at)?, self.word(after(at, 4))?, self.word(after(at, 8))?);
                let content = after(after(at, 12), u64::from(name).next_multiple_of(4));
                if kind == NT_GNU_BUILD_ID
                    && name == 4
                    && len <= 64
                    && self.is_text(after(at, 12), "GNU")?
                {
                    let mut id = vec![0; len as usize];
                    self.source.read(content, &mut id)?;
                    return Ok(Some(hex(&id)));
                }
                at = after(content, u64::from(len).next_multiple_of(4));
            }
        }
        Ok(None)
    }
}

fn place<'a>(mut segments: impl Iterator<Item = &'a Segment>, address: u64) -> Option<u64> {
    segments.find_map(|segment| {
        let within = address.checked_sub(segment.address)?;
        if within < segment.len { segment.offset.checked_add(within) } else { None }
    })
}

/// An offset further on. One that overflows lies behind the end of every file.
pub(crate) fn after(offset: u64, len: u64) -> u64 {
    offset.saturating_add(len)
}

fn gnu_hash(name: &str) -> u32 {
    name.bytes().fold(5381, |hash: u32, byte| hash.wrapping_mul(33).wrapping_add(byte.into()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from(half(bytes, at)) | u32::from(half(bytes, at + 2)) << 16
}

fn double(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::super::find::{Finding, Hook, Unsupported, inspect};
    use super::*;

    const LIBCRYPTO: &str = "/usr/lib/x86_64-linux-gnu/libcrypto.so.3";
    /// Small, and with every table that is read.
    const LIBSSL: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3";

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// A program whose only segment is at 0x1000, with these bytes behind its headers.
    fn elf(content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18] = 62;
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64] = 1;
        bytes[68] = 5;
        bytes[64 + 17] = 0x10;
        bytes.extend(content);
        let len = u64::try_from(bytes.len()).unwrap();
        bytes[64 + 32..64 + 40].copy_from_slice(&len.to_le_bytes());
        bytes
    }

    #[test]
    fn a_function_that_would_be_beyond_the_end_of_the_file_is_not_probed() {
        let mut bytes = std::fs::read(LIBCRYPTO).unwrap();
        let headers = (0..usize::from(half(&bytes, 56))).map(|index| 64 + index * 56);
        let code: Vec<_> =
            headers.filter(|at| word(&bytes, *at) == PT_LOAD && bytes[at + 4] & 1 == 1).collect();
        bytes[code[0] + 12] = 0x8b; // its place in the file
        let finding = inspect(file(&bytes)).unwrap();
        assert_eq!((finding.places, finding.build_id.is_some()), (vec![], true));
    }

    #[test]
    fn functions_of_a_library_are_found_by_name() {
        let mut library = Elf::open(File::open(LIBCRYPTO).unwrap()).unwrap();
        let derive = library.exported("EVP_KDF_derive").unwrap().unwrap();
        assert!(library.code_offset_of(derive).is_some());
        assert_eq!(library.exported("EVP_KDF_deriv").unwrap(), None);
        assert_eq!(library.exported("").unwrap(), None);
        // What a library only uses is not its own.
        let mut user = Elf::open(File::open(LIBSSL).unwrap()).unwrap();
        assert_eq!(user.exported("EVP_KDF_derive").unwrap(), None);
    }

    #[test]
    fn own_symbols_are_found_where_nothing_is_exported() {
        let mut own = Elf::open(File::open("/proc/self/exe").unwrap()).unwrap();
        let main = own.symbol("main").unwrap().unwrap();
        assert!(own.code_offset_of(main).is_some());
        assert_eq!(own.symbol("EVP_KDF_derive_nowhere").unwrap(), None);
    }

    #[test]
    fn openssl_is_found_with_its_version_and_build_id() {
        let finding = inspect(File::open(LIBCRYPTO).unwrap()).unwrap();
        assert_eq!(finding.places[0].hook, Hook::OpenSsl);
        assert!(finding.version.unwrap().starts_with("3."));
        assert_eq!(finding.build_id.unwrap().len(), 40);
        assert_eq!(inspect(File::open(LIBSSL).unwrap()).unwrap().library, None);
    }

    #[test]
    fn gnutls_is_found_by_the_labels_of_its_key_log() {
        let library = File::open("/usr/lib/x86_64-linux-gnu/libgnutls.so.30").unwrap();
        let finding = inspect(library).unwrap();
        assert_eq!((finding.library, finding.unsupported), (Some("GnuTLS"), None));
        assert_eq!(finding.places.len(), 1);
        assert_eq!(finding.places[0].hook, Hook::KeyLog);
        assert_eq!(finding.random.map(|path| path.to_string()).as_deref(), Some("0x50"));
    }

    #[test]
    fn tls_without_symbols_is_named_as_not_supported() {
        let finding = inspect(file(&elf(b"..SERVER_HANDSHAKE_TRAFFIC_SECRET\0.."))).unwrap();
        assert_eq!(finding.unsupported, Some(Unsupported::Unknown));
        assert_eq!(inspect(file(&elf(b"no such thing"))).unwrap(), Finding::default());
    }

    #[test]
    fn what_stands_over_the_edge_of_two_blocks_is_found() {
        for before in [0, 1, BLOCK - 120 - 3, BLOCK - 120 - 1, BLOCK * 2 + 7] {
            let bytes = elf(&[vec![b'x'; before], b"needle".to_vec(), vec![b'x'; 50]].concat());
            let mut elf = Elf::open(file(&bytes)).unwrap();
            let found = elf.find(0, bytes.len() as u64, b"needle").unwrap();
            assert_eq!(found, Some(120 + before as u64));
            assert_eq!(elf.find(0, 120 + before as u64 + 5, b"needle").unwrap(), None);
        }
    }

    #[test]
    fn a_file_that_ends_early_is_malformed_and_no_more() {
        let bytes = elf(&[]);
        assert_eq!(Elf::open(file(&bytes[..63])).unwrap_err(), Malformed::NotElf);
        assert_eq!(Elf::open(file(&bytes[..64])).unwrap_err(), Malformed::Cut);
        assert_eq!(Elf::open(file(b"#!/bin/sh\n")).unwrap_err(), Malformed::NotElf);
        assert!(Elf::open(file(&bytes)).is_ok());
    }

    #[test]
    fn a_file_that_would_take_too_long_is_given_up() {
        let mut source = Source::new(file(&[1; 8])).unwrap();
        source.looks = 2;
        assert_eq!(source.read(0, &mut [0; 4]), Ok(()));
        assert_eq!(source.read(4, &mut [0; 4]), Ok(()));
        assert_eq!(source.read(0, &mut [0; 4]), Err(Malformed::TooLong));
        let mut source = Source::new(file(&vec![1; BLOCK * 8])).unwrap();
        source.budget = BLOCK as u64 * 2;
        assert_eq!(source.read(0, &mut vec![0; BLOCK * 2]), Ok(()));
        assert_eq!(source.read(BLOCK as u64 * 4, &mut [0]), Err(Malformed::TooLong));
        assert_eq!(source.blocks.len(), 2);
    }

    /// Places that steer the reading: headers, the dynamic section, hash tables and their like lie at
    /// the two ends of a library.
    fn mutated(bytes: &[u8], changes: &[(bool, u16, u64, u8)]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for (from_end, place, value, width) in changes {
            let place = usize::from(*place) % bytes.len();
            let place = if *from_end { bytes.len() - 1 - place } else { place };
            let width = usize::from(*width).min(bytes.len() - place);
            bytes[place..place + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_mutation_of_a_library_does_harm(
            changes in proptest::collection::vec((any::<bool>(), any::<u16>(), prop_oneof![
                any::<u64>(), Just(0), Just(u64::MAX), Just(1 << 63), 0_u64..4096,
            ], 1_u8..=8), 1..40),
            cut in proptest::option::of(any::<u32>()),
        ) {
            let mut bytes = mutated(&std::fs::read(LIBSSL).unwrap(), &changes);
            if let Some(cut) = cut {
                bytes.truncate(cut as usize % bytes.len());
            }
            let _ = inspect(file(&bytes));
        }

        #[test]
        fn no_mutation_of_headers_does_harm(
            changes in proptest::collection::vec((Just(false), 0_u16..800, any::<u64>(), 1_u8..=8), 1..12),
        ) {
            let library = std::fs::read(LIBSSL).unwrap();
            let _ = inspect(file(&mutated(&library, &changes)));
        }
    }
}
