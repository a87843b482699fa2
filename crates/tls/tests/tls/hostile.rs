//! Bytes from anybody: no panic, bounded memory.

use kuberewind_packet::{NetnsId, Timestamp};
use kuberewind_tls::{
    Decryptor, Derived, Joiner, KeyLog, KeyLogLabel, Limits, Object, Place, PortsTaken, Secret,
    SecretBytes, SecretEvent, Twins,
};
use proptest::prelude::*;

use crate::recorded::case;

/// A frame whose headers are right and whose payload and flags are anything.
fn segment() -> impl Strategy<Value = Vec<u8>> {
    let record = (20..25_u8, 0..6_u8, prop::collection::vec(any::<u8>(), 0..80)).prop_map(
        |(kind, minor, body)| [&[kind, 3, minor, 0, body.len() as u8], body.as_slice()].concat(),
    );
    let hello =
        (any::<bool>(), prop::collection::vec(any::<u8>(), 0..120)).prop_map(|(client, rest)| {
            let body = [&[3, 3], &[7; 32][..], &[0], &rest].concat();
            let message = [&[2 - u8::from(client), 0, 0, body.len() as u8][..], &body].concat();
            [&[22, 3, 3, 0, message.len() as u8][..], &message].concat()
        });
    let payload = prop_oneof![record, hello, prop::collection::vec(any::<u8>(), 0..100)];
    (any::<bool>(), 0..400_u32, any::<u8>(), payload).prop_map(
        |(client, sequence, flags, payload)| {
            let mut frame = vec![2; 12];
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((40 + payload.len() as u16).to_be_bytes());
            frame.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 1]);
            let ports: [u16; 2] = if client { [4000, 443] } else { [443, 4000] };
            frame.extend(ports.map(u16::to_be_bytes).concat());
            frame.extend(sequence.to_be_bytes());
            frame.extend((sequence ^ 3).to_be_bytes());
            frame.extend([0x50, flags, 1, 1, 0, 0, 0, 0]);
            frame.extend(payload);
            frame
        },
    )
}

fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let noise = prop::collection::vec(any::<u8>(), 0..120);
    prop::collection::vec(prop_oneof![8 => segment(), 1 => noise], 0..40)
}

fn label() -> impl Strategy<Value = Derived> {
    prop::sample::select(vec![
        Derived::ClientEarly,
        Derived::ClientHandshake,
        Derived::ServerTraffic,
        Derived::Exporter,
    ])
}

fn event() -> impl Strategy<Value = SecretEvent> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..70);
    let sized = || prop_oneof![bytes(), Just(vec![1; 32]), Just(vec![2; 48])];
    let derivation = (label(), sized(), sized()).prop_map(|(label, key, transcript)| {
        Secret::Derivation { label, key: SecretBytes(key), transcript }
    });
    let line = sized().prop_map(|secret| Secret::KeyLog {
        label: KeyLogLabel::ClientRandom,
        client_random: [7; 32],
        secret: SecretBytes(secret),
    });
    let behind = prop::collection::vec((any::<u16>(), bytes().prop_map(SecretBytes)), 0..4);
    let object = (0..3_u32, bytes(), behind, sized()).prop_map(|(file, own, behind, secret)| {
        let object = Object { file, own: SecretBytes(own), behind };
        Secret::InObject { label: KeyLogLabel::ClientTraffic, secret: SecretBytes(secret), object }
    });
    prop_oneof![derivation, line, object].prop_map(|secret| SecretEvent {
        time: Timestamp::MIN,
        netns: NetnsId(1),
        pid: 1,
        library: String::new(),
        secret,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn no_packets_and_no_secrets_make_it_panic(
        frames in frames(),
        events in prop::collection::vec(event(), 0..8),
        longer in 0..3_u32,
    ) {
        let mut joiner = Joiner::default();
        let mut taken = PortsTaken::default();
        for frame in &frames {
            let len = frame.len() as u32 + longer * 7;
            joiner.packet(NetnsId(1), Timestamp::MIN, frame);
            taken.see(len, frame);
        }
        for event in events {
 joiner.secret(event);
}
        let mut log = KeyLog::default();
        log.extend(joiner.take(Timestamp::MIN).into_iter().map(|joined| joined.line));
        let limits = Limits { connections: 3, direction: 200, total: 600, ..Limits::default() };
        let mut decryptor = Decryptor::new(log, limits);
        let mut twins = Twins::new(taken);
        for (number, frame) in frames.iter().enumerate() {
            let time = Timestamp::from_nanos(number as u64 * 300_000_000);
            let len = frame.len() as u32 + longer * 7;
            decryptor.see(Place(0), time, len, frame, &mut |event| {
                twins.hear(&event, &mut |_, _| {});
            });
            prop_assert!(decryptor.held() <= 600);
        }
        decryptor.finish(&mut |event| twins.hear(&event, &mut |_, _| {}));
    }

    #[test]
    fn no_text_makes_the_key_log_panic(text in "(CLIENT_RANDOM|EXPORTER_SECRET|#|[a-f0-9 \nü]{0,70}){0,5}") {
        if let Ok(log) = KeyLog::parse(&text) {
            prop_assert_eq!(KeyLog::parse(&log.to_text()), Ok(log));
        }
    }
}

#[test]
fn many_connections_at_once_are_bounded() {
    let case = case("tls13");
    let limits = Limits { connections: 10, ..Limits::default() };
    let mut decryptor = Decryptor::new(KeyLog::default(), limits);
    let mut reports = 0;
    for port in 0..100_u16 {
        for packet in &case.packets[..6] {
            let mut bytes = packet.bytes.clone();
            let at = if bytes[34..36] == 8443_u16.to_be_bytes() { 36 } else { 34 };
            bytes[at..at + 2].copy_from_slice(&port.to_be_bytes());
            decryptor.see(Place(0), packet.time, packet.original_len, &bytes, &mut |event| {
                reports += usize::from(matches!(event, kuberewind_tls::Event::Report { .. }));
            });
        }
    }
    assert!((90..=100).contains(&reports), "{reports} were ended to make room");
}
