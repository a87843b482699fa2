//! Connections that are older than the packets at hand are read from where the packets begin.

use kuberewind_tls::{KeyLog, KeyLogLabel, Outcome, Pin, Reason, Sender};
use proptest::prelude::*;

use crate::recorded::{Case, Packet, Said, case, decrypt, decrypt_pinned, in_pieces, pins};

const NAMES: [&str; 9] = [
    "tls13",
    "tls13-aes128",
    "tls13-chacha",
    "tls13-mutual",
    "tls13-updated",
    "tls12-aes128",
    "tls12-aes256",
    "tls12-chacha",
    "tls12-cbc",
];

/// From here on the packets of a recording carry nothing of its hellos.
fn after_hellos(packets: &[Packet]) -> usize {
    let server_hello =
        |packet: &Packet| packet.bytes.get(66) == Some(&22) && packet.bytes.get(71) == Some(&2);
    packets.iter().rposition(server_hello).unwrap() + 1
}

/// What was said by `sender` and is not in what remains, in pieces of a record's content each.
fn missing(whole: &Said, rest: &Said, sender: Sender) -> Vec<Vec<u8>> {
    let pieces = |said: &Said| -> Vec<Vec<u8>> {
        let pieces = said.pieces.iter().filter(|(_, from, ..)| *from == sender);
        pieces.map(|(_, _, _, bytes)| bytes.clone()).collect()
    };
    let (whole, rest) = (pieces(whole), pieces(rest));
    assert!(whole.ends_with(&rest), "{sender:?} never said this: {rest:?}");
    whole[..whole.len() - rest.len()].to_vec()
}

/// Nothing is shown but what was said at last, and all of that but for the records that were begun
/// before `cut`.
#[track_caller]
fn opens_from(name: &str, packets: &[Packet], cut: usize, log: &KeyLog, pins: &[Pin]) -> Said {
    let whole = decrypt(packets, log);
    let before = decrypt(&packets[..cut], log);
    let rest = decrypt_pinned(&packets[cut..], log, pins);
    for sender in [Sender::Client, Sender::Server] {
        let missing = missing(&whole, &rest, sender).len();
        let known = before.pieces.iter().filter(|(_, from, ..)| *from == sender).count();
        assert!(missing <= known + 1, "{name} from {cut}: {missing} records missing, not {known}");
    }
    rest
}

#[test]
fn what_follows_any_packet_opens() {
    for name in NAMES {
        let case = case(name);
        let pins = pins(&case.packets);
        for cut in after_hellos(&case.packets)..case.packets.len() {
            let rest = opens_from(name, &case.packets, cut, &case.log, &pins);
            let said = !rest.pieces.is_empty();
            assert!(!said || rest.outcomes() == [Outcome::Opened], "{name} {cut}: {rest:?}");
        }
    }
}

#[test]
fn what_follows_any_byte_opens() {
    for name in ["tls13", "tls13-chacha", "tls12-aes128", "tls12-cbc"] {
        let case = case(name);
        let pins = pins(&case.packets);
        let packets = in_pieces(&case.packets, 61);
        for cut in after_hellos(&packets)..packets.len() {
            opens_from(name, &packets, cut, &case.log, &pins);
        }
    }
}

#[test]
fn a_long_body_opens_from_its_middle() {
    let case = case("tls13-long");
    let pins = pins(&case.packets);
    for cut in [20, 80, 130] {
        let rest = opens_from("tls13-long", &case.packets, cut, &case.log, &pins);
        assert!(case.server.ends_with(&rest.server) && !rest.server.is_empty());
        assert_eq!(rest.outcomes(), [Outcome::Opened]);
    }
}

#[test]
fn of_several_handshakes_between_the_same_ends_the_tag_chooses() {
    for (name, other) in [("tls13", "tls12-aes128"), ("tls12-cbc", "tls13-aes128")] {
        let (case, other) = (case(name), case(other));
        let [pin] = &pins(&case.packets)[..] else { panic!("one connection") };
        let [wrong] = &pins(&other.packets)[..] else { panic!("one connection") };
        let mut log = case.log.clone();
        log.extend(other.log.lines());
        for later in [-1, 1] {
            let hello = pin.hello.as_nanos().saturating_add_signed(later);
            let hello = kuberewind_packet::Timestamp::from_nanos(hello);
            let (client, server) = (pin.client, pin.server);
            let wrong = Pin { hello, client, server, ..wrong.clone() };
            let cut = after_hellos(&case.packets) + 3;
            let both = [pin.clone(), wrong];
            let rest = opens_from(name, &case.packets, cut, &log, &both);
            assert!(!rest.server.is_empty());
            assert_eq!(rest.outcomes(), [Outcome::Opened]);
        }
    }
}

#[test]
fn what_cannot_be_opened_says_why() {
    let Case { packets, log, .. } = case("tls13");
    let pins = pins(&packets);
    let rest = &packets[12..];
    let outcomes = |log: &KeyLog, pins: &[Pin]| decrypt_pinned(rest, log, pins).outcomes();
    let sealed = |reason| [Outcome::Sealed(reason)];
    assert_eq!(outcomes(&log, &[]), sealed(Reason::NoHandshake));
    assert_eq!(outcomes(&KeyLog::default(), &pins), sealed(Reason::NoSecret));
    let mut wrong = KeyLog::default();
    wrong.extend(log.lines().map(|mut line| {
        line.secret.0[0] ^= 1;
        line
    }));
    assert_eq!(outcomes(&wrong, &pins), sealed(Reason::WrongSecret));
    let mut client_only = KeyLog::default();
    client_only.extend(log.lines().filter(|line| line.label == KeyLogLabel::ClientTraffic));
    assert_eq!(outcomes(&client_only, &pins), [Outcome::Partly(Reason::NoSecret)]);
}

#[test]
fn a_new_connection_between_the_same_ends_is_not_taken_for_the_old_one() {
    let case = case("tls13");
    let pins = pins(&case.packets);
    let mut packets = case.packets[12..].to_vec();
    for packet in &case.packets {
        let mut packet = packet.clone();
        for at in [38, 42] {
            let number = u32::from_be_bytes(packet.bytes[at..at + 4].try_into().unwrap());
            packet.bytes[at..at + 4].copy_from_slice(&number.wrapping_add(1 << 20).to_be_bytes());
        }
        packets.push(packet);
    }
    let said = decrypt_pinned(&packets, &case.log, &pins);
    assert_eq!(said.outcomes(), [Outcome::Opened, Outcome::Opened]);
    assert!(said.client.ends_with(&case.client) && said.client.len() > case.client.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn lost_packets_and_flipped_bits_cost_content_but_give_no_wrong_content(
        name in prop::sample::select(NAMES.to_vec()),
        cut in 0..20_usize,
        lost in prop::collection::btree_set(0..60_usize, 0..5),
        flipped in prop::option::of((0..60_usize, 0..2000_usize, 0..8_u8)),
    ) {
        let case = case(name);
        let pins = pins(&case.packets);
        let from = after_hellos(&case.packets) + cut;
        let mut packets: Vec<_> = case.packets.iter().skip(from).cloned().collect();
        if let Some((at, byte, bit)) = flipped
            && let Some(packet) = packets.get_mut(at)
        {
            let payload = packet.bytes.get_mut(66..).unwrap_or_default();
            if !payload.is_empty() {
                let byte = byte % payload.len();
                payload[byte] ^= 1 << bit;
            }
        }
        let kept = packets.iter().enumerate().filter(|(at, _)| !lost.contains(at));
        let said = decrypt_pinned(kept.map(|(_, packet)| packet), &case.log, &pins);
        for (sender, truth) in [(Sender::Client, &case.client), (Sender::Server, &case.server)] {
            let mut rest = truth.as_slice();
            for (_, _, _, piece) in said.pieces.iter().filter(|(_, from, ..)| *from == sender) {
                let at = rest.windows(piece.len()).position(|part| part == piece);
                prop_assert!(at.is_some(), "{sender:?} never said {piece:?}");
                rest = &rest[at.unwrap_or(0) + piece.len()..];
            }
        }
    }
}
