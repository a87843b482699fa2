//! Twins in a file that was written get other ports.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use kuberewind_packet::{pcap, pcapng};
use kuberewind_tls::Moves;

use crate::Format;

/// What stands before a packet in either format, and its headers.
const LOOK: usize = pcapng::PACKET_DATA_AT + Moves::HEADERS;
/// The type of pcapng's Enhanced Packet Block.
const ENHANCED_PACKET: u32 = 6;

/// Goes through a file of ours from packet to packet and writes anew the headers of twins that move.
/// It is seldom needed, so that a call of the kernel for each packet does not matter.
pub(crate) fn move_twins(file: &File, format: Format, moves: &Moves) -> io::Result<()> {
    let mut at = match format {
        Format::Pcap => pcap::FILE_HEADER_LEN as u64,
        Format::Pcapng => 0,
    };
    let mut bytes = [0; LOOK];
    loop {
        let here = read_at(file, &mut bytes, at)?;
        let Some(Found { packet, whole }) = find(&bytes[..here], format) else { return Ok(()) };
        if let Some((start, len)) = packet {
            let head = &mut bytes[start.min(here)..here.min(start + len)];
            if moves.apply(head) {
                file.write_all_at(head, at + start as u64)?;
            }
        }
        at += whole;
    }
}

/// What begins at a place in a file.
struct Found {
    /// Where its packet starts and how long that is.
    packet: Option<(usize, usize)>,
    /// Up to the next one.
    whole: u64,
}

/// At the end there is nothing.
fn find(bytes: &[u8], format: Format) -> Option<Found> {
    let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    match format {
        Format::Pcap => {
            let len = word(8)?;
            let start = pcap::RECORD_HEADER_LEN;
            let whole = start as u64 + u64::from(len);
            Some(Found { packet: Some((start, len as usize)), whole })
        }
        Format::Pcapng => {
            let (kind, whole) = (word(0)?, word(4).filter(|whole| *whole > 0)?);
            let packet = match kind {
                ENHANCED_PACKET => Some((pcapng::PACKET_DATA_AT, word(20)? as usize)),
                _ => None,
            };
            Some(Found { packet, whole: whole.into() })
        }
    }
}

/// As much as there is, up to the buffer's length.
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let mut here = 0;
    while here < bytes.len() {
        match file.read_at(&mut bytes[here..], at + here as u64) {
            Ok(0) => break,
            Ok(read) => here += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(here)
}
