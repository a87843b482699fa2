//! What an earlier recorder noted, read from the notes of the segments that are held.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kuberewind_packet::{Span, Timestamp};
use kuberewind_store::{Note, Notes, Recording, SegmentNumber, StoreError};

use super::keep::{self, Kept};
use super::pins::{Pins, Sent};
use super::plaintext::pair;
use super::vault::Vault;
use super::{Pinboard, Tls, leave};

/// As much of them fits into a stream (`export/src/wire`).
pub(crate) const MOST_SECRETS: usize = 48 << 20;

/// A secret may be written so long after its connection's first packet.
const LATE: Duration = Duration::from_secs(40);

/// Lines of a key log, each once.
#[derive(Default)]
pub(super) struct KeyLogText {
    pub(super) text: String,
    /// Lines that had no room.
    pub(super) left_out: u64,
    /// Notes that none of the keys opens.
    closed: usize,
}

impl KeyLogText {
    /// Those of connections that began within `span`.
    pub(super) fn read(
        vaults: &[Arc<Vault>],
        notes: &[Note],
        span: Span,
        wanted: impl Fn(&str) -> bool,
    ) -> Self {
        let (mut log, mut known) = (Self::default(), HashSet::new());
        for note in notes {
            let Some(bytes) = unseal(vaults, note) else {
                log.closed += 1;
                continue;
            };
            let kept = keep::read(&bytes).into_iter();
            let kept = kept.filter(|kept| span.contains(kept.hello) && wanted(&kept.owner));
            for Kept { line, .. } in kept {
                if known.insert((line.client_random, line.label, line.secret.0.clone())) {
                    log.push(&line.to_string());
                }
            }
        }
        log
    }

    fn push(&mut self, line: &str) {
        if self.text.len() + line.len() < MOST_SECRETS {
            let _ = writeln!(self.text, "{line}");
        } else {
            self.left_out += 1;
        }
    }
}

fn unseal(vaults: &[Arc<Vault>], note: &Note) -> Option<Vec<u8>> {
    vaults.iter().find_map(|vault| vault.unseal(&note.bytes))
}

/// When a recorder may have noted secrets of connections that began within `span`; their notes may
/// have waited for the disk.
pub(crate) fn noted(span: Span) -> Span {
    const WAITED: Duration = Duration::from_secs(5);
    Span::new(span.from.saturating_sub(WAITED), span.to.saturating_add(LATE))
}

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
        self.pinned.pins().forget_notes();
        let vaults = std::slice::from_ref(&self.vault);
        let filled = fill(vaults, notes, |change| change(&mut self.pinned.pins()), now);
        let pins = self.pinned.pins();
        let mut opened = self.pinned.opened();
        pins.opened().for_each(|pin| opened.insert(pair(pin.netns, pin.client, pin.server)));
        opened.set_recalled();
        filled
    }
}

/// Puts hellos and then their secrets into a table: which of them come first is not said.
fn fill(
    vaults: &[Arc<Vault>],
    notes: &Notes,
    mut with: impl FnMut(&mut dyn FnMut(&mut Pins)),
    seen: Timestamp,
) -> Result<(), StoreError> {
    notes.visit(|segment: SegmentNumber, note| {
        let mut kept = keep::read_pins(&unseal(vaults, &note).unwrap_or_default());
        if !kept.is_empty() {
            with(&mut |pins| kept.drain(..).for_each(|kept| pins.recall(kept, segment, seen)));
        }
    })?;
    notes.visit(|_, note| {
        let kept = keep::read(&unseal(vaults, &note).unwrap_or_default());
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
    let KeyLogText { mut text, left_out, closed } =
        KeyLogText::read(&vaults, &notes, span, &wanted);
    text.push_str(&older_than(&vaults, recording, span, text.len(), wanted)?);
    let why = match closed {
        0 if left_out > 0 => Some(format!("{left_out} TLS secrets had no room: ask for less time")),
        0 => None,
        closed if closed < notes.len() => Some(format!("{GONE}: those of before it are left out")),
        _ => Some(format!("{GONE}: they are left out")),
    };
    Ok((text.into_bytes(), why))
}

/// What is needed of connections that began before the window. Which of them have packets in it is not
/// known.
fn older_than(
    vaults: &[Arc<Vault>],
    recording: &Recording,
    span: Span,
    taken: usize,
    wanted: impl Fn(&str) -> bool,
) -> Result<String, StoreError> {
    let mut pins = Pins::default();
    let notes = recording.read_notes(Span::new(Timestamp::MIN, noted(span).to));
    fill(vaults, &notes, |change| change(&mut pins), Timestamp::MAX)?;
    Ok(pins.older_than(
        span.from,
        span.from,
        wanted,
        &mut Sent::new(),
        MOST_SECRETS.saturating_sub(taken),
    ))
}
