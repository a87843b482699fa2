//! A capture ring: the blocks that the kernel fills, and the packets in them.

use std::io;
use std::sync::Arc;

use kuberewind_filter::Instruction;
use kuberewind_packet::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::sys::{PacketSocket, Received, RingMap};

/// A partly filled block is handed over once it is this old.
pub(crate) const RETIRE_MILLIS: u32 = 100;

/// How a ring is cut into blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Bytes in a block.
    pub(crate) block: u32,
    /// Number of blocks.
    pub(crate) blocks: u32,
}

impl Layout {
    pub(crate) const fn bytes(self) -> usize {
        self.block as usize * self.blocks as usize
    }
}

/// A program that takes nothing: `ret 0`.
const NOTHING: [Instruction; 1] = [Instruction { code: 0x06, jt: 0, jf: 0, k: 0 }];

/// The ring of one packet socket, with the place that has been read up to.
#[derive(Debug)]
pub(crate) struct Ring {
    socket: Arc<PacketSocket>,
    map: RingMap,
    layout: Layout,
    next: u32,
}

impl Ring {
    /// Opens a ring on a socket that is new; it fills from now on. Also
    /// returns the number of its fan-out group, through which it can grow.
    ///
    /// In this order no packet comes before the filter or is missed after the binding.
    pub(crate) fn open(
        socket: PacketSocket,
        layout: Layout,
        program: &[Instruction],
    ) -> io::Result<(Self, u16)> {
        let ring = Self::new(socket, layout, program)?;
        let group = ring.socket.found_group()?;
        Ok((ring, group))
    }

    /// Opens a further ring of a namespace, on a socket that is new: it takes the packets for which
    /// the group's other rings have no room. A live ring cannot be resized, and one ring replaced by
    /// another loses or doubles what comes in between.
    ///
    /// Only a bound socket can join, and a bound socket gets packets: so it takes nothing until it
    /// has joined. What it is given between its joining and its program would be lost without a
    /// count: so it has no room until then, and a packet for which there is no other room is the
    /// first ring's to count.
    pub(crate) fn join(
        socket: PacketSocket,
        layout: Layout,
        program: &[Instruction],
        group: u16,
    ) -> io::Result<Self> {
        let mut ring = Self::new(socket, layout, &NOTHING)?;
        ring.map.withhold();
        ring.socket.join_group(group)?;
        ring.socket.attach(program)?;
        (0..layout.blocks).for_each(|block| ring.map.release(block));
        ring.relieve();
        Ok(ring)
    }

    /// Opens a ring that takes nothing, and closes it.
    pub(crate) fn trial(layout: Layout) -> io::Result<()> {
        Self::new(PacketSocket::open()?, layout, &NOTHING).map(drop)
    }

    fn new(socket: PacketSocket, layout: Layout, program: &[Instruction]) -> io::Result<Self> {
        socket.attach(program)?;
        let map = socket.map_ring(layout, RETIRE_MILLIS)?;
        socket.bind_everywhere()?;
        Ok(Self { socket: Arc::new(socket), map, layout, next: 0 })
    }

    pub(crate) fn socket(&self) -> &Arc<PacketSocket> {
        &self.socket
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// The oldest block that the kernel has handed over.
    pub(crate) fn front(&self) -> Option<Block<'_>> {
        self.map.block(self.next).map(|bytes| Block { bytes })
    }

    /// A ring of a group that was nearly full gets packets again only once somebody has polled it.
    pub(crate) fn relieve(&self) {
        let mut polled = [PollFd::new(self.socket.as_ref(), PollFlags::IN)];
        // An error here would be one of memory; the packets then stay with the other ring.
        let _ = rustix::event::poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    }

    /// Hands the block that is in front back to the kernel.
    pub(crate) fn release(&mut self) {
        self.map.release(self.next);
        self.next = (self.next + 1) % self.layout.blocks;
    }
}

/// A block full of packets (`tpacket_block_desc`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block<'a> {
    bytes: &'a [u8],
}

impl<'a> Block<'a> {
    /// A block that [`Self::copy`] gave.
    pub(crate) const fn of(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// As much of it as is used.
    pub(crate) fn copy(&self) -> Box<[u8]> {
        self.bytes.get(..self.used()).unwrap_or(self.bytes).into()
    }

    /// How many of its bytes the kernel used.
    pub(crate) fn used(&self) -> usize {
        u32_at(self.bytes, 20).unwrap_or(0) as usize
    }

    /// How many packets are in it.
    pub(crate) fn count(&self) -> u32 {
        u32_at(self.bytes, 12).unwrap_or(0)
    }

    /// Its packets, in the order in which they came.
    pub(crate) fn packets(&self) -> Packets<'a> {
        Packets {
            block: self.bytes,
            left: u32_at(self.bytes, 12).unwrap_or(0),
            offset: u32_at(self.bytes, 16).unwrap_or(0) as usize,
        }
    }
}

/// Packets that came another way than through a ring, as a block: in the form that rings have.
#[derive(Debug, Default)]
pub(crate) struct Written {
    bytes: Vec<u8>,
    count: u32,
}

/// Bytes of a `tpacket_block_desc`.
const BLOCK_HEADER: u32 = 48;
/// Where a packet's bytes begin behind its headers: a multiple of 16.
const DATA_AT: u16 = 80;

impl Written {
    /// Adds a packet.
    pub(crate) fn push(&mut self, told: &Received, data: &[u8]) {
        if self.bytes.is_empty() {
            self.bytes.resize(BLOCK_HEADER as usize, 0);
        }
        let mut head = [0; DATA_AT as usize];
        let len = (usize::from(DATA_AT) + data.len()).next_multiple_of(16);
        let captured = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let mut put = |at: usize, value: &[u8]| head[at..at + value.len()].copy_from_slice(value);
        put(0, &u32::try_from(len).unwrap_or(u32::MAX).to_ne_bytes());
        put(4, &told.time.0.to_ne_bytes());
        put(8, &told.time.1.to_ne_bytes());
        put(12, &captured.to_ne_bytes());
        put(16, &told.original_len.to_ne_bytes());
        put(20, &told.status.to_ne_bytes());
        put(24, &DATA_AT.to_ne_bytes());
        put(26, &(DATA_AT + told.network).to_ne_bytes());
        put(32, &u32::from(told.vlan.0).to_ne_bytes());
        put(36, &told.vlan.1.to_ne_bytes());
        put(50, &told.protocol.to_ne_bytes());
        put(52, &told.ifindex.to_ne_bytes());
        put(56, &told.hatype.to_ne_bytes());
        let start = self.bytes.len();
        self.bytes.extend(head);
        self.bytes.extend(data);
        self.bytes.resize(start + len, 0);
        self.count += 1;
    }

    /// The block; none without a packet.
    pub(crate) fn block(&mut self) -> Option<Block<'_>> {
        let len = u32::try_from(self.bytes.len()).ok().filter(|_| self.count > 0)?;
        self.bytes[12..16].copy_from_slice(&self.count.to_ne_bytes());
        self.bytes[16..20].copy_from_slice(&BLOCK_HEADER.to_ne_bytes());
        self.bytes[20..24].copy_from_slice(&len.to_ne_bytes());
        Some(Block::of(&self.bytes))
    }
}

/// The packets of a block.
#[derive(Debug)]
pub(crate) struct Packets<'a> {
    block: &'a [u8],
    left: u32,
    offset: usize,
}

/// One packet as it lies in the ring (`tpacket3_hdr`, then `sockaddr_ll`, then the bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    /// When it arrived.
    pub(crate) timestamp: Timestamp,
    /// `TP_STATUS_…`
    pub(crate) status: u32,
    /// Its length on the wire.
    pub(crate) original_len: u32,
    /// The tag that the kernel or the card took out: the four fields of an 802.1Q tag after its type.
    pub(crate) vlan_tci: u16,
    /// That tag's type, where `status` says that it is known.
    pub(crate) vlan_tpid: u16,
    /// Where in `bytes` the network header begins.
    pub(crate) network: usize,
    /// The interface.
    pub(crate) ifindex: u32,
    /// The kind of device, `ARPHRD_…`.
    pub(crate) hatype: u16,
    /// `ETH_P_…`
    pub(crate) protocol: u16,
    /// What was captured.
    pub(crate) bytes: &'a [u8],
}

/// Bytes of a `tpacket3_hdr` and of the part of a `sockaddr_ll` that is read.
const PACKET_HEADER: usize = 48 + 12;

impl<'a> Iterator for Packets<'a> {
    type Item = Packet<'a>;

    #[inline]
    fn next(&mut self) -> Option<Packet<'a>> {
        self.left = self.left.checked_sub(1)?;
        let at = self.block.get(self.offset..)?;
        let head: &[u8; PACKET_HEADER] = at.first_chunk()?;
        let u16 = |i: usize| u16::from_ne_bytes([head[i], head[i + 1]]);
        let u32 = |i: usize| u32::from_ne_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
        let mac = usize::from(u16(24));
        let packet = Packet {
            timestamp: Timestamp::from_parts(u32(4), u32(8)),
            status: u32(20),
            original_len: u32(16),
            vlan_tci: (u32(32) & 0xffff) as u16,
            vlan_tpid: u16(36),
            network: usize::from(u16(26)).saturating_sub(mac),
            ifindex: u32(52),
            hatype: u16(56),
            protocol: u16::from_be(u16(50)),
            bytes: at.get(mac..mac + u32(12) as usize)?,
        };
        self.offset += u32(0) as usize;
        Some(packet)
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|word| u32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_another_way_reads_like_what_came_through_a_ring() {
        let told = Received {
            time: (7, 9),
            captured: 3,
            original_len: 60,
            status: 0x11,
            vlan: (0x2007, 0x8100),
            network: 14,
            ifindex: 4,
            hatype: 1,
            protocol: 0x0800_u16.to_be(),
        };
        let mut written = Written::default();
        assert!(written.block().is_none());
        written.push(&told, b"abc");
        written.push(&Received { ifindex: 5, ..told }, &[0; 40]);
        let block = written.block().unwrap();
        let packets: Vec<_> = block.packets().collect();
        let first = Packet {
            timestamp: Timestamp::from_parts(7, 9),
            status: 0x11,
            original_len: 60,
            vlan_tci: 0x2007,
            vlan_tpid: 0x8100,
            network: 14,
            ifindex: 4,
            hatype: 1,
            protocol: 0x0800,
            bytes: b"abc",
        };
        assert_eq!(packets, [first, Packet { ifindex: 5, bytes: &[0; 40], ..first }]);
        assert_eq!((block.used(), block.count()), (48 + 96 + 128, 2));
    }
}
