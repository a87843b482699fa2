//! One packet on its way from the ring to the disk, or from the disk to a file.

use crate::Timestamp;

/// The most bytes of one frame that are kept: libpcap's `MAXIMUM_SNAPLEN`. Wireshark and tcpdump
/// refuse files with larger records.
pub const MAX_CAPTURED: u32 = 262_144;

/// A borrowed Ethernet frame.
///
/// Its bytes are `head` followed by `body`: the ring hands out a VLAN tag apart from the frame, and
/// devices without a link header get one, so the first bytes may be put together elsewhere; copying
/// happens once, into the segment's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// When the kernel saw it.
    pub timestamp: Timestamp,
    /// Its length on the wire in bytes, at least that of `head` and `body` together.
    pub original_len: u32,
    /// Bytes that stand before `body`; often none.
    pub head: &'a [u8],
    /// The rest of the captured bytes.
    pub body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// A frame whose captured bytes lie in one piece.
    pub const fn whole(timestamp: Timestamp, original_len: u32, bytes: &'a [u8]) -> Self {
        Self { timestamp, original_len, head: &[], body: bytes }
    }

    /// How many bytes were captured.
    #[expect(clippy::cast_possible_truncation, reason = "frames are cut at MAX_CAPTURED")]
    pub const fn captured_len(&self) -> u32 {
        (self.head.len() + self.body.len()) as u32
    }
}
