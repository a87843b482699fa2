//! Which conversation a frame belongs to, and in which direction.

const VLAN: [u8; 2] = [0x81, 0x00];
const QINQ: [u8; 2] = [0x88, 0xa8];
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];

/// One direction of a conversation: tags, protocol, addresses, and the ports of TCP, UDP and SCTP
/// (fragments have none).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Flow<'a> {
    tags: &'a [u8],
    protocol: u8,
    addresses: &'a [u8],
    ports: &'a [u8],
}

/// The flow of a frame that carries IP, tagged or not; others have none.
pub(crate) fn flow(frame: &[u8]) -> Option<Flow<'_>> {
    let mut at = 12;
    while matches!(frame.get(at..at + 2)?.first_chunk(), Some(&VLAN | &QINQ)) {
        at += 4;
    }
    let (tags, ip) = (&frame[12..at], &frame[at + 2..]);
    match *frame[at..].first_chunk()? {
        IPV4 => ipv4(tags, ip),
        IPV6 => ipv6(tags, ip),
        _ => None,
    }
}

fn ipv4<'a>(tags: &'a [u8], ip: &'a [u8]) -> Option<Flow<'a>> {
    let head = ip.first_chunk::<20>()?;
    let fragment = u16::from_be_bytes([head[6], head[7]]) & 0x3fff != 0;
    let payload = ip.get(usize::from(head[0] & 0xf) * 4..)?;
    let ports = if fragment { &[] } else { ports(head[9], payload) };
    Some(Flow { tags, protocol: head[9], addresses: &ip[12..20], ports })
}

fn ipv6<'a>(tags: &'a [u8], ip: &'a [u8]) -> Option<Flow<'a>> {
    let protocol = *ip.get(6)?;
    let payload = ip.get(40..)?;
    Some(Flow { tags, protocol, addresses: &ip[8..40], ports: ports(protocol, payload) })
}

fn ports(protocol: u8, payload: &[u8]) -> &[u8] {
    match protocol {
        6 | 17 | 132 => payload.get(..4).unwrap_or_default(),
        _ => &[],
    }
}
