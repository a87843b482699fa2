//! What must be known of a connection that began before the first packet at hand: its hellos.
//!
//! A pin travels in the text of a key log, as a comment, so that other readers pass it over:
//!
//! ```text
//! # handshake NANOSECONDS NETNS CLIENT SERVER CLIENT_HELLO SERVER_HELLO
//! ```

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use kuberewind_packet::{NetnsId, Timestamp};

use crate::Error;
use crate::hello::{ClientHello, ServerHello};
use crate::keylog::{Hex, unhex};

const MARK: &str = "# handshake ";

/// The hellos of a connection, as they were on the wire. With its secrets they are enough to open its
/// records from any place on: all else of a handshake is sealed, or means nothing to who has the secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// When the client said hello.
    pub hello: Timestamp,
    /// Where the packets were seen.
    pub netns: NetnsId,
    /// Who opened the connection.
    pub client: SocketAddr,
    /// To whom, as seen there.
    pub server: SocketAddr,
    /// The whole message, its header of four bytes included; after a retry the second one.
    pub client_hello: Vec<u8>,
    /// The whole message; never a `HelloRetryRequest`.
    pub server_hello: Vec<u8>,
}

impl Pin {
    /// Of the client's hello: what secrets name the connection by.
    pub fn client_random(&self) -> Option<[u8; 32]> {
        ClientHello::read(&self.client_hello).map(|hello| hello.random)
    }

    /// Whether it is of the same connection between the same ends as another of the same random.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.netns, self.client, self.server) == (other.netns, other.client, other.server)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix(MARK)?.split(' ');
        let mut word = || words.next();
        let pin = Self {
            hello: Timestamp::from_nanos(word()?.parse().ok()?),
            netns: NetnsId(word()?.parse().ok()?),
            client: word()?.parse().ok()?,
            server: word()?.parse().ok()?,
            client_hello: unhex(word()?)?,
            server_hello: unhex(word()?)?,
        };
        let is_whole = word().is_none()
            && ClientHello::read(&pin.client_hello).is_some()
            && ServerHello::read(&pin.server_hello).is_some_and(|hello| !hello.retry);
        is_whole.then_some(pin)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hello, netns, client, server, client_hello, server_hello } = self;
        let (nanos, netns) = (hello.as_nanos(), netns.0);
        write!(f, "{MARK}{nanos} {netns} {client} {server} ")?;
        write!(f, "{} {}", Hex(client_hello), Hex(server_hello))
    }
}

impl FromStr for Pin {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self, Error> {
        Self::parse(line).ok_or(Error::Pin)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A message of this type whose body is version, random and what follows.
    fn hello(kind: u8, random: u8, rest: &[u8]) -> Vec<u8> {
        let len = u8::try_from(34 + rest.len()).unwrap();
        [&[kind, 0, 0, len, 3, 3][..], &[random; 32], rest].concat()
    }

    fn pin() -> Pin {
        Pin {
            hello: Timestamp::from_nanos(1_700_000_000_000_000_001),
            netns: NetnsId(4_026_531_840),
            client: "[fe80::1%3]:40000".parse().unwrap(),
            server: "10.0.0.2:443".parse().unwrap(),
            client_hello: hello(1, 7, &[0, 0, 2, 0x13, 1, 1, 0, 0, 0]),
            server_hello: hello(2, 8, &[0, 0x13, 1, 0]),
        }
    }

    #[test]
    fn a_pin_is_read_back_as_it_was_written() {
        let (pin, line) = (pin(), pin().to_string());
        assert_eq!(line.parse(), Ok(pin.clone()));
        assert_eq!(pin.client_random(), Some([7; 32]));
        assert_eq!(crate::KeyLog::parse(&line), Ok(crate::KeyLog::default()));
    }

    proptest! {
        #[test]
        fn a_changed_line_makes_nothing_panic(at in 0_usize..400, byte in 32_u8..127) {
            let mut line = pin().to_string().into_bytes();
            let at = at % line.len();
            line[at] = byte;
            let line = String::from_utf8(line).unwrap();
            if let Ok(pin) = line.parse::<Pin>() {
                prop_assert!(pin.client_random().is_some());
            }
            prop_assert!(line[..at].parse::<Pin>().is_err());
        }
    }
}
