//! Reading blocks back, from files that may end anywhere and hold anything.

use super::{
    BLOCK_OVERHEAD, BYTE_ORDER_MAGIC, ENHANCED_PACKET, INTERFACE_DESCRIPTION, INTERFACE_STATISTICS,
    LINKTYPE_ETHERNET, NANOSECONDS, PACKET_FIXED, SECTION_HEADER, option, padded,
};
use crate::{Frame, Interface, InterfaceError, Timestamp};

/// Where the bytes stop being pcapng as we write it. `offset` counts from the start of the bytes
/// given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The bytes end within a block: a torn tail, or more to be read.
    #[error("the last block, at byte {offset}, is cut off")]
    Cut {
        /// Where that block starts: all before it is whole.
        offset: usize,
    },
    /// The bytes are not a block.
    #[error("damaged block at byte {offset}: {reason}")]
    Damaged {
        /// Where it starts: all before it is whole.
        offset: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl BlockError {
    /// Where the good bytes end.
    pub const fn offset(&self) -> usize {
        match self {
            Self::Cut { offset } | Self::Damaged { offset, .. } => *offset,
        }
    }
}

/// One block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block<'a> {
    /// The start of a file.
    Section(SectionHeader<'a>),
    /// An interface; they count from 0 in the order of their blocks.
    Interface(InterfaceDescription<'a>),
    /// A packet.
    Packet(PacketBlock<'a>),
    /// Counts of an interface.
    Statistics(Statistics<'a>),
    /// Padding, or a block that only others use: its type and its body.
    Other(u32, &'a [u8]),
}

/// A Section Header Block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionHeader<'a> {
    /// The program that wrote it.
    pub program: Option<&'a str>,
    /// Its comment.
    pub comment: Option<&'a str>,
}

/// An Interface Description Block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceDescription<'a> {
    /// `if_name`.
    pub name: &'a str,
    /// `if_description`.
    pub description: &'a str,
}

impl InterfaceDescription<'_> {
    /// The interface as it was recorded.
    pub fn interface(&self) -> Result<Interface, InterfaceError> {
        Interface::parse(self.name, self.description)
    }
}

/// An Enhanced Packet Block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketBlock<'a> {
    /// The number of its interface.
    pub interface: u32,
    /// When.
    pub timestamp: Timestamp,
    /// Its length on the wire.
    pub original_len: u32,
    /// What was captured of it.
    pub data: &'a [u8],
}

impl<'a> PacketBlock<'a> {
    /// The frame in it.
    pub const fn frame(&self) -> Frame<'a> {
        Frame::whole(self.timestamp, self.original_len, self.data)
    }
}

/// An Interface Statistics Block. Counts run from the start of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics<'a> {
    /// The number of the interface.
    pub interface: u32,
    /// When the block was written.
    pub written: Timestamp,
    /// The stretch that the counts are about starts here
    pub from: Option<Timestamp>,
    /// and ends here.
    pub to: Option<Timestamp>,
    /// Packets received.
    pub received: Option<u64>,
    /// Packets lost.
    pub dropped: Option<u64>,
    /// Why.
    pub comment: Option<&'a str>,
}

/// The blocks of some bytes, each with the offset at which it starts; ends at the first error.
#[derive(Clone, Debug)]
pub struct Blocks<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Blocks<'a> {
    /// Reads from the start of `bytes`, which may be any run of whole blocks of a file.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }
}

impl<'a> Iterator for Blocks<'a> {
    type Item = Result<(usize, Block<'a>), BlockError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.offset >= self.bytes.len() {
            return None;
        }
        let start = self.offset;
        match next_block(self.bytes, start) {
            Ok((block, end)) => {
                self.offset = end;
                Some(Ok((start, block)))
            }
            Err(error) => {
                self.offset = self.bytes.len();
                Some(Err(error))
            }
        }
    }
}

/// The block that starts at `offset`, and the offset of the next.
pub fn next_block(bytes: &[u8], offset: usize) -> Result<(Block<'_>, usize), BlockError> {
    let damaged = |reason| BlockError::Damaged { offset, reason };
    let cut = BlockError::Cut { offset };
    let rest = &bytes[offset..];
    let (Some(kind), Some(len)) = (word(rest, 0), word(rest, 4)) else { return Err(cut) };
    let len = len as usize;
    if len < BLOCK_OVERHEAD || !len.is_multiple_of(4) {
        return Err(damaged("its length cannot be"));
    }
    let Some(block) = rest.get(..len) else { return Err(cut) };
    if word(block, len - 4) != word(block, 4) {
        return Err(damaged("its two lengths differ"));
    }
    let body = &block[8..len - 4];
    let block = match kind {
        ENHANCED_PACKET => packet(body).map(Block::Packet),
        INTERFACE_DESCRIPTION => interface(body).map(Block::Interface),
        INTERFACE_STATISTICS => statistics(body).map(Block::Statistics),
        SECTION_HEADER => section(body).map(Block::Section),
        other => Ok(Block::Other(other, body)),
    };
    Ok((block.map_err(damaged)?, offset + len))
}

fn packet(body: &[u8]) -> Result<PacketBlock<'_>, &'static str> {
    let (Some(interface), Some(timestamp), Some(captured), Some(original_len)) =
        (word(body, 0), time(body, 4), word(body, 12), word(body, 16))
    else {
        return Err("a packet without its head");
    };
    let data =
        body[PACKET_FIXED..].get(..captured as usize).ok_or("a packet longer than its block")?;
    Ok(PacketBlock { interface, timestamp, original_len, data })
}

fn interface(body: &[u8]) -> Result<InterfaceDescription<'_>, &'static str> {
    let link = body.get(..2).ok_or("an interface without its head")?;
    if link != LINKTYPE_ETHERNET.to_le_bytes() {
        return Err("an interface that is not Ethernet");
    }
    let options = body.get(8..).ok_or("an interface without its head")?;
    let mut description = InterfaceDescription { name: "", description: "" };
    let mut nanoseconds = false;
    for (code, value) in Options(options) {
        match code {
            option::IF_NAME => description.name = text(value)?,
            option::IF_DESCRIPTION => description.description = text(value)?,
            option::IF_TSRESOL => nanoseconds = value == [NANOSECONDS],
            _ => {}
        }
    }
    if nanoseconds { Ok(description) } else { Err("an interface without nanoseconds") }
}

fn statistics(body: &[u8]) -> Result<Statistics<'_>, &'static str> {
    let (Some(interface), Some(written)) = (word(body, 0), time(body, 4)) else {
        return Err("statistics without their head");
    };
    let mut statistics = Statistics { interface, written, ..Statistics::default() };
    for (code, value) in Options(&body[12..]) {
        match code {
            option::COMMENT => statistics.comment = Some(text(value)?),
            option::ISB_STARTTIME => statistics.from = time(value, 0),
            option::ISB_ENDTIME => statistics.to = time(value, 0),
            option::ISB_IFRECV => statistics.received = long(value),
            option::ISB_IFDROP => statistics.dropped = long(value),
            _ => {}
        }
    }
    Ok(statistics)
}

fn section(body: &[u8]) -> Result<SectionHeader<'_>, &'static str> {
    if word(body, 0) != Some(BYTE_ORDER_MAGIC) {
        return Err("a section that is not little-endian");
    }
    let options = body.get(16..).ok_or("a section without its head")?;
    let mut header = SectionHeader { program: None, comment: None };
    for (code, value) in Options(options) {
        match code {
            option::COMMENT => header.comment = Some(text(value)?),
            option::SHB_USERAPPL => header.program = Some(text(value)?),
            _ => {}
        }
    }
    Ok(header)
}

/// The options of a block, up to their end mark, their end, or the first that is cut.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let head = self.0.first_chunk::<4>()?;
        let code = u16::from_le_bytes([head[0], head[1]]);
        let len = usize::from(u16::from_le_bytes([head[2], head[3]]));
        if code == option::END {
            return None;
        }
        let value = self.0[4..].get(..len)?;
        self.0 = self.0.get(4 + padded(len)..).unwrap_or_default();
        Some((code, value))
    }
}

fn text(value: &[u8]) -> Result<&str, &'static str> {
    std::str::from_utf8(value).map_err(|_| "text that is not UTF-8")
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.first_chunk()?))
}

fn time(bytes: &[u8], at: usize) -> Option<Timestamp> {
    let (upper, lower) = (word(bytes, at)?, word(bytes, at + 4)?);
    Some(Timestamp::from_nanos(u64::from(upper) << 32 | u64::from(lower)))
}
