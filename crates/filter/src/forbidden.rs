//! Packets of which nothing may be stored, told by their addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

// EtherTypes.
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const BRIDGED: u16 = 0x6558;
const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
// Protocols on IP.
const ICMP: u8 = 1;
const IPIP: u8 = 4;
const UDP: u8 = 17;
const IPV6_IN_IP: u8 = 41;
const GRE: u8 = 47;
const ICMPV6: u8 = 58;
/// VXLAN's own port, and the kernel's older one, which flannel and Cilium use.
const VXLAN: [u16; 2] = [4789, 8472];
const GENEVE: u16 = 6081;

/// So many headers are looked into: tags, a tunnel's, what is in it, and what an ICMP error quotes.
const DEEPEST: u8 = 8;

/// Addresses, none of whose packets may be stored where they are met in a namespace that is not theirs:
/// on the node's own interfaces. Packets inside VXLAN, Geneve, GRE and IP tunnels count, too, and those
/// that ICMP errors quote; what is encrypted, or goes by another address (NAT), cannot be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forbidden(BTreeSet<IpAddr>);

impl Forbidden {
    /// Exactly these.
    pub const fn new(addresses: BTreeSet<IpAddr>) -> Self {
        Self(addresses)
    }

    /// Whether every packet may be stored.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a packet is from or to one of them: its `EtherType`, and its bytes behind it.
    pub fn concern(&self, ether_type: u16, packet: &[u8]) -> bool {
        self.any(ether_type, packet, DEEPEST).unwrap_or(false)
    }

    /// None: it is cut off before anything forbidden was met.
    fn any(&self, ether_type: u16, packet: &[u8], depth: u8) -> Option<bool> {
        let depth = depth.checked_sub(1)?;
        match ether_type {
            IPV4 => self.ipv4(packet, depth),
            IPV6 => self.ipv6(packet, depth),
            ARP => Some(self.v4(packet, 14)? || self.v4(packet, 24)?),
            tag if TAGS.contains(&tag) => self.any(word(packet, 2)?, packet.get(4..)?, depth),
            _ => Some(false),
        }
    }

    fn ipv4(&self, packet: &[u8], depth: u8) -> Option<bool> {
        if self.v4(packet, 12)? || self.v4(packet, 16)? {
            return Some(true);
        }
        let header = usize::from(packet[0] & 15) * 4;
        if word(packet, 6)? & 0x1fff != 0 {
            return Some(false); // a later fragment has no header but IP's
        }
        self.inside(packet[9], packet.get(header..)?, depth)
    }

    fn ipv6(&self, packet: &[u8], depth: u8) -> Option<bool> {
        if self.v6(packet, 8)? || self.v6(packet, 24)? {
            return Some(true);
        }
        let (mut next, mut rest) = (packet[6], packet.get(40..)?);
        loop {
            let len = match next {
                0 | 43 | 60 => (usize::from(*rest.get(1)?) + 1) * 8,
                44 if word(rest, 2)? >> 3 != 0 => return Some(false),
                44 => 8,
                _ => return self.inside(next, rest, depth),
            };
            (next, rest) = (*rest.first()?, rest.get(len..)?);
        }
    }

    fn inside(&self, protocol: u8, payload: &[u8], depth: u8) -> Option<bool> {
        match protocol {
            IPIP => self.any(IPV4, payload, depth),
            IPV6_IN_IP => self.any(IPV6, payload, depth),
            // Unreachable, quench, redirect, exceeded, bad parameter.
            ICMP if matches!(*payload.first()?, 3 | 4 | 5 | 11 | 12) => {
                self.any(IPV4, payload.get(8..)?, depth)
            }
            ICMPV6 if matches!(*payload.first()?, 1..=4) => {
                self.any(IPV6, payload.get(8..)?, depth)
            }
            // A redirect, and who asks for or tells a neighbour: the address asked for is behind.
            ICMPV6 if matches!(*payload.first()?, 135..=137) => self.v6(payload, 8),
            GRE => {
                let flags = word(payload, 0)?;
                let fields = [0x8000, 0x2000, 0x1000].map(|flag| usize::from(flags & flag != 0));
                let header = 4 + 4 * fields.iter().sum::<usize>();
                self.tunnelled(word(payload, 2)?, payload.get(header..)?, depth)
            }
            UDP => {
                let (port, rest) = (word(payload, 2)?, payload.get(8..)?);
                if VXLAN.contains(&port) {
                    self.tunnelled(BRIDGED, rest.get(8..)?, depth)
                } else if port == GENEVE {
                    let header = 8 + 4 * usize::from(*rest.first()? & 0x3f);
                    self.tunnelled(word(rest, 2)?, rest.get(header..)?, depth)
                } else {
                    Some(false)
                }
            }
            _ => Some(false),
        }
    }

    fn tunnelled(&self, ether_type: u16, payload: &[u8], depth: u8) -> Option<bool> {
        match ether_type {
            BRIDGED => self.any(word(payload, 12)?, payload.get(14..)?, depth),
            other => self.any(other, payload, depth),
        }
    }

    fn v4(&self, packet: &[u8], at: usize) -> Option<bool> {
        let bytes: [u8; 4] = *packet.get(at..)?.first_chunk()?;
        Some(self.0.contains(&IpAddr::V4(Ipv4Addr::from(bytes))))
    }

    fn v6(&self, packet: &[u8], at: usize) -> Option<bool> {
        let bytes: [u8; 16] = *packet.get(at..)?.first_chunk()?;
        Some(self.0.contains(&IpAddr::V6(Ipv6Addr::from(bytes))))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POD: [u8; 4] = [10, 1, 0, 7];
    const NODE: [u8; 4] = [192, 0, 2, 1];
    const OTHER: [u8; 4] = [192, 0, 2, 2];
    const POD6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];

    fn forbidden() -> Forbidden {
        Forbidden::new([IpAddr::from(POD), IpAddr::from(POD6)].into())
    }

    fn v4(protocol: u8, from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let head = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
        [&head[..], &from, &to, payload].concat()
    }

    fn v6(next: u8, from: [u8; 16], to: [u8; 16], payload: &[u8]) -> Vec<u8> {
        let head = [0x60, 0, 0, 0, 0, 0, next, 64];
        [&head[..], &from, &to, payload].concat()
    }

    fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
        [&[0, 1], &port.to_be_bytes()[..], &[0; 4], payload].concat()
    }

    fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
        [&[2; 12], &ether_type.to_be_bytes()[..], payload].concat()
    }

    fn between_nodes(protocol: u8, payload: &[u8]) -> Vec<u8> {
        v4(protocol, NODE, OTHER, payload)
    }

    #[test]
    fn packets_from_and_to_the_address_are_met_wherever_they_hide() {
        let inner = v4(6, POD, OTHER, &[0; 20]);
        let frame = ethernet(IPV4, &inner);
        let vxlan = |port| {
            between_nodes(UDP, &udp(port, &[&[8, 0, 0, 0, 0, 0, 1, 0], &frame[..]].concat()))
        };
        let geneve = [&[1, 0, 0x65, 0x58, 0, 0, 0, 0, 9, 9, 9, 9], &frame[..]].concat();
        let arp = [&[0, 1, 8, 0, 6, 4, 0, 1, 2, 2, 2, 2, 2, 2], &NODE[..], &[0; 6], &POD].concat();
        let tagged = [&[0, 5, 8, 0], &inner[..]].concat();
        let met = [
            (IPV4, v4(6, POD, OTHER, &[])),
            (IPV4, v4(17, OTHER, POD, &[])),
            (IPV6, v6(6, POD6, [1; 16], &[])),
            (IPV6, v6(6, [1; 16], POD6, &[])),
            (0x8100, tagged),
            (ARP, arp),
            (IPV4, vxlan(4789)),
            (IPV4, vxlan(8472)),
            (IPV4, between_nodes(UDP, &udp(GENEVE, &geneve))),
            (IPV4, between_nodes(IPIP, &inner)),
            (IPV6, v6(IPIP, [1; 16], [2; 16], &inner)),
            (IPV4, between_nodes(GRE, &[&[0x20, 0, 8, 0, 0, 0, 0, 9], &inner[..]].concat())),
            (IPV4, between_nodes(ICMP, &[&[3, 1, 0, 0, 0, 0, 0, 0], &inner[..]].concat())),
            (IPV6, v6(0, [1; 16], [2; 16], &[&[IPIP, 0, 0, 0, 0, 0, 0, 0], &inner[..]].concat())),
        ];
        for (ether_type, packet) in &met {
            assert!(forbidden().concern(*ether_type, packet), "{ether_type:#x} {packet:x?}");
        }
    }

    #[test]
    fn others_are_let_pass_whatever_they_carry() {
        let inner = v4(6, POD, OTHER, &[0; 20]);
        let passed = [
            (IPV4, v4(6, NODE, OTHER, &inner)),
            (IPV4, between_nodes(UDP, &udp(53, &[&[0; 8], &ethernet(IPV4, &inner)[..]].concat()))),
            (IPV6, v6(6, [1; 16], [2; 16], &POD6)),
            (0x88cc, inner),
        ];
        for (ether_type, packet) in &passed {
            assert!(!forbidden().concern(*ether_type, packet), "{ether_type:#x} {packet:x?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(ether_type: u16, packet in prop::collection::vec(any::<u8>(), 0..200)) {
            for ether_type in [ether_type, IPV4, IPV6, ARP, 0x8100] {
                forbidden().concern(ether_type, &packet);
            }
        }
    }
}
