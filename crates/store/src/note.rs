//! Bytes that ride in segments beside the packets: other readers skip them, they count in the bound,
//! and they go when their segment goes.
//!
//! ```text
//! block = 0x80000003 len:u32 time:u64 length:u32 body, filled up to 4 bytes, len:u32   little-endian
//! ```

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use kuberewind_packet::pcapng::{self, Block};
use kuberewind_packet::{Span, Timestamp};
use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::catalog::Catalog;
use crate::index::Index;
use crate::reach::SegmentNumber;

pub(crate) const BLOCK_TYPE: u32 = 0x8000_0003;

/// The longest note that is written or believed.
pub(crate) const LONGEST: usize = 1 << 20;

/// Type, length, time, length of the body; length again.
const OVERHEAD: usize = 24;

/// A note, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Its time.
    pub at: Timestamp,
    /// What it says: the store does not look into it.
    pub bytes: Vec<u8>,
}

/// Where a note is in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64, u32)", into = "(u64, u64, u32)")]
pub(crate) struct Place {
    pub(crate) at: Timestamp,
    pub(crate) offset: u64,
    /// Of the block.
    pub(crate) len: u32,
}

impl From<(u64, u64, u32)> for Place {
    fn from((at, offset, len): (u64, u64, u32)) -> Self {
        Self { at: Timestamp::from_nanos(at), offset, len }
    }
}

impl From<Place> for (u64, u64, u32) {
    fn from(Place { at, offset, len }: Place) -> Self {
        (at.as_nanos(), offset, len)
    }
}

impl Place {
    /// Whether it lies before `end` and is not longer than notes are.
    pub(crate) fn is_credible(&self, end: u64) -> bool {
        let len = u64::from(self.len);
        len <= (LONGEST + OVERHEAD + 4) as u64
            && self.offset.checked_add(len).is_some_and(|past| past <= end)
    }
}

/// The block of a note.
#[expect(clippy::cast_possible_truncation, reason = "notes are no longer than LONGEST")]
pub(crate) fn block(at: Timestamp, bytes: &[u8]) -> Vec<u8> {
    let len = bytes.len().next_multiple_of(4) + OVERHEAD;
    let mut block = Vec::with_capacity(len);
    block.extend(BLOCK_TYPE.to_le_bytes());
    block.extend((len as u32).to_le_bytes());
    block.extend(at.as_nanos().to_le_bytes());
    block.extend((bytes.len() as u32).to_le_bytes());
    block.extend(bytes);
    block.resize(len - 4, 0);
    block.extend((len as u32).to_le_bytes());
    block
}

/// Reads a note from the body of its block.
pub(crate) fn parse(body: &[u8]) -> Option<Note> {
    let (at, rest) = body.split_first_chunk::<8>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
    let at = Timestamp::from_nanos(u64::from_le_bytes(*at));
    Some(Note { at, bytes: rest.get(..len)?.to_vec() })
}

/// The notes of `span` that can be read, in the order in which they were written. One that retention
/// takes meanwhile is as if it had not been asked for.
pub(crate) fn within(catalog: &Catalog, span: Span) -> Result<Vec<Note>, StoreError> {
    let mut notes = Vec::new();
    visit(catalog, span, |_, note| notes.push(note))?;
    Ok(notes)
}

/// Notes to be read one at a time: all together they may be more than memory holds.
#[derive(Clone, Debug)]
pub struct Notes {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) span: Span,
}

impl Notes {
    /// Reads them in the order in which they were written, each with the segment that it is in.
    ///
    /// # Errors
    /// A segment that cannot be read; those before it are.
    pub fn visit(&self, visit: impl FnMut(SegmentNumber, Note)) -> Result<(), StoreError> {
        self::visit(&self.catalog, self.span, visit)
    }
}

fn visit(
    catalog: &Catalog,
    span: Span,
    mut visit: impl FnMut(SegmentNumber, Note),
) -> Result<(), StoreError> {
    let segments: Vec<_> = {
        let state = catalog.state();
        let wanted = state.segments().filter(|segment| touches(&segment.index, span));
        wanted.map(|segment| (segment.name.clone(), segment.index.clone())).collect()
    };
    for (name, index) in segments {
        let reading = || StoreError::io("read segment", &catalog.dir.join(name.sealed()));
        let Ok(opened) = catalog.open(&name, Timestamp::MIN).map_err(reading())? else { continue };
        for place in index.notes.iter().filter(|place| span.contains(place.at)) {
            if let Some(note) = read(&opened.file, *place).map_err(reading())? {
                visit(SegmentNumber(name.sequence), note);
            }
        }
    }
    Ok(())
}

fn touches(index: &Index, span: Span) -> bool {
    index.notes.iter().any(|place| span.contains(place.at))
}

fn read(file: &File, place: Place) -> std::io::Result<Option<Note>> {
    let mut bytes = vec![0; place.len as usize];
    file.read_exact_at(&mut bytes, place.offset)?;
    Ok(match pcapng::next_block(&bytes, 0) {
        Ok((Block::Other(BLOCK_TYPE, body), _)) => parse(body),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_note_is_read_back_from_its_block(nanos: u64, bytes in prop::collection::vec(any::<u8>(), 0..99)) {
            let at = Timestamp::from_nanos(nanos);
            let block = block(at, &bytes);
            let (read, end) = pcapng::next_block(&block, 0).unwrap();
            prop_assert_eq!(end, block.len());
            let Block::Other(BLOCK_TYPE, body) = read else { panic!("{read:?}") };
            prop_assert_eq!(parse(body), Some(Note { at, bytes }));
        }

        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse(&body);
        }
    }
}
