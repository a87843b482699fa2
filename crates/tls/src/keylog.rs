//! Key logs: the text that Wireshark, curl and browsers know as `SSLKEYLOGFILE`
//! (draft-ietf-tls-keylogfile).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::{Error, KeyLogLabel, SecretBytes};

/// For one label of one handshake more secrets than this are not kept. There should be one; a hostile
/// process can make up others.
const MAX_CANDIDATES: usize = 4;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyLogLine {
    /// Which secret it is.
    pub label: KeyLogLabel,
    /// Of the `ClientHello`.
    pub client_random: [u8; 32],
    /// The secret.
    pub secret: SecretBytes,
}

/// The secrets of many handshakes, by their clients' randoms.
///
/// Where several secrets claim to be the same one, all are kept, in the order in which they came: only
/// one opens the records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyLog {
    secrets: BTreeMap<[u8; 32], Vec<(KeyLogLabel, SecretBytes)>>,
}

impl KeyLogLabel {
    const ALL: [Self; 7] = [
        Self::ClientRandom,
        Self::ClientEarlyTraffic,
        Self::ClientHandshakeTraffic,
        Self::ServerHandshakeTraffic,
        Self::ClientTraffic,
        Self::ServerTraffic,
        Self::Exporter,
    ];

    /// The word that stands first in the line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientRandom => "CLIENT_RANDOM",
            Self::ClientEarlyTraffic => "CLIENT_EARLY_TRAFFIC_SECRET",
            Self::ClientHandshakeTraffic => "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
            Self::ServerHandshakeTraffic => "SERVER_HANDSHAKE_TRAFFIC_SECRET",
            Self::ClientTraffic => "CLIENT_TRAFFIC_SECRET_0",
            Self::ServerTraffic => "SERVER_TRAFFIC_SECRET_0",
            Self::Exporter => "EXPORTER_SECRET",
        }
    }

    /// The label of a word; none for labels that nothing here needs.
    pub fn find(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|label| label.as_str() == word)
    }

    /// Whether a secret of this kind can have `len` bytes.
    pub(crate) const fn fits(self, len: usize) -> bool {
        matches!(
            (self, len),
            (_, 48)
                | (
                    Self::ClientEarlyTraffic
                        | Self::ClientHandshakeTraffic
                        | Self::ServerHandshakeTraffic
                        | Self::ClientTraffic
                        | Self::ServerTraffic
                        | Self::Exporter,
                    32
                )
        )
    }
}

impl KeyLogLine {
    /// Reads a line. `None` for comments, empty lines, and labels that nothing here needs.
    fn parse(line: &str) -> Result<Option<Self>, ()> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return Ok(None);
        }
        let mut words = line.split_ascii_whitespace();
        let (Some(label), Some(random), Some(secret), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(());
        };
        let Some(label) = KeyLogLabel::find(label) else { return Ok(None) };
        let client_random = unhex(random).and_then(|bytes| bytes.try_into().ok()).ok_or(())?;
        let secret = unhex(secret).filter(|secret| label.fits(secret.len())).ok_or(())?;
        Ok(Some(Self { label, client_random, secret: SecretBytes(secret) }))
    }
}

/// The line itself, secret included: for files and streams, never for a log.
impl fmt::Display for KeyLogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.label.as_str(), Hex(&self.client_random), Hex(&self.secret.0))
    }
}

impl FromStr for KeyLogLine {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self, Error> {
        Self::parse(line).ok().flatten().ok_or(Error::KeyLog { line: 1 })
    }
}

impl KeyLog {
    /// Reads a key log. Comments and unknown labels are passed over.
    ///
    /// # Errors
    /// A line that is no key log line; the error names its number and shows nothing of it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut log = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = KeyLogLine::parse(line).map_err(|()| Error::KeyLog { line: index + 1 })?;
            log.extend(line);
        }
        Ok(log)
    }

    /// The text, each secret once, ordered by client random.
    pub fn to_text(&self) -> String {
        let lines: Vec<_> = self.lines().map(|line| format!("{line}\n")).collect();
        lines.concat()
    }

    /// The lines, ordered by client random.
    pub fn lines(&self) -> impl Iterator<Item = KeyLogLine> {
        self.secrets.iter().flat_map(|(client_random, secrets)| {
            secrets.iter().map(|(label, secret)| KeyLogLine {
                label: *label,
                client_random: *client_random,
                secret: secret.clone(),
            })
        })
    }

    /// Adds a line unless it is known. `false` when it was known or too many secrets claim its place.
    pub fn insert(&mut self, line: KeyLogLine) -> bool {
        let secrets = self.secrets.entry(line.client_random).or_default();
        let rivals = secrets.iter().filter(|(label, _)| *label == line.label);
        if rivals.clone().count() >= MAX_CANDIDATES
            || rivals.clone().any(|(_, secret)| *secret == line.secret)
        {
            return false;
        }
        secrets.push((line.label, line.secret));
        true
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    /// How many handshakes it has secrets of.
    pub fn handshakes(&self) -> usize {
        self.secrets.len()
    }

    /// Whether something claims to be this secret of this handshake.
    pub(crate) fn has(&self, client_random: &[u8; 32], label: KeyLogLabel) -> bool {
        self.candidates(client_random, label).next().is_some()
    }

    /// What claims to be this secret of this handshake.
    pub(crate) fn candidates(
        &self,
        client_random: &[u8; 32],
        label: KeyLogLabel,
    ) -> impl Iterator<Item = &[u8]> {
        let secrets = self.secrets.get(client_random).into_iter().flatten();
        secrets.filter(move |(known, _)| *known == label).map(|(_, secret)| secret.0.as_slice())
    }
}

impl Extend<KeyLogLine> for KeyLog {
    fn extend<T: IntoIterator<Item = KeyLogLine>>(&mut self, lines: T) {
        for line in lines {
            self.insert(line);
        }
    }
}

pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    text.as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(*high)? << 4 | digit(*low)?).ok(),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers written as bytes")]
mod tests {
    use super::*;

    fn line(label: KeyLogLabel, random: u8, secret: u8) -> KeyLogLine {
        KeyLogLine { label, client_random: [random; 32], secret: SecretBytes(vec![secret; 48]) }
    }

    #[test]
    fn a_key_log_is_read_back_as_it_was_written() {
        let mut log = KeyLog::default();
        for (index, label) in KeyLogLabel::ALL.into_iter().enumerate() {
            log.insert(line(label, index as u8, 7));
        }
        assert!(!log.insert(line(KeyLogLabel::ClientRandom, 0, 7)), "a line counts once");
        assert_eq!(KeyLog::parse(&log.to_text()).unwrap(), log);
        assert_eq!(log.to_text().lines().count(), KeyLogLabel::ALL.len());
    }

    #[test]
    fn comments_and_unknown_labels_are_passed_over() {
        let random = "00".repeat(32);
        let text = format!(
            "# SSL/TLS secrets log file\n\nECH_SECRET {random} 00\nEXPORTER_SECRET {random} {random}\r\n"
        );
        assert_eq!(KeyLog::parse(&text).unwrap().lines().count(), 1);
    }

    #[test]
    fn an_error_names_the_line_and_no_secret() {
        for bad in ["CLIENT_RANDOM 00ff c0ffee", "CLIENT_RANDOM", "EXPORTER_SECRET zz zz zz"] {
            let error = KeyLog::parse(&format!("#\n{bad}\n")).unwrap_err().to_string();
            assert!(error.contains("line 2") && !error.contains("c0ffee"), "{error}");
        }
    }

    #[test]
    fn rivals_for_one_place_are_few() {
        let mut log = KeyLog::default();
        for secret in 0..50 {
            log.insert(line(KeyLogLabel::ClientTraffic, 1, secret));
        }
        let kept = log.candidates(&[1; 32], KeyLogLabel::ClientTraffic);
        assert_eq!(kept.map(|secret| secret[0]).collect::<Vec<_>>(), [0, 1, 2, 3]);
    }
}
