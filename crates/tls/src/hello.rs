//! `ClientHello` and `ServerHello` (RFC 8446 section 4.1): what of them names a connection.

/// The random that makes a `ServerHello` a request to retry (RFC 8446 section 4.1.3).
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

const SERVER_NAME: u16 = 0;
const SUPPORTED_VERSIONS: u16 = 43;
const TLS_1_3: u16 = 0x0304;

pub(crate) const CLIENT_HELLO: u8 = 1;
pub(crate) const SERVER_HELLO: u8 = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientHello {
    pub(crate) random: [u8; 32],
    pub(crate) server_name: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServerHello {
    pub(crate) version: u16,
    pub(crate) cipher: u16,
    pub(crate) retry: bool,
}

impl ServerHello {
    pub(crate) const fn is_tls13(self) -> bool {
        self.version == TLS_1_3
    }
}

/// Reads the body of a `ClientHello`.
pub(crate) fn client(body: &[u8]) -> Option<ClientHello> {
    let mut rest = Rest(body);
    rest.take(2)?;
    let random = rest.take(32)?.try_into().ok()?;
    rest.vector8()?; // session id
    rest.vector16()?; // cipher suites
    rest.vector8()?; // compression methods
    let name = rest.extension(SERVER_NAME).and_then(server_name);
    Some(ClientHello { random, server_name: name })
}

/// Reads the body of a `ServerHello`.
pub(crate) fn server(body: &[u8]) -> Option<ServerHello> {
    let mut rest = Rest(body);
    let legacy = rest.word()?;
    let retry = rest.take(32)? == RETRY;
    rest.vector8()?; // session id
    let cipher = rest.word()?;
    rest.take(1)?; // compression method
    let chosen = rest.extension(SUPPORTED_VERSIONS).and_then(|body| Rest(body).word());
    Some(ServerHello { version: chosen.unwrap_or(legacy), cipher, retry })
}

/// The first host name (RFC 6066 section 3), if it is one.
fn server_name(extension: &[u8]) -> Option<String> {
    let mut list = Rest(Rest(extension).vector16()?);
    if list.take(1)? != [0] {
        return None;
    }
    let name = list.vector16()?;
    let plain =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'*');
    let name = name.iter().all(plain).then(|| String::from_utf8_lossy(name).into_owned());
    name.filter(|name| name.len() <= 255)
}

/// What is left to read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn word(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let len = self.take(1)?[0];
        self.take(len.into())
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let len = self.word()?;
        self.take(len.into())
    }

    /// The body of an extension; where there are none at all, none.
    fn extension(&mut self, wanted: u16) -> Option<&'a [u8]> {
        let mut extensions = Rest(self.vector16()?);
        loop {
            let kind = extensions.word()?;
            let body = extensions.vector16()?;
            if kind == wanted {
                return Some(body);
            }
        }
    }
}
