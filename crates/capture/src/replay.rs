//! A pcap or pcapng file as the source of packets.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use kuberewind_packet::{
    Frame, Interface, MAX_CAPTURED, NetnsId, Owner, PacketSink, Slot, Timestamp,
};
use pcap_file::DataLink;
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{Block, PcapNgReader};

use crate::error::CaptureError;

/// The block type of a pcapng section header, the same in either byte order.
const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// The longest wait for room in the sink,
const ROOM_BY: Duration = Duration::from_secs(10);
/// and how often it is asked.
const ROOM_AGAIN: Duration = Duration::from_millis(1);

/// Gives every packet of a pcap or pcapng file to a sink, as fast as it has room, and flushes it;
/// returns how many there were.
///
/// Interfaces that this program wrote keep their owner; those of other files belong to a namespace
/// named after the file, on `node`. Raw IP and Linux cooked packets become Ethernet frames.
pub fn replay<S: PacketSink>(path: &Path, node: &str, sink: &mut S) -> Result<u64, CaptureError> {
    let opened = File::open(path).and_then(|mut file| {
        let mut magic = [0; 4];
        let read = file.read_exact(&mut magic);
        file.rewind()?;
        Ok((file, read.is_ok() && magic == SECTION_HEADER))
    });
    let (file, is_pcapng) =
        opened.map_err(|source| CaptureError::OpenFile { path: path.to_owned(), source })?;
    let mut replay = Replay { path, node, sink, slots: Vec::new(), packets: 0 };
    let result = if is_pcapng { replay.pcapng(file) } else { replay.pcap(file) };
    replay.close_section();
    let packets = replay.packets;
    sink.flush();
    result.map(|()| packets)
}

struct Replay<'a, S> {
    path: &'a Path,
    node: &'a str,
    sink: &'a mut S,
    /// By the number of the interface in the section.
    slots: Vec<(Slot, LinkType)>,
    packets: u64,
}

impl<S: PacketSink> Replay<'_, S> {
    fn pcap(&mut self, file: File) -> Result<(), CaptureError> {
        let failed = |source| CaptureError::ReadPcap { path: self.path.to_owned(), source };
        let mut reader = PcapReader::new(BufReader::new(file)).map_err(failed)?;
        let link_type = self.link_type(reader.header().datalink)?;
        let slot = self.sink.open_interface(self.foreign("eth0"));
        self.slots.push((slot, link_type));
        while let Some(packet) = reader.next_packet() {
            let packet = packet
                .map_err(|e| CaptureError::ReadPcap { path: self.path.to_owned(), source: e })?;
            self.give(0, packet.timestamp(), packet.orig_len(), packet.data())?;
        }
        Ok(())
    }

    fn pcapng(&mut self, file: File) -> Result<(), CaptureError> {
        let failed = |source| CaptureError::ReadPcapng { path: self.path.to_owned(), source };
        let mut reader = PcapNgReader::new(BufReader::new(file)).map_err(failed)?;
        while let Some(block) = reader.next_block() {
            let (block, _) = block
                .map_err(|e| CaptureError::ReadPcapng { path: self.path.to_owned(), source: e })?;
            match block {
                Block::SectionHeader(_) => self.close_section(),
                Block::InterfaceDescription(description) => self.interface(&description)?,
                Block::EnhancedPacket(packet) => {
                    let number = packet.interface_id as usize;
                    self.give(number, packet.timestamp, packet.original_len, &packet.data)?;
                }
                // A simple packet has no time, and the rest are no packets.
                _ => {}
            }
        }
        Ok(())
    }

    fn interface(
        &mut self,
        description: &InterfaceDescriptionBlock<'_>,
    ) -> Result<(), CaptureError> {
        let link_type = self.link_type(description.linktype)?;
        let (mut name, mut text) = ("eth0", "");
        for option in &description.options {
            match option {
                InterfaceDescriptionOption::IfName(value) => name = value,
                InterfaceDescriptionOption::IfDescription(value) => text = value,
                _ => {}
            }
        }
        let interface = Interface::parse(name, text).unwrap_or_else(|_| self.foreign(name));
        self.slots.push((self.sink.open_interface(interface), link_type));
        Ok(())
    }

    /// An interface of a file that another program wrote.
    fn foreign(&self, name: &str) -> Interface {
        let file = self.path.file_stem().unwrap_or_default().to_string_lossy();
        Interface {
            node: self.node.to_owned(),
            owner: Owner::Netns(file.into_owned()),
            netns: NetnsId(0),
            name: name.to_owned(),
        }
    }

    fn link_type(&self, link_type: DataLink) -> Result<LinkType, CaptureError> {
        LinkType::new(link_type.into()).ok_or_else(|| CaptureError::LinkType {
            path: self.path.to_owned(),
            link_type: link_type.into(),
        })
    }

    fn give(
        &mut self,
        interface: usize,
        since_epoch: Duration,
        original_len: u32,
        bytes: &[u8],
    ) -> Result<(), CaptureError> {
        // A packet of an interface that the file does not describe is of no known kind.
        let Some((slot, link_type)) = self.slots.get(interface).copied() else { return Ok(()) };
        self.wait_for_room(bytes.len())?;
        let nanos = u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX);
        let (head, body) = link_type.to_ethernet(bytes);
        let head = head.as_ref().map_or(&[][..], |head| &head[..]);
        let kept = body.len().min(MAX_CAPTURED as usize - head.len());
        let header_len = bytes.len() - body.len();
        let original_len = (original_len as usize).saturating_sub(header_len) + head.len();
        self.sink.packet(
            slot,
            &Frame {
                timestamp: Timestamp::from_nanos(nanos),
                original_len: u32::try_from(original_len).unwrap_or(u32::MAX),
                head,
                body: &body[..kept],
            },
        );
        self.packets += 1;
        Ok(())
    }

    fn wait_for_room(&mut self, bytes: usize) -> Result<(), CaptureError> {
        let began = Instant::now();
        while !self.sink.reserve(bytes) {
            let waited = began.elapsed();
            if waited > ROOM_BY {
                return Err(CaptureError::NoRoom { path: self.path.to_owned(), waited });
            }
            self.sink.tick();
            thread::sleep(ROOM_AGAIN);
        }
        Ok(())
    }

    fn close_section(&mut self) {
        for (slot, _) in self.slots.drain(..) {
            self.sink.close_interface(slot);
        }
    }
}

/// The kinds of packets that are, or can be made, Ethernet frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinkType {
    Ethernet,
    RawIp,
    /// `LINKTYPE_LINUX_SLL`
    Cooked,
    /// `LINKTYPE_LINUX_SLL2`
    Cooked2,
}

impl LinkType {
    /// From the registry's number.
    fn new(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Ethernet,
            101 | 228 | 229 => Self::RawIp,
            113 => Self::Cooked,
            276 => Self::Cooked2,
            _ => return None,
        })
    }

    /// An Ethernet header, where there is none, and the bytes behind it.
    fn to_ethernet(self, bytes: &[u8]) -> (Option<[u8; 14]>, &[u8]) {
        let (ether_type, body) = match self {
            Self::Ethernet => return (None, bytes),
            Self::RawIp if bytes.first().is_some_and(|byte| byte >> 4 == 6) => {
                ([0x86, 0xdd], bytes)
            }
            Self::RawIp => ([0x08, 0x00], bytes),
            Self::Cooked => match bytes.split_at_checked(16) {
                Some((head, body)) => ([head[14], head[15]], body),
                None => ([0, 0], &[][..]),
            },
            Self::Cooked2 => match bytes.split_at_checked(20) {
                Some((head, body)) => ([head[0], head[1]], body),
                None => ([0, 0], &[][..]),
            },
        };
        let mut head = [0; 14];
        head[12..].copy_from_slice(&ether_type);
        (Some(head), body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ethernet_becomes_ethernet_by_what_it_carries() {
        let head = |ether_type: [u8; 2]| {
            let mut head = [0; 14];
            head[12..].copy_from_slice(&ether_type);
            Some(head)
        };
        assert_eq!(LinkType::Ethernet.to_ethernet(b"abc"), (None, &b"abc"[..]));
        assert_eq!(LinkType::RawIp.to_ethernet(b"\x45x"), (head([8, 0]), &b"\x45x"[..]));
        assert_eq!(LinkType::RawIp.to_ethernet(b"\x60x"), (head([0x86, 0xdd]), &b"\x60x"[..]));
        let cooked = *b"00112233445566\x08\x00body";
        assert_eq!(LinkType::Cooked.to_ethernet(&cooked), (head([8, 0]), &b"body"[..]));
        let cooked = *b"\x86\xdd001122334455667788body";
        assert_eq!(LinkType::Cooked2.to_ethernet(&cooked), (head([0x86, 0xdd]), &b"body"[..]));
        assert_eq!(LinkType::new(105), None, "IEEE 802.11");
    }
}
