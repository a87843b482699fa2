//! A recorded frame read down to its TCP segment.
//!
//! Own small reader: a stored frame may end anywhere (snap length), segments longer than IP can say
//! are usual on veth (BIG TCP), and a fragment must be told from a whole packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// 802.1Q, 802.1ad, and what came before it.
const VLAN_TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const ETHERNET_LEN: usize = 14;
const TCP: u8 = 6;
/// Extension headers that stand before TCP (RFC 8200 section 4): hop-by-hop, routing, destination
/// options.
const IPV6_OPTIONS: [u8; 3] = [0, 43, 60];
const IPV6_FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;

/// One TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Who sent it.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// Where the payload stands in the sender's bytes.
    pub sequence: u32,
    /// What the sender has of the other direction; only with the ACK flag.
    pub acknowledged: Option<u32>,
    /// The SYN flag.
    pub syn: bool,
    /// The FIN flag.
    pub fin: bool,
    /// The RST flag.
    pub reset: bool,
    /// The payload's captured bytes.
    pub payload: &'a [u8],
    /// The payload's length on the wire.
    pub wire_len: usize,
}

/// Why a frame gives no segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSegment {
    /// Other protocols, or headers that do not parse.
    NotTcp,
    /// A part of an IP packet.
    Fragment,
}

impl<'a> Segment<'a> {
    /// Reads an Ethernet frame of which `bytes` were captured.
    pub fn read(bytes: &'a [u8], original_len: u32) -> Result<Self, NoSegment> {
        let cut = (original_len as usize).saturating_sub(bytes.len());
        let (ethertype, packet) = network(bytes).ok_or(NoSegment::NotTcp)?;
        match ethertype {
            IPV4 => ipv4(packet, cut),
            IPV6 => ipv6(packet, cut),
            _ => Err(NoSegment::NotTcp),
        }
    }
}

/// The network layer's type and bytes, behind any VLAN tags.
fn network(frame: &[u8]) -> Option<(u16, &[u8])> {
    let mut at = ETHERNET_LEN - 2;
    for _ in 0..4 {
        let ethertype = be16(frame, at)?;
        if !VLAN_TAGS.contains(&ethertype) {
            return Some((ethertype, frame.get(at + 2..)?));
        }
        at += 4;
    }
    None
}

fn ipv4(packet: &[u8], cut: usize) -> Result<Segment<'_>, NoSegment> {
    let header = packet.get(..20).ok_or(NoSegment::NotTcp)?;
    let header_len = usize::from(header[0] & 15) * 4;
    if header[0] >> 4 != 4 || header_len < 20 || header[9] != TCP {
        return Err(NoSegment::NotTcp);
    }
    // More fragments, or an offset.
    if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
        return Err(NoSegment::Fragment);
    }
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let address = |at: usize| {
        IpAddr::V4(Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]))
    };
    let on_wire = match total {
        0 => packet.len() + cut, // BIG TCP
        total => total.min(packet.len() + cut),
    };
    tcp(address(12), address(16), packet, header_len, on_wire).ok_or(NoSegment::NotTcp)
}

fn ipv6(packet: &[u8], cut: usize) -> Result<Segment<'_>, NoSegment> {
    let header = packet.get(..40).ok_or(NoSegment::NotTcp)?;
    if header[0] >> 4 != 6 {
        return Err(NoSegment::NotTcp);
    }
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let on_wire = match length {
        0 => packet.len() + cut, // a jumbogram: BIG TCP
        length => (40 + length).min(packet.len() + cut),
    };
    let address = |at: usize| {
        let octets: [u8; 16] = header[at..at + 16].try_into().ok()?;
        Some(IpAddr::V6(Ipv6Addr::from(octets)))
    };
    let (Some(source), Some(destination)) = (address(8), address(24)) else {
        return Err(NoSegment::NotTcp);
    };
    let mut next = header[6];
    let mut at = 40;
    for _ in 0..8 {
        if next == TCP {
            return tcp(source, destination, packet, at, on_wire).ok_or(NoSegment::NotTcp);
        }
        let extension = packet.get(at..at + 8).ok_or(NoSegment::NotTcp)?;
        let units = usize::from(extension[1]);
        at += match next {
            kind if IPV6_OPTIONS.contains(&kind) => (units + 1) * 8,
            AUTHENTICATION => (units + 2) * 4,
            // An "atomic fragment" (RFC 6946) is whole.
            IPV6_FRAGMENT if u16::from_be_bytes([extension[2], extension[3]]) & !6 == 0 => 8,
            IPV6_FRAGMENT => return Err(NoSegment::Fragment),
            _ => return Err(NoSegment::NotTcp),
        };
        next = extension[0];
    }
    Err(NoSegment::NotTcp)
}

fn tcp(
    source: IpAddr,
    destination: IpAddr,
    packet: &[u8],
    at: usize,
    on_wire: usize,
) -> Option<Segment<'_>> {
    let header = packet.get(at..at + 20)?;
    let payload_at = at + usize::from(header[12] >> 4) * 4;
    if payload_at < at + 20 {
        return None;
    }
    let flags = header[13];
    let word = |at: usize| {
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let end = on_wire.min(packet.len());
    Some(Segment {
        source: SocketAddr::new(source, u16::from_be_bytes([header[0], header[1]])),
        destination: SocketAddr::new(destination, u16::from_be_bytes([header[2], header[3]])),
        sequence: word(4),
        acknowledged: (flags & 0x10 != 0).then(|| word(8)),
        syn: flags & 2 != 0,
        fin: flags & 1 != 0,
        reset: flags & 4 != 0,
        payload: packet.get(payload_at..end).unwrap_or_default(),
        wire_len: on_wire.saturating_sub(payload_at),
    })
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}
