//! Key logs: the text by which other programs decrypt (draft-ietf-tls-keylogfile).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Derived, KeyLogLabel, SecretBytes};

/// One line of a key log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyLogLine {
    /// Which secret.
    pub label: KeyLogLabel,
    /// The connection's name.
    pub client_random: [u8; 32],
    /// The secret.
    pub secret: SecretBytes,
}

/// Not a line of a key log that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a line of a TLS key log")]
pub struct KeyLogError;

const WORDS: [(KeyLogLabel, &str); 7] = [
    (KeyLogLabel::ClientRandom, "CLIENT_RANDOM"),
    (KeyLogLabel::ClientEarlyTraffic, "CLIENT_EARLY_TRAFFIC_SECRET"),
    (KeyLogLabel::ClientHandshakeTraffic, "CLIENT_HANDSHAKE_TRAFFIC_SECRET"),
    (KeyLogLabel::ServerHandshakeTraffic, "SERVER_HANDSHAKE_TRAFFIC_SECRET"),
    (KeyLogLabel::ClientTraffic, "CLIENT_TRAFFIC_SECRET_0"),
    (KeyLogLabel::ServerTraffic, "SERVER_TRAFFIC_SECRET_0"),
    (KeyLogLabel::Exporter, "EXPORTER_SECRET"),
];

impl KeyLogLabel {
    /// As it is written.
    pub fn word(self) -> &'static str {
        WORDS.iter().find(|(label, _)| *label == self).map_or("", |(_, word)| word)
    }

    /// As it was written.
    pub fn from_word(word: &str) -> Option<Self> {
        WORDS.iter().find(|(_, known)| *known == word).map(|(label, _)| *label)
    }
}

impl Derived {
    /// The label in the key schedule, without `tls13 `.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ClientEarly => "c e traffic",
            Self::ClientHandshake => "c hs traffic",
            Self::ServerHandshake => "s hs traffic",
            Self::ClientTraffic => "c ap traffic",
            Self::ServerTraffic => "s ap traffic",
            Self::Exporter => "exp master",
        }
    }

    /// The same secret in a key log.
    pub const fn key_log_label(self) -> KeyLogLabel {
        match self {
            Self::ClientEarly => KeyLogLabel::ClientEarlyTraffic,
            Self::ClientHandshake => KeyLogLabel::ClientHandshakeTraffic,
            Self::ServerHandshake => KeyLogLabel::ServerHandshakeTraffic,
            Self::ClientTraffic => KeyLogLabel::ClientTraffic,
            Self::ServerTraffic => KeyLogLabel::ServerTraffic,
            Self::Exporter => KeyLogLabel::Exporter,
        }
    }
}

/// The line itself, secret included: for files and streams, never for a log.
impl fmt::Display for KeyLogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.label.word(), Hex(&self.client_random), Hex(&self.secret.0))
    }
}

impl FromStr for KeyLogLine {
    type Err = KeyLogError;

    fn from_str(line: &str) -> Result<Self, KeyLogError> {
        let mut words = line.split_ascii_whitespace();
        let mut next = || words.next().ok_or(KeyLogError);
        let label = KeyLogLabel::from_word(next()?).ok_or(KeyLogError)?;
        let random = unhex(next()?)?;
        let secret = SecretBytes(unhex(next()?)?);
        let client_random = random.try_into().map_err(|_| KeyLogError)?;
        let known_length = matches!(secret.0.len(), 32 | 48);
        if words.next().is_some() || !known_length {
            return Err(KeyLogError);
        }
        Ok(Self { label, client_random, secret })
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn unhex(text: &str) -> Result<Vec<u8>, KeyLogError> {
    let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(KeyLogError);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return Err(KeyLogError);
    }
    let byte = |[high, low]: &[u8; 2]| {
        u8::try_from(digit(*high)? << 4 | digit(*low)?).map_err(|_| KeyLogError)
    };
    pairs.iter().map(byte).collect()
}
