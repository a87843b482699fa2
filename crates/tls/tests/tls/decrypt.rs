//! What real peers said to each other is read from what tcpdump recorded.

use crate::recorded::{behind, case, decrypt, in_pieces};
use kuberewind_tls::{
    Decryptor, Event, KeyLog, KeyLogLabel, Limits, Outcome, Place, Reason, Version,
};

/// Everything, to the byte, and nothing else.
#[track_caller]
fn opens_whole(name: &str, version: Version, connections: usize) {
    let case = case(name);
    let said = decrypt(&case.packets, &case.log);
    assert_eq!(said.outcomes(), vec![Outcome::Opened; connections], "{name}");
    assert!(said.client == case.client, "{name}: {:?}", String::from_utf8_lossy(&said.client));
    assert!(said.server == case.server, "{name}: {:?}", String::from_utf8_lossy(&said.server));
    assert!(said.reports.iter().all(|report| report.version == Some(version)), "{name}");
    assert!(said.times.is_sorted());
    assert_eq!(said.ends.len(), connections * 2, "{name}: {:?}", said.ends);
}

#[test]
fn tls13_opens_with_every_suite() {
    for name in ["tls13", "tls13-aes128", "tls13-chacha"] {
        opens_whole(name, Version::TLS13, 1);
    }
}

#[test]
fn a_long_body_opens_to_the_byte() {
    opens_whole("tls13-long", Version::TLS13, 1);
}

#[test]
fn a_second_client_hello_is_no_matter() {
    opens_whole("tls13-retry", Version::TLS13, 1);
}

#[test]
fn a_client_with_a_certificate_is_no_matter() {
    opens_whole("tls13-mutual", Version::TLS13, 1);
    opens_whole("tls12-aes256", Version::TLS12, 1);
}

#[test]
fn resumed_sessions_open() {
    opens_whole("tls13-resumed", Version::TLS13, 2);
    opens_whole("tls12-resumed", Version::TLS12, 2);
}

#[test]
fn updated_keys_are_followed_in_both_directions() {
    opens_whole("tls13-updated", Version::TLS13, 1);
}

#[test]
fn early_data_is_shown_where_the_server_took_it() {
    opens_whole("tls13-early", Version::TLS13, 2);
    opens_whole("tls13-early-refused", Version::TLS13, 2);
}

#[test]
fn tls12_opens_with_every_aead() {
    for name in ["tls12-aes128", "tls12-chacha"] {
        opens_whole(name, Version::TLS12, 1);
    }
}

#[test]
fn tls12_opens_with_cbc() {
    opens_whole("tls12-cbc", Version::TLS12, 1);
}

#[test]
fn a_second_handshake_within_tls12_is_followed() {
    opens_whole("tls12-renegotiated", Version::TLS12, 1);
}

#[test]
fn what_cannot_be_opened_is_said_with_its_reason() {
    let reason = |name: &str, skip: usize, log: Option<KeyLog>| {
        let case = case(name);
        let said = decrypt(&case.packets[skip..], &log.unwrap_or(case.log));
        assert!(said.pieces.is_empty());
        said.outcomes()
    };
    let sealed = |reason| vec![Outcome::Sealed(reason)];
    assert_eq!(reason("tls13", 0, Some(KeyLog::default())), sealed(Reason::NoSecret));
    let mut ccm = case("tls12-cbc");
    for packet in &mut ccm.packets {
        let at = packet.bytes.windows(3).position(|bytes| bytes == [0xc0, 0x09, 0x00]);
        if let Some(at) = at.filter(|_| packet.bytes.get(71) == Some(&2)) {
            packet.bytes[at + 1] = 0xac;
        }
    }
    assert_eq!(decrypt(&ccm.packets, &ccm.log).outcomes(), sealed(Reason::Cipher(0xc0ac)));
    let handshake = 12;
    assert_eq!(reason("tls13", handshake, None), sealed(Reason::NoHandshake));
    assert_eq!(Reason::NoHandshake.to_string(), "handshake not recorded");
    assert_eq!(Reason::Cipher(0xc009).to_string(), "cipher suite 0xc009 not supported");
    assert_eq!(Reason::Version(Version(0x0302)).to_string(), "TLS 1.1 not supported");
}

#[test]
fn it_does_not_matter_how_segments_cut_the_stream() {
    for name in ["tls13-retry", "tls12-chacha", "tls13-early"] {
        let case = case(name);
        for size in [1, 3, 700] {
            let said = decrypt(&in_pieces(&case.packets, size), &case.log);
            assert!(said.client == case.client && said.server == case.server, "{name} {size}");
        }
    }
}

#[test]
fn what_follows_another_protocol_opens() {
    let (ssl_request, connect) =
        ([0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f], "CONNECT a:443 HTTP/1.1\r\n\r\n");
    for name in ["tls13", "tls13-retry", "tls12-aes128"] {
        let case = case(name);
        for (asked, answered) in [
            (&ssl_request[..], &b"S"[..]),
            (connect.as_bytes(), b"HTTP/1.1 200 OK\r\n\r\n"),
            (b"STARTTLS\r\n", b"220 go ahead\r\n"),
        ] {
            let packets = behind(&case.packets, asked, answered);
            let said = decrypt(&packets, &case.log);
            assert_eq!(said.outcomes(), [Outcome::Opened], "{name} {asked:?}");
            assert!(said.client == case.client && said.server == case.server, "{name} {asked:?}");
            for lost in [3, 4] {
                let mut torn = packets.clone();
                torn.remove(lost);
                let said = decrypt(&torn, &case.log);
                let whole = said.client == case.client && said.server == case.server;
                assert!(whole, "{name} {asked:?} {lost}");
            }
        }
    }
}

#[test]
fn old_versions_are_named() {
    let mut case = case("tls12-aes128");
    let hello = case
        .packets
        .iter_mut()
        .find(|packet| packet.bytes.get(66) == Some(&22) && packet.bytes.get(71) == Some(&2));
    hello.unwrap().bytes[76] = 2;
    let said = decrypt(&case.packets, &case.log);
    assert_eq!(said.outcomes(), [Outcome::Sealed(Reason::Version(Version(0x0302)))]);
}

#[test]
fn one_connection_after_another_on_the_same_ports() {
    let case = case("tls13");
    let mut packets = case.packets.clone();
    for packet in &case.packets {
        let mut packet = packet.clone();
        for at in [38, 42] {
            let number = u32::from_be_bytes(packet.bytes[at..at + 4].try_into().unwrap());
            let moved = number.wrapping_add(1 << 20);
            packet.bytes[at..at + 4].copy_from_slice(&moved.to_be_bytes());
        }
        packets.push(packet);
    }
    let said = decrypt(&packets, &case.log);
    assert_eq!(said.client, [&case.client[..], &case.client].concat());
    assert_eq!(said.outcomes(), [Outcome::Opened, Outcome::Opened]);
}

#[test]
fn loopbacks_of_two_pods_are_two_flows() {
    let (one, mut two) = (case("tls13"), case("tls12-aes128"));
    // The same client port in both, at the same time.
    let port: [u8; 2] = one.packets[0].bytes[34..36].try_into().unwrap();
    for packet in &mut two.packets {
        let at = if packet.bytes[34..36] == 8443_u16.to_be_bytes() { 36 } else { 34 };
        packet.bytes[at..at + 2].copy_from_slice(&port);
    }
    let mut log = one.log.clone();
    log.extend(two.log.lines());
    let mut decryptor = Decryptor::new(log, Limits::default());
    let mut bytes = 0;
    let longest = one.packets.len().max(two.packets.len());
    for index in 0..longest {
        for (place, case) in [(1, &one), (2, &two)] {
            let Some(packet) = case.packets.get(index) else { continue };
            let len = packet.original_len;
            decryptor.see(Place(place), packet.time, len, &packet.bytes, &mut |event| {
                if let Event::Data { content, .. } = event {
                    bytes += content.bytes.len();
                }
            });
        }
    }
    let all = [&one.client, &one.server, &two.client, &two.server].map(Vec::len);
    assert_eq!(bytes, all.iter().sum::<usize>());
}

#[test]
fn a_connection_without_its_syn_opens_from_its_hello() {
    let case = case("tls13");
    let said = decrypt(&case.packets[3..], &case.log);
    assert_eq!(said.server, case.server);
}

/// The key log without these lines.
fn without(log: &KeyLog, labels: &[KeyLogLabel]) -> KeyLog {
    let mut rest = KeyLog::default();
    rest.extend(log.lines().filter(|line| !labels.contains(&line.label)));
    rest
}

#[test]
fn what_some_secrets_open_is_shown() {
    let case = case("tls13");
    let handshake = [KeyLogLabel::ClientHandshakeTraffic, KeyLogLabel::ServerHandshakeTraffic];
    let said = decrypt(&case.packets, &without(&case.log, &handshake));
    assert_eq!((said.client, said.server), (case.client.clone(), case.server.clone()));

    let server =
        [KeyLogLabel::ServerHandshakeTraffic, KeyLogLabel::ServerTraffic, KeyLogLabel::Exporter];
    let said = decrypt(&case.packets, &without(&case.log, &server));
    assert_eq!(said.outcomes(), [Outcome::Partly(Reason::NoSecret)]);
    assert_eq!((said.client, said.server), (case.client, Vec::new()));
}

#[test]
fn secrets_of_another_connection_open_nothing() {
    for name in ["tls13", "tls12-aes128"] {
        let case = case(name);
        let mut wrong = KeyLog::default();
        wrong.extend(case.log.lines().map(|mut line| {
            line.secret.0[0] ^= 1;
            line
        }));
        let said = decrypt(&case.packets, &wrong);
        assert_eq!(said.outcomes(), [Outcome::Sealed(Reason::WrongSecret)], "{name}");
        assert!(said.pieces.is_empty());
    }
}

#[test]
fn the_true_secret_is_found_among_rivals() {
    for name in ["tls13", "tls12-chacha"] {
        let case = case(name);
        let mut log = KeyLog::default();
        for line in case.log.lines() {
            let mut wrong = line.clone();
            wrong.secret.0[0] ^= 1;
            log.extend([wrong, line]);
        }
        let said = decrypt(&case.packets, &log);
        assert_eq!(said.outcomes(), [Outcome::Opened], "{name}");
        assert_eq!((said.client, said.server), (case.client, case.server));
    }
}
