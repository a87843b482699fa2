//! Where a ring grows: recognises the packet that both the old and the new ring took.
//!
//! A socket that joins a fan-out group leaves the kernel's own list of taps; a processor that is
//! walking that list at this moment may still give the packet in its hands to both. Both copies have
//! the same time of arrival, to the nanosecond (see [`crate::sys::ArrivalStamps`]).

use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::hash::{Hash, Hasher};

use kuberewind_packet::Timestamp;

use crate::ring::Packet;

/// 16 MB, or 10 Mpps for the 100 ms that opening a ring may take.
const MOST_REMEMBERED: usize = 1 << 20;

/// The packets since a ring was asked for, until it had joined.
#[derive(Debug)]
pub(crate) struct Seam {
    from: Timestamp,
    to: Timestamp,
    taken: HashMap<u64, usize>,
}

impl Seam {
    /// Begins before the further ring is opened.
    pub(crate) fn begin(from: Timestamp) -> Self {
        Self { from, to: Timestamp::MAX, taken: HashMap::new() }
    }

    /// The further ring had joined by now: later packets go to one ring only.
    pub(crate) fn joined(&mut self, at: Timestamp) {
        self.to = at;
    }

    /// A further ring is asked for, before what was told of the last one is forgotten.
    pub(crate) fn reopen(&mut self) {
        self.to = Timestamp::MAX;
    }

    /// When the last packet came that may be double; none while the ring has not joined.
    pub(crate) fn ended(&self) -> Option<Timestamp> {
        (self.to < Timestamp::MAX).then_some(self.to)
    }

    /// Whether another ring has already given this packet.
    pub(crate) fn is_double(&mut self, ring: usize, packet: &Packet<'_>) -> bool {
        if packet.timestamp < self.from || packet.timestamp > self.to {
            return false;
        }
        let full = self.taken.len() >= MOST_REMEMBERED;
        match self.taken.entry(fingerprint(packet)) {
            Entry::Occupied(first) => *first.get() != ring,
            Entry::Vacant(place) => {
                if !full {
                    place.insert(ring);
                }
                false
            }
        }
    }
}

fn fingerprint(packet: &Packet<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    packet.timestamp.hash(&mut hasher);
    packet.ifindex.hash(&mut hasher);
    packet.original_len.hash(&mut hasher);
    packet.bytes.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(nanos: u64, bytes: &[u8]) -> Packet<'_> {
        Packet {
            timestamp: Timestamp::from_nanos(nanos),
            status: 0,
            original_len: 60,
            vlan_tci: 0,
            vlan_tpid: 0,
            network: 14,
            ifindex: 1,
            hatype: 1,
            protocol: 0,
            bytes,
        }
    }

    #[test]
    fn only_the_other_rings_copy_of_the_same_instant_is_double() {
        let mut seam = Seam::begin(Timestamp::from_nanos(100));
        assert!(!seam.is_double(0, &packet(150, b"a")));
        assert!(seam.is_double(1, &packet(150, b"a")), "the other ring's copy");
        assert!(!seam.is_double(0, &packet(150, b"a")), "the wire's own repetition");
        assert!(!seam.is_double(1, &packet(151, b"a")), "another instant");
        assert!(!seam.is_double(1, &packet(150, b"b")), "another packet");
    }

    #[test]
    fn outside_the_seam_nothing_is_double() {
        let mut seam = Seam::begin(Timestamp::from_nanos(100));
        seam.joined(Timestamp::from_nanos(200));
        for nanos in [99, 201] {
            assert!(!seam.is_double(0, &packet(nanos, b"a")));
            assert!(!seam.is_double(1, &packet(nanos, b"a")));
        }
        assert_eq!(seam.ended(), Some(Timestamp::from_nanos(200)));
    }
}
