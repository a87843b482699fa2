//! What is where in a segment, so that a window costs about its own bytes.
//!
//! A sealed segment carries its index as its last block, of a type for local use that other readers
//! skip: one file, sealed and deleted at once. What it says is checked before it is believed, and a
//! segment without a good one is read from its start instead.

use std::fs::File;
use std::os::unix::fs::FileExt;

use kuberewind_packet::pcapng::{self, Block, BlockError};
use kuberewind_packet::{Interface, Loss, LossAt, LossCause, Timestamp};
use serde::{Deserialize, Serialize};

use crate::note::{self, Place};

const BLOCK_TYPE: u32 = 0x8000_0002;
const VERSION: u32 = 1;
/// Longer ones are not ours: a segment has at most a few hundred chunks.
const LONGEST: u64 = 16 << 20;
/// Longest stretch of a segment that is one chunk, unless a single write is longer.
pub(crate) const CHUNK_LEN: u64 = 1 << 20;
/// Longest chunk that is believed; readers allocate it.
const LONGEST_CHUNK: u32 = 8 << 20;
/// Read at once when a segment is read from its start.
const SCAN_LEN: usize = 1 << 20;

/// What is in a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Index {
    version: u32,
    /// In the order in which they were written; their times may overlap.
    pub(crate) chunks: Vec<Chunk>,
    /// The offsets of the interface blocks, by number.
    pub(crate) interfaces: Vec<u64>,
    /// Packets that were lost meanwhile.
    pub(crate) losses: Vec<LossAt>,
    /// What rides beside the packets.
    #[serde(default)]
    pub(crate) notes: Vec<Place>,
}

/// A stretch of whole blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Wire", into = "Wire")]
pub(crate) struct Chunk {
    /// Time of its earliest packet.
    pub(crate) first: Timestamp,
    /// Time of its latest packet.
    pub(crate) last: Timestamp,
    pub(crate) packets: u32,
    pub(crate) offset: u64,
    pub(crate) len: u32,
}

type Wire = (u64, u64, u32, u64, u32);

impl From<Wire> for Chunk {
    fn from((first, last, packets, offset, len): Wire) -> Self {
        let (first, last) = (Timestamp::from_nanos(first), Timestamp::from_nanos(last));
        Self { first, last, packets, offset, len }
    }
}

impl From<Chunk> for Wire {
    fn from(chunk: Chunk) -> Self {
        let Chunk { first, last, packets, offset, len } = chunk;
        (first.as_nanos(), last.as_nanos(), packets, offset, len)
    }
}

impl Index {
    pub(crate) fn new() -> Self {
        Self { version: VERSION, ..Self::default() }
    }

    /// The times of the earliest and the latest packet.
    pub(crate) fn times(&self) -> Option<(Timestamp, Timestamp)> {
        let first = self.chunks.iter().map(|chunk| chunk.first).min()?;
        let last = self.chunks.iter().map(|chunk| chunk.last).max()?;
        Some((first, last))
    }

    /// Notes packets that were written to `[offset, end)`, with the last chunk while that is short.
    pub(crate) fn note(
        &mut self,
        packets: u32,
        times: (Timestamp, Timestamp),
        offset: u64,
        end: u64,
    ) {
        match self.chunks.last_mut() {
            Some(chunk) if end - chunk.offset <= CHUNK_LEN => {
                chunk.first = chunk.first.min(times.0);
                chunk.last = chunk.last.max(times.1);
                chunk.packets += packets;
                chunk.len = short(end - chunk.offset);
            }
            _ => self.chunks.push(Chunk {
                first: times.0,
                last: times.1,
                packets,
                offset,
                len: short(end - offset),
            }),
        }
    }

    /// About how many bytes [`Self::push`] takes, rather more than less.
    pub(crate) fn len_hint(&self) -> u64 {
        let lines = self.chunks.len() * 80
            + self.interfaces.len() * 12
            + self.losses.len() * 400
            + self.notes.len() * 50;
        (lines + 256) as u64
    }

    /// Appends it as a block.
    pub(crate) fn push(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        let start = out.len();
        out.extend(BLOCK_TYPE.to_le_bytes());
        out.extend([0; 4]);
        serde_json::to_writer(&mut *out, self)?;
        let padded = out.len().next_multiple_of(4);
        out.resize(padded, b' ');
        let len = u32::try_from(out.len() + 4 - start).unwrap_or(u32::MAX).to_le_bytes();
        out.extend(len);
        out[start + 4..start + 8].copy_from_slice(&len);
        Ok(())
    }

    /// Reads the index at the end of a sealed segment; `None` where there is none to be believed.
    pub(crate) fn load(file: &File, file_len: u64) -> Option<Self> {
        let mut trailer = [0; 4];
        file.read_exact_at(&mut trailer, file_len.checked_sub(4)?).ok()?;
        let len = u64::from(u32::from_le_bytes(trailer));
        if !(12..=LONGEST).contains(&len) {
            return None;
        }
        let start = file_len.checked_sub(len)?;
        let mut block = vec![0; usize::try_from(len).ok()?];
        file.read_exact_at(&mut block, start).ok()?;
        Self::parse(&block, start)
    }

    /// Reads an index block that stands at `start` of its file.
    fn parse(block: &[u8], start: u64) -> Option<Self> {
        let (head, rest) = block.split_first_chunk::<8>()?;
        let (body, trailer) = rest.split_last_chunk::<4>()?;
        if head[..4] != BLOCK_TYPE.to_le_bytes() || head[4..] != *trailer {
            return None;
        }
        let index: Self = serde_json::from_slice(body).ok()?;
        index.is_credible(start).then_some(index)
    }

    /// Whether everything that it points to lies before `end`.
    fn is_credible(&self, end: u64) -> bool {
        let within = |chunk: &Chunk| {
            chunk.first <= chunk.last
                && chunk.len <= LONGEST_CHUNK
                && chunk.offset.checked_add(chunk.len.into()).is_some_and(|past| past <= end)
        };
        self.version == VERSION
            && self.chunks.iter().all(within)
            && self.interfaces.iter().all(|offset| *offset < end)
            && self.notes.iter().all(|place| place.is_credible(end))
    }
}

fn short(len: u64) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// What a segment without an index turned out to hold.
#[derive(Debug)]
pub(crate) struct Scanned {
    pub(crate) index: Index,
    /// By number.
    pub(crate) interfaces: Vec<Interface>,
    /// Received packets of each interface.
    pub(crate) received: Vec<u64>,
    /// Lost packets of each interface.
    pub(crate) dropped: Vec<u64>,
    /// What the statistics that sealing writes say was received.
    said: Vec<Option<u64>>,
    /// Where the last block that is not padding ends.
    pub(crate) end: u64,
    /// Why reading stopped before the end of the file; the offset counts from its start.
    pub(crate) stopped: Option<BlockError>,
}

/// Reads a segment from its start, as far as its blocks are whole.
pub(crate) fn scan(file: &File, file_len: u64) -> std::io::Result<Scanned> {
    let mut scan = Scanned {
        index: Index::new(),
        interfaces: Vec::new(),
        received: Vec::new(),
        dropped: Vec::new(),
        said: Vec::new(),
        end: 0,
        stopped: None,
    };
    let mut bytes = Vec::new();
    let mut start = 0; // offset of `bytes` in the file
    loop {
        let left = file_len.saturating_sub(start + bytes.len() as u64);
        let more = SCAN_LEN.min(usize::try_from(left).unwrap_or(SCAN_LEN));
        let kept = bytes.len();
        bytes.resize(kept + more, 0);
        file.read_exact_at(&mut bytes[kept..], start + kept as u64)?;
        let used = match scan.blocks(&bytes, start) {
            Ok(used) => used,
            // A block reaches into what was not read yet.
            Err(BlockError::Cut { offset }) if more > 0 && bytes.len() - offset <= SCAN_LEN => {
                offset
            }
            Err(error) => {
                scan.stopped = Some(moved(&error, start));
                return Ok(scan);
            }
        };
        if more == 0 {
            return Ok(scan);
        }
        bytes.drain(..used);
        start += used as u64;
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the recorder's targets have 64 bits")]
fn moved(error: &BlockError, by: u64) -> BlockError {
    let by = by as usize;
    match *error {
        BlockError::Cut { offset } => BlockError::Cut { offset: offset + by },
        BlockError::Damaged { offset, reason } => {
            BlockError::Damaged { offset: offset + by, reason }
        }
    }
}

impl Scanned {
    /// Why packets of a segment that was sealed are missing, if any are.
    pub(crate) fn damage(&self) -> Option<String> {
        let all_there =
            self.end > 0 && self.received.iter().zip(&self.said).all(|(n, said)| *said == Some(*n));
        match &self.stopped {
            Some(error) => Some(error.to_string()),
            None if all_there => None,
            None => Some(format!("cut off at byte {}", self.end)),
        }
    }

    /// Takes in the blocks of `bytes`, which stand at `start` of the file, and says how many bytes
    /// they fill.
    fn blocks(&mut self, bytes: &[u8], start: u64) -> Result<usize, BlockError> {
        let mut offset = 0;
        while offset < bytes.len() {
            let (block, end) = pcapng::next_block(bytes, offset)?;
            let (from, to) = (start + offset as u64, start + end as u64);
            if from == 0 && !matches!(block, Block::Section(_)) {
                return Err(BlockError::Damaged { offset, reason: "it does not begin a file" });
            }
            self.block(&block, from, to)
                .map_err(|reason| BlockError::Damaged { offset, reason })?;
            offset = end;
        }
        Ok(offset)
    }

    fn block(&mut self, block: &Block<'_>, from: u64, to: u64) -> Result<(), &'static str> {
        match block {
            Block::Packet(packet) => {
                let received = self.received.get_mut(packet.interface as usize);
                *received.ok_or("a packet of an unknown interface")? += 1;
                self.index.note(1, (packet.timestamp, packet.timestamp), from, to);
            }
            Block::Interface(description) => {
                let interface = description.interface().map_err(|_| "a foreign interface")?;
                self.interfaces.push(interface);
                self.received.push(0);
                self.dropped.push(0);
                self.said.push(None);
                self.index.interfaces.push(from);
            }
            Block::Statistics(statistics) => {
                let number = statistics.interface as usize;
                if let Some(said) = self.said.get_mut(number) {
                    *said = said.or(statistics.received);
                }
                let interface = self.interfaces.get(number);
                if let (Some(interface), Some(loss)) = (interface, loss_of(statistics)) {
                    let owner = interface.owner.to_string();
                    self.index.losses.push(LossAt { owner, loss });
                    self.dropped[number] += loss.packets;
                }
            }
            Block::Section(_) if from > 0 => return Err("a second file within the first"),
            Block::Section(_) => {}
            Block::Other(note::BLOCK_TYPE, body) => {
                let note = note::parse(body).ok_or("a note without its body")?;
                self.index.notes.push(Place { at: note.at, offset: from, len: short(to - from) });
            }
            Block::Other(..) => return Ok(()), // padding, index: not packets
        }
        self.end = to;
        Ok(())
    }
}

/// The node that a segment's section header names.
pub(crate) fn node(file: &File) -> Option<String> {
    let mut bytes = vec![0; 4096];
    let read = file.read_at(&mut bytes, 0).ok()?;
    let (Block::Section(header), _) = pcapng::next_block(&bytes[..read], 0).ok()? else {
        return None;
    };
    let node = header.comment?.split(' ').find_map(|part| part.strip_prefix("node="))?;
    Some(node.to_owned())
}

const LOSS_MARK: &str = "lost ";

/// The comment by which a loss is read back from its statistics block: `lost 12 packets: buffer`.
pub(crate) fn loss_comment(loss: &Loss) -> String {
    format!("{LOSS_MARK}{} packets: {}", loss.packets, loss.cause)
}

fn loss_of(statistics: &pcapng::Statistics<'_>) -> Option<Loss> {
    let comment = statistics.comment?.strip_prefix(LOSS_MARK)?;
    let (packets, cause) = comment.split_once(" packets: ")?;
    Some(Loss {
        cause: cause.parse::<LossCause>().ok()?,
        packets: packets.parse().ok()?,
        from: statistics.from?,
        to: statistics.to?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn index() -> Index {
        let time = Timestamp::from_nanos;
        let mut index = Index::new();
        index.note(3, (time(5), time(9)), 200, 900);
        index.note(1, (time(4), time(8)), 900, 2_000_000);
        index.interfaces = vec![96, 150];
        let loss = Loss { cause: LossCause::Ring, packets: 7, from: time(1), to: time(2) };
        index.losses.push(LossAt { owner: "shop/cart".into(), loss });
        index
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn sealed() -> Vec<u8> {
        let mut bytes = vec![0; 2_000_000];
        index().push(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn an_index_is_read_back_from_the_end_of_its_file() {
        let bytes = sealed();
        assert_eq!(Index::load(&file(&bytes), bytes.len() as u64), Some(index()));
    }

    #[test]
    fn an_index_that_points_beyond_its_file_is_not_believed() {
        let mut bytes = vec![0; 1_999_999];
        index().push(&mut bytes).unwrap();
        assert_eq!(Index::load(&file(&bytes), bytes.len() as u64), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_damaged_index_is_believed_or_panics(at in 0usize..400, byte: u8, tail in 0usize..400) {
            let mut block = Vec::new();
            index().push(&mut block).unwrap();
            let at = at % block.len();
            block[at] = byte;
            block.truncate(block.len() - tail.min(block.len()));
            if let Some(read) = Index::parse(&block, 2_000_000) {
                prop_assert!(read.is_credible(2_000_000));
            }
        }

        #[test]
        fn no_bytes_at_a_files_end_are_mistaken(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Index::load(&file(&bytes), bytes.len() as u64), None);
            let _ = scan(&file(&bytes), bytes.len() as u64).unwrap();
        }
    }
}
