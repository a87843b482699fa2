//! A TCP segment in an Ethernet frame.

use std::net::{IpAddr, SocketAddr};

/// A TCP segment, found in a frame that may be cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// The source's address, then the destination's: 4 or 16 bytes each.
    addresses: &'a [u8],
    /// From the TCP header on, as far as it was captured.
    tcp: &'a [u8],
    /// The TCP header's length.
    offset: usize,
    /// How long the payload is by the IP header; what a snapshot cut off counts.
    pub wire_len: usize,
}

impl<'a> Segment<'a> {
    /// Finds the segment in an Ethernet frame, tagged or not. None where there is no TCP, in IP
    /// fragments, and behind IPv6 extension headers, which no TCP stack sends.
    pub fn find(frame: &'a [u8]) -> Option<Self> {
        let mut at = 12;
        let mut ethertype = word(frame, at)?;
        while matches!(ethertype, 0x8100 | 0x88a8) {
            at += 4;
            ethertype = word(frame, at)?;
        }
        let ip = frame.get(at + 2..)?;
        let (header, addresses, total) = match ethertype {
            0x0800 => {
                let fragment = word(ip, 6)? & 0x3fff != 0;
                if *ip.get(9)? != 6 || fragment {
                    return None;
                }
                (usize::from(ip[0] & 15) * 4, ip.get(12..20)?, usize::from(word(ip, 2)?))
            }
            0x86dd if *ip.get(6)? == 6 => (40, ip.get(8..40)?, 40 + usize::from(word(ip, 4)?)),
            _ => return None,
        };
        let tcp = ip.get(header..)?;
        let offset = usize::from(*tcp.get(12)? >> 4) * 4;
        // A super-packet may say nothing of its length, and Ethernet pads short ones.
        let wire_len = match total.checked_sub(header + offset) {
            Some(len) if total > header => len,
            _ => tcp.len().checked_sub(offset)?,
        };
        (tcp.len() >= 20).then_some(Self { addresses, tcp, offset, wire_len })
    }

    /// What was captured of the payload.
    pub fn payload(&self) -> &'a [u8] {
        let captured = self.tcp.get(self.offset..).unwrap_or_default();
        &captured[..captured.len().min(self.wire_len)]
    }

    /// Where the payload stands in the direction's bytes.
    pub fn sequence(&self) -> u32 {
        u32::from_be_bytes([self.tcp[4], self.tcp[5], self.tcp[6], self.tcp[7]])
    }

    /// Who sent it.
    pub fn source(&self) -> SocketAddr {
        self.endpoint(0)
    }

    /// To whom.
    pub fn destination(&self) -> SocketAddr {
        self.endpoint(1)
    }

    fn endpoint(&self, which: usize) -> SocketAddr {
        let len = self.addresses.len() / 2;
        let bytes = &self.addresses[which * len..(which + 1) * len];
        let address = match <[u8; 4]>::try_from(bytes) {
            Ok(bytes) => IpAddr::from(bytes),
            Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap_or_default()),
        };
        let port = u16::from_be_bytes([self.tcp[2 * which], self.tcp[2 * which + 1]]);
        SocketAddr::new(address, port)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
