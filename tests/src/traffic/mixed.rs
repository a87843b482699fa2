//! Frames of every kind that is recorded, made from a seed: the same seed makes the same frames.

use std::collections::VecDeque;

use super::checksum::{crc32c, internet};

/// Nobody's address: no kernel answers, and what is counted is what was sent.
const DESTINATION: [u8; 6] = [0x02, 0xff, 0, 0, 0, 1];
/// The first two bytes of the source address; the other four are the frame's number.
const SOURCE: [u8; 2] = [0x02, 0x6b];

const ETHERNET_LEN: usize = 14;
const TAG_LEN: usize = 4;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const FRAGMENT_LEN: usize = 8;

const TCP: u8 = 6;
const UDP: u8 = 17;
const IPV6_FRAGMENT: u8 = 44;
const SCTP: u8 = 132;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// The number of a frame from here. It stands in the source address, where the smallest payload and
/// every fragment has room for it.
pub fn number_of(frame: &[u8]) -> Option<u32> {
    let number = frame.get(6..12)?.strip_prefix(&SOURCE)?;
    number.first_chunk().map(|&number| u32::from_be_bytes(number))
}

/// One UDP frame with this number and so many bytes of payload.
pub fn numbered(number: u32, payload_len: usize) -> Vec<u8> {
    let datagram = Datagram {
        tags: Tags::None,
        version: Version::V4,
        protocol: UDP,
        flow: number % FLOWS,
        number,
        payload: vec![number.to_be_bytes()[3]; payload_len],
    };
    let mut frame = datagram.frame(ETHERTYPE_IPV4, &datagram.ipv4_packet());
    stamp(&mut frame, number);
    frame
}

const FLOWS: u32 = 64;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// TCP, UDP, SCTP and ICMP over IPv4 and IPv6; untagged, tagged (802.1Q) and double-tagged
/// (802.1ad); whole and in fragments; payloads from one byte to what the MTU takes. Endless.
#[derive(Debug)]
pub struct Mixed {
    random: Random,
    noise: Vec<u8>,
    mtu: usize,
    datagrams: u32,
    next: u32,
    fragments: VecDeque<Vec<u8>>,
}

impl Mixed {
    /// Frames whose tags and IP packet together are at most `mtu` bytes (a double-tagged frame gets
    /// no more room from the kernel).
    pub fn new(seed: u64, mtu: u16) -> Self {
        let mut random = Random(seed);
        let noise = (0..1 << 17).map(|_| random.byte()).collect();
        Self { random, noise, mtu: mtu.into(), datagrams: 0, next: 0, fragments: VecDeque::new() }
    }

    fn datagram(&mut self) -> Datagram {
        let number = self.datagrams;
        self.datagrams += 1;
        let version = self.random.pick([Version::V4, Version::V6]);
        let protocol = self.random.pick([TCP, UDP, SCTP, ICMP]);
        Datagram {
            tags: self.random.pick([Tags::None, Tags::None, Tags::Vlan, Tags::QinQ]),
            version,
            protocol: if protocol == ICMP { version.icmp() } else { protocol },
            flow: self.random.below(FLOWS),
            number,
            payload: self.payload(number),
        }
    }

    /// One in sixteen sweeps through every length that fits, the others are mostly small, as on a
    /// real wire.
    fn payload(&mut self, number: u32) -> Vec<u8> {
        // The largest heads: two tags, IPv6, a fragment header, and SCTP's common and chunk header.
        let longest = self.mtu - 2 * TAG_LEN - IPV6_LEN - FRAGMENT_LEN - 28;
        let len = match number % 16 {
            // A prime step, so that a short run has long ones too.
            0 => (number / 16) as usize * 4241 % longest,
            1..=4 => self.random.below(1400) as usize % longest,
            _ => self.random.below(200) as usize % longest,
        };
        let start = self.random.below(1 << 16) as usize;
        let mut payload = self.noise[start..=start + len].to_vec();
        if let Some(room) = payload.first_chunk_mut() {
            *room = number.to_be_bytes();
        }
        payload
    }
}

impl Iterator for Mixed {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        while self.fragments.is_empty() {
            let datagram = self.datagram();
            let fragments = if self.random.below(10) == 0 { 2 + self.random.below(3) } else { 1 };
            self.fragments.extend(datagram.frames(fragments as usize));
        }
        let mut frame = self.fragments.pop_front()?;
        stamp(&mut frame, self.next);
        self.next += 1;
        Some(frame)
    }
}

fn stamp(frame: &mut [u8], number: u32) {
    frame[6..8].copy_from_slice(&SOURCE);
    frame[8..12].copy_from_slice(&number.to_be_bytes());
}

#[derive(Clone, Copy, Debug)]
enum Tags {
    None,
    Vlan,
    QinQ,
}

#[derive(Clone, Copy, Debug)]
enum Version {
    V4,
    V6,
}

impl Version {
    const fn icmp(self) -> u8 {
        match self {
            Self::V4 => ICMP,
            Self::V6 => ICMPV6,
        }
    }
}

#[derive(Debug)]
struct Datagram {
    tags: Tags,
    version: Version,
    protocol: u8,
    flow: u32,
    number: u32,
    payload: Vec<u8>,
}

impl Datagram {
    fn frames(&self, fragments: usize) -> Vec<Vec<u8>> {
        let segment_len = self.segment().len();
        // Every fragment but the last carries a multiple of eight bytes.
        let piece = segment_len.div_ceil(fragments).next_multiple_of(8);
        match (self.version, piece >= segment_len) {
            (Version::V4, true) => vec![self.frame(ETHERTYPE_IPV4, &self.ipv4_packet())],
            (Version::V6, true) => vec![self.frame(ETHERTYPE_IPV6, &self.ipv6_packet())],
            (Version::V4, false) => self.ipv4_fragments(piece),
            (Version::V6, false) => self.ipv6_fragments(piece),
        }
    }

    fn ipv4_packet(&self) -> Vec<u8> {
        self.ipv4(&self.segment(), 0)
    }

    fn ipv6_packet(&self) -> Vec<u8> {
        self.ipv6(self.protocol, &[&self.segment()])
    }

    fn ipv4_fragments(&self, piece: usize) -> Vec<Vec<u8>> {
        let segment = self.segment();
        let pieces = pieces(&segment, piece);
        let packets = pieces.map(|(offset, more, piece)| self.ipv4(piece, offset | more << 13));
        packets.map(|packet| self.frame(ETHERTYPE_IPV4, &packet)).collect()
    }

    fn ipv6_fragments(&self, piece: usize) -> Vec<Vec<u8>> {
        let segment = self.segment();
        let packets = pieces(&segment, piece).map(|(offset, more, piece)| {
            let mut head = vec![self.protocol, 0];
            head.extend((offset << 3 | more).to_be_bytes());
            head.extend(self.number.to_be_bytes());
            self.ipv6(IPV6_FRAGMENT, &[&head, piece])
        });
        packets.map(|packet| self.frame(ETHERTYPE_IPV6, &packet)).collect()
    }

    fn frame(&self, ethertype: [u8; 2], packet: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(ETHERNET_LEN + 2 * TAG_LEN + packet.len());
        frame.extend(DESTINATION);
        frame.extend([0; 6]); // the number's place
        let vlan = [0x81, 0x00, 0xa0 | self.flow_byte() >> 6, self.flow_byte()]; // priority 5
        match self.tags {
            Tags::None => {}
            Tags::Vlan => frame.extend(vlan),
            Tags::QinQ => {
                frame.extend([0x88, 0xa8, 0x70, 0x0c]); // priority 3, drop eligible, VLAN 12
                frame.extend(vlan);
            }
        }
        frame.extend(ethertype);
        frame.extend(packet);
        frame
    }

    fn flow_byte(&self) -> u8 {
        self.flow.to_be_bytes()[3]
    }

    fn ipv4(&self, payload: &[u8], fragment: u16) -> Vec<u8> {
        let identification = self.number.to_be_bytes();
        let mut head = vec![0x45, 0];
        head.extend(short(IPV4_LEN + payload.len()).to_be_bytes());
        head.extend(&identification[2..]);
        head.extend(fragment.to_be_bytes());
        head.extend([64, self.protocol, 0, 0]);
        head.extend(self.addresses_v4());
        let sum = internet(&[&head]).to_be_bytes();
        head[10..12].copy_from_slice(&sum);
        head.extend(payload);
        head
    }

    fn ipv6(&self, next_header: u8, payload: &[&[u8]]) -> Vec<u8> {
        let len: usize = payload.iter().map(|piece| piece.len()).sum();
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(short(len).to_be_bytes());
        packet.extend([next_header, 64]);
        packet.extend(self.addresses_v6());
        for piece in payload {
            packet.extend(*piece);
        }
        packet
    }

    fn addresses_v4(&self) -> [u8; 8] {
        [192, 0, 2, self.flow_byte(), 198, 51, 100, 1]
    }

    fn addresses_v6(&self) -> [u8; 32] {
        let mut addresses = [0; 32];
        addresses[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        addresses[15] = self.flow_byte();
        addresses[16..20].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        addresses[31] = 0xff;
        addresses
    }

    /// What IP carries, with its checksum.
    fn segment(&self) -> Vec<u8> {
        let mut segment = self.head();
        let payload_at = segment.len();
        segment.extend(&self.payload);
        if self.protocol == SCTP {
            segment.resize(segment.len().next_multiple_of(4), 0);
            segment[14..16].copy_from_slice(&0_u16.to_be_bytes());
            let chunk_len = short(payload_at - 12 + self.payload.len());
            segment[14..16].copy_from_slice(&chunk_len.to_be_bytes());
            let sum = crc32c(&segment);
            segment[8..12].copy_from_slice(&sum);
            return segment;
        }
        if self.protocol == UDP {
            let len = short(segment.len());
            segment[4..6].copy_from_slice(&len.to_be_bytes());
        }
        let sum = internet(&[&self.pseudo_header(segment.len()), &segment]).to_be_bytes();
        let at = match self.protocol {
            TCP => 16,
            UDP => 6,
            _ => 2,
        };
        // UDP has no zero checksum: RFC 768 writes it as ones.
        let sum = if self.protocol == UDP && sum == [0, 0] { [0xff, 0xff] } else { sum };
        segment[at..at + 2].copy_from_slice(&sum);
        segment
    }

    fn head(&self) -> Vec<u8> {
        let number = self.number.to_be_bytes();
        let mut head = Vec::with_capacity(64);
        if matches!(self.protocol, TCP | UDP | SCTP) {
            head.extend((20_000 + (self.number >> 16 & 0x3fff) as u16).to_be_bytes());
            head.extend([0x1f, 0x90]); // port 8080
        }
        match self.protocol {
            TCP => {
                head.extend(number);
                head.extend([0, 0, 0, 1, 0x50, 0x18, 0x20, 0, 0, 0, 0, 0]); // PSH, ACK
            }
            UDP => head.extend([0; 4]),
            SCTP => {
                head.extend([0, 0, 0, 7, 0, 0, 0, 0]); // verification tag, checksum
                head.extend([0, 3, 0, 0]); // a DATA chunk, whole, its length filled in later
                head.extend(number);
                head.extend([0, 1, 0, 1, 0, 0, 0, 0]); // stream, sequence, protocol
            }
            _ => {
                head.extend([if self.protocol == ICMP { 8 } else { 128 }, 0, 0, 0]); // echo request
                head.extend(number);
            }
        }
        head
    }

    fn pseudo_header(&self, len: usize) -> Vec<u8> {
        let protocol = [0, self.protocol];
        let len = short(len).to_be_bytes();
        match (self.version, self.protocol) {
            (_, ICMP) => Vec::new(),
            (Version::V4, _) => [&self.addresses_v4()[..], &protocol, &len].concat(),
            (Version::V6, _) => {
                [&self.addresses_v6()[..], &[0, 0], &len, &[0, 0], &protocol].concat()
            }
        }
    }
}

/// Offset in units of eight bytes, 1 unless it is the last, and the bytes.
fn pieces(segment: &[u8], piece: usize) -> impl Iterator<Item = (u16, u16, &[u8])> {
    let last = segment.len().div_ceil(piece) - 1;
    let number = move |index: usize| short(index * piece / 8);
    let chunks = segment.chunks(piece).enumerate();
    chunks.map(move |(index, bytes)| (number(index), u16::from(index != last), bytes))
}

fn short(len: usize) -> u16 {
    u16::try_from(len).expect("an IP packet of at most 65535 bytes")
}

/// `SplitMix64`: good enough to mix frames, and the same everywhere.
#[derive(Debug)]
struct Random(u64);

impl Random {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    #[expect(clippy::cast_possible_truncation, reason = "the remainder is below `bound`")]
    const fn below(&mut self, bound: u32) -> u32 {
        (self.next() % bound as u64) as u32
    }

    const fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    fn pick<T: Copy, const N: usize>(&mut self, of: [T; N]) -> T {
        of[usize::from(self.byte()) % N]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_frames() {
        let frames = |seed| Mixed::new(seed, 9000).take(1000).collect::<Vec<_>>();
        assert_eq!(frames(1), frames(1));
        assert_ne!(frames(1), frames(2));
    }

    #[test]
    fn frames_are_numbered_from_zero_and_fit() {
        for (number, frame) in (0..).zip(Mixed::new(7, 1500).take(20_000)) {
            assert_eq!(number_of(&frame), Some(number));
            assert!(frame.len() <= 1500 + ETHERNET_LEN);
        }
    }
}
