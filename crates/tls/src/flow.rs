//! Who talks to whom.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

use crate::segment::Segment;

/// A network namespace on a node, as the caller numbers them.
///
/// Loopback and link-local addresses mean something else in each; other addresses are taken to be
/// unique, so that the two ends' views of a connection are one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(pub u64);

/// One of the two that talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sender {
    /// Who sent the `ClientHello`.
    Client,
    /// The other.
    Server,
}

impl Sender {
    /// The one whom this one talks to.
    #[must_use]
    pub const fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Client => 0,
            Self::Server => 1,
        }
    }
}

/// A TCP connection's key in a table: the same for both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowKey {
    place: Place,
    low: SocketAddr,
    high: SocketAddr,
}

impl FlowKey {
    /// Of a segment seen at `place`, which counts for addresses that mean nothing elsewhere.
    pub(crate) fn shared(place: Place, segment: &Segment<'_>) -> Self {
        Self::between(place, segment.source, segment.destination)
    }

    /// Of these two who talk at `place`, which counts for addresses that mean nothing elsewhere.
    pub(crate) fn between(place: Place, one: SocketAddr, other: SocketAddr) -> Self {
        let local = is_local(one.ip()) || is_local(other.ip());
        let place = if local { place } else { Place::default() };
        // As packets have them: without a zone.
        let [one, other] = [one, other].map(|end| SocketAddr::new(end.ip(), end.port()));
        Self::of(place, one, other)
    }

    /// Of a segment seen at `place`, which always counts.
    pub(crate) fn at(place: Place, segment: &Segment<'_>) -> Self {
        Self::of(place, segment.source, segment.destination)
    }

    fn of(place: Place, one: SocketAddr, other: SocketAddr) -> Self {
        // Ports first: they mostly differ.
        if (one.port(), one.ip()) <= (other.port(), other.ip()) {
            Self { place, low: one, high: other }
        } else {
            Self { place, low: other, high: one }
        }
    }
}

/// In one piece: every packet's key is hashed, and each piece costs as much as 32 bytes do.
impl Hash for FlowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut bytes = [0; 8 + 2 * END];
        bytes[..8].copy_from_slice(&self.place.0.to_ne_bytes());
        bytes[8..8 + END].copy_from_slice(&end(self.low));
        bytes[8 + END..].copy_from_slice(&end(self.high));
        state.write(&bytes);
    }
}

/// Bytes of an address and a port.
const END: usize = 18;

fn end(end: SocketAddr) -> [u8; END] {
    let mut bytes = [0; END];
    match end.ip() {
        IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes[..16].copy_from_slice(&address.octets()),
    }
    bytes[16..].copy_from_slice(&end.port().to_ne_bytes());
    bytes
}

fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local(),
    }
}
