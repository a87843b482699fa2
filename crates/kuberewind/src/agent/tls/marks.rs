//! Which connections packets came of.
//!
//! A capture thread remembers no connection: it leaves a mark at two places of a small table, which
//! both ends' addresses tell. Other connections may have left both, so one that is silent may seem to
//! speak; one that speaks never seems silent.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};

use kuberewind_packet::NetnsId;

/// A packet came,
const SPOKE: u8 = 1;
/// and it was the last of its direction.
const CLOSED: u8 = 2;

/// Of a table: half a processor's second cache at most.
const PLACES: usize = 1 << 17;

/// What one capture thread marked since it was last taken.
#[derive(Debug)]
pub(crate) struct Marks(Box<[AtomicU8]>);

impl Default for Marks {
    fn default() -> Self {
        Self((0..PLACES).map(|_| AtomicU8::new(0)).collect())
    }
}

impl Marks {
    /// A packet came from one end to the other; `closes` if it had the FIN or the RST flag.
    pub(crate) fn mark(&self, netns: NetnsId, one: SocketAddr, other: SocketAddr, closes: bool) {
        let mark = if closes { SPOKE | CLOSED } else { SPOKE };
        for place in places(netns, one, other) {
            // Mostly it is marked: then this processor need not own the line.
            let marked = self.0[place].load(Ordering::Relaxed);
            if marked & mark != mark {
                // Nobody else marks here; what is taken meanwhile is taken twice.
                self.0[place].store(marked | mark, Ordering::Relaxed);
            }
        }
    }
}

/// What was marked in any of the tables.
pub(super) struct Taken(Vec<u8>);

impl Taken {
    /// Takes all marks. One that is left meanwhile is in this or in the next.
    pub(super) fn from(tables: &[std::sync::Arc<Marks>]) -> Self {
        let mut taken = vec![0; PLACES];
        for table in tables {
            for (taken, place) in taken.iter_mut().zip(&table.0) {
                if place.load(Ordering::Relaxed) != 0 {
                    *taken |= place.swap(0, Ordering::Relaxed);
                }
            }
        }
        Self(taken)
    }

    /// Whether packets may have come between these ends.
    pub(super) fn has(&self, netns: NetnsId, one: SocketAddr, other: SocketAddr) -> bool {
        self.marked(netns, one, other) & SPOKE != 0
    }

    /// Whether one of these ends may have said its last.
    pub(super) fn has_closed(&self, netns: NetnsId, one: SocketAddr, other: SocketAddr) -> bool {
        self.marked(netns, one, other) & CLOSED != 0
    }

    fn marked(&self, netns: NetnsId, one: SocketAddr, other: SocketAddr) -> u8 {
        let [first, second] = places(netns, one, other);
        self.0[first] & self.0[second]
    }
}

/// The same in both directions.
fn places(netns: NetnsId, one: SocketAddr, other: SocketAddr) -> [usize; 2] {
    let ends = number(one).wrapping_add(number(other));
    let mixed = mix(ends ^ netns.0);
    #[expect(clippy::cast_possible_truncation, reason = "cut to the table's length")]
    [mixed as usize % PLACES, (mixed >> 32) as usize % PLACES]
}

#[expect(clippy::cast_possible_truncation, reason = "both halves count")]
fn number(end: SocketAddr) -> u64 {
    let address = match end.ip() {
        IpAddr::V4(address) => u64::from(u32::from(address)),
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            mix((bits >> 64) as u64) ^ bits as u64
        }
    };
    mix(address.rotate_left(16) ^ u64::from(end.port()))
}

/// Spreads a difference in any bit: a round of splitmix64.
const fn mix(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 27)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn end(address: u32, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(address.into()), port)
    }

    proptest! {
        #[test]
        fn whoever_speaks_is_seen_in_either_direction_and_once(
            marked in prop::collection::vec((0u32..3, any::<u32>(), any::<u16>(), any::<bool>()), 1..300),
        ) {
            let tables = [Arc::new(Marks::default()), Arc::default()];
            let server = end(0x0a00_0001, 443);
            for (netns, address, port, there) in &marked {
                let (one, other) = (end(*address, *port), server);
                let (one, other) = if *there { (one, other) } else { (other, one) };
                tables[usize::from(*there)].mark(NetnsId(u64::from(*netns)), one, other, *there);
            }
            let taken = Taken::from(&tables);
            for (netns, address, port, there) in &marked {
                let (netns, client) = (NetnsId(u64::from(*netns)), end(*address, *port));
                prop_assert!(!there || taken.has_closed(netns, client, server));
            }
            for (netns, address, port, _) in &marked {
                prop_assert!(taken.has(NetnsId(u64::from(*netns)), end(*address, *port), server));
            }
            let (netns, address, port, _) = marked[0];
            prop_assert!(!Taken::from(&tables).has(NetnsId(u64::from(netns)), end(address, port), server));
        }
    }

    #[test]
    #[ignore = "measures"]
    fn what_a_mark_costs() {
        const PACKETS: u32 = 20_000_000;
        let server = end(0x0a00_0002, 443);
        for connections in [1, 1_000, 50_000] {
            let marks = Marks::default();
            let began = std::time::Instant::now();
            for packet in 0..PACKETS {
                let port = u16::try_from(packet % connections).unwrap();
                let (one, other) = (std::hint::black_box(end(0x0a00_0001, port)), server);
                marks.mark(NetnsId(7), one, other, false);
            }
            println!("{connections} connections: {:?} a packet", began.elapsed() / PACKETS);
        }
        let began = std::time::Instant::now();
        (0..1_000).for_each(|_| drop(Taken::from(&[Arc::new(Marks::default())])));
        println!("{:?} to take a table", began.elapsed() / 1_000);
    }

    /// The ports of neighbours are neighbours, too.
    #[test]
    fn few_of_those_that_are_silent_seem_to_speak() {
        let marks = [Arc::new(Marks::default())];
        let (netns, server) = (NetnsId(7), end(0x0a00_0002, 443));
        (0..2_000)
            .for_each(|port| marks[0].mark(netns, end(0x0a00_0001, 32_768 + port), server, false));
        let taken = Taken::from(&marks);
        let wrong =
            (10_000..30_000u16).filter(|port| taken.has(netns, end(0x0a00_0001, *port), server));
        assert!(wrong.count() < 60, "2,000 who speak set 3 % of the places");
    }
}
