//! Where a direction of a connection that is older than the packets was entered, and what would have
//! stood before that.

use crate::KeyLog;
use crate::decrypt::Conversation;
use crate::decrypt::phase::{Kind, Phase};
use crate::decrypt::session::Session;
use crate::flow::Sender;
use crate::hello::{FINISHED, KEY_UPDATE};
use crate::open::{Opener, Record};
use crate::suite::Version;

const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
/// TLS 1.2's `ChangeCipherSpec`, whole.
const CHANGE_CIPHER_SPEC: [u8; 6] = [20, 3, 3, 0, 1, 1];

/// The first record of a direction that opened.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) conversation: Conversation,
    /// The client's random of its handshake.
    pub(crate) origin: [u8; 32],
    pub(crate) from: Sender,
    /// The sequence number at which it begins.
    pub(crate) sequence: u32,
    /// Records before it under the same key.
    pub(crate) number: u64,
    /// What brings a reader who knows the hellos and the secrets to that key.
    pub(crate) opening: Vec<u8>,
    key: Opener,
}

/// Where in its direction a record stood.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) sequence: u32,
    pub(super) number: u64,
}

impl Entry {
    /// None where a reader cannot be brought there: a secret is missing, or the handshake is not over.
    pub(super) fn new(
        conversation: &Conversation,
        from: Sender,
        (session, log): (&Session, &KeyLog),
        (phase, found): (&Phase, Found),
        record: &Record<'_>,
    ) -> Option<Self> {
        let of =
            |kind: Kind| Phase::of(session, from, log).into_iter().find(|phase| phase.kind == kind);
        let mut keys = of(phase.kind)?.generations(phase, found.number, record)?;
        let key = keys.pop()?;
        let opening = match (session.version()?, phase.kind) {
            (Version::TLS13, Kind::Application) => {
                let handshake = of(Kind::Handshake)?.into_key()?;
                let len = u8::try_from(session.suite?.hash.len()).ok()?;
                let finished = [&[FINISHED, 0, 0, len][..], &vec![0; len.into()]].concat();
                let mut opening = handshake.seal(0, HANDSHAKE, &finished)?;
                for key in keys {
                    opening.extend(key.seal(0, HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0])?);
                }
                opening
            }
            (Version::TLS12, Kind::Epoch) => CHANGE_CIPHER_SPEC.to_vec(),
            _ => return None,
        };
        let Found { sequence, number } = found;
        let conversation = *conversation;
        Some(Self { conversation, origin: phase.origin, from, sequence, number, opening, key })
    }

    /// The length of an empty record.
    pub(crate) fn filler_len(&self) -> usize {
        self.key.seal(0, APPLICATION_DATA, &[]).map_or(0, |record| record.len())
    }

    /// Empty records for all that came before, one after the other.
    pub(crate) fn fillers(&self) -> impl Iterator<Item = Vec<u8>> {
        (0..self.number).filter_map(|number| self.key.seal(number, APPLICATION_DATA, &[]))
    }
}
