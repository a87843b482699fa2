//! What peers derive their secrets from leads to the flows in the recording, and opens them.

use std::collections::BTreeSet;

use kuberewind_packet::{NetnsId, Timestamp};
use kuberewind_tls::{
    Derived, JoinCounts, Joiner, KeyLog, KeyLogLabel, Outcome, Pinned, Secret, SecretBytes,
    SecretEvent,
};

use crate::recorded::{Packet, case, decrypt, fixture, in_pieces};

const HERE: NetnsId = NetnsId(7);

const ALL: [&str; 15] = [
    "tls13",
    "tls13-long",
    "tls13-retry",
    "tls13-mutual",
    "tls13-resumed",
    "tls13-aes128",
    "tls13-chacha",
    "tls13-updated",
    "tls13-early",
    "tls13-early-refused",
    "tls12-aes128",
    "tls12-aes256",
    "tls12-chacha",
    "tls12-resumed",
    "http2",
];

/// What a probe would have seen of both peers.
fn events(name: &str) -> Vec<SecretEvent> {
    let text = std::fs::read_to_string(fixture(&format!("{name}.derived"))).unwrap();
    let secret = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        let (one, two) = (unhex(words[1]), unhex(words[2]));
        let label = match words[0] {
            "CLIENT_RANDOM" => {
                return Secret::KeyLog {
                    label: KeyLogLabel::ClientRandom,
                    client_random: one.try_into().unwrap(),
                    secret: SecretBytes(two),
                };
            }
            "c_e_traffic" => Derived::ClientEarly,
            "c_hs_traffic" => Derived::ClientHandshake,
            "s_hs_traffic" => Derived::ServerHandshake,
            "c_ap_traffic" => Derived::ClientTraffic,
            "s_ap_traffic" => Derived::ServerTraffic,
            "exp_master" => Derived::Exporter,
            other => panic!("{other}"),
        };
        Secret::Derivation { label, key: SecretBytes(one), transcript: two }
    };
    text.lines().map(|line| event(secret(line))).collect()
}

fn event(secret: Secret) -> SecretEvent {
    let time = Timestamp::from_nanos(1);
    SecretEvent { time, netns: HERE, pid: 1, library: "OpenSSL".to_owned(), secret }
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// Who comes first.
#[derive(Clone, Copy, Debug)]
enum Order {
    Packets,
    Events,
    ByTurns,
}

const ORDERS: [Order; 3] = [Order::Packets, Order::Events, Order::ByTurns];

/// What a joiner makes of both, and its counts.
fn join(packets: &[Packet], events: Vec<SecretEvent>, order: Order) -> (KeyLog, JoinCounts) {
    let mut joiner = Joiner::default();
    let mut packets = packets.iter();
    let mut events = events.into_iter();
    let packet = |joiner: &mut Joiner, packet: &Packet| {
        joiner.packet(HERE, packet.time, &packet.bytes);
    };
    match order {
        Order::Packets => {}
        Order::Events => events.by_ref().for_each(|event| joiner.secret(event)),
        Order::ByTurns => {
            let turns = packets.len().min(events.len());
            for (next, event) in packets.by_ref().take(turns).zip(events.by_ref().take(turns)) {
                packet(&mut joiner, next);
                joiner.secret(event);
            }
        }
    }
    packets.for_each(|next| packet(&mut joiner, next));
    events.for_each(|event| joiner.secret(event));
    let mut log = KeyLog::default();
    // Now is when the first secret came, so that nothing is given up.
    let mut told = joiner.take(Timestamp::from_nanos(1));
    told.sort_by_key(|one| one.line.label);
    log.extend(told.into_iter().map(|one| one.line));
    (log, joiner.counts())
}

fn joined(name: &str, order: Order) -> (KeyLog, JoinCounts) {
    join(&case(name).packets, events(name), order)
}

#[test]
fn every_secret_finds_its_handshake() {
    for (name, order) in ALL.into_iter().flat_map(|name| ORDERS.map(|order| (name, order))) {
        let (log, counts) = joined(name, order);
        let connections = case(name).log.handshakes() as u64;
        assert_eq!((counts.handshakes, counts.covered), (connections, connections), "{name}");
        assert_eq!(counts.secrets, events(name).len() as u64);
        assert_eq!(log.handshakes() as u64, connections, "{name} {order:?}");
    }
}

#[test]
fn hellos_are_told_of_every_connection_without_any_secret() {
    for name in ALL {
        let mut joiner = Joiner::default();
        for Packet { time, bytes, .. } in &case(name).packets {
            joiner.packet(HERE, *time, bytes);
        }
        let pinned = joiner.take_pinned();
        let randoms: BTreeSet<_> =
            pinned.iter().filter_map(|pinned| pinned.pin.client_random()).collect();
        let logged: BTreeSet<_> = case(name).log.lines().map(|line| line.client_random).collect();
        assert_eq!(randoms, logged, "{name}");
        assert!(pinned.iter().all(|pinned| pinned.lines.is_empty()));
        assert!(
            pinned.iter().all(|Pinned { pin, .. }| pin.to_string().parse().as_ref() == Ok(pin))
        );
    }
}

#[test]
fn what_is_joined_is_what_the_peers_log() {
    for (name, order) in ALL.into_iter().flat_map(|name| ORDERS.map(|order| (name, order))) {
        // Peers also log what nothing is opened with; the join has what was derived.
        let (joined, logged) = (joined(name, order).0, case(name).log);
        let logged: Vec<_> = logged.lines().collect();
        let lines: Vec<_> = joined.lines().collect();
        assert!(lines.iter().all(|line| logged.contains(line)), "{name} {order:?}");
        let exporter = |label| label == KeyLogLabel::Exporter;
        let missing = logged.iter().filter(|line| !lines.contains(line) && !exporter(line.label));
        assert_eq!(missing.count(), 0, "{name} {order:?}");
    }
}

#[test]
fn what_is_joined_opens_the_packets() {
    for name in ALL {
        let case = case(name);
        let said = decrypt(&case.packets, &joined(name, Order::ByTurns).0);
        assert!(said.outcomes().iter().all(|outcome| *outcome == Outcome::Opened), "{name}");
        assert_eq!(said, decrypt(&case.packets, &case.log), "{name}");
    }
}

#[test]
fn what_comes_twice_counts_once() {
    let packets = case("tls13-resumed").packets;
    let forward = events("tls13-resumed");
    let backward: Vec<_> = forward.iter().rev().chain(&forward).cloned().collect();
    let twice = [packets.clone(), packets.clone()].concat();
    let (once, counts) = join(&packets, forward, Order::ByTurns);
    let (again, doubled) = join(&twice, backward, Order::ByTurns);
    assert_eq!(once, again);
    assert_eq!(
        (counts.handshakes, counts.covered, counts.secrets * 2),
        (doubled.handshakes, doubled.covered, doubled.secrets)
    );
}

#[test]
fn what_is_no_secret_of_tls_is_counted() {
    let key = SecretBytes(vec![1; 20]);
    let odd = Secret::Derivation { label: Derived::ClientEarly, key, transcript: vec![2; 32] };
    let client_random = [1; 32];
    let secret = SecretBytes(vec![1; 20]);
    let line = Secret::KeyLog { label: KeyLogLabel::ClientRandom, client_random, secret };
    let (log, counts) = join(&[], vec![event(odd), event(line)], Order::Events);
    assert!(log.is_empty());
    assert_eq!(counts.unmatched, 2);
}

#[test]
fn a_connection_is_covered_when_its_data_can_be_read() {
    let covered = |name: &str, wanted: fn(&SecretEvent) -> bool| {
        let events = events(name).into_iter().filter(wanted).collect();
        let (_, counts) = join(&case(name).packets, events, Order::Packets);
        (counts.handshakes, counts.covered)
    };
    let is_handshake = |event: &SecretEvent| {
        matches!(
            event.secret,
            Secret::Derivation { label: Derived::ClientHandshake | Derived::ServerHandshake, .. }
        )
    };
    assert_eq!(covered("tls13", |_| false), (1, 0));
    assert_eq!(covered("tls13", is_handshake), (1, 0));
    assert_eq!(covered("tls13", |_| true), (1, 1));
}

#[test]
fn a_forged_secret_does_not_displace_the_true_one() {
    let case = case("tls13");
    let handshake = events("tls13").into_iter().find_map(|event| match event.secret {
        Secret::Derivation { label: Derived::ClientHandshake, transcript, .. } => Some(transcript),
        _ => None,
    });
    // A neighbour that saw the hellos.
    let forged = (0..100).map(|number| SecretEvent {
        netns: NetnsId(99),
        ..event(Secret::Derivation {
            label: Derived::ClientHandshake,
            key: SecretBytes(vec![number; handshake.as_ref().unwrap().len()]),
            transcript: handshake.clone().unwrap(),
        })
    });
    let events = forged.chain(events("tls13")).collect();
    for order in ORDERS {
        let (log, _) = join(&case.packets, Vec::clone(&events), order);
        assert!(log.lines().count() < 12, "rivals are bounded");
        let said = decrypt(&case.packets, &log);
        assert_eq!(said.outcomes(), [Outcome::Opened]);
        assert_eq!(said.client, case.client);
    }
}

#[test]
fn a_handshake_seen_in_two_places_is_joined_in_both() {
    let mut joiner = Joiner::default();
    for Packet { time, bytes, .. } in &case("tls13").packets {
        joiner.packet(HERE, *time, bytes);
        joiner.packet(NetnsId(8), *time, bytes);
    }
    for event in events("tls13") {
        joiner.secret(event);
    }
    assert_eq!(joiner.counts().covered, 2);
    assert_eq!((joiner.counts_of(HERE).covered, joiner.counts_of(NetnsId(8)).covered), (1, 1));
}

#[test]
fn a_hello_may_span_many_segments_that_come_in_any_order() {
    for name in ["tls13-retry", "tls13-early", "tls12-resumed"] {
        let packets = in_pieces(&case(name).packets, 100);
        let connections = case(name).log.handshakes() as u64;
        let (_, counts) = join(&packets, events(name), Order::ByTurns);
        assert_eq!(counts.covered, connections, "{name}");
    }
    let mut packets = in_pieces(&case("tls13-retry").packets, 100);
    packets[4..].reverse();
    let (_, counts) = join(&packets, events("tls13-retry"), Order::Packets);
    assert_eq!(counts.covered, 1);
}

#[test]
fn a_new_connection_on_the_same_ports_is_another_one() {
    let (one, mut two) = (case("tls13").packets, case("tls12-aes128").packets);
    let port: [u8; 2] = one[0].bytes[34..36].try_into().unwrap();
    for packet in &mut two {
        let at = if packet.bytes[34..36] == 8443_u16.to_be_bytes() { 36 } else { 34 };
        packet.bytes[at..at + 2].copy_from_slice(&port);
    }
    // The first one's answer was not captured.
    let packets = [&one[..4], &two].concat();
    let (_, counts) = join(&packets, events("tls12-aes128"), Order::Packets);
    assert_eq!((counts.handshakes, counts.covered), (2, 1));
}
