//! What a decrypted conversation speaks, by its first bytes, and the port at which Wireshark knows it.

use crate::flow::Sender;
use crate::twin::http2;

/// A token that one side begins with, and the plain port of the protocol that it tells.
type Opening = (&'static [u8], u16);

const HTTP: u16 = 80;
/// HTTP where the real port is 80 already.
const HTTP_ALTERNATE: u16 = 8080;
const LDAP: u16 = 389;
const MONGODB: u16 = 27017;
const POSTGRESQL: u16 = 5432;
const REDIS: u16 = 6379;

const CLIENT: [Opening; 23] = [
    (b"GET ", HTTP),
    (b"POST ", HTTP),
    (b"PUT ", HTTP),
    (b"HEAD ", HTTP),
    (b"DELETE ", HTTP),
    (b"PATCH ", HTTP),
    (b"OPTIONS ", HTTP),
    (b"CONNECT ", HTTP),
    (b"TRACE ", HTTP),
    (b"PROPFIND ", HTTP),
    (b"REPORT ", HTTP),
    (b"MKCOL ", HTTP),
    (b"SEARCH ", HTTP),
    (HTTP2_PREFACE, HTTP),
    (b"EHLO ", 25),
    (b"HELO ", 25),
    (b"AMQP", 5672),
    // RESP: an array of so many words.
    (b"*1\r\n$", REDIS),
    (b"*2\r\n$", REDIS),
    (b"*3\r\n$", REDIS),
    (b"*4\r\n$", REDIS),
    (b"*5\r\n$", REDIS),
    (b"CONNECT {", 4222),
];
const SERVER: [Opening; 6] = [
    (b"HTTP/1.", HTTP),
    (b"220 ", 25),
    (b"220-", 25),
    (b"* OK", 143),
    (b"+OK", 110),
    (b"INFO {", 4222),
];
pub(super) const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";
/// TLS's own port of a protocol, and its plain one (IANA).
const PLAIN_PORTS: [(u16, u16); 14] = [
    (443, 443), // says nothing of what is in it
    (465, 25),
    (563, 119),
    (636, LDAP),
    (853, 53),
    (989, 20),
    (990, 21),
    (992, 23),
    (993, 143),
    (994, 194),
    (995, 110),
    (5671, 5672),
    (6697, 6667),
    (8883, 1883),
];

/// What the first bytes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// The protocol, so the port.
    Port(u16),
    /// HTTP/2 that began before.
    Http2,
    /// HTTP/2, but its client, who must be heard first, has not spoken.
    AwaitsPreface,
    /// Too few to tell.
    TooFew,
    /// None that is known here.
    Other,
}

/// Tells the protocol by what each side said first.
pub(super) fn recognise(client: &[u8], server: &[u8]) -> Known {
    if client.is_empty() {
        return match server {
            [] => Known::TooFew,
            _ if begins_with_settings(server) => Known::AwaitsPreface,
            _ => by_token(server, &SERVER),
        };
    }
    match by_token(client, &CLIENT) {
        Known::Other => by_shape(client).map_or_else(|| by_server(server), Known::Port),
        known => known,
    }
}

/// Who it is that says this first, as far as the words tell.
pub fn who_says(first: &[u8]) -> Option<Sender> {
    let is = |known| matches!(known, Known::Port(_));
    if is(by_token(first, &CLIENT)) || (!first.is_empty() && by_shape(first).is_some()) {
        return Some(Sender::Client);
    }
    is(by_token(first, &SERVER)).then_some(Sender::Server)
}

/// The same where what was said first is not known: by how any of these pieces begins. Only HTTP is
/// told: what begins other protocols comes once in a connection, and short words come anywhere.
pub(super) fn recognise_in_midstream<'a, Pieces: Iterator<Item = (Sender, &'a [u8])>>(
    pieces: impl Fn() -> Pieces,
) -> Known {
    if http2::is_spoken(pieces()) {
        Known::Http2
    } else if pieces().any(|(from, piece)| begins_http(from, piece)) {
        Known::Port(HTTP)
    } else {
        Known::TooFew
    }
}

fn begins_http(from: Sender, piece: &[u8]) -> bool {
    let tokens: &[Opening] = match from {
        Sender::Client => &CLIENT,
        Sender::Server => &SERVER,
    };
    by_token(piece, tokens) == Known::Port(HTTP)
}

/// Whether a request or an answer of HTTP/1 begins here.
pub(crate) fn begins_http1(from: Sender, piece: &[u8]) -> bool {
    begins_http(from, piece) && !piece.starts_with(HTTP2_PREFACE)
}

fn by_server(server: &[u8]) -> Known {
    match by_token(server, &SERVER) {
        // The client's words told nothing; no more are waited for.
        Known::TooFew => Known::Other,
        known => known,
    }
}

fn by_token(bytes: &[u8], tokens: &[Opening]) -> Known {
    if let Some((_, port)) = tokens.iter().find(|(token, _)| bytes.starts_with(token)) {
        return Known::Port(*port);
    }
    let may_become = tokens.iter().any(|(token, _)| token.starts_with(bytes));
    if may_become { Known::TooFew } else { Known::Other }
}

/// Binary protocols, by the shape of their first message.
fn by_shape(client: &[u8]) -> Option<u16> {
    let word = |at: usize| client.get(at..at + 4);
    // PostgreSQL's start-up message: its length, then version 3.0.
    if word(4) == Some(&[0, 3, 0, 0]) && word(0)?.starts_with(&[0, 0]) {
        return Some(POSTGRESQL);
    }
    // MongoDB's OP_MSG and OP_QUERY stand behind length, number and answer's number.
    if word(8) == Some(&[0; 4]) && matches!(word(12)?, [0xdd | 0xd4, 7, 0, 0]) {
        return Some(MONGODB);
    }
    // MQTT's CONNECT names the protocol behind a length of one or two bytes.
    if client[0] == 0x10 && client.get(..10)?.windows(6).any(|part| part == b"\0\x04MQTT") {
        return Some(1883);
    }
    // LDAP: a sequence of message number 1 and a bind request.
    if client[0] == 0x30 && client.get(..8)?.windows(4).any(|part| part == [2, 1, 1, 0x60]) {
        return Some(LDAP);
    }
    None
}

/// HTTP/2's first frame from a server (RFC 9113 section 3.4), which may come before the client's word.
fn begins_with_settings(server: &[u8]) -> bool {
    server.first_chunk::<9>().is_some_and(|frame| {
        let len = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]);
        len.is_multiple_of(6) && len <= 6 * 32 && frame[3..] == [4, 0, 0, 0, 0, 0]
    })
}

/// Whether twins of HTTP have their server's port here.
pub(super) const fn is_http(port: u16) -> bool {
    matches!(port, HTTP | HTTP_ALTERNATE)
}

/// The port at which the twin of a conversation with `real` is understood.
pub(super) fn plain_port(known: Known, real: u16) -> u16 {
    match known {
        Known::Port(HTTP) | Known::Http2 | Known::AwaitsPreface if real == HTTP => HTTP_ALTERNATE,
        Known::Http2 | Known::AwaitsPreface => HTTP,
        Known::Port(port) => port,
        Known::TooFew | Known::Other => {
            PLAIN_PORTS.iter().find(|(sealed, _)| *sealed == real).map_or(real, |(_, plain)| *plain)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_follows_what_is_said() {
        let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100];
        let mongodb = [&[60, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0][..], &[0xdd, 7, 0, 0]].concat();
        for (client, server, real, port) in [
            (&b"GET / HTTP/1.1"[..], &b""[..], 443, 80),
            (b"GET / HTTP/1.1", b"", 80, 8080),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"", 50051, 80),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings, 443, 80),
            (b"", b"HTTP/1.1 400 Bad Request", 443, 80),
            (b"", b"220 mail ESMTP", 465, 25),
            (b"*1\r\n$4\r\nPING\r\n", b"", 6380, 6379),
            (b"\0\0\0\x54\0\x03\0\0user\0", b"", 5432, 5432),
            (&mongodb, b"", 27018, 27017),
            (b"\x10\x10\0\x04MQTT\x04\x02", b"", 8883, 1883),
            (b"\x30\x0c\x02\x01\x01\x60\x07", b"\0", 636, 389),
            (b"something else", b"and an answer", 4433, 4433),
            (b"something else", b"", 636, 389),
        ] {
            let known = recognise(client, server);
            assert_eq!(plain_port(known, real), port, "{client:?} {server:?} {known:?}");
        }
    }

    #[test]
    fn client_and_server_are_told_by_what_they_say() {
        assert_eq!(who_says(b"GET / HTTP/1.1"), Some(Sender::Client));
        assert_eq!(who_says(b"HTTP/1.1 200 OK"), Some(Sender::Server));
        assert_eq!(who_says(b"something else"), None);
        assert_eq!(who_says(b""), None);
    }

    #[test]
    fn in_midstream_any_request_or_answer_tells() {
        let body = (Sender::Server, &b"...the rest of a body"[..]);
        let word = (Sender::Client, &b"220 "[..]);
        let request = (Sender::Client, &b"GET /next HTTP/1.1"[..]);
        let answer = (Sender::Server, &b"HTTP/1.1 200 OK"[..]);
        assert_eq!(recognise_in_midstream(|| [body, word].into_iter()), Known::TooFew);
        assert_eq!(recognise_in_midstream(|| [body, request].into_iter()), Known::Port(80));
        assert_eq!(recognise_in_midstream(|| [body, body, answer].into_iter()), Known::Port(80));
    }

    #[test]
    fn too_few_bytes_are_not_guessed_from() {
        assert_eq!(recognise(b"P", b""), Known::TooFew);
        assert_eq!(recognise(b"PO", b""), Known::TooFew);
        assert_eq!(recognise(b"PX", b""), Known::Other);
        assert_eq!(recognise(b"", b"HT"), Known::TooFew);
        assert_eq!(recognise(b"", b"\0\0\x06\x04\0\0\0\0\0"), Known::AwaitsPreface);
    }
}
