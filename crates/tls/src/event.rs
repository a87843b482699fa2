//! What a probe saw of a handshake.

use std::fmt;

use kuberewind_packet::{NetnsId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Object;

/// A secret, and what is known of the handshake that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretEvent {
    /// When it was derived, on the clock that packets are stamped with.
    pub time: Timestamp,
    /// The network namespace of the process.
    pub netns: NetnsId,
    /// The process, as the recorder's `/proc` numbers it.
    pub pid: u32,
    /// What derived it: `OpenSSL`, `Go`; `C` where the probe does not tell the library.
    pub library: String,
    /// The secret.
    pub secret: Secret,
}

/// A secret in one of the forms in which libraries show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Secret {
    /// What TLS 1.3 derives a secret from: `HKDF-Expand-Label(key, label, transcript)`
    /// (`Derive-Secret`, RFC 8446 section 7.1). The transcript's hash names the flow.
    Derivation {
        /// Which secret it becomes.
        label: Derived,
        /// The early, handshake or main secret: as long as the hash.
        key: SecretBytes,
        /// Hash of the handshake messages so far: 32 bytes (SHA-256) or 48 (SHA-384).
        transcript: Vec<u8>,
    },
    /// A line of a key log. The client's random names the flow.
    KeyLog {
        /// Which secret it is.
        label: KeyLogLabel,
        /// Of the `ClientHello`.
        client_random: [u8; 32],
        /// The traffic secret, or TLS 1.2's main secret (48 bytes).
        secret: SecretBytes,
    },
    /// The same, from a library of which is not known yet where it keeps the client's random.
    InObject {
        /// Which secret it is.
        label: KeyLogLabel,
        /// The traffic secret, or TLS 1.2's main secret (48 bytes).
        secret: SecretBytes,
        /// Where the client's random is somewhere.
        object: Object,
    },
}

/// Which of TLS 1.3's secrets is derived (RFC 8446 section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Derived {
    /// `c e traffic`; the transcript is the `ClientHello` alone.
    ClientEarly,
    /// `c hs traffic`; up to the `ServerHello`.
    ClientHandshake,
    /// `s hs traffic`; up to the `ServerHello`.
    ServerHandshake,
    /// `c ap traffic`; up to the server's `Finished`.
    ClientTraffic,
    /// `s ap traffic`; up to the server's `Finished`.
    ServerTraffic,
    /// `exp master`; up to the server's `Finished`.
    Exporter,
}

/// The first word of a key log's line (draft-ietf-tls-keylogfile).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum KeyLogLabel {
    /// `CLIENT_RANDOM`: the main secret of TLS 1.2 and older.
    ClientRandom,
    /// `CLIENT_EARLY_TRAFFIC_SECRET`
    ClientEarlyTraffic,
    /// `CLIENT_HANDSHAKE_TRAFFIC_SECRET`
    ClientHandshakeTraffic,
    /// `SERVER_HANDSHAKE_TRAFFIC_SECRET`
    ServerHandshakeTraffic,
    /// `CLIENT_TRAFFIC_SECRET_0`
    ClientTraffic,
    /// `SERVER_TRAFFIC_SECRET_0`
    ServerTraffic,
    /// `EXPORTER_SECRET`
    Exporter,
}

/// Bytes that no log and no error may show.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretBytes(pub Vec<u8>);

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} secret bytes)", self.0.len())
    }
}
