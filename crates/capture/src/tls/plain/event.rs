//! What the probes send, as `bpf/plain.bpf.c` lays it out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use kuberewind_packet::{NetnsId, Timestamp};

use super::super::event::Clock;

/// Before the bytes.
const HEADER: usize = 88;

const SENT: u32 = 1;
const RECEIVED: u32 = 2;
const END: u32 = 3;
const NOWHERE: u32 = 4;

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// What a program and its TLS library said to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaintextEvent {
    /// When the call returned.
    pub time: Timestamp,
    /// Where the process lives.
    pub netns: NetnsId,
    /// Which it is.
    pub pid: u32,
    /// Which of the process's connections: no two have the same number.
    pub connection: u64,
    /// What happened.
    pub happened: Plaintext,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plaintext {
    /// Bytes of a connection.
    Data {
        /// The process's own end.
        local: SocketAddr,
        /// The other.
        remote: SocketAddr,
        /// Whether the process sent them; else it got them.
        sent: bool,
        /// Bytes of this direction before these, since the connection was first seen.
        position: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// The process is done with the connection.
    End,
    /// The process has a TLS connection whose socket it does not use within calls of the library.
    Nowhere,
}

/// Reads what stands in the ring. None for what is not as the probes write it.
pub(super) fn decode(bytes: &[u8], clock: Clock) -> Option<PlaintextEvent> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
    let double = |at: usize| header[at..].first_chunk().copied().map(u64::from_ne_bytes);
    let word = |at: usize| header[at..].first_chunk().copied().map(u32::from_ne_bytes);
    let kind = word(32)?;
    let happened = match kind {
        SENT | RECEIVED => {
            let len = usize::try_from(word(36)?).ok()?;
            Plaintext::Data {
                local: end(header, 40, 72, word(76)?)?,
                remote: end(header, 56, 74, word(76)?)?,
                sent: kind == SENT,
                position: double(16)?,
                bytes: rest.get(..len)?.to_vec(),
            }
        }
        END => Plaintext::End,
        NOWHERE => Plaintext::Nowhere,
        _ => return None,
    };
    Some(PlaintextEvent {
        time: clock.real(double(0)?),
        netns: NetnsId(word(24)?.into()),
        pid: word(28)?,
        connection: double(8)?,
        happened,
    })
}

/// One end of a connection. A socket of IPv6 that talks IPv4 does so on the wire.
fn end(header: &[u8; HEADER], address: usize, port: usize, family: u32) -> Option<SocketAddr> {
    let ip = match family {
        AF_INET => IpAddr::V4(Ipv4Addr::from(*header[address..].first_chunk::<4>()?)),
        AF_INET6 => {
            IpAddr::V6(Ipv6Addr::from(*header[address..].first_chunk::<16>()?)).to_canonical()
        }
        _ => return None,
    };
    let port = u16::from_ne_bytes(*header[port..].first_chunk()?);
    Some(SocketAddr::new(ip, port))
}

/// Reads any bytes as an event.
#[doc(hidden)]
pub fn plaintext_event(bytes: &[u8]) -> Option<PlaintextEvent> {
    decode(bytes, Clock::now())
}

/// Reads any bytes as an event, and says in a few words what it tells.
#[doc(hidden)]
pub fn read_plaintext(bytes: &[u8]) -> String {
    match plaintext_event(bytes).map(|event| event.happened) {
        Some(Plaintext::Data { local, sent, bytes, .. }) => {
            format!("{sent} {} {:?}", local.is_ipv4(), bytes.len().checked_ilog2())
        }
        Some(other) => format!("{other:?}"),
        None => "none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sent(kind: u32, family: u32, len: u32, bytes: &[u8]) -> Vec<u8> {
        let mut event = Vec::new();
        for double in [5_000_u64, 41, 7] {
            event.extend(double.to_ne_bytes());
        }
        for word in [77, 4711, kind, len] {
            event.extend(word.to_ne_bytes());
        }
        let mut local = [0; 16];
        local[..4].copy_from_slice(&[10, 0, 0, 1]);
        let mut remote = [0; 16];
        remote[..4].copy_from_slice(&[10, 0, 0, 2]);
        event.extend([local, remote].concat());
        event.extend([40_000_u16.to_ne_bytes(), 443_u16.to_ne_bytes()].concat());
        event.extend(family.to_ne_bytes());
        event.extend(9_u64.to_ne_bytes());
        event.extend(bytes);
        event
    }

    #[test]
    fn bytes_are_told_with_their_connection() {
        // The ring gives more room than is used.
        let event = decode(&sent(SENT, AF_INET, 3, b"GET..."), Clock::now()).unwrap();
        assert_eq!((event.netns, event.pid, event.connection), (NetnsId(77), 4711, 41));
        let expected = Plaintext::Data {
            local: "10.0.0.1:40000".parse().unwrap(),
            remote: "10.0.0.2:443".parse().unwrap(),
            sent: true,
            position: 7,
            bytes: b"GET".to_vec(),
        };
        assert_eq!(event.happened, expected);
        let end = decode(&sent(END, 0, 0, b""), Clock::now()).unwrap();
        assert_eq!(end.happened, Plaintext::End);
    }

    #[test]
    fn what_no_probe_writes_is_passed_over() {
        let told = |bytes: &[u8]| decode(bytes, Clock::now()).is_some();
        assert!(!told(&sent(SENT, AF_INET, 4, b"GET")));
        assert!(!told(&sent(SENT, 1, 3, b"GET")));
        assert!(!told(&sent(9, AF_INET, 3, b"GET")));
        assert!(!told(&sent(SENT, AF_INET, 3, b"")[..HEADER - 1]));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            read_plaintext(&bytes);
        }
    }
}
