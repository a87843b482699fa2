//! Connections that began before the exported window: what is in the window is readable.

use std::collections::BTreeMap;
use std::fs;

use kuberewind_packet::Timestamp;
use kuberewind_tests::Program;

use crate::judge::{self, Exchange};
use crate::lab::{End, Lab, NGINX, WITHIN, other_end, text};

/// What each connection is asked for, before and in the window.
const LENGTHS: [usize; 5] = [10, 100_000, 1, 10, 100_000];

/// Keeps a connection: `ADDRESS PORT VERSION CIPHERS TAG GO`. It asks for everything, waits until the file GO
/// is there, and asks again.
const CLIENT: &str = "\
import http.client, os, ssl, sys, time
address, port, version, ciphers, tag, go = sys.argv[1:]
context = ssl._create_unverified_context()
one = ssl.TLSVersion.TLSv1_3 if version == '1.3' else ssl.TLSVersion.TLSv1_2
context.minimum_version = context.maximum_version = one
if ciphers: context.set_ciphers(ciphers)
connection = http.client.HTTPSConnection(address, int(port), context=context)
def ask(when):
    for length in (10, 100000, 1, 10, 100000):
        connection.request('GET', '/text/%d?%s-%s' % (length, tag, when))
        assert len(connection.getresponse().read()) == length
    print(when + '\\n', end='', flush=True)
ask('early')
while not os.path.exists(go): time.sleep(0.02)
ask('late')
";

/// The name of a connection, its version, its cipher suites in OpenSSL's words.
const CONNECTIONS: [(&str, &str, &str); 5] = [
    ("tls13", "1.3", ""),
    ("gcm", "1.2", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    ("gcm256", "1.2", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ("chacha", "1.2", "ECDHE-ECDSA-CHACHA20-POLY1305"),
    ("cbc", "1.2", "ECDHE-ECDSA-AES128-SHA256"),
];

fn late(tag: &str) -> Vec<Exchange> {
    let exchange = |length: usize| Exchange {
        answered: text(length).into(),
        ..Exchange::new("GET", &format!("/text/{length}?{tag}-late"))
    };
    LENGTHS.map(exchange).into()
}

#[test]
fn what_was_said_in_the_window_is_readable_though_its_connection_is_older() {
    let lab = Lab::new();
    let go = lab.files.path("go");
    let start = |(tag, version, ciphers): (&str, &str, &str)| {
        let mut client = lab.exec(End::Recorded, "python3");
        client.args(["-c", CLIENT, other_end(End::Recorded), &NGINX.to_string()]);
        Program::start(client.args([version, ciphers, tag]).arg(&go))
    };
    // Keeps OpenSSL mapped, so that it is known before the first handshake.
    let _nginx = lab.nginx();
    let mut clients = CONNECTIONS.map(start);
    for client in &mut clients {
        client.wait_to_say("early", WITHIN);
    }
    let since = Timestamp::now().to_string();
    fs::write(&go, "").expect("a file");
    for client in &mut clients {
        assert!(client.ended(WITHIN).success(), "{}", client.said());
    }
    let named = CONNECTIONS.map(|(tag, ..)| (format!("{tag}-late"), late(tag)));
    let expected = BTreeMap::from(named);
    for name in ["older.pcap", "older.pcapng"] {
        let (path, said) =
            judge::export(lab.recorder(), lab.files.path("").as_path(), name, &["--since", &since]);
        judge::holds(&path, &expected, &said);
    }
}
