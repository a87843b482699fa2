//! The keys of one direction, in the order in which they come into use.

use crate::KeyLog;
use crate::KeyLogLabel as Label;
use crate::decrypt::session::Session;
use crate::flow::Sender;
use crate::open::{Agreed, Opener, Record};
use crate::suite::Version;

/// What a phase's records are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// TLS 1.3: the client's data before the server answered.
    Early,
    /// TLS 1.3: the rest of the handshake.
    Handshake,
    /// TLS 1.3: data.
    Application,
    /// TLS 1.2: everything after `ChangeCipherSpec`.
    Epoch,
}

/// A stretch of a direction that is sealed with one key. Record numbers begin at 0 in each.
#[derive(Debug)]
pub(super) struct Phase {
    pub(super) kind: Kind,
    /// The key, or what claims to be it; none without a secret.
    keys: Vec<Opener>,
}

impl Phase {
    /// The phases that a session's `ServerHello` begins.
    pub(super) fn of(session: &Session, sender: Sender, log: &KeyLog) -> Vec<Self> {
        let (Some(client_random), Some(hello), Some(suite)) =
            (&session.client_random, &session.server, session.suite)
        else {
            return Vec::new();
        };
        let tls13 = |kind, label| {
            let secrets = log.candidates(client_random, label);
            let keys = secrets.filter_map(|secret| Opener::tls13(suite, secret)).collect();
            Self { kind, keys }
        };
        let handshake = |label| tls13(Kind::Handshake, label);
        let application = |label| tls13(Kind::Application, label);
        match (hello.version, sender) {
            (Version::TLS13, Sender::Client) => {
                let early = session
                    .early_data_offered()
                    .then(|| tls13(Kind::Early, Label::ClientEarlyTraffic));
                early
                    .into_iter()
                    .chain([
                        handshake(Label::ClientHandshakeTraffic),
                        application(Label::ClientTraffic),
                    ])
                    .collect()
            }
            (Version::TLS13, Sender::Server) => {
                vec![handshake(Label::ServerHandshakeTraffic), application(Label::ServerTraffic)]
            }
            _ => {
                let secrets = log.candidates(client_random, Label::ClientRandom);
                let agreed = Agreed {
                    suite,
                    client_random,
                    server_random: &hello.random,
                    encrypt_then_mac: hello.encrypt_then_mac,
                };
                let keys = secrets
                    .filter_map(|secret| Opener::tls12(agreed, secret))
                    .filter_map(|pair| pair.into_iter().nth(sender.index()))
                    .collect();
                vec![Self { kind: Kind::Epoch, keys }]
            }
        }
    }

    pub(super) fn has_key(&self) -> bool {
        !self.keys.is_empty()
    }

    /// The phase after a `KeyUpdate`.
    pub(super) fn updated(&self) -> Self {
        Self { kind: self.kind, keys: self.keys.iter().filter_map(Opener::updated).collect() }
    }

    /// Opens a record whose number is `first` or up to `slack` more; says which it was and of what
    /// type the content is. Each try is taken from `tries`.
    pub(super) fn open(
        &mut self,
        first: u64,
        slack: u64,
        record: &Record<'_>,
        out: &mut Vec<u8>,
        tries: &mut u64,
    ) -> Option<(u64, u8)> {
        for number in first..=first.saturating_add(slack) {
            for index in 0..self.keys.len() {
                *tries = tries.checked_sub(1)?;
                if let Some(kind) = self.keys[index].open(number, record, out) {
                    self.keys.swap(0, index);
                    self.keys.truncate(1);
                    return Some((number, kind));
                }
            }
        }
        None
    }
}
