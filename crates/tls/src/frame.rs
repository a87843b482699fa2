//! Frames that nobody sent.

use std::net::{IpAddr, SocketAddr};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;

/// The first bytes of every made-up frame's Ethernet source: locally administered, then `TLS`.
pub(crate) const MARK: [u8; 4] = [0x02, 0x54, 0x4c, 0x53];
const TCP: u8 = 6;
const TCP_LEN: usize = 20;
const WINDOW: u16 = u16::MAX;
const HOPS: u8 = 64;

/// What a segment says beside its payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    /// The last two bytes of the Ethernet source, and of the destination.
    pub(crate) tags: [u16; 2],
    pub(crate) sequence: u32,
    pub(crate) acknowledged: u32,
    pub(crate) flags: u8,
}

/// Writes a frame into `out`, with right lengths and checksums.
pub(crate) fn write(out: &mut Vec<u8>, header: &Header, payload: &[u8]) {
    out.clear();
    for tag in [header.tags[1], header.tags[0]] {
        out.extend(MARK);
        out.extend(tag.to_be_bytes());
    }
    let len = TCP_LEN + payload.len();
    let pseudo = match (header.source.ip(), header.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            out.extend([0x08, 0x00]);
            ipv4(out, source.octets(), destination.octets(), len);
            sum(&source.octets()) + sum(&destination.octets())
        }
        (source, destination) => {
            out.extend([0x86, 0xdd]);
            let (source, destination) = (octets6(source), octets6(destination));
            ipv6(out, source, destination, len);
            sum(&source) + sum(&destination)
        }
    };
    tcp(out, header, payload, pseudo + u64::from(TCP) + len as u64);
}

#[expect(clippy::cast_possible_truncation, reason = "payloads are below 64 KiB")]
fn ipv4(out: &mut Vec<u8>, source: [u8; 4], destination: [u8; 4], len: usize) {
    let at = out.len();
    out.extend([0x45, 0]);
    out.extend(((20 + len) as u16).to_be_bytes());
    // No fragments; the checksum comes last.
    out.extend([0, 0, 0x40, 0, HOPS, TCP, 0, 0]);
    out.extend(source);
    out.extend(destination);
    let checksum = fold(sum(&out[at..]));
    out[at + 10..at + 12].copy_from_slice(&checksum);
}

#[expect(clippy::cast_possible_truncation, reason = "payloads are below 64 KiB")]
fn ipv6(out: &mut Vec<u8>, source: [u8; 16], destination: [u8; 16], len: usize) {
    out.extend([0x60, 0, 0, 0]);
    out.extend((len as u16).to_be_bytes());
    out.extend([TCP, HOPS]);
    out.extend(source);
    out.extend(destination);
}

fn tcp(out: &mut Vec<u8>, header: &Header, payload: &[u8], pseudo: u64) {
    let at = out.len();
    out.extend(header.source.port().to_be_bytes());
    out.extend(header.destination.port().to_be_bytes());
    out.extend(header.sequence.to_be_bytes());
    out.extend(header.acknowledged.to_be_bytes());
    out.extend([0x50, header.flags]);
    out.extend(WINDOW.to_be_bytes());
    out.extend([0; 4]); // checksum, urgent pointer
    out.extend(payload);
    let checksum = fold(pseudo + sum(&out[at..]));
    out[at + 16..at + 18].copy_from_slice(&checksum);
}

/// Whether an Ethernet frame, or the beginning of one, has the made-up ones' source.
pub(crate) fn is_marked(frame: &[u8]) -> bool {
    frame.get(6..10) == Some(&MARK)
}

/// Changes the source's (0) or the destination's (1) port of a made-up frame, and its checksum along
/// (RFC 1624); `false` if the headers are not all there.
pub(crate) fn set_port(frame: &mut [u8], which: usize, port: u16) -> bool {
    let tcp_at = if frame.get(12..14) == Some(&[0x08, 0x00]) { 34 } else { 54 };
    let Some(tcp) = frame.get_mut(tcp_at..tcp_at + TCP_LEN) else { return false };
    let at = which * 2;
    let not = |at: usize, tcp: &[u8]| u64::from(!u16::from_be_bytes([tcp[at], tcp[at + 1]]));
    let sum = not(16, tcp) + not(at, tcp) + u64::from(port);
    tcp[at..at + 2].copy_from_slice(&port.to_be_bytes());
    tcp[16..18].copy_from_slice(&fold(sum));
    true
}

fn octets6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// The sum of the bytes as big-endian words (RFC 1071).
fn sum(bytes: &[u8]) -> u64 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let words: u64 = pairs.iter().map(|pair| u64::from(u16::from_be_bytes(*pair))).sum();
    words + rest.first().map_or(0, |last| u64::from(*last) << 8)
}

#[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits before")]
fn fold(mut sum: u64) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}
