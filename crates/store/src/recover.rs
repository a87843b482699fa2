//! What is found in a data directory when it is opened.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use kuberewind_packet::{Damage, Timestamp};

use crate::StoreError;
use crate::index::{self, Index};
use crate::segment::{Name, OpenSegment, footprint};

/// A segment on the disk and what is in it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) name: Name,
    pub(crate) open: bool,
    pub(crate) index: Index,
    pub(crate) footprint: u64,
    /// Why it is not whole.
    pub(crate) damage: Option<Damage>,
}

/// The segments of `dir`, oldest first, and whether each is still open.
pub(crate) fn list(dir: &Path) -> Result<Vec<(Name, bool)>, StoreError> {
    let entries = fs::read_dir(dir).map_err(StoreError::io("list", dir))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut segments: Vec<_> = names.filter_map(|name| Name::parse(&name)).collect();
    segments.sort_unstable();
    Ok(segments)
}

/// Reads what is in a segment and leaves it as it is.
pub(crate) fn look(dir: &Path, name: &Name, open: bool) -> Result<Found, StoreError> {
    let path = dir.join(if open { name.open() } else { name.sealed() });
    let file = File::open(&path).map_err(StoreError::io("open segment", &path))?;
    let meta = file.metadata().map_err(StoreError::io("measure segment", &path))?;
    let found = |index, damage| Found {
        name: name.clone(),
        open,
        index,
        footprint: footprint(&meta),
        damage,
    };
    if let Some(index) = Index::load(&file, meta.len()).filter(|_| !open) {
        return Ok(found(index, None));
    }
    let scanned = index::scan(&file, meta.len()).map_err(StoreError::io("read segment", &path))?;
    // An open one ends anywhere: it is being written, or was when its recorder was killed.
    let reason = scanned.damage().filter(|_| !open);
    let damage = reason.map(|reason| Damage { segment: name.sealed(), reason });
    Ok(found(scanned.index, damage))
}

/// Seals a segment that a recorder left open: cuts it at its last whole block and gives it its
/// index. One without any packet, loss or note is deleted: `None`.
pub(crate) fn finish(dir: &Path, name: &Name, now: Timestamp) -> Result<Option<Found>, StoreError> {
    let path = dir.join(name.open());
    let read = || -> io::Result<_> {
        let file = File::open(&path)?;
        let len = file.metadata()?.len();
        index::scan(&file, len)
    };
    let scanned = read().map_err(StoreError::io("read segment", &path))?;
    let Index { chunks, losses, notes, .. } = &scanned.index;
    if chunks.is_empty() && losses.is_empty() && notes.is_empty() {
        fs::remove_file(&path).map_err(StoreError::io("delete empty segment", &path))?;
        return Ok(None);
    }
    let mut segment = OpenSegment::resume(dir, name.clone(), scanned)?;
    let footprint = segment.seal(now)?;
    Ok(Some(Found {
        name: segment.name,
        open: false,
        index: segment.index,
        footprint,
        damage: None,
    }))
}
