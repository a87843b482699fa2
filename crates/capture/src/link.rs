//! Makes every packet an Ethernet frame: tags put back, missing link headers added, giants cut.

use kuberewind_packet::{Frame, MAX_CAPTURED};

use crate::ring::Packet;

/// `ARPHRD_ETHER`
const ETHERNET: u16 = libc::ARPHRD_ETHER;
/// `ARPHRD_LOOPBACK`: frames with an Ethernet header of zero addresses.
const LOOPBACK: u16 = libc::ARPHRD_LOOPBACK;

/// Two addresses.
const ADDRESSES: usize = 12;
/// Two addresses and a type.
const ETHERNET_HEADER: usize = 14;
/// A tag type and a tag.
const TAG: usize = 4;
const TAG_LEN: u32 = 4;

const TPID_8021Q: u16 = 0x8100;
const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;

/// Room for the first bytes of a frame, where they have to be put together.
#[derive(Debug, Default)]
pub(crate) struct Head([u8; ETHERNET_HEADER + TAG]);

/// The packet as an Ethernet frame, of which no more than [`MAX_CAPTURED`] bytes are kept.
#[inline]
pub(crate) fn frame<'a>(packet: &Packet<'a>, head: &'a mut Head) -> Frame<'a> {
    let ethernet = matches!(packet.hatype, ETHERNET | LOOPBACK);
    let tag = tag(packet);
    let (head_len, body, original_len) = match (ethernet, tag) {
        (true, None) => (0, packet.bytes, packet.original_len),
        (true, Some(tag)) => insert_tag(packet, tag, head),
        (false, tag) => add_header(packet, tag, head),
    };
    let body = &body[..body.len().min(MAX_CAPTURED as usize - head_len)];
    Frame { timestamp: packet.timestamp, original_len, head: &head.0[..head_len], body }
}

/// The tag that was taken out of the frame: type and all 16 bits. Zero is a tag too (priority
/// tagged, of VLAN 0) when the kernel says that there was one.
fn tag(packet: &Packet<'_>) -> Option<[u8; TAG]> {
    if packet.vlan_tci == 0 && packet.status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let known = packet.status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    let [a, b] = if known { packet.vlan_tpid } else { TPID_8021Q }.to_be_bytes();
    let [c, d] = packet.vlan_tci.to_be_bytes();
    Some([a, b, c, d])
}

/// Puts a tag where it was, after the addresses. A frame cut before that stays as it is.
fn insert_tag<'a>(packet: &Packet<'a>, tag: [u8; TAG], head: &mut Head) -> (usize, &'a [u8], u32) {
    let original_len = packet.original_len.saturating_add(TAG_LEN);
    let Some((addresses, rest)) = packet.bytes.split_at_checked(ADDRESSES) else {
        return (0, packet.bytes, original_len);
    };
    head.0[..ADDRESSES].copy_from_slice(addresses);
    head.0[ADDRESSES..ADDRESSES + TAG].copy_from_slice(&tag);
    (ADDRESSES + TAG, rest, original_len)
}

/// Gives a packet of a device that has no Ethernet header (a tunnel) one with zero addresses, as on
/// loopback. What the device itself put before the network header is left out.
fn add_header<'a>(
    packet: &Packet<'a>,
    tag: Option<[u8; TAG]>,
    head: &mut Head,
) -> (usize, &'a [u8], u32) {
    let skipped = packet.network.min(packet.bytes.len());
    let body = &packet.bytes[skipped..];
    let mut len = ADDRESSES;
    head.0[..ADDRESSES].fill(0);
    if let Some(tag) = tag {
        head.0[len..len + TAG].copy_from_slice(&tag);
        len += TAG;
    }
    head.0[len..len + 2].copy_from_slice(&ether_type(packet.protocol, body).to_be_bytes());
    len += 2;
    let original_len = (packet.original_len as usize).saturating_sub(skipped) + len;
    (len, body, u32::try_from(original_len).unwrap_or(u32::MAX))
}

/// By the version in the packet where it is IP, else by what the kernel calls it.
fn ether_type(protocol: u16, body: &[u8]) -> u16 {
    match (protocol, body.first().map(|byte| byte >> 4)) {
        (TYPE_IPV4 | TYPE_IPV6, _) => protocol,
        (0..0x600, Some(4)) => TYPE_IPV4,
        (0..0x600, Some(6)) => TYPE_IPV6,
        _ => protocol,
    }
}

#[cfg(test)]
mod tests {
    use kuberewind_packet::Timestamp;

    use super::*;

    const VALID: u32 = libc::TP_STATUS_VLAN_VALID;
    const TPID_VALID: u32 = libc::TP_STATUS_VLAN_TPID_VALID;
    /// `ARPHRD_NONE`: a tun device.
    const TUN: u16 = 0xfffe;

    fn packet(hatype: u16, bytes: &[u8]) -> Packet<'_> {
        Packet {
            timestamp: Timestamp::from_nanos(1),
            status: 0,
            original_len: u32::try_from(bytes.len()).unwrap(),
            vlan_tci: 0,
            vlan_tpid: 0,
            network: if hatype == TUN { 0 } else { 14 },
            ifindex: 1,
            hatype,
            protocol: 0,
            bytes,
        }
    }

    fn whole(packet: &Packet<'_>) -> (Vec<u8>, u32) {
        let mut head = Head::default();
        let frame = frame(packet, &mut head);
        ([frame.head, frame.body].concat(), frame.original_len)
    }

    const PLAIN: [u8; 18] = *b"ddddddssssss\x08\x00data";

    #[test]
    fn an_untagged_frame_passes_untouched() {
        let mut head = Head::default();
        let packet = packet(ETHERNET, &PLAIN);
        let expected = Frame::whole(packet.timestamp, 18, &PLAIN);
        assert_eq!(frame(&packet, &mut head), expected);
    }

    #[test]
    fn a_tag_is_put_back_with_its_type_and_all_its_bits() {
        for (status, tci, tpid, tag) in [
            (VALID, 0x0005, 0, *b"\x81\x00\x00\x05"),
            (VALID | TPID_VALID, 0xf005, 0x88a8, *b"\x88\xa8\xf0\x05"),
            (VALID | TPID_VALID, 0x1000, 0x8100, *b"\x81\x00\x10\x00"),
            (VALID | TPID_VALID, 0, 0x8100, *b"\x81\x00\x00\x00"),
            (0, 7, 0, *b"\x81\x00\x00\x07"),
        ] {
            let packet =
                Packet { status, vlan_tci: tci, vlan_tpid: tpid, ..packet(LOOPBACK, &PLAIN) };
            let expected = [&PLAIN[..12], &tag, &PLAIN[12..]].concat();
            assert_eq!(whole(&packet), (expected, 22), "tci {tci:#x} tpid {tpid:#x}");
        }
    }

    #[test]
    fn a_tagged_frame_cut_within_its_addresses_stays_short() {
        let packet = Packet { status: VALID, original_len: 60, ..packet(ETHERNET, &PLAIN[..11]) };
        assert_eq!(whole(&packet), (PLAIN[..11].to_vec(), 64));
    }

    #[test]
    fn a_packet_without_link_header_gets_one_by_its_ip_version() {
        for (protocol, first, ether_type) in [
            (0x0800, 0x45, *b"\x08\x00"),
            (0x86dd, 0x60, *b"\x86\xdd"),
            (0, 0x45, *b"\x08\x00"),
            (3, 0x60, *b"\x86\xdd"),
            (0x8847, 0x45, *b"\x88\x47"),
        ] {
            let bytes = [first, 0, 0, 9];
            let packet = Packet { protocol, ..packet(TUN, &bytes) };
            let expected = [&[0; 12][..], &ether_type, &bytes].concat();
            assert_eq!(whole(&packet), (expected, 18));
        }
    }

    #[test]
    fn what_a_tunnel_put_before_the_network_header_is_left_out() {
        let bytes = *b"gre!\x45\x00";
        let packet = Packet { protocol: 0x800, network: 4, ..packet(778, &bytes) };
        let expected = [&[0; 12][..], b"\x08\x00\x45\x00"].concat();
        assert_eq!(whole(&packet), (expected, 16));
    }

    #[test]
    fn a_giant_is_cut_with_its_length_kept() {
        let bytes = vec![1; MAX_CAPTURED as usize + 9];
        let tagged = Packet { status: VALID, ..packet(ETHERNET, &bytes) };
        let (kept, original_len) = whole(&tagged);
        assert_eq!(kept.len(), MAX_CAPTURED as usize);
        assert_eq!(original_len, MAX_CAPTURED + 9 + 4);
    }
}
