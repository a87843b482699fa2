//! What an earlier recorder noted, read from the notes of the segments that are held.

use std::path::Path;
use std::sync::Arc;

use kuberewind_packet::{Span, Timestamp};
use kuberewind_store::{Note, Notes, Recording, SegmentNumber, StoreError};

use super::keep;
use super::pins::{Pins, Sent};
use super::vault::Vault;
use super::{Pinboard, Tls, key_log, leave, noted};

/// As much of them fits into a stream (`export/src/wire`).
pub(crate) const MOST_SECRETS: usize = 48 << 20;

/// The notes of what went before, to be recalled.
pub(crate) struct Recall {
    vault: Arc<Vault>,
    pinned: Arc<Pinboard>,
}

impl Tls {
    /// Who can recall what was noted, without holding anybody up.
    pub(crate) fn recall(&self) -> Recall {
        Recall { vault: Arc::clone(&self.vault), pinned: Arc::clone(&self.pinned) }
    }
}

impl Recall {
    /// Fills the table of hellos.
    pub(crate) fn read(&self, notes: &Notes) -> Result<(), StoreError> {
        let now = Timestamp::now();
        let vaults = std::slice::from_ref(&self.vault);
        fill(vaults, notes, |change| change(&mut self.pinned.pins()), now)
    }
}

/// Puts hellos and then their secrets into a table: which of them come first is not said.
fn fill(
    vaults: &[Arc<Vault>],
    notes: &Notes,
    mut with: impl FnMut(&mut dyn FnMut(&mut Pins)),
    seen: Timestamp,
) -> Result<(), StoreError> {
    let open = |note: &Note| vaults.iter().find_map(|vault| vault.unseal(&note.bytes));
    notes.visit(|segment: SegmentNumber, note| {
        let mut kept = keep::read_pins(&open(&note).unwrap_or_default());
        if !kept.is_empty() {
            with(&mut |pins| kept.drain(..).for_each(|kept| pins.recall(kept, segment, seen)));
        }
    })?;
    notes.visit(|_, note| {
        let kept = keep::read(&open(&note).unwrap_or_default());
        if !kept.is_empty() {
            with(&mut |pins| kept.iter().for_each(|kept| pins.add_line(kept)));
        }
    })
}

/// The lines of a key log from what a recorder left in `dir`, for whoever may read its key; why it is
/// not all of them.
pub(crate) fn left_behind(
    dir: &Path,
    recording: &Recording,
    span: Span,
    wanted: impl Fn(&str) -> bool,
) -> Result<(Vec<u8>, Option<String>), StoreError> {
    const GONE: &str = "the key to the TLS secrets is gone, as after each start of the machine";
    let notes = recording.notes(noted(span))?;
    let out = |why: String| {
        let why = format!("{why}: they are left out");
        Ok((Vec::new(), Some(why).filter(|_| !notes.is_empty())))
    };
    match leave::is_allowed(dir) {
        Ok(true) => {}
        Ok(false) => return out("the TLS secrets stay here (tap.tlsExport=false)".to_owned()),
        Err(error) => return out(format!("look into {}: {error}; TLS secrets", dir.display())),
    }
    let vaults: Vec<_> = match Vault::left_behind() {
        Ok(vaults) => vaults.into_iter().map(Arc::new).collect(),
        Err(error) => return out(format!("{error}; it is the key to the TLS secrets")),
    };
    let (mut log, closed) = key_log(&vaults, &notes, span, &wanted);
    log.push_str(&older_than(&vaults, recording, span, wanted)?);
    let why = match closed {
        0 => None,
        closed if closed < notes.len() => Some(format!("{GONE}: those of before it are left out")),
        _ if log.is_empty() => return out(GONE.to_owned()),
        _ => Some(format!("{GONE}: they are left out")),
    };
    Ok((log.into_bytes(), why))
}

/// What is needed of connections that began before the window. Which of them have packets in it is not
/// known.
fn older_than(
    vaults: &[Arc<Vault>],
    recording: &Recording,
    span: Span,
    wanted: impl Fn(&str) -> bool,
) -> Result<String, StoreError> {
    let mut pins = Pins::default();
    let notes = recording.read_notes(Span::new(Timestamp::MIN, noted(span).to));
    fill(vaults, &notes, |change| change(&mut pins), Timestamp::MAX)?;
    Ok(pins.older_than(span.from, span.from, wanted, &mut Sent::new(), MOST_SECRETS))
}
