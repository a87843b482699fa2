//! Connections that began before the exported window: what is in the window is readable.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use kuberewind_packet::Timestamp;
use kuberewind_tests::Program;
use kuberewind_tests::judges::tshark;

use crate::boringssl::{self, message, serve_grpc};
use crate::judge::{self, Exchange, attribute, unhex};
use crate::lab::{End, Lab, NGINX, WITHIN, other_end, text};

/// What each connection is asked for, before and in the window.
const LENGTHS: [usize; 5] = [10, 100_000, 1, 10, 100_000];

/// Keeps a connection: `ADDRESS PORT VERSION CIPHERS TAG RECORDS GO`. It asks for everything, sends so many
/// records of a byte, waits until the file GO is there, and asks again.
const CLIENT: &str = "\
import http.client, os, socket, ssl, sys, time
address, port, version, ciphers, tag, records, go = sys.argv[1:]
context = ssl._create_unverified_context()
one = ssl.TLSVersion.TLSv1_3 if version == '1.3' else ssl.TLSVersion.TLSv1_2
context.minimum_version = context.maximum_version = one
if ciphers: context.set_ciphers(ciphers)
connection = http.client.HTTPSConnection(address, int(port), context=context)
def ask(when):
    for length in (10, 100000, 1, 10, 100000):
        connection.request('GET', '/text/%d?%s-%s' % (length, tag, when))
        assert len(connection.getresponse().read()) == length
def bury(records):
    connection.putrequest('GET', '/text/10?%s-many' % tag)
    connection.putheader('Content-Length', str(records))
    connection.endheaders()
    # Many in a packet.
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    for _ in range(records): connection.sock.send(b'.')
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    assert len(connection.getresponse().read()) == 10
ask('early')
if int(records): bury(int(records))
print('ready\\n', end='', flush=True)
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

/// Each connection asks, sends so many records, and asks again; what it asked late is readable in a window that
/// begins after the records.
fn only_the_end_is_in_the_window(
    connections: &[(&str, &str, &str)],
    records: u32,
    within: Duration,
) {
    let lab = Lab::new();
    let go = lab.files.path("go");
    let start = |&(tag, version, ciphers): &(&str, &str, &str)| {
        let mut client = lab.exec(End::Recorded, "python3");
        client.args(["-c", CLIENT, other_end(End::Recorded), &NGINX.to_string()]);
        Program::start(client.args([version, ciphers, tag, &records.to_string()]).arg(&go))
    };
    // Keeps OpenSSL mapped, so that it is known before the first handshake.
    let _nginx = lab.nginx();
    let mut clients: Vec<_> = connections.iter().map(start).collect();
    for client in &mut clients {
        client.wait_to_say("ready", within);
    }
    let since = Timestamp::now().to_string();
    fs::write(&go, "").expect("a file");
    for client in &mut clients {
        assert!(client.ended(WITHIN).success(), "{}", client.said());
    }
    let named = connections.iter().map(|(tag, ..)| (format!("{tag}-late"), late(tag)));
    let expected: BTreeMap<_, _> = named.collect();
    for name in ["older.pcap", "older.pcapng"] {
        let began = Instant::now();
        let (path, said) =
            judge::export(lab.recorder(), lab.files.path("").as_path(), name, &["--since", &since]);
        eprintln!("{name}: exported in {:?}", began.elapsed());
        judge::holds(&path, &expected, &said);
    }
}

#[test]
fn what_was_said_in_the_window_is_readable_though_its_connection_is_older() {
    only_the_end_is_in_the_window(&CONNECTIONS, 0, WITHIN);
}

#[test]
fn what_was_said_after_a_million_records_is_readable() {
    only_the_end_is_in_the_window(&CONNECTIONS, 1_000_000, Duration::from_mins(3));
}

/// Header fields, and all data, in the order of the file.
fn http2(path: &Path) -> (BTreeSet<(String, String)>, Vec<u8>) {
    let (mut fields, mut data, mut name) = (BTreeSet::new(), Vec::new(), String::new());
    for line in tshark(path, &["-T", "pdml", "-J", "http2"]) {
        let show = attribute(&line, "show").to_owned();
        if line.contains("name=\"http2.header.name\"") {
            name = show;
        } else if line.contains("name=\"http2.header.value\"") {
            fields.insert((std::mem::take(&mut name), show));
        } else if line.contains("name=\"http2.data.data\"") {
            data.extend(unhex(attribute(&line, "value")));
        }
    }
    (fields, data)
}

#[test]
fn grpc_in_the_window_is_readable_and_never_wrong_though_its_connection_is_older() {
    let mut lab = Lab::new();
    let program = serve_grpc(&mut lab);
    let go = lab.files.path("go");
    let mut client = lab.exec(End::Peer, &program[0]);
    client.args([&program[1], "keep", other_end(End::Peer), &boringssl::PORT.to_string()]);
    let mut client = Program::start(client.arg(lab.files.certificate("server")).arg(&go));
    client.wait_to_say("early", WITHIN);
    lab.wait_for_connections(1);
    let since = Timestamp::now().to_string();
    fs::write(&go, "").expect("a file");
    assert!(client.ended(WITHIN).success(), "{}", client.said());
    let dir = lab.files.path("");
    let (whole, _) = judge::export(lab.recorder(), &dir, "whole.pcap", &[]);
    let (all, _) = http2(&whole);
    for name in ["grpc.pcap", "grpc.pcapng"] {
        let (path, said) = judge::export(lab.recorder(), &dir, name, &["--since", &since]);
        let (fields, data) = http2(&path);
        let is_new = |(name, value): &&(String, String)| {
            let known = all.contains(&(name.clone(), value.clone()));
            !known && !name.starts_with("unknown-hpack-")
        };
        assert_eq!(fields.iter().find(is_new), None, "{name}: {said}");
        for number in 0..5 {
            let value = format!("late-{number}");
            assert!(fields.iter().any(|field| field.1 == value), "{value} in {name}: {fields:?}");
            for sent in [message(&text(3000)), message(&text(1000 + number))] {
                let found = data.windows(sent.len()).any(|window| window == sent);
                assert!(found, "{number}: {} bytes in {name}: {said}", sent.len());
            }
        }
    }
}
