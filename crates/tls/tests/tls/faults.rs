//! Lost, doubled, shuffled and cut packets cost content at most; they never give wrong content.

use std::time::Duration;

use kuberewind_tls::{Limits, Outcome, Sender};
use proptest::prelude::*;

use crate::recorded::{Case, Packet, Said, case, decrypt, decrypt_within};

const NAMES: [&str; 8] = [
    "tls13-long",
    "tls13",
    "tls13-retry",
    "tls13-updated",
    "tls13-early",
    "tls12-aes128",
    "tls12-chacha",
    "tls12-renegotiated",
];

/// Each piece stands in what was truly said, in order and without overlap.
fn is_part_of(said: &Said, case: &Case) -> Result<(), TestCaseError> {
    for (sender, truth) in [(Sender::Client, &case.client), (Sender::Server, &case.server)] {
        let mut rest = truth.as_slice();
        // Of one connection after the other.
        let mut pieces = said.pieces.clone();
        pieces.sort_by_key(|(number, ..)| *number);
        let pieces = pieces.iter().filter(|(_, from, _, _)| *from == sender);
        for (_, _, _, piece) in pieces {
            let at = rest.windows(piece.len()).position(|part| part == piece);
            prop_assert!(
                at.is_some(),
                "{sender:?} never said {:?}",
                String::from_utf8_lossy(piece)
            );
            rest = &rest[at.unwrap_or(0) + piece.len()..];
        }
    }
    Ok(())
}

/// The packets with these faults; times stay in order.
fn with_faults(packets: &[Packet], faults: &[(prop::sample::Index, Fault)]) -> Vec<Packet> {
    let mut packets = packets.to_vec();
    for (index, fault) in faults {
        if packets.is_empty() {
            break;
        }
        let at = index.index(packets.len());
        match fault {
            Fault::Lose => drop(packets.remove(at)),
            Fault::Double(by) => {
                let packet = packets[at].clone();
                packets.insert((at + by).min(packets.len()), packet);
            }
            Fault::Delay(by) => {
                let packet = packets.remove(at);
                packets.insert((at + by).min(packets.len()), packet);
            }
            Fault::Cut(by) => {
                let bytes = &mut packets[at].bytes;
                bytes.truncate(bytes.len().saturating_sub(*by));
            }
            Fault::Flip(by) => {
                let bytes = &mut packets[at].bytes;
                let at = 66 + by % bytes.len().saturating_sub(66).max(1);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1;
                }
            }
        }
    }
    let mut times: Vec<_> = packets.iter().map(|packet| packet.time).collect();
    times.sort();
    for (packet, time) in packets.iter_mut().zip(times) {
        packet.time = time;
    }
    packets
}

#[derive(Clone, Debug)]
enum Fault {
    Lose,
    Double(usize),
    Delay(usize),
    /// Fewer bytes captured.
    Cut(usize),
    Flip(usize),
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::Lose),
        (0..20_usize).prop_map(Fault::Double),
        (0..20_usize).prop_map(Fault::Delay),
        (1..1400_usize).prop_map(Fault::Cut),
        (0..1400_usize).prop_map(Fault::Flip),
    ]
}

fn faults() -> impl Strategy<Value = Vec<(prop::sample::Index, Fault)>> {
    prop::collection::vec((any::<prop::sample::Index>(), fault()), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_is_shown_that_was_not_said(name in prop::sample::select(&NAMES[..]), faults in faults()) {
        let case = case(name);
        let said = decrypt(&with_faults(&case.packets, &faults), &case.log);
        is_part_of(&said, &case)?;
        prop_assert!(said.times.is_sorted());
    }

    #[test]
    fn doubles_and_small_delays_cost_nothing(
        name in prop::sample::select(&NAMES[..]),
        moves in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), 0..8_usize), 0..20),
    ) {
        let case = case(name);
        let faults: Vec<_> = moves
            .into_iter()
            .map(|(at, double, by)| (at, if double { Fault::Double(by) } else { Fault::Delay(by) }))
            .collect();
        // The SYNs stay in front: without them nothing tells where a connection begins.
        let (syns, rest) = case.packets.split_at(3);
        let packets = [syns.to_vec(), with_faults(rest, &faults)].concat();
        if !name.ends_with("early") {
            // Peers at a keyboard: a packet may come a second late.
            let limits = Limits { hole: Duration::from_mins(1), ..Limits::default() };
            let said = decrypt_within(&packets, &case.log, limits);
            prop_assert_eq!(said.client.len(), case.client.len());
            prop_assert_eq!(said.server.len(), case.server.len());
            is_part_of(&said, &case)?;
        }
    }
}

/// Loses the data packets whose positions among the server's are wanted.
fn lose(case: &Case, wanted: impl Fn(usize) -> bool) -> Vec<Packet> {
    let mut position = 0;
    let from_server = |packet: &Packet| {
        packet.bytes[34..36] == 8443_u16.to_be_bytes() && packet.bytes.len() > 1000
    };
    let keep = |packet: &&Packet| {
        position += usize::from(from_server(packet));
        !(from_server(packet) && wanted(position))
    };
    case.packets.iter().filter(keep).cloned().collect()
}

#[test]
fn after_a_lost_packet_the_next_record_opens_again() {
    let case = case("tls13-long");
    // One segment of some hundred: one record of 16 KiB is lost, no more.
    let said = decrypt(&lose(&case, |position| position == 50), &case.log);
    let missing = case.server.len() - said.server.len();
    assert_eq!(missing, 16 * 1024, "one record");
    assert_eq!(said.client, case.client);
    let lost: u64 = said.pieces.iter().map(|(_, _, lost, _)| lost).sum();
    assert_eq!(lost, 16_384, "and known to be");
    assert!(matches!(said.outcomes()[..], [Outcome::Partly(_)]));
}

#[test]
fn after_a_large_hole_records_are_found_again() {
    let case = case("tls13-long");
    let said = decrypt(&lose(&case, |position| (30..80).contains(&position)), &case.log);
    let missing = case.server.len() - said.server.len();
    // 50 segments of 1448 bytes, and what remains of the first and the last record in them.
    assert!((16_384 * 4..=16_384 * 6).contains(&missing), "missing: {missing}");
    assert!(case.server.ends_with(&said.pieces.last().unwrap().3), "the end is there");
}

#[test]
fn small_records_are_numbered_right_after_a_hole() {
    for name in ["tls13", "tls12-aes128", "tls12-chacha"] {
        let case = case(name);
        // All of the first reply is lost.
        let said = decrypt(&lose(&case, |position| (2..4).contains(&position)), &case.log);
        assert_eq!(said.client, case.client, "{name}");
        assert!(case.server.ends_with(&said.server[said.server.len() - 3041..]), "{name}");
    }
}

#[test]
fn a_missing_handshake_flight_does_not_matter_where_the_secrets_are_known() {
    let case = case("tls13");
    // The server's second large packet: certificate and `Finished`.
    let hello_only = lose(&case, |position| position == 2);
    assert!(hello_only.len() < case.packets.len());
    let said = decrypt(&hello_only, &case.log);
    assert_eq!(said.client, case.client);
}

#[test]
fn little_memory_costs_content_not_truth() {
    let case = case("tls13-long");
    let limits = Limits {
        direction: 4096,
        total: 60_000,
        connections: 1,
        hole: Duration::from_millis(1),
        patience: Duration::from_millis(5),
        ..Limits::default()
    };
    let said = decrypt_within(&lose(&case, |position| position % 37 == 5), &case.log, limits);
    is_part_of(&said, &case).unwrap();
}
