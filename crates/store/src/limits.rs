//! How much is kept.

use std::path::Path;
use std::time::Duration;

use kuberewind_packet::{ByteSize, MAX_CAPTURED, pcapng};
use rustix::fs::statvfs;

use crate::StoreError;
use crate::buffer::{BUFFER_LEN, PAGE};
use crate::journal::Journal;

/// The bounds of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `pcapdump.maxTime`: a segment goes when its last packet is older.
    pub max_time: Duration,
    /// `pcapdump.maxSize`: all of the data directory stays within it, at every moment.
    pub max_size: ByteSize,
    /// `pcapdump.minFree`: so much of the file system stays free.
    pub min_free: MinFree,
}

/// How much of the file system stays free for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinFree {
    /// So many bytes.
    Bytes(ByteSize),
    /// So many hundredths of the file system.
    Percent(u8),
}

/// Bytes free on the file system of `dir`, and how many must stay so.
pub(crate) fn disk_room(dir: &Path, min_free: MinFree) -> (u64, u64) {
    let Ok(fs) = statvfs(dir) else { return (u64::MAX / 2, 0) };
    let min_free = match min_free {
        MinFree::Bytes(size) => size.bytes(),
        MinFree::Percent(percent) => {
            (fs.f_blocks.saturating_mul(fs.f_frsize) / 100).saturating_mul(percent.into())
        }
    };
    (fs.f_bavail.saturating_mul(fs.f_frsize).min(u64::MAX / 2), min_free)
}

/// A segment is this part of `pcapdump.maxSize`, so that deleting one is a small step,
const SEGMENTS: u64 = 50;
/// but never longer than this.
const LONGEST_SEGMENT: u64 = 128 << 20;

/// The longest packet's block, and padding up to the next page.
const SHORTEST_FILL: usize = pcapng::packet_block_len(MAX_CAPTURED).next_multiple_of(PAGE) + PAGE;

/// Bytes set aside for what is not segments: the journal, twice while it is rewritten; the lock; and
/// what the directory grows by between two looks at it.
pub(crate) const CONTROL_BYTES: u64 = 2 * Journal::MOST_BYTES + 4096 + 32_768;

impl Limits {
    /// The smallest `pcapdump.maxSize`, 16 MB: fifty segments that each hold the longest packet.
    pub const MIN_SIZE: ByteSize = ByteSize::new(16_000_000);

    /// Whether they make sense.
    pub fn check(&self) -> Result<(), StoreError> {
        if self.max_size < Self::MIN_SIZE {
            return Err(StoreError::TooSmall { asked: self.max_size });
        }
        match self.min_free {
            MinFree::Percent(asked) if asked > 99 => Err(StoreError::NotAPercentage { asked }),
            _ => Ok(()),
        }
    }

    /// A segment is sealed before it is longer than this.
    pub(crate) fn segment_len(&self) -> u64 {
        (self.max_size.bytes() / SEGMENTS).min(LONGEST_SEGMENT)
    }

    /// Buffers are filled so far: a small part of a segment, but the longest packet fits.
    pub(crate) fn fill(&self) -> usize {
        let quarter = usize::try_from(self.segment_len() / 4).unwrap_or(BUFFER_LEN);
        quarter.clamp(SHORTEST_FILL, BUFFER_LEN) - pcapng::MIN_PADDING
    }

    /// What segments and foreign files may take together.
    ///
    /// One segment's length stays unused: someone who adds up the files one after the other counts
    /// one that is deleted meanwhile, and what was written since as well.
    pub(crate) fn usable(&self) -> u64 {
        self.max_size.bytes() - self.segment_len() - CONTROL_BYTES
    }
}
