//! How one node's packets travel: framed, checked, compressed where it helps, with an end mark.
//!
//! ```text
//! stream  = "KRWIRE" version:u16 frame*                  all numbers little-endian
//! frame   = kind:u8 coding:u8 0:u16 stored:u32 plain:u32  `stored` bytes follow,
//!           body[stored]                                  which unpack to `plain` bytes
//!           xxh3:u64                                      of the stream up to here
//! coding  = 0 as it is | 1 one zstd frame
//! kind    = 1 interface   JSON of one `Interface`; they count from 0; before its first packet
//!         | 2 packets     pcapng enhanced packet blocks without options, none at all to say
//!                         "still here"; time never steps back, also not from frame to frame
//!         | 3 account     JSON of the `WindowAccount`; once, after the last packet
//!         | 4 end         packets:u64 bytes:u64; nothing follows
//!         | 5 secrets     lines of a TLS key log, whole ones; before the packets that they open
//! ```
//!
//! Each frame is packed by itself, so that a flushed frame can be read at once and a reader needs
//! room for one frame only. Each carries the hash of all that stands before it, not only of itself:
//! a changed, missing, doubled or swapped frame is found before one of its packets is handed out,
//! which matters where packets are shown live and the end is never reached. The hash finds
//! accidents; it is no signature.
//!
//! A stream that ends anywhere but right after its end frame is an error.

mod receive;
mod send;

pub use receive::Received;
pub use receive::WireError;
pub use send::SendError;
pub use send::Sender;

use kuberewind_packet::{MAX_CAPTURED, pcapng};

/// The version of the format that this program speaks.
pub const VERSION: u16 = 1;

const MAGIC: [u8; 6] = *b"KRWIRE";
const PREFACE_LEN: usize = 8;
const HEAD_LEN: usize = 12;
const HASH_LEN: usize = 8;
const END_LEN: usize = 16;

/// A packets frame leaves once it is this full.
const PACKETS_TARGET: usize = 64 << 10;
/// The longest packets frame that is taken, unpacked: a full one and one more packet of any size.
const MAX_PACKETS: usize = PACKETS_TARGET + pcapng::packet_block_len(MAX_CAPTURED);
/// The longest description of an interface that is taken.
const MAX_INTERFACE: usize = 16 << 10;
/// The most interfaces that one stream may have,
const MAX_INTERFACES: usize = 1 << 16;
/// and the most bytes of their descriptions together.
const MAX_INTERFACE_BYTES: usize = 32 << 20;
/// The longest account that is taken: some 30,000 losses, gaps and damages.
const MAX_ACCOUNT: usize = 4 << 20;

/// The longest piece of a key log,
const MAX_SECRETS: usize = 256 << 10;
/// and the most bytes of it that are kept until somebody takes them: some 60,000 connections.
const MAX_SECRET_BYTES: usize = 64 << 20;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Interface,
    Packets,
    Account,
    End,
    Secrets,
}

impl Kind {
    const fn number(self) -> u8 {
        match self {
            Self::Interface => 1,
            Self::Packets => 2,
            Self::Account => 3,
            Self::End => 4,
            Self::Secrets => 5,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::Interface, Self::Packets, Self::Account, Self::End, Self::Secrets]
            .into_iter()
            .find(|kind| kind.number() == number)
    }

    /// The longest body that is taken, unpacked.
    const fn limit(self) -> usize {
        match self {
            Self::Interface => MAX_INTERFACE,
            Self::Packets => MAX_PACKETS,
            Self::Account => MAX_ACCOUNT,
            Self::End => END_LEN,
            Self::Secrets => MAX_SECRETS,
        }
    }
}

/// How a frame's body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Plain,
    Zstd,
}

impl Coding {
    const fn number(self) -> u8 {
        match self {
            Self::Plain => 0,
            Self::Zstd => 1,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::Plain, Self::Zstd].into_iter().find(|coding| coding.number() == number)
    }
}

/// The start of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    kind: Kind,
    coding: Coding,
    /// Bytes of the body as it travels.
    stored: usize,
    /// Bytes of the body once unpacked.
    plain: usize,
}

impl Head {
    #[expect(clippy::cast_possible_truncation, reason = "bodies are at most MAX_ACCOUNT long")]
    fn to_bytes(self) -> [u8; HEAD_LEN] {
        let mut out = [0; HEAD_LEN];
        out[0] = self.kind.number();
        out[1] = self.coding.number();
        out[4..8].copy_from_slice(&(self.stored as u32).to_le_bytes());
        out[8..].copy_from_slice(&(self.plain as u32).to_le_bytes());
        out
    }

    /// Only what a sender can have written: nothing is longer than its kind allows, and packing
    /// never made a body longer.
    fn parse(bytes: [u8; HEAD_LEN]) -> Result<Self, &'static str> {
        let [kind, coding, 0, 0, s0, s1, s2, s3, p0, p1, p2, p3] = bytes else {
            return Err("its head is not one of ours");
        };
        let head = Self {
            kind: Kind::from_number(kind).ok_or("its kind is unknown")?,
            coding: Coding::from_number(coding).ok_or("its coding is unknown")?,
            stored: u32::from_le_bytes([s0, s1, s2, s3]) as usize,
            plain: u32::from_le_bytes([p0, p1, p2, p3]) as usize,
        };
        if head.plain > head.kind.limit() {
            return Err("it is longer than its kind may be");
        }
        match head.coding {
            Coding::Plain if head.stored != head.plain => Err("its two lengths differ"),
            Coding::Zstd if head.stored >= head.plain => Err("it is packed and yet no shorter"),
            Coding::Plain | Coding::Zstd => Ok(head),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_back_as_it_was_written() {
        for kind in [Kind::Interface, Kind::Packets, Kind::Account, Kind::End] {
            let head = Head { kind, coding: Coding::Zstd, stored: 3, plain: 16 };
            assert_eq!(Head::parse(head.to_bytes()), Ok(head));
        }
    }

    #[test]
    fn a_body_longer_than_its_kind_may_be_is_refused_before_it_is_read() {
        for kind in [Kind::Interface, Kind::Packets, Kind::Account, Kind::End] {
            let plain = kind.limit() + 1;
            let packed = Head { kind, coding: Coding::Zstd, stored: 20, plain };
            let as_it_is = Head { kind, coding: Coding::Plain, stored: plain, plain };
            assert!(Head::parse(packed.to_bytes()).is_err());
            assert!(Head::parse(as_it_is.to_bytes()).is_err());
        }
    }
}
