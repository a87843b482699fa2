//! Secrets find their connections, in whichever order and pieces things come.

use std::time::Duration;

use kuberewind_packet::{NetnsId, Timestamp};
use kuberewind_tls::{
    Derived, Joined, Joiner, KeyLogLabel, KeyLogLine, Object, ObjectPath, Pinned, Secret,
    SecretBytes, SecretEvent,
};
use proptest::prelude::*;
use ring::digest;

const NETNS: NetnsId = NetnsId(7);
const RETRY: &str = "cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c";

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_nanos(seconds * 1_000_000_000)
}

/// A `ClientHello` that asks for `shop.example` and is filled up to some length.
fn client_hello(random: u8, filler: usize) -> Vec<u8> {
    let mut extensions = vec![0, 0, 0, 17, 0, 15, 0, 0, 12];
    extensions.extend(b"shop.example");
    extensions.extend([0, 21]);
    extensions.extend(u16::try_from(filler).unwrap().to_be_bytes());
    extensions.resize(extensions.len() + filler, 0);
    let mut body = vec![3, 3];
    body.extend([random; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    message(1, &body)
}

fn server_hello(random: &[u8], cipher: u16, tls13: bool) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend(random);
    body.push(0);
    body.extend(cipher.to_be_bytes());
    body.push(0);
    if tls13 {
        body.extend([0, 6, 0, 43, 0, 2, 3, 4]);
    }
    message(2, &body)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[kind, len[1], len[2], len[3]], body].concat()
}

fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&[kind, 3, 3, len[0], len[1]], body].concat()
}

/// A TCP segment of the client or the server, in an Ethernet frame.
fn frame(from_client: bool, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(u16::try_from(40 + payload.len()).unwrap().to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    let (client, server) = ([10, 0, 0, 1, 0x9c, 0x40], [10, 0, 0, 2, 1, 187]);
    let (from, to) = if from_client { (client, server) } else { (server, client) };
    frame.extend([&from[..4], &to[..4], &from[4..], &to[4..]].concat());
    frame.extend(sequence.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    frame.extend(payload);
    frame
}

fn derivation(label: Derived, key: &[u8], transcript: &[u8]) -> SecretEvent {
    event(Secret::Derivation {
        label,
        key: SecretBytes(key.to_vec()),
        transcript: transcript.to_vec(),
    })
}

fn event(secret: Secret) -> SecretEvent {
    SecretEvent { time: at(1), netns: NETNS, pid: 1, library: "OpenSSL".into(), secret }
}

fn sha256(parts: &[&[u8]]) -> Vec<u8> {
    digest::digest(&digest::SHA256, &parts.concat()).as_ref().to_vec()
}

/// RFC 8448 section 3: a handshake secret, and the main secret that follows.
fn rfc_8448() -> (Vec<u8>, Vec<u8>) {
    let hex = |text: &str| {
        let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    };
    (
        hex("1dc826e93606aa6fdc0aadc12f741b01046aa6b99f691ed221a9f0ca043fbeac"),
        hex("18df06843d13a08bf2a449844c5f8a478001bc4d4c627984d5a41da8d0402919"),
    )
}

/// The events of a whole handshake, given the transcript up to the `ServerHello`.
fn events(transcript: &[u8]) -> Vec<SecretEvent> {
    let (handshake, main) = rfc_8448();
    vec![
        derivation(Derived::ClientHandshake, &handshake, transcript),
        derivation(Derived::ServerHandshake, &handshake, transcript),
        derivation(Derived::ClientTraffic, &main, &[1; 32]),
        derivation(Derived::ServerTraffic, &main, &[1; 32]),
        derivation(Derived::Exporter, &main, &[1; 32]),
    ]
}

fn labels(joiner: &mut Joiner) -> Vec<KeyLogLabel> {
    let mut labels: Vec<_> = joiner.take(at(2)).iter().map(|joined| joined.line.label).collect();
    labels.sort_unstable();
    labels
}

fn hellos(pinned: &Pinned) -> (&[u8], &[u8]) {
    (&pinned.pin.client_hello, &pinned.pin.server_hello)
}

const ALL: [KeyLogLabel; 5] = [
    KeyLogLabel::ClientHandshakeTraffic,
    KeyLogLabel::ServerHandshakeTraffic,
    KeyLogLabel::ClientTraffic,
    KeyLogLabel::ServerTraffic,
    KeyLogLabel::Exporter,
];

proptest! {
    #[test]
    fn secrets_and_packets_meet_in_any_order_and_cut_anywhere(
        cuts in prop::collection::vec(1usize..1200, 0..4),
        order in Just((0..12).collect::<Vec<usize>>()).prop_shuffle(),
        filler in 0usize..1400,
    ) {
        let (hello, answer) = (client_hello(9, filler), server_hello(&[5; 32], 0x1301, true));
        let transcript = sha256(&[&hello, &answer]);
        let said = record(22, &hello);
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut % said.len()).collect();
        cuts.extend([0, said.len()]);
        cuts.sort_unstable();
        let parts = cuts.windows(2).filter(|w| w[0] < w[1]);
        let parts: Vec<_> = parts
            .map(|w| frame(true, 100 + u32::try_from(w[0]).unwrap(), &said[w[0]..w[1]]))
            .collect();
        let mut joiner = Joiner::default();
        // The first segment opens a direction; the others come in any order, twice.
        joiner.packet(NETNS, at(1), &parts[0]);
        let flight = [record(22, &answer), record(20, &[1]), record(23, &[0; 80])].concat();
        let events = events(&transcript);
        for step in order {
            match step {
                0..5 => joiner.secret(events[step].clone()),
                5 => joiner.packet(NETNS, at(1), &frame(false, 1, &flight)),
                _ => for part in parts.iter().rev() {
                    joiner.packet(NETNS, at(1), part);
                },
            }
        }
        prop_assert_eq!(labels(&mut joiner), ALL);
        let counts = joiner.counts();
        prop_assert_eq!((counts.covered, counts.secrets, counts.unmatched), (1, 5, 0));
        let pinned = joiner.take_pinned();
        prop_assert_eq!(pinned.len(), 1);
        prop_assert_eq!(hellos(&pinned[0]), (hello.as_slice(), answer.as_slice()));
        prop_assert_eq!(pinned[0].pin.to_string().parse(), Ok(pinned[0].pin.clone()));
    }

    #[test]
    fn no_packet_makes_it_panic(
        payloads in prop::collection::vec((any::<bool>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..80)), 0..20),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut joiner = Joiner::default();
        for (from_client, sequence, payload) in &payloads {
            joiner.packet(NETNS, at(1), &frame(*from_client, *sequence, payload));
            joiner.packet(NETNS, at(1), payload);
        }
        let mut hello = frame(true, 1, &record(22, &client_hello(1, 30)));
        let mut answer = frame(false, 1, &record(22, &server_hello(&[5; 32], 0x1302, true)));
        for (at, byte) in damage {
            let at_answer = at.index(answer.len());
            answer[at_answer] = byte;
            let at_hello = at.index(hello.len());
            hello[at_hello] = byte;
        }
        joiner.packet(NETNS, at(1), &hello);
        joiner.packet(NETNS, at(1), &answer);
    }
}

#[test]
fn a_retried_hello_is_in_the_transcript_as_its_hash() {
    let (first, second) = (client_hello(9, 0), client_hello(9, 40));
    let retry_random: Vec<u8> =
        (0..32).map(|i| u8::from_str_radix(&RETRY[2 * i..2 * i + 2], 16).unwrap()).collect();
    let (retry, answer) =
        (server_hello(&retry_random, 0x1301, true), server_hello(&[5; 32], 0x1301, true));
    let hashed = [&[254, 0, 0, 32][..], &sha256(&[&first])].concat();
    let transcript = sha256(&[&hashed, &retry, &second, &answer]);
    let mut joiner = Joiner::default();
    let first_record = record(22, &first);
    let retry_record = [record(22, &retry), record(20, &[1])].concat();
    joiner.packet(NETNS, at(1), &frame(true, 1, &first_record));
    joiner.packet(NETNS, at(1), &frame(false, 1, &retry_record));
    let again = [record(20, &[1]), record(22, &second)].concat();
    let next = 1 + u32::try_from(first_record.len()).unwrap();
    joiner.packet(NETNS, at(1), &frame(true, next, &again));
    let next = 1 + u32::try_from(retry_record.len()).unwrap();
    joiner.packet(NETNS, at(1), &frame(false, next, &record(22, &answer)));
    for event in events(&transcript) {
        joiner.secret(event);
    }
    assert_eq!(labels(&mut joiner), ALL);
    let pinned = joiner.take_pinned();
    assert_eq!(hellos(&pinned[0]), (second.as_slice(), answer.as_slice()), "what is in force");
}

#[test]
fn a_main_secret_of_tls_1_2_is_found_by_the_clients_random() {
    let mut joiner = Joiner::default();
    let secret = SecretBytes(vec![3; 48]);
    let line = KeyLogLine {
        label: KeyLogLabel::ClientRandom,
        client_random: [9; 32],
        secret: secret.clone(),
    };
    let told =
        event(Secret::KeyLog { label: line.label, client_random: [9; 32], secret: secret.clone() });
    joiner.secret(told.clone());
    joiner.packet(NETNS, at(1), &frame(true, 1, &record(22, &client_hello(9, 0))));
    joiner.packet(
        NETNS,
        at(1),
        &frame(false, 1, &record(22, &server_hello(&[5; 32], 0xc02f, false))),
    );
    let pinned = joiner.take_pinned();
    assert_eq!((pinned.len(), &pinned[0].lines[..]), (1, &[line.clone()][..]));
    assert_eq!(pinned[0].server_name.as_deref(), Some("shop.example"));
    joiner.secret(told); // the other end is probed, too
    let given = joiner.take(at(2));
    assert_eq!(given.len(), 1);
    assert_eq!(given[0].line, line);
    assert_eq!(given[0].server_name.as_deref(), Some("shop.example"));
    assert_eq!(
        (given[0].client.to_string(), given[0].server.to_string()),
        ("10.0.0.1:40000".into(), "10.0.0.2:443".into())
    );
    assert_eq!(line.to_string().parse::<KeyLogLine>(), Ok(line));
    // Elsewhere the same random is another connection's.
    let elsewhere = SecretEvent {
        netns: NetnsId(8),
        ..event(Secret::KeyLog { label: KeyLogLabel::ClientRandom, client_random: [9; 32], secret })
    };
    joiner.secret(elsewhere);
    assert!(joiner.take(at(2)).is_empty());
}

/// A secret from a library of which is not known where it keeps the client's random; here it is behind
/// the pointer at 8, and what stands behind that at 16 was there before.
fn in_object(file: u32, random: u8, stale: u8) -> SecretEvent {
    let behind = |at: u16, before: usize, random: u8| {
        (at, SecretBytes([vec![1; before], vec![random; 32]].concat()))
    };
    let behind = vec![behind(8, 0x30, random), behind(16, 0x10, stale)];
    let object = Object { file, own: SecretBytes(vec![2; 100]), behind };
    let secret = SecretBytes(vec![random; 48]);
    event(Secret::InObject { label: KeyLogLabel::ClientRandom, secret, object })
}

/// The randoms of connections, with the first byte of the secret that is given out as theirs.
fn given(joined: &[Joined]) -> Vec<([u8; 32], u8)> {
    let lines = joined.iter().map(|joined| &joined.line);
    lines.map(|line| (line.client_random, line.secret.0[0])).collect()
}

#[test]
fn a_secret_finds_its_connection_in_the_object_and_three_show_where() {
    let mut joiner = Joiner::default();
    for random in [9, 10, 11] {
        let hello = record(22, &client_hello(random, 0));
        let packet = frame(true, u32::from(random) << 20, &hello);
        // In either order.
        if random == 10 {
            joiner.packet(NETNS, at(1), &packet);
            joiner.secret(in_object(4, random, 0));
        } else {
            joiner.secret(in_object(4, random, 0));
            joiner.packet(NETNS, at(1), &packet);
        }
        assert_eq!(given(&joiner.take(at(2))), []);
        assert_eq!(given(&joiner.take(at(3))), [([random; 32], random)]);
    }
    let place = ObjectPath { pointer: Some(8), offset: 0x30 };
    assert_eq!(joiner.take_learned(), [(4, place)]);
    assert_eq!((joiner.counts().covered, joiner.counts().unmatched), (3, 0));
}

/// Memory is used again, and secrets come before packets do: a secret of the second connection was
/// given to the first, whose random stood where nobody had written since.
#[test]
fn a_random_that_an_earlier_connection_left_behind_misleads_nobody() {
    let mut joiner = Joiner::default();
    let hello =
        |random: u8| frame(true, u32::from(random) << 20, &record(22, &client_hello(random, 0)));
    joiner.packet(NETNS, Timestamp::from_nanos(900_000_000), &hello(9));
    joiner.secret(in_object(4, 10, 9));
    joiner.take(at(2));
    joiner.packet(NETNS, at(1), &hello(10));
    assert_eq!(given(&joiner.take(at(3))), [([10; 32], 10)]);
}

#[test]
fn of_objects_without_a_connection_few_are_kept() {
    let mut joiner = Joiner::default();
    for number in 0..1400 {
        joiner.secret(in_object(number, 200, 0));
    }
    let unmatched = joiner.counts().unmatched;
    assert!((300..1400).contains(&unmatched), "{unmatched}");
    assert!(joiner.take(at(3)).is_empty());
    assert_eq!(joiner.counts().unmatched, 1400);
    assert_eq!(joiner.take_learned(), []);
}

#[test]
fn at_the_end_secrets_in_objects_do_not_wait() {
    let mut joiner = Joiner::default();
    joiner.packet(NETNS, at(1), &frame(true, 1, &record(22, &client_hello(9, 0))));
    joiner.secret(in_object(4, 9, 0));
    joiner.settle();
    assert_eq!(given(&joiner.take(at(1))), [([9; 32], 9)]);
}

#[test]
fn what_never_meets_is_counted_and_forgotten() {
    let mut joiner = Joiner::default();
    for event in events(&[4; 32]) {
        joiner.secret(event);
    }
    joiner.packet(NETNS, at(1), &frame(true, 1, &record(22, &client_hello(9, 0))));
    assert!(joiner.take(at(2).saturating_add(Duration::from_mins(1))).is_empty());
    let counts = joiner.counts();
    assert_eq!((counts.handshakes, counts.covered, counts.unmatched), (1, 0, 5));
}

#[test]
fn a_namespace_that_makes_up_secrets_and_hellos_crowds_out_no_other() {
    const FLOOD: u32 = 100_000;
    let hostile = NetnsId(NETNS.0 + 1);
    let made_up = |number: u32| {
        let mut random = [0xee; 32];
        random[..4].copy_from_slice(&number.to_be_bytes());
        random
    };
    let mut joiner = Joiner::default();
    // Secrets that wait for their hello while the flood comes, and a hello that waits for its secrets.
    let (hello, answer) = (client_hello(9, 0), server_hello(&[5; 32], 0x1301, true));
    let transcript = sha256(&[&hello, &answer]);
    let early = events(&transcript);
    let (before, after) = early.split_at(2);
    for event in before {
        joiner.secret(event.clone());
    }
    joiner.packet(NETNS, at(1), &frame(true, 1, &record(22, &client_hello(8, 0))));
    for number in 0..FLOOD {
        let client_random = made_up(number);
        let (label, secret) = (KeyLogLabel::ClientTraffic, SecretBytes(vec![1; 32]));
        let secret = Secret::KeyLog { label, client_random, secret };
        joiner.secret(SecretEvent { netns: hostile, ..event(secret) });
        let mut packet = frame(true, number, &record(22, &client_hello(0, 0)));
        // The random, and a port of its own for each connection.
        packet[34..36].copy_from_slice(&number.to_be_bytes()[2..]);
        packet[65..69].copy_from_slice(&number.to_be_bytes());
        joiner.packet(hostile, at(1), &packet);
    }
    joiner.packet(NETNS, at(2), &frame(true, 50_000, &record(22, &hello)));
    joiner.packet(NETNS, at(2), &frame(false, 1, &record(22, &answer)));
    for event in after {
        joiner.secret(event.clone());
    }
    assert_eq!(labels(&mut joiner), ALL);
    let late = Secret::KeyLog {
        label: KeyLogLabel::ClientTraffic,
        client_random: [8; 32],
        secret: SecretBytes(vec![1; 32]),
    };
    joiner.secret(event(late));
    assert_eq!(labels(&mut joiner), [KeyLogLabel::ClientTraffic]);
    let unmatched = joiner.counts().unmatched;
    assert!(unmatched >= u64::from(FLOOD) - (1 << 15) - 10, "{unmatched} were given up");
}
