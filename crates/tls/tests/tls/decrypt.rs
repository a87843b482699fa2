//! What real peers said to each other is read from what tcpdump recorded.

use kuberewind_tls::{KeyLog, Outcome, Reason, Version};
use crate::recorded::{case, decrypt};

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
    assert_eq!(reason("tls12-cbc", 0, None), sealed(Reason::Cipher(0xc009)));
    let handshake = 12;
    assert_eq!(reason("tls13", handshake, None), sealed(Reason::NoHandshake));
    assert_eq!(Reason::NoHandshake.to_string(), "handshake before the window");
    assert_eq!(Reason::Cipher(0xc009).to_string(), "cipher suite 0xc009 not supported");
    assert_eq!(Reason::Version(Version(0x0302)).to_string(), "TLS 1.1 not supported");
}
