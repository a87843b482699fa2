//! What peers derive their secrets from leads to the flows in the recording, and opens them.

use kuberewind_packet::{NetnsId, Timestamp};
use kuberewind_tls::{
    Coverage, Derived, HandshakeLimits, Handshakes, Joined, KeyLog, KeyLogLabel, Outcome, Reason,
    Secret, SecretBytes, SecretEvent, Unmatched, join,
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

fn handshakes(packets: &[Packet]) -> Handshakes {
    let mut handshakes = Handshakes::new(HandshakeLimits::default());
    for Packet { time, original_len, bytes } in packets {
        handshakes.see(HERE, *time, *original_len, bytes);
    }
    handshakes
}

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

fn joined(name: &str) -> Joined {
    join(&handshakes(&case(name).packets), events(name))
}

#[test]
fn every_secret_finds_its_handshake() {
    for name in ALL {
        let joined = joined(name);
        assert_eq!(joined.unmatched.len(), 0, "{name}: {:?}", joined.unmatched);
        let coverage = joined.handshakes.iter().map(|handshake| handshake.coverage);
        assert!(coverage.clone().all(|coverage| coverage == Coverage::All), "{name}");
    }
}

#[test]
fn what_is_joined_is_what_the_peers_log() {
    for name in ALL {
        // Peers also log what nothing is opened with; the join has what was derived.
        let (joined, logged) = (joined(name).key_log(), case(name).log);
        let logged: Vec<_> = logged.lines().collect();
        let lines: Vec<_> = joined.lines().collect();
        assert!(lines.iter().all(|line| logged.contains(line)), "{name}");
        let exporter = |label| label == KeyLogLabel::Exporter;
        let missing = logged.iter().filter(|line| !lines.contains(line) && !exporter(line.label));
        assert_eq!(missing.count(), 0, "{name}");
    }
}

#[test]
fn what_is_joined_opens_the_packets() {
    for name in ALL {
        let case = case(name);
        let said = decrypt(&case.packets, &joined(name).key_log());
        assert!(said.outcomes().iter().all(|outcome| *outcome == Outcome::Opened), "{name}");
        assert_eq!(said, decrypt(&case.packets, &case.log), "{name}");
    }
}

#[test]
fn the_order_of_events_does_not_matter_and_doubles_count_once() {
    let handshakes = handshakes(&case("tls13-resumed").packets);
    let forward = events("tls13-resumed");
    let backward: Vec<_> = forward.iter().rev().chain(&forward).cloned().collect();
    assert_eq!(join(&handshakes, forward), join(&handshakes, backward));
}

#[test]
fn secrets_without_a_handshake_are_counted_by_cause() {
    let none = join(&Handshakes::default(), events("tls13"));
    // Both peers' events: handshake secrets without hellos, traffic secrets without those.
    assert!(none.unmatched[&Unmatched::NoHandshake] >= 4);
    assert!(none.unmatched[&Unmatched::NoHandshakeSecret] >= 2);
    let key = SecretBytes(vec![1; 20]);
    let odd = Secret::Derivation { label: Derived::ClientEarly, key, transcript: vec![2; 32] };
    let none = join(&Handshakes::default(), [event(odd)]);
    assert_eq!(none.unmatched[&Unmatched::Malformed], 1);
}

#[test]
fn a_flow_without_secrets_says_so() {
    let coverage = |name: &str, wanted: fn(&SecretEvent) -> bool| {
        let events = events(name).into_iter().filter(wanted);
        let joined = join(&handshakes(&case(name).packets), events);
        joined.handshakes.iter().map(|handshake| handshake.coverage).collect::<Vec<_>>()
    };
    let is_handshake = |event: &SecretEvent| {
        matches!(
            event.secret,
            Secret::Derivation { label: Derived::ClientHandshake | Derived::ServerHandshake, .. }
        )
    };
    assert_eq!(coverage("tls13", |_| false), [Coverage::None(Reason::NoSecret)]);
    assert_eq!(coverage("tls13", is_handshake), [Coverage::Partial]);
    assert_eq!(coverage("tls12-cbc", |_| true), [Coverage::None(Reason::Cipher(0xc009))]);
}

#[test]
fn a_forged_secret_does_not_displace_the_true_one() {
    let case = case("tls13");
    let handshakes = handshakes(&case.packets);
    let random = case.log.lines().next().unwrap().client_random;
    let forged = (0..100).map(|number| SecretEvent {
        netns: NetnsId(99),
        ..event(Secret::KeyLog {
            label: KeyLogLabel::ClientTraffic,
            client_random: random,
            secret: SecretBytes(vec![number; 48]),
        })
    });
    let log = join(&handshakes, forged.chain(events("tls13"))).key_log();
    assert!(log.lines().count() < 12, "rivals are bounded");
    let said = decrypt(&case.packets, &log);
    assert_eq!(said.outcomes(), [Outcome::Opened]);
    assert_eq!(said.client, case.client);
}

#[test]
fn one_handshake_seen_in_two_places_is_one_with_two_flows() {
    let packets = case("tls13").packets;
    let mut handshakes = handshakes(&packets);
    for Packet { time, original_len, bytes } in &packets {
        handshakes.see(NetnsId(8), *time, *original_len, bytes);
    }
    let joined = join(&handshakes, events("tls13"));
    let netns = joined.handshakes[0].flows.iter().map(|flow| flow.netns);
    assert_eq!(joined.handshakes.len(), 1);
    assert_eq!(netns.collect::<Vec<_>>(), [HERE, NetnsId(8)]);
}

#[test]
fn handshakes_are_found_in_any_order_of_packets() {
    let case = case("tls13-retry");
    let mut packets = case.packets.clone();
    packets[3..].reverse();
    let joined = join(&handshakes(&packets), events("tls13-retry"));
    assert_eq!(joined.handshakes[0].coverage, Coverage::All);
}

#[test]
fn a_hello_may_span_many_segments() {
    for name in ["tls13-retry", "tls13-early", "tls12-resumed"] {
        let packets = in_pieces(&case(name).packets, 100);
        let joined = join(&handshakes(&packets), events(name));
        let coverage = joined.handshakes.iter().map(|handshake| handshake.coverage);
        assert!(coverage.clone().all(|coverage| coverage == Coverage::All), "{name}");
    }
}

#[test]
fn memory_is_bounded_and_what_is_forgotten_is_counted() {
    let limits = HandshakeLimits { flows: 1, handshakes: 1, bytes: 4000 };
    let mut handshakes = Handshakes::new(limits);
    for name in ["tls13", "tls12-aes128", "tls13-early"] {
        for Packet { time, original_len, bytes } in &case(name).packets {
            handshakes.see(HERE, *time, *original_len, bytes);
        }
    }
    assert_eq!(handshakes.len(), 1);
    assert_eq!(handshakes.counts().forgotten, 3);
    assert_eq!(KeyLog::default().handshakes(), 0);
}
