//! One file: how it is named, grows and is sealed.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use kuberewind_packet::pcapng::{self, MIN_PADDING, Statistics};
use kuberewind_packet::{Interface, LossAt, Timestamp};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;

use crate::StoreError;
use crate::appender::{Lost, Recorded};
use crate::buffer::{Buffer, PAGE, Pages};
use crate::disk::Disk;
use crate::index::{self, Index};
use crate::note::{self, Place};
use crate::route::Way;

const SEALED: &str = ".pcapng";
const OPEN: &str = ".pcapng.open";

/// A buffer that holds less goes behind the last page's bytes, at the cost of a copy; a fuller one
/// begins at a new page, at the cost of what is left of the last.
const SMALL: usize = 262_144;

/// Losses remembered one by one in a segment; more of the same interface and cause are joined.
const MOST_LOSSES: usize = 1_000;

/// `<time>-<sequence>`, such as `20261122T213005Z-0000000042`: in the order of `ls` and of writing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name {
    pub(crate) sequence: u64,
    stem: String,
}

impl Name {
    pub(crate) fn new(start: Timestamp, sequence: u64) -> Self {
        let second = Timestamp::from_nanos(start.seconds().saturating_mul(1_000_000_000));
        let time: String = second.to_string().chars().filter(|c| !matches!(c, '-' | ':')).collect();
        Self { sequence, stem: format!("{time}-{sequence:010}") }
    }

    /// The name of a segment file, and whether it is still open.
    pub(crate) fn parse(file_name: &str) -> Option<(Self, bool)> {
        let (stem, open) = match (file_name.strip_suffix(OPEN), file_name.strip_suffix(SEALED)) {
            (Some(stem), _) => (stem, true),
            (None, Some(stem)) => (stem, false),
            (None, None) => return None,
        };
        let (time, sequence) = stem.rsplit_once('-')?;
        let ours = time.ends_with('Z') && sequence.len() >= 10;
        let sequence = sequence.parse().ok().filter(|_| ours)?;
        Some((Self { sequence, stem: stem.to_owned() }, open))
    }

    pub(crate) fn sealed(&self) -> String {
        format!("{}{SEALED}", self.stem)
    }

    pub(crate) fn open(&self) -> String {
        format!("{}{OPEN}", self.stem)
    }
}

/// What a file takes on its disk: the larger of its length and its blocks.
pub(crate) fn footprint(meta: &fs::Metadata) -> u64 {
    meta.size().max(meta.blocks() * 512)
}

/// A file that grows by blocks and is valid up to its end at all times: its last page is filled up
/// with a padding block, over which the next blocks are written.
#[derive(Debug)]
struct Growing {
    disk: Disk,
    file: File,
    path: PathBuf,
    way: Way,
    /// The last page's content, from its start; grows for what is written at once.
    staging: Pages,
    /// Bytes of blocks in the last page.
    tail: usize,
    /// Where the last page starts.
    base: u64,
    /// Where the file ends, padding included.
    len: u64,
}

impl Growing {
    fn create(path: PathBuf, disk: &Disk) -> Result<Self, StoreError> {
        disk.check().map_err(StoreError::io("create segment", &path))?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let file = options.open(&path).map_err(StoreError::io("create segment", &path))?;
        Self::at(file, path, 0, disk)
    }

    /// Goes on behind the first `end` bytes of a file and forgets the rest.
    fn resume(path: PathBuf, end: u64) -> Result<Self, StoreError> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).open(&path);
        let file = file.map_err(StoreError::io("open segment", &path))?;
        file.set_len(end).map_err(StoreError::io("cut segment", &path))?;
        Self::at(file, path, end, &Disk::default())
    }

    #[expect(clippy::cast_possible_truncation, reason = "within a page")]
    fn at(file: File, path: PathBuf, end: u64, disk: &Disk) -> Result<Self, StoreError> {
        let base = end / PAGE as u64 * PAGE as u64;
        let (mut staging, tail) = (Pages::zeroed(2 * PAGE), (end - base) as usize);
        if tail > 0 {
            let last_page = &mut staging.bytes_mut()[..tail];
            let read = std::os::unix::fs::FileExt::read_exact_at(&file, last_page, base);
            read.map_err(StoreError::io("read segment", &path))?;
        }
        let way = Way::Cached;
        Ok(Self { disk: disk.clone(), file, path, way, staging, tail, base, len: end })
    }

    /// Past the page cache where the file system can. The kernel keeps the two ways apart: what is in
    /// the cache is written before what goes past it to the same place.
    fn take(&mut self, way: Way) {
        if self.way != way {
            let flags = if way == Way::Direct { OFlags::DIRECT } else { OFlags::empty() };
            let _ = fcntl_setfl(&self.file, flags);
            self.way = way;
        }
    }

    /// Where the blocks end.
    const fn end(&self) -> u64 {
        self.base + self.tail as u64
    }

    /// Writes blocks behind the last ones.
    fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let end = self.tail + bytes.len();
        self.staging.grow(end + 2 * PAGE);
        self.staging.bytes_mut()[self.tail..end].copy_from_slice(bytes);
        let padded = pad(self.staging.bytes_mut(), end);
        self.write(&self.staging.bytes()[..padded], self.base)?;
        let whole = end / PAGE * PAGE;
        self.staging.bytes_mut().copy_within(whole..end, 0);
        self.len = self.base + padded as u64;
        self.base += whole as u64;
        self.tail = end - whole;
        Ok(())
    }

    /// Writes a buffer's blocks from the next page on, without a copy.
    fn append_pages(&mut self, buffer: &mut Buffer) -> Result<(), StoreError> {
        let padded = pad(buffer.pages.bytes_mut(), buffer.len);
        let bytes = &buffer.pages.bytes()[..padded];
        self.write(bytes, self.len)?;
        let whole = buffer.len / PAGE * PAGE;
        self.tail = buffer.len - whole;
        self.staging.bytes_mut()[..self.tail].copy_from_slice(&bytes[whole..buffer.len]);
        self.base = self.len + whole as u64;
        self.len += padded as u64;
        Ok(())
    }

    fn write(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        let written = match self.disk.write_all(&self.file, bytes, offset) {
            Err(Errno::INVAL) => fcntl_setfl(&self.file, OFlags::empty())
                .and_then(|()| self.disk.write_all(&self.file, bytes, offset)),
            other => other,
        };
        written.map_err(StoreError::io("write segment", &self.path))
    }

    /// After a write that failed halfway: the file as it was before.
    fn restore(&mut self) -> Result<(), StoreError> {
        self.file.set_len(self.len).map_err(StoreError::io("cut segment", &self.path))?;
        if self.tail > 0 {
            let padded = pad(self.staging.bytes_mut(), self.tail);
            let fits = padded.min(usize::try_from(self.len - self.base).unwrap_or(padded));
            self.write(&self.staging.bytes()[..fits], self.base)?;
        }
        Ok(())
    }

    fn footprint(&self) -> Result<u64, StoreError> {
        let meta = self.file.metadata().map_err(StoreError::io("measure segment", &self.path))?;
        Ok(footprint(&meta))
    }
}

/// Fills `bytes` with padding from `end` to the end of a page, and says where that is.
fn pad(bytes: &mut [u8], end: usize) -> usize {
    let mut padded = end.next_multiple_of(PAGE);
    if padded == end {
        return end;
    }
    if padded - end < MIN_PADDING {
        padded += PAGE;
    }
    pcapng::write_padding(&mut bytes[end..padded]);
    padded
}

/// The segment that is being written.
#[derive(Debug)]
pub(crate) struct OpenSegment {
    pub(crate) name: Name,
    pub(crate) index: Index,
    /// When the first packet came.
    pub(crate) since: Instant,
    growing: Growing,
    numbers: HashMap<Arc<Interface>, u32>,
    interfaces: Vec<Counted>,
    /// Whether its index is written.
    indexed: bool,
}

#[derive(Debug)]
struct Counted {
    received: u64,
    dropped: u64,
}

impl OpenSegment {
    /// A new one, which begins with a section header.
    pub(crate) fn create(
        dir: &Path,
        name: Name,
        (program, comment): (&str, &str),
        disk: &Disk,
        way: Way,
    ) -> Result<Self, StoreError> {
        let mut growing = Growing::create(dir.join(name.open()), disk)?;
        growing.take(way);
        let mut segment = Self {
            name,
            index: Index::new(),
            since: Instant::now(),
            growing,
            numbers: HashMap::new(),
            interfaces: Vec::new(),
            indexed: false,
        };
        let mut header = Vec::new();
        pcapng::push_section_header(&mut header, program, Some(comment));
        if let Err(error) = segment.growing.append(&header) {
            let _ = fs::remove_file(&segment.growing.path);
            return Err(error);
        }
        Ok(segment)
    }

    /// One that a recorder left behind, cut at its last whole block.
    pub(crate) fn resume(
        dir: &Path,
        name: Name,
        found: index::Scanned,
    ) -> Result<Self, StoreError> {
        let index::Scanned { index, interfaces, received, dropped, end, .. } = found;
        let numbers = interfaces.into_iter().map(Arc::new).zip(0..).collect();
        let counts = received.into_iter().zip(dropped);
        let interfaces = counts.map(|(received, dropped)| Counted { received, dropped }).collect();
        let mut growing = Growing::resume(dir.join(name.open()), end)?;
        growing.take(Way::Direct);
        Ok(Self {
            name,
            index,
            since: Instant::now(),
            growing,
            numbers,
            interfaces,
            indexed: false,
        })
    }

    /// From now on it is written this way.
    pub(crate) fn take(&mut self, way: Way) {
        self.growing.take(way);
    }

    /// Bytes of blocks in it.
    pub(crate) const fn len(&self) -> u64 {
        self.growing.end()
    }

    /// What it takes on the disk.
    pub(crate) fn footprint(&self) -> Result<u64, StoreError> {
        self.growing.footprint()
    }

    /// Whether there is nothing in it but its head.
    pub(crate) fn is_empty(&self) -> bool {
        let Index { chunks, losses, notes, .. } = &self.index;
        chunks.is_empty() && losses.is_empty() && notes.is_empty()
    }

    /// Deletes its file; gives back where it is if that cannot be.
    pub(crate) fn discard(self) -> Option<PathBuf> {
        let Growing { path, disk, .. } = self.growing;
        disk.remove(&path).err().map(|_| path)
    }

    /// As [`Self::seal`], after that had failed: with what a write left that broke off cut away.
    pub(crate) fn seal_after_all(&mut self, now: Timestamp) -> Result<u64, StoreError> {
        self.growing.restore()?;
        self.seal(now)
    }

    /// Whether its file is not in the directory any more.
    pub(crate) fn is_lost(&self) -> bool {
        !self.growing.path.exists()
    }

    /// Bytes that sealing it adds, at most.
    pub(crate) fn seal_len(&self) -> u64 {
        self.interfaces.len() as u64 * 160 + self.index.len_hint() + 2 * PAGE as u64
    }

    /// Writes a buffer of packets, whose interface numbers count in `recorded`; before them a block
    /// for each interface that is new here. On an error the segment is as it was.
    pub(crate) fn packets(
        &mut self,
        buffer: &mut Buffer,
        recorded: &[Recorded],
    ) -> Result<(), StoreError> {
        let numbers = self.introduce(recorded.iter().map(|recorded| &recorded.interface))?;
        renumber(&mut buffer.pages.bytes_mut()[..buffer.len], &numbers);
        let small = buffer.len < SMALL;
        let start = if small { self.growing.end() } else { self.growing.len };
        let written = if small {
            self.growing.append(&buffer.pages.bytes()[..buffer.len])
        } else {
            self.growing.append_pages(buffer)
        };
        if let Err(error) = written {
            // The interface numbers in the buffer are this segment's now: they count in `recorded`
            // again, so that the buffer can go to another one.
            renumber_back(&mut buffer.pages.bytes_mut()[..buffer.len], &numbers);
            self.growing.restore()?;
            return Err(error);
        }
        for (recorded, number) in recorded.iter().zip(numbers) {
            self.interfaces[number as usize].received += recorded.packets;
        }
        if let Some(times) = times(recorded) {
            let packets = recorded.iter().map(|recorded| recorded.packets).sum::<u64>();
            let packets = u32::try_from(packets).unwrap_or(u32::MAX);
            self.index.note(packets, times, start, self.growing.end());
        }
        Ok(())
    }

    /// Writes losses down, as statistics.
    pub(crate) fn losses(&mut self, losses: &[Lost], now: Timestamp) -> Result<(), StoreError> {
        let numbers = self.introduce(losses.iter().map(|lost| &lost.interface))?;
        let mut blocks = Vec::new();
        for (Lost { loss, .. }, number) in losses.iter().zip(&numbers) {
            let comment = index::loss_comment(loss);
            let counted = &self.interfaces[*number as usize];
            let statistics = Statistics {
                interface: *number,
                written: now,
                from: Some(loss.from),
                to: Some(loss.to),
                received: None,
                dropped: Some(counted.dropped + loss.packets),
                comment: Some(&comment),
            };
            pcapng::push_statistics(&mut blocks, &statistics);
        }
        self.append(&blocks)?;
        for (Lost { interface, loss }, number) in losses.iter().zip(&numbers) {
            self.interfaces[*number as usize].dropped += loss.packets;
            let owner = interface.owner.to_string();
            add_loss_at(&mut self.index.losses, LossAt { owner, loss: *loss });
        }
        Ok(())
    }

    /// Writes a note. On an error the segment is as it was.
    pub(crate) fn note(&mut self, at: Timestamp, bytes: &[u8]) -> Result<(), StoreError> {
        let block = note::block(at, bytes);
        let offset = self.growing.end();
        self.append(&block)?;
        let len = u32::try_from(block.len()).unwrap_or(u32::MAX);
        self.index.notes.push(Place { at, offset, len });
        Ok(())
    }

    /// The numbers of these interfaces; those that are new get a block.
    fn introduce<'a>(
        &mut self,
        interfaces: impl Iterator<Item = &'a Arc<Interface>>,
    ) -> Result<Vec<u32>, StoreError> {
        let mut blocks = Vec::new();
        let mut fresh = Vec::new();
        let mut numbers = Vec::new();
        let start = self.growing.end();
        for interface in interfaces {
            let next = u32::try_from(self.interfaces.len() + fresh.len()).unwrap_or(u32::MAX);
            let known = self.numbers.get(interface).copied().or_else(|| {
                let place = fresh.iter().position(|(known, _)| *known == interface)?;
                Some(next - u32::try_from(fresh.len() - place).ok()?)
            });
            numbers.push(known.unwrap_or_else(|| {
                fresh.push((interface, start + blocks.len() as u64));
                pcapng::push_interface(&mut blocks, interface);
                next
            }));
        }
        if !blocks.is_empty() {
            self.append(&blocks)?;
            for (interface, offset) in fresh {
                let number = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
                self.numbers.insert(Arc::clone(interface), number);
                self.interfaces.push(Counted { received: 0, dropped: 0 });
                self.index.interfaces.push(offset);
            }
        }
        Ok(numbers)
    }

    /// Ends it: statistics, index, no padding, its sealed name. Returns its index and what it takes
    /// on the disk.
    pub(crate) fn seal(&mut self, now: Timestamp) -> Result<u64, StoreError> {
        if !self.indexed {
            self.push_end(now)?;
            self.indexed = true;
        }
        let Growing { file, path, disk, .. } = &self.growing;
        disk.check().map_err(StoreError::io("seal segment", path))?;
        file.set_len(self.growing.end()).map_err(StoreError::io("cut segment", path))?;
        let sealed = path.with_file_name(self.name.sealed());
        fs::rename(path, &sealed).map_err(StoreError::io("seal segment", path))?;
        self.footprint()
    }

    fn push_end(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let times = self.index.times();
        let mut blocks = Vec::new();
        for (counted, number) in self.interfaces.iter().zip(0..) {
            let statistics = Statistics {
                interface: number,
                written: now,
                from: times.map(|(first, _)| first),
                to: times.map(|(_, last)| last),
                received: Some(counted.received),
                dropped: Some(counted.dropped),
                comment: None,
            };
            pcapng::push_statistics(&mut blocks, &statistics);
        }
        let written = self.index.push(&mut blocks).map_err(io::Error::from);
        written.map_err(StoreError::io("index segment", &self.growing.path))?;
        self.append(&blocks)
    }

    /// On an error the file is as it was.
    fn append(&mut self, blocks: &[u8]) -> Result<(), StoreError> {
        let appended = self.growing.append(blocks);
        if appended.is_err() {
            self.growing.restore()?;
        }
        appended
    }
}

/// From the earliest to the latest packet.
fn times(recorded: &[Recorded]) -> Option<(Timestamp, Timestamp)> {
    let first = recorded.iter().map(|recorded| recorded.first).min()?;
    let last = recorded.iter().map(|recorded| recorded.last).max()?;
    Some((first, last))
}

/// Losses a second or less apart, of one owner and cause, are one.
fn add_loss_at(losses: &mut Vec<LossAt>, new: LossAt) {
    let crowded = losses.len() >= MOST_LOSSES;
    let near = |lost: &&mut LossAt| {
        let gap = new.loss.from.since(lost.loss.to).max(lost.loss.from.since(new.loss.to));
        lost.owner == new.owner
            && lost.loss.cause == new.loss.cause
            && (crowded || gap.as_secs() < 1)
    };
    match losses.iter_mut().rev().find(near) {
        Some(LossAt { loss, .. }) => {
            loss.packets += new.loss.packets;
            loss.from = loss.from.min(new.loss.from);
            loss.to = loss.to.max(new.loss.to);
        }
        None => losses.push(new),
    }
}

/// Gives each packet block the number that stands at its number's place.
fn renumber(blocks: &mut [u8], numbers: &[u32]) {
    if numbers.iter().zip(0..).all(|(number, place)| *number == place) {
        return;
    }
    let mut offset = 0;
    while let Some(head) = blocks.get(offset..).and_then(|rest| rest.first_chunk::<12>()) {
        let [_, _, _, _, l0, l1, l2, l3, n0, n1, n2, n3] = *head;
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let place = u32::from_le_bytes([n0, n1, n2, n3]) as usize;
        if let Some(number) = numbers.get(place) {
            pcapng::set_interface(&mut blocks[offset..], *number);
        }
        offset += len.max(MIN_PADDING);
    }
}

fn renumber_back(blocks: &mut [u8], numbers: &[u32]) {
    let highest = numbers.iter().max().map_or(0, |highest| *highest as usize + 1);
    let mut places = vec![0; highest];
    for (number, place) in numbers.iter().zip(0..) {
        places[*number as usize] = place;
    }
    renumber(blocks, &places);
}
