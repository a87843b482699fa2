//! Packets out of a file, `.pcap` or `.pcapng`, as this project's own reader sees them.

use std::fs;
use std::ops::Range;
use std::path::Path;

use kuberewind_packet::Timestamp;
use kuberewind_packet::pcap::{FILE_HEADER_LEN, RECORD_HEADER_LEN};
use kuberewind_packet::pcapng::{Block, Blocks};

const PCAP_MICROSECONDS: [u8; 4] = 0xa1b2_c3d4_u32.to_le_bytes();
const PCAP_NANOSECONDS: [u8; 4] = 0xa1b2_3c4d_u32.to_le_bytes();

/// A capture file in memory.
#[derive(Debug)]
pub struct CaptureFile {
    bytes: Vec<u8>,
    records: Vec<Record>,
    interfaces: Vec<String>,
}

#[derive(Debug)]
struct Record {
    timestamp: Timestamp,
    original_len: u32,
    interface: Option<u32>,
    data: Range<usize>,
}

/// One packet of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// When.
    pub timestamp: Timestamp,
    /// Its length on the wire.
    pub original_len: u32,
    /// pcapng's `if_name`; a `.pcap` has none.
    pub interface: Option<&'a str>,
    /// The captured bytes.
    pub data: &'a [u8],
}

impl CaptureFile {
    /// Reads all of it; panics at the first byte that is not right.
    pub fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self::parse(bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn parse(bytes: Vec<u8>) -> Result<Self, String> {
        let (records, interfaces) = match bytes.first_chunk() {
            Some(&PCAP_NANOSECONDS) => (pcap_records(&bytes, 1)?, Vec::new()),
            Some(&PCAP_MICROSECONDS) => (pcap_records(&bytes, 1000)?, Vec::new()),
            _ => pcapng_records(&bytes)?,
        };
        Ok(Self { bytes, records, interfaces })
    }

    /// The packets in the order of the file.
    pub fn packets(&self) -> impl Iterator<Item = Packet<'_>> {
        self.records.iter().map(|record| Packet {
            timestamp: record.timestamp,
            original_len: record.original_len,
            interface: record.interface.map(|index| self.interfaces[index as usize].as_str()),
            data: &self.bytes[record.data.clone()],
        })
    }

    /// The interfaces that it describes, as `if_name` has them.
    pub fn interfaces(&self) -> &[String] {
        &self.interfaces
    }
}

fn pcapng_records(bytes: &[u8]) -> Result<(Vec<Record>, Vec<String>), String> {
    let (mut records, mut interfaces) = (Vec::new(), Vec::new());
    let base = bytes.as_ptr().addr();
    for block in Blocks::new(bytes) {
        match block.map_err(|error| error.to_string())?.1 {
            Block::Interface(interface) => interfaces.push(interface.name.to_owned()),
            Block::Packet(packet) => {
                if packet.interface as usize >= interfaces.len() {
                    return Err(format!("a packet of interface {}", packet.interface));
                }
                let start = packet.data.as_ptr().addr() - base;
                records.push(Record {
                    timestamp: packet.timestamp,
                    original_len: packet.original_len,
                    interface: Some(packet.interface),
                    data: start..start + packet.data.len(),
                });
            }
            Block::Section(_) | Block::Statistics(_) | Block::Other(..) => {}
        }
    }
    Ok((records, interfaces))
}

fn pcap_records(bytes: &[u8], nanos_per_tick: u32) -> Result<Vec<Record>, String> {
    let word = |at: usize| {
        let word = bytes.get(at..at + 4).and_then(|word| word.first_chunk());
        word.map(|&word| u32::from_le_bytes(word)).ok_or(format!("cut off at byte {at}"))
    };
    let (mut records, mut at) = (Vec::new(), FILE_HEADER_LEN);
    while at < bytes.len() {
        let start = at + RECORD_HEADER_LEN;
        let end = start + word(at + 8)? as usize;
        if end > bytes.len() {
            return Err(format!("cut off at byte {at}"));
        }
        records.push(Record {
            timestamp: Timestamp::from_parts(word(at)?, word(at + 4)? * nanos_per_tick),
            original_len: word(at + 12)?,
            interface: None,
            data: start..end,
        });
        at = end;
    }
    Ok(records)
}
