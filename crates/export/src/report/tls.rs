//! What of TLS is in a file.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::figures;

/// What of TLS is in a file beside the packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsReport {
    /// Connections of which secrets are known.
    pub connections_with_secrets: u64,
    /// Whether the secrets are in the file.
    #[serde(default)]
    pub secrets_in_file: bool,
    /// Connections that began before the window, in a file with secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older: Option<OlderReport>,
    /// What could be decrypted; none where there was nothing of TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plaintext: Option<PlaintextReport>,
}

/// Connections that began before the window and whose handshakes are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OlderReport {
    /// Those with packets in the file.
    pub connections: u64,
    /// Those into which readers are led by packets that were made.
    pub readable: u64,
    /// These packets; [`Report::packets`] does not count them.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// `2 began before the window, 1 readable from its start (9 packets added on tls-pinned, tls-filler)`
impl fmt::Display for OlderReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [connections, readable] = [self.connections, self.readable].map(figures::count);
        write!(f, "{connections} began before the window")?;
        if self.readable > 0 {
            let packets = figures::packets(self.packets);
            write!(
                f,
                ", {readable} readable from its start ({packets} added on tls-pinned and tls-filler)"
            )?;
        }
        Ok(())
    }
}

/// What was decrypted, and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlaintextReport {
    /// Conversations decrypted whole.
    pub decrypted: u64,
    /// In part, by what is in the way of the rest.
    pub partly: BTreeMap<String, u64>,
    /// Not at all, by reason.
    pub not: BTreeMap<String, u64>,
    /// Conversations that have a second one, in which they are readable: all that were decrypted, or, in a
    /// file with the secrets alone, those of which readers could not decrypt all.
    #[serde(default)]
    pub shown: u64,
    /// The packets of these; [`Report::packets`] does not count them.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Conversations over HTTP/2 of which something is missing: their header fields were written anew.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub http2_cut: u64,
    /// Of these, those in which a direction could not be followed to its end.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub http2_given_up: u64,
    /// Header fields in them that refer to what was said before, named `unknown-hpack-N`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unknown_fields: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// `12 TLS conversations decrypted; 3 not: no secret 2, …; 12 shown as second conversations (…)`
impl fmt::Display for PlaintextReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decrypted = self.decrypted + self.partly.values().sum::<u64>();
        let plural = if decrypted == 1 { "" } else { "s" };
        write!(f, "{} TLS conversation{plural} decrypted", figures::count(decrypted))?;
        write_reasons(f, "in part", &self.partly)?;
        write_reasons(f, "not", &self.not)?;
        if self.shown > 0 {
            let shown = figures::count(self.shown);
            let (second, them) = if self.shown == 1 {
                ("a second conversation", "it")
            } else {
                ("second conversations", "them")
            };
            write!(
                f,
                "; {shown} shown as {second} (eth.src 02:54:4c:53…; --tls none leaves {them} out)"
            )?;
        }
        if self.http2_cut > 0 {
            let [cut, fields] = [self.http2_cut, self.unknown_fields].map(figures::count);
            write!(f, "; HTTP/2 not from its start: {cut}, header fields unknown in it: {fields}")?;
        }
        if self.http2_given_up > 0 {
            write!(f, ", not followed to the end: {}", figures::count(self.http2_given_up))?;
        }
        Ok(())
    }
}

fn write_reasons(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    reasons: &BTreeMap<String, u64>,
) -> fmt::Result {
    if reasons.is_empty() {
        return Ok(());
    }
    let all: u64 = reasons.values().sum();
    let each = reasons.iter().map(|(reason, count)| format!("{reason} {}", figures::count(*count)));
    write!(f, "; {} {what}: {}", figures::count(all), each.collect::<Vec<_>>().join(", "))
}

impl TlsReport {
    pub(super) fn says_something(&self) -> bool {
        self.connections_with_secrets > 0
            || self.plaintext.as_ref().is_some_and(|p| *p != PlaintextReport::default())
    }
}

/// One line.
impl fmt::Display for TlsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(plaintext) = &self.plaintext
            && (!self.secrets_in_file || self.connections_with_secrets == 0)
            && self.older.is_none()
        {
            return plaintext.fmt(f);
        }
        let plural = if self.connections_with_secrets == 1 { "" } else { "s" };
        let count = figures::count(self.connections_with_secrets);
        write!(f, "secrets of {count} connection{plural}")?;
        if let Some(older) = &self.older {
            write!(f, "; {older}")?;
        }
        match &self.plaintext {
            Some(plaintext) => write!(f, "; {plaintext}"),
            None => Ok(()),
        }
    }
}
