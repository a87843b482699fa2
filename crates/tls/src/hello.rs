//! The handshake messages that are read, and messages put together from records.

use crate::suite::Version;

pub(crate) const CLIENT_HELLO: u8 = 1;
pub(crate) const SERVER_HELLO: u8 = 2;
pub(crate) const END_OF_EARLY_DATA: u8 = 5;
pub(crate) const ENCRYPTED_EXTENSIONS: u8 = 8;
pub(crate) const FINISHED: u8 = 20;
pub(crate) const KEY_UPDATE: u8 = 24;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const ENCRYPT_THEN_MAC: u16 = 22;
const PRE_SHARED_KEY: u16 = 41;
const EARLY_DATA: u16 = 42;
const SUPPORTED_VERSIONS: u16 = 43;
/// A `ServerHello` with this random is a `HelloRetryRequest` (RFC 8446 section 4.1.3).
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];
/// Bytes before a message's body: type and length.
const MESSAGE_HEADER_LEN: usize = 4;
/// Longer messages (chains of certificates) are passed over: nothing in them is read.
const MAX_MESSAGE: usize = 64 * 1024;

/// What is read of a `ClientHello`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientHello {
    pub(crate) random: [u8; 32],
    /// Early data may follow it.
    pub(crate) early_data: bool,
}

/// What is read of a `ServerHello`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServerHello {
    pub(crate) random: [u8; 32],
    pub(crate) version: Version,
    pub(crate) cipher: u16,
    /// It asks for another `ClientHello`.
    pub(crate) retry: bool,
    /// An earlier session, or a key known to both, is used.
    pub(crate) resumes: bool,
    /// RFC 7366; it matters to CBC suites only.
    pub(crate) encrypt_then_mac: bool,
}

impl ClientHello {
    /// Reads a whole message.
    pub(crate) fn read(message: &[u8]) -> Option<Self> {
        let mut body = Reader(message.get(MESSAGE_HEADER_LEN..)?);
        body.take(2)?;
        let random = body.take(32)?.try_into().ok()?;
        let early_data = body.client_extensions()?.any(|(kind, _)| kind == EARLY_DATA);
        Some(Self { random, early_data })
    }
}

/// The host that a `ClientHello` asks for (RFC 6066 section 3), if it is written like one.
pub(crate) fn server_name(message: &[u8]) -> Option<String> {
    let mut body = Reader(message.get(MESSAGE_HEADER_LEN..)?);
    body.take(2 + 32)?;
    let (_, mut content) = body.client_extensions()?.find(|(kind, _)| *kind == SERVER_NAME)?;
    let mut list = Reader(content.vector16()?);
    let is_host = list.take(1)? == [0];
    let name = list.vector16()?;
    let plain =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'*');
    let is_name = is_host && name.len() <= 255 && name.iter().all(plain);
    is_name.then(|| String::from_utf8_lossy(name).into_owned())
}

impl ServerHello {
    /// Reads a whole message.
    pub(crate) fn read(message: &[u8]) -> Option<Self> {
        let mut body = Reader(message.get(MESSAGE_HEADER_LEN..)?);
        let mut hello = Self {
            version: Version(body.u16()?),
            random: body.take(32)?.try_into().ok()?,
            cipher: 0,
            retry: false,
            resumes: false,
            encrypt_then_mac: false,
        };
        body.vector8()?; // session
        hello.cipher = body.u16()?;
        body.take(1)?; // compression
        hello.retry = hello.random == RETRY;
        for (kind, mut content) in body.extensions() {
            match kind {
                SUPPORTED_VERSIONS => hello.version = Version(content.u16()?),
                PRE_SHARED_KEY => hello.resumes = true,
                ENCRYPT_THEN_MAC => hello.encrypt_then_mac = true,
                _ => {}
            }
        }
        Some(hello)
    }
}

/// Whether HTTP/2 may be spoken: the server chose it, or its choice is sealed and the client offered it
/// (RFC 7301).
pub(crate) fn speaks_http2(client_hello: &[u8], server_hello: &[u8]) -> bool {
    let chosen = || {
        let mut body = Reader(server_hello.get(MESSAGE_HEADER_LEN..)?);
        body.take(2 + 32)?;
        body.vector8()?;
        body.take(2 + 1)?;
        names_http2(body.extensions())
    };
    let offered = || {
        let mut body = Reader(client_hello.get(MESSAGE_HEADER_LEN..)?);
        body.take(2 + 32)?;
        names_http2(body.client_extensions()?)
    };
    chosen().or_else(offered).unwrap_or(false)
}

/// Whether HTTP/2 is among the protocols; none where there are none.
fn names_http2<'a>(mut extensions: impl Iterator<Item = (u16, Reader<'a>)>) -> Option<bool> {
    let (_, mut content) = extensions.find(|(kind, _)| *kind == ALPN)?;
    let mut list = Reader(content.vector16()?);
    Some(std::iter::from_fn(|| list.vector8()).any(|name| name == b"h2"))
}

/// Whether `EncryptedExtensions` say that early data was accepted.
pub(crate) fn accepts_early_data(message: &[u8]) -> bool {
    let body = Reader(message.get(MESSAGE_HEADER_LEN..).unwrap_or_default());
    body.extensions().any(|(kind, _)| kind == EARLY_DATA)
}

/// Bytes yet to be read.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let len = self.take(1)?[0];
        self.take(len.into())
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let len = self.u16()?;
        self.take(len.into())
    }

    /// A `ClientHello`'s extensions, from behind its random.
    fn client_extensions(mut self) -> Option<impl Iterator<Item = (u16, Self)>> {
        self.vector8()?; // session
        self.vector16()?; // cipher suites
        self.vector8()?; // compression
        Some(self.extensions())
    }

    /// The extensions that begin here; none in hellos older than extensions.
    fn extensions(mut self) -> impl Iterator<Item = (u16, Self)> {
        let mut list = Self(self.vector16().unwrap_or_default());
        std::iter::from_fn(move || Some((list.u16()?, Self(list.vector16()?))))
    }
}

/// Puts handshake messages together: several may share a record, and one may span records.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    held: Vec<u8>,
    /// What remains of a message that is passed over.
    passing: usize,
}

/// A handshake message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: u8,
    /// All of it, with its header; only the header where it is very long.
    pub(crate) bytes: Vec<u8>,
}

impl Messages {
    /// Adds a record's content and takes the messages that it completes.
    pub(crate) fn push(&mut self, mut content: &[u8]) -> Vec<Message> {
        let passed = self.passing.min(content.len());
        self.passing -= passed;
        content = &content[passed..];
        self.held.extend_from_slice(content);
        let (mut at, mut complete) = (0, Vec::new());
        while let Some(header) = self.held.get(at..at + MESSAGE_HEADER_LEN) {
            let body = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
            let whole = MESSAGE_HEADER_LEN + body;
            let kind = header[0];
            if whole > MAX_MESSAGE {
                complete.push(Message { kind, bytes: header.to_vec() });
                let here = (self.held.len() - at).min(whole);
                self.passing = whole - here;
                at += here;
            } else if let Some(bytes) = self.held.get(at..at + whole) {
                complete.push(Message { kind, bytes: bytes.to_vec() });
                at += whole;
            } else {
                break;
            }
        }
        self.held.drain(..at);
        complete
    }

    /// Bytes were lost: what was begun will not be completed.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Bytes held.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_records_cut_them() {
        let one = [1, 0, 0, 2, 7, 8];
        let two = [2, 0, 0, 0];
        let all = [one.as_slice(), &two].concat();
        for cut in 0..all.len() {
            let mut messages = Messages::default();
            let mut found = messages.push(&all[..cut]);
            found.extend(messages.push(&all[cut..]));
            assert_eq!(found.len(), 2, "{cut}");
            assert_eq!((found[0].kind, found[0].bytes.as_slice()), (1, one.as_slice()));
            assert_eq!((found[1].kind, found[1].bytes.as_slice()), (2, two.as_slice()));
            assert_eq!(messages.held(), 0);
        }
    }

    #[test]
    fn a_very_long_message_is_passed_over() {
        let mut messages = Messages::default();
        let found = messages.push(&[11, 1, 0, 0, 9, 9]);
        assert_eq!(found[0].bytes, [11, 1, 0, 0]);
        assert!(messages.push(&vec![9; 0x1_0000 - 3]).is_empty());
        assert_eq!(
            messages.push(&[9, 20, 0, 0, 1, 5]),
            [Message { kind: 20, bytes: vec![20, 0, 0, 1, 5] }]
        );
    }
}
