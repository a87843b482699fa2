//! pcapng (draft-ietf-opsawg-pcapng), little-endian, Ethernet, nanoseconds: what segments, streams
//! and exports are made of.

mod read;
mod write;

pub use read::Block;
pub use read::BlockError;
pub use read::Blocks;
pub use read::InterfaceDescription;
pub use read::PacketBlock;
pub use read::SectionHeader;
pub use read::Statistics;
pub use read::next_block;
pub use write::MAX_OPTION;
pub use write::MIN_PADDING;
pub use write::packet_block_len;
pub use write::push_interface;
pub use write::push_packet;
pub use write::push_padding;
pub use write::push_secrets;
pub use write::push_section_header;
pub use write::push_section_header_in;
pub use write::push_statistics;
pub use write::set_interface;
pub use write::write_packet;
pub use write::write_padding;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const DECRYPTION_SECRETS: u32 = 10;
/// `TLSK`: a key log.
const TLS_KEY_LOG: u32 = 0x544c_534b;
/// A block type from the range for local use: every reader skips it without a word, while zeros
/// count as damage and custom blocks are shown as records.
const PADDING: u32 = 0x8000_0001;

const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const LINKTYPE_ETHERNET: u16 = 1;
const NANOSECONDS: u8 = 9;

/// Type and length before a block's body, length again after it.
const BLOCK_OVERHEAD: usize = 12;
/// Interface, time (two halves), captured and original length.
const PACKET_FIXED: usize = 20;

mod option {
    pub(super) const END: u16 = 0;
    pub(super) const COMMENT: u16 = 1;
    /// From the range for local use, which readers skip.
    pub(super) const FILLER: u16 = 0x8001;
    pub(super) const SHB_USERAPPL: u16 = 4;
    pub(super) const IF_NAME: u16 = 2;
    pub(super) const IF_DESCRIPTION: u16 = 3;
    pub(super) const IF_TSRESOL: u16 = 9;
    pub(super) const ISB_STARTTIME: u16 = 2;
    pub(super) const ISB_ENDTIME: u16 = 3;
    pub(super) const ISB_IFRECV: u16 = 4;
    pub(super) const ISB_IFDROP: u16 = 5;
}

/// Where in its Enhanced Packet Block a packet's bytes start.
pub const PACKET_DATA_AT: usize = BLOCK_OVERHEAD - 4 + PACKET_FIXED;

const fn padded(len: usize) -> usize {
    len.next_multiple_of(4)
}
