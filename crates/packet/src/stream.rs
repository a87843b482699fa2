//! Packets in the order of time.

use crate::pcapng::PacketBlock;
use crate::{Interface, WindowAccount};

/// One node's packets, in the order of time, read one after the other.
///
/// A window on disk is one, and so is what another node sent of its own.
pub trait PacketStream {
    /// What can go wrong on the way.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Goes to the next packet; `false` at the end.
    fn advance(&mut self) -> Result<bool, Self::Error>;

    /// The packet that [`Self::advance`] went to. Its interface is an index into
    /// [`Self::interfaces`].
    fn packet(&self) -> PacketBlock<'_>;

    /// Whether the next packet is here already, so that [`Self::advance`] will not wait for it. A
    /// live reader is shown what it has got when this says no.
    fn has_next_at_hand(&self) -> bool {
        false
    }

    /// The interfaces of the packets so far; only ever grows.
    fn interfaces(&self) -> &[Interface];

    /// TLS secrets of flows in it that came since this was asked last, as a key log
    /// (draft-ietf-tls-keylogfile): a line each. Those of a window are all there after the first
    /// [`Self::advance`]; where packets go on to come, so do secrets, as a rule before what they open.
    fn take_key_log(&mut self) -> Vec<u8> {
        Vec::new()
    }

    /// After the end: what was in it and what was missing.
    fn account(&self) -> &WindowAccount;
}
