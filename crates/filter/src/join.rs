//! One program for every device of a network namespace.

use crate::instruction::{Instruction, SKF_AD_HATYPE, SKF_AD_PKTTYPE, SKF_AD_PROTOCOL};

// Kinds of devices, `linux/if_arp.h`.
const ARPHRD_ETHER: u32 = 1;
const ARPHRD_LOOPBACK: u32 = 772;
/// `PACKET_OUTGOING`, `linux/if_packet.h`.
const PACKET_OUTGOING: u32 = 4;
// EtherTypes.
const IPV4: u32 = 0x0800;
const IPV6: u32 = 0x86dd;
const VLAN: u32 = 0x8100;
const VLAN_AD: u32 = 0x88a8;
/// 802.1ad before it was one; libpcap's `vlan` knows it too.
const VLAN_OLD: u32 = 0x9100;

/// Sends packets of Ethernet devices and loopback through `ethernet`, the IP packets of all others
/// through `raw`.
///
/// Loopback shows each packet twice, on its way out and on its way in: the first is dropped, as
/// libpcap does. (`PACKET_IGNORE_OUTGOING` would drop those of all devices.)
///
/// The jumps inside the two programs are relative, so they stay right.
pub(crate) fn join(ethernet: &[Instruction], raw: &[Instruction]) -> Vec<Instruction> {
    let past_ethernet = u32::try_from(ethernet.len()).unwrap_or(u32::MAX);
    let by_device = [
        Instruction::load_ancillary(SKF_AD_HATYPE),
        Instruction::if_equal(ARPHRD_ETHER, 5, 0),
        Instruction::if_equal(ARPHRD_LOOPBACK, 0, 3),
        Instruction::load_ancillary(SKF_AD_PKTTYPE),
        Instruction::if_equal(PACKET_OUTGOING, 0, 2),
        Instruction::DROP,
        Instruction::skip(past_ethernet),
    ];
    // Without this, `not tcp` would take the frames of CAN and other buses as raw IP.
    let only_ip = [
        Instruction::load_ancillary(SKF_AD_PROTOCOL),
        Instruction::if_equal(IPV4, 2, 0),
        Instruction::if_equal(IPV6, 1, 0),
        Instruction::DROP,
    ];
    [&by_device, ethernet, &only_ip, raw].concat()
}

/// Ethernet: IPv4 and IPv6, behind no, one or two VLAN tags in the bytes. One more may be in what the
/// kernel knows beside them, where it is in nobody's way.
pub(crate) fn ethernet_ip(snaplen: u32) -> [Instruction; 16] {
    [
        Instruction::load_half(12),
        Instruction::if_equal(IPV4, 12, 0),
        Instruction::if_equal(IPV6, 11, 0),
        Instruction::if_equal(VLAN, 2, 0),
        Instruction::if_equal(VLAN_AD, 1, 0),
        Instruction::if_equal(VLAN_OLD, 0, 9),
        Instruction::load_half(16),
        Instruction::if_equal(IPV4, 6, 0),
        Instruction::if_equal(IPV6, 5, 0),
        Instruction::if_equal(VLAN, 1, 0),
        Instruction::if_equal(VLAN_AD, 0, 4),
        Instruction::load_half(20),
        Instruction::if_equal(IPV4, 1, 0),
        Instruction::if_equal(IPV6, 0, 1),
        Instruction::take(snaplen),
        Instruction::DROP,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;

    fn frame(ether_types: &[u16]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend(ether_types.iter().flat_map(|t| [t.to_be_bytes(), [0, 7]]).flatten());
        frame
    }

    #[test]
    fn ip_is_taken_behind_up_to_two_tags() {
        let machine = Machine::load(&ethernet_ip(96)).unwrap();
        let takes = |ether_types: &[u16]| machine.run(64, &frame(ether_types));
        for ip in [0x0800, 0x86dd] {
            for tag in [0x8100, 0x88a8, 0x9100] {
                assert_eq!(takes(&[ip]), 96);
                assert_eq!(takes(&[tag, ip]), 96);
                assert_eq!(takes(&[tag, 0x8100, ip]), 96);
                assert_eq!(takes(&[tag, 0x8100, 0x8100, ip]), 0);
            }
        }
        for other in [0x0806, 0x88cc, 0x0000, 0x05dc] {
            assert_eq!(takes(&[other]), 0);
            assert_eq!(takes(&[0x8100, other]), 0);
            assert_eq!(takes(&[0x88a8, 0x8100, other]), 0);
        }
        assert_eq!(machine.run(13, &frame(&[0x0800])[..13]), 0);
        assert_eq!(machine.run(17, &frame(&[0x8100, 0x0800])[..17]), 0);
    }
}
