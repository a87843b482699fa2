//! A frame read as far as it takes to know whose it is, and what of it is the same wherever it is seen.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::OnceLock;

use xxhash_rust::xxh3::xxh3_64_with_seed;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// 802.1Q, 802.1ad, and what came before it.
const VLAN_TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const ETHERNET_LEN: usize = 14;
pub(super) const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
/// Extension headers that stand before what an IPv6 packet carries (RFC 8200 section 4): hop-by-hop,
/// routing, destination options.
const IPV6_OPTIONS: [u8; 3] = [0, 43, 60];
const IPV6_FRAGMENT: u8 = 44;
/// Datagrams in fragments that are under way at a time; more lose only that their later fragments are
/// taken for a flow of their own.
const FRAGMENTED: usize = 4096;

/// Who talks to whom, the same for both directions and wherever it is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    low: [u8; 16],
    high: [u8; 16],
    ports: [u16; 2],
    protocol: u8,
}

/// The lower address's direction is 0.
pub(super) type Direction = usize;

/// What is known of a packet without its payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Headers<'a> {
    pub(super) key: Key,
    pub(super) direction: Direction,
    /// Time to live, or hop limit: how many more routers it may pass.
    pub(super) hops: u8,
    fragment: Option<Fragment>,
    /// IPv4's identification: the same all the way.
    identity: u16,
    /// What IP carries, as far as it was captured,
    carried: &'a [u8],
    /// and how long it was.
    carried_len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Fragment {
    identity: u32,
    /// Where it stands in the datagram; 0 is the one with the ports.
    offset: u16,
}

/// A TCP segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) sequence: u32,
    pub(super) acknowledged: Option<u32>,
    pub(super) syn: bool,
    pub(super) fin: bool,
    pub(super) reset: bool,
    /// Captured bytes of the payload,
    pub(super) captured: u32,
    /// and all of them.
    pub(super) payload: u32,
}

impl<'a> Headers<'a> {
    /// Reads an Ethernet frame. Nothing where it is not IP, ends within its headers, or where its
    /// addresses mean something else in each network namespace.
    pub(super) fn read(data: &'a [u8], original_len: u32) -> Option<Self> {
        let cut = (original_len as usize).saturating_sub(data.len());
        let mut at = ETHERNET_LEN - 2;
        loop {
            match be16(data, at)? {
                IPV4 => return Self::ipv4(&data[at + 2..], cut),
                IPV6 => return Self::ipv6(&data[at + 2..], cut),
                tag if VLAN_TAGS.contains(&tag) && at < 4 * ETHERNET_LEN => at += 4,
                _ => return None,
            }
        }
    }

    fn ipv4(packet: &'a [u8], cut: usize) -> Option<Self> {
        let header = packet.first_chunk::<20>()?;
        let header_len = usize::from(header[0] & 15) * 4;
        if header[0] >> 4 != 4 || header_len < 20 {
            return None;
        }
        let len = match usize::from(u16::from_be_bytes([header[2], header[3]])) {
            0 => packet.len() + cut, // BIG TCP
            len => len.min(packet.len() + cut),
        };
        let identity = u16::from_be_bytes([header[4], header[5]]);
        let place = u16::from_be_bytes([header[6], header[7]]);
        // More fragments, or an offset.
        let fragment = (place & 0x3fff != 0)
            .then(|| Fragment { identity: identity.into(), offset: place & 0x1fff });
        let (from, to) = (mapped(&header[12..16]), mapped(&header[16..20]));
        let local = |address: &[u8]| address[0] == 127 || address[..2] == [169, 254];
        if local(&header[12..16]) || local(&header[16..20]) {
            return None;
        }
        let carried = packet.get(header_len..len.min(packet.len()))?;
        let carried_len = len.checked_sub(header_len)?;
        Self::new(from, to, header[9], header[8], fragment, identity, carried, carried_len)
    }

    fn ipv6(packet: &'a [u8], cut: usize) -> Option<Self> {
        let header = packet.first_chunk::<40>()?;
        if header[0] >> 4 != 6 {
            return None;
        }
        let len = match usize::from(u16::from_be_bytes([header[4], header[5]])) {
            0 => packet.len() + cut, // a jumbogram: BIG TCP
            len => (40 + len).min(packet.len() + cut),
        };
        let from = *header[8..].first_chunk::<16>()?;
        let to = *header[24..].first_chunk::<16>()?;
        let local = |address| {
            let address = Ipv6Addr::from(address);
            address.is_loopback() || address.is_unicast_link_local()
        };
        if local(from) || local(to) {
            return None;
        }
        let (mut next, mut at, mut fragment) = (header[6], 40, None);
        while fragment.is_none() && (IPV6_OPTIONS.contains(&next) || next == IPV6_FRAGMENT) {
            let extension = packet.get(at..)?.first_chunk::<8>()?;
            if next == IPV6_FRAGMENT {
                let place = u16::from_be_bytes([extension[2], extension[3]]);
                let [.., a, b, c, d] = *extension;
                let identity = u32::from_be_bytes([a, b, c, d]);
                // An "atomic fragment" (RFC 6946) is whole.
                fragment = (place & !6 != 0).then_some(Fragment { identity, offset: place >> 3 });
                at += 8;
            } else {
                at += (usize::from(extension[1]) + 1) * 8;
            }
            next = extension[0];
        }
        let carried = packet.get(at..len.min(packet.len()))?;
        let carried_len = len.checked_sub(at)?;
        Self::new(from, to, next, header[7], fragment, 0, carried, carried_len)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the fields of two headers that differ in all else"
    )]
    fn new(
        from: [u8; 16],
        to: [u8; 16],
        protocol: u8,
        hops: u8,
        fragment: Option<Fragment>,
        identity: u16,
        carried: &'a [u8],
        carried_len: usize,
    ) -> Option<Self> {
        let later = fragment.is_some_and(|fragment| fragment.offset > 0);
        let (source, destination) = match protocol {
            _ if later => (0, 0),
            TCP | UDP | SCTP => (be16(carried, 0)?, be16(carried, 2)?),
            _ => (0, 0),
        };
        let (key, direction) = Key::new((from, source), (to, destination), protocol);
        Some(Self { key, direction, hops, fragment, identity, carried, carried_len })
    }

    /// The segment, where this is a whole one.
    pub(super) fn segment(&self) -> Option<Segment> {
        if self.key.protocol != TCP || self.fragment.is_some() {
            return None;
        }
        let header = self.carried.first_chunk::<20>()?;
        let payload_at = usize::from(header[12] >> 4) * 4;
        let word = |at: usize| Some(u32::from_be_bytes(*header[at..].first_chunk()?));
        let flags = header[13];
        let len = |whole: usize| u32::try_from(whole.saturating_sub(payload_at)).ok();
        Some(Segment {
            sequence: word(4)?,
            acknowledged: if flags & 0x10 == 0 { None } else { word(8) },
            syn: flags & 2 != 0,
            fin: flags & 1 != 0,
            reset: flags & 4 != 0,
            captured: len(self.carried.len())?,
            payload: len(self.carried_len)?,
        })
        .filter(Segment::says_something)
    }

    /// The same at every place where the packet is seen, and nowhere else: of all that neither routers
    /// nor offloads change.
    pub(super) fn fingerprint(&self) -> u64 {
        // Checksums are not filled in yet where a device will do that.
        let (head, body) = match self.key.protocol {
            _ if self.fragment.is_some_and(|fragment| fragment.offset > 0) => (0, 0),
            UDP => (0, 8),
            SCTP => (8, 12),
            TCP => (16, 18),
            _ => (0, 0),
        };
        let head = self.carried.get(..head).unwrap_or_default();
        let body = self.carried.get(body..).unwrap_or_default();
        let fragment = self.fragment.map_or(0, |fragment| {
            u64::from(fragment.identity) << 16 | u64::from(fragment.offset) << 1 | 1
        });
        let numbers = [
            u64::from(self.identity) << 32
                | (self.direction as u64) << 31
                | self.carried_len as u64,
            fragment,
            xxh3_64_with_seed(head, seed()),
        ];
        let seed = numbers
            .iter()
            .fold(seed(), |seed, number| xxh3_64_with_seed(&number.to_le_bytes(), seed));
        xxh3_64_with_seed(body, seed)
    }

    /// Captured bytes of what IP carries.
    pub(super) fn carried_bytes(&self) -> u64 {
        self.carried.len() as u64
    }
}

impl Segment {
    /// The rare one without any of this is compared as a datagram is.
    fn says_something(&self) -> bool {
        self.syn || self.fin || self.reset || self.captured > 0 || self.acknowledged.is_some()
    }

    /// Of the sequence numbers after its own, those that it was seen to use: of payload that was cut
    /// off while recording nothing was seen.
    pub(super) fn used(&self) -> [(u32, u32); 2] {
        let payload_at = u32::from(self.syn);
        let fin_at = payload_at.wrapping_add(self.payload);
        [
            (0, payload_at.wrapping_add(self.captured)),
            (fin_at, fin_at.wrapping_add(u32::from(self.fin))),
        ]
    }
}

impl Key {
    fn new(from: ([u8; 16], u16), to: ([u8; 16], u16), protocol: u8) -> (Self, Direction) {
        let (direction, low, high) = if from <= to { (0, from, to) } else { (1, to, from) };
        let ports = [low.1, high.1];
        (Self { low: low.0, high: high.0, ports, protocol }, direction)
    }

    pub(super) fn is_tcp(&self) -> bool {
        self.protocol == TCP
    }

    /// From the client to the server, for all that ports tell: servers have the lower ones.
    pub(super) fn likely_client(&self) -> Direction {
        Direction::from(self.ports[0] < self.ports[1])
    }

    fn end(&self, direction: Direction) -> String {
        let octets = if direction == 0 { self.low } else { self.high };
        let address = Ipv6Addr::from(octets).to_canonical();
        match (self.ports[direction], address) {
            (0, address) => address.to_string(),
            (port, address @ (IpAddr::V4(_) | IpAddr::V6(_))) => {
                SocketAddr::new(address, port).to_string()
            }
        }
    }

    /// `10.0.0.1:40000 > 10.0.0.2:80 TCP`, from the client.
    pub(super) fn named(&self, client: Direction) -> Named {
        Named { from: self.end(client), to: self.end(1 - client), protocol: self.protocol }
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut bytes = [0; 37];
        bytes[..16].copy_from_slice(&self.low);
        bytes[16..32].copy_from_slice(&self.high);
        bytes[32..34].copy_from_slice(&self.ports[0].to_le_bytes());
        bytes[34..36].copy_from_slice(&self.ports[1].to_le_bytes());
        bytes[36] = self.protocol;
        state.write(&bytes);
    }
}

/// A flow as people write it.
pub(super) struct Named {
    from: String,
    to: String,
    protocol: u8,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, protocol } = self;
        write!(f, "{from} > {to} ")?;
        match *protocol {
            1 => f.write_str("ICMP"),
            TCP => f.write_str("TCP"),
            UDP => f.write_str("UDP"),
            58 => f.write_str("ICMPv6"),
            SCTP => f.write_str("SCTP"),
            other => write!(f, "IP protocol {other}"),
        }
    }
}

/// A table by keys. Their hash cannot be foreseen: keys come from whoever sends packets.
pub(super) type ByKey<T> = HashMap<Key, T, Hashing>;

/// xxh3 with a seed that only this process knows: several times as fast as the standard's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hashing;

impl BuildHasher for Hashing {
    type Hasher = Hashed;

    fn build_hasher(&self) -> Hashed {
        Hashed(seed())
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }
}

fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| RandomState::new().hash_one("packets"))
}

/// Which flow the fragments without ports belong to, by the first one of their datagram.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    flows: HashMap<(Key, Direction, u32), (Key, Direction)>,
    oldest: VecDeque<(Key, Direction, u32)>,
}

impl Fragments {
    /// Gives a later fragment its datagram's flow. All of a stream's packets go through here, in their
    /// order.
    pub(super) fn resolve(&mut self, headers: &mut Headers<'_>) {
        let Some(Fragment { identity, offset }) = headers.fragment else { return };
        let bare = |(key, direction): (Key, Direction)| {
            let (from, to) = if direction == 0 { (key.low, key.high) } else { (key.high, key.low) };
            let (key, direction) = Key::new((from, 0), (to, 0), key.protocol);
            (key, direction, identity)
        };
        let datagram = bare((headers.key, headers.direction));
        if offset > 0 {
            if let Some((key, direction)) = self.flows.get(&datagram) {
                (headers.key, headers.direction) = (*key, *direction);
            }
            return;
        }
        if self.flows.insert(datagram, (headers.key, headers.direction)).is_none() {
            self.oldest.push_back(datagram);
        }
        if self.oldest.len() > FRAGMENTED
            && let Some(oldest) = self.oldest.pop_front()
        {
            self.flows.remove(&oldest);
        }
    }
}

fn mapped(octets: &[u8]) -> [u8; 16] {
    let mut address = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];
    address[12..].copy_from_slice(octets);
    address
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
