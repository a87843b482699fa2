//! The keys of one direction, in the order in which they come into use.

use crate::KeyLog;
use crate::KeyLogLabel as Label;
use crate::decrypt::session::Session;
use crate::flow::Sender;
use crate::number::outward;
use crate::open::{Agreed, MAX_BODY, Opener, Record};
use crate::suite::Version;

/// A key update takes as long as so many tries.
const UPDATE_COST: u64 = 16;
/// So many bytes of a record take as long again as a try does in any case.
const TRY_LEN: usize = 256;
/// What a try of the longest record costs.
pub(super) const LONGEST_TRY: u64 = cost(MAX_BODY);
/// Numbers that are tried in a row with one key before its rivals have their turn.
const BLOCK: usize = 1024;

/// Which numbers a record may have: `first` and up to `more` behind it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pub(super) first: u64,
    pub(super) more: u64,
    /// Near this one others are tried first.
    pub(super) likely: u64,
}

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
    /// The client's random of the handshake that it belongs to.
    pub(super) origin: [u8; 32],
    /// How often keys were updated.
    updates: u32,
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
            Self { kind, origin: *client_random, updates: 0, keys }
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
                vec![Self { kind: Kind::Epoch, origin: *client_random, updates: 0, keys }]
            }
        }
    }

    pub(super) fn has_key(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Whether each record tells its own number.
    pub(super) fn tells_numbers(&self) -> bool {
        self.keys.iter().all(Opener::tells_numbers)
    }

    /// The phase after a `KeyUpdate`.
    pub(super) fn updated(&self) -> Self {
        let keys = self.keys.iter().filter_map(Opener::updated).collect();
        Self { kind: self.kind, origin: self.origin, updates: self.updates + 1, keys }
    }

    /// The keys of all generations up to that of the key that opens this record, which is a later one of
    /// this phase's.
    pub(super) fn generations(
        self,
        of: &Self,
        number: u64,
        record: &Record<'_>,
    ) -> Option<Vec<Opener>> {
        let mut out = Vec::new();
        self.keys.into_iter().find_map(|key| {
            let next = |key: &Opener| key.updated();
            let last = of.updates as usize;
            let later = std::iter::successors(next(&key).filter(|_| last > 0), next);
            let later: Vec<_> = later.take(last).collect();
            let all: Vec<_> = std::iter::once(key).chain(later).collect();
            all.last()?.open(number, record, &mut out)?;
            (all.len() == last + 1).then_some(all)
        })
    }

    /// The first of its keys.
    pub(super) fn into_key(self) -> Option<Opener> {
        self.keys.into_iter().next()
    }

    /// Opens a record of a number that is known; says of what type the content is.
    pub(super) fn open(
        &mut self,
        number: u64,
        record: &Record<'_>,
        out: &mut Vec<u8>,
    ) -> Option<u8> {
        let mut keys = self.keys.iter().enumerate();
        let (index, kind) =
            keys.find_map(|(index, key)| Some((index, key.open(number, record, out)?)))?;
        self.keep(index);
        Some(kind)
    }

    /// Opens a record of a number that is not known; says which it is. What it costs is taken from
    /// `tries`.
    pub(super) fn find(
        &mut self,
        numbers: Numbers,
        record: &Record<'_>,
        out: &mut Vec<u8>,
        tries: &mut u64,
    ) -> Option<(u64, u8)> {
        for index in 0..self.keys.len() {
            let key = &self.keys[index];
            if !key.tells_numbers() {
                continue;
            }
            *tries = tries.checked_sub(cost(record.body.len()))?;
            let number = key.number(record).filter(|number| *number >= numbers.first);
            if let Some(number) = number
                && let Some(kind) = key.open(number, record, out)
            {
                self.keep(index);
                return Some((number, kind));
            }
        }
        self.search(numbers, record, out, tries)
    }

    /// Tries one number after another with the keys whose records do not tell theirs.
    fn search(
        &mut self,
        numbers: Numbers,
        record: &Record<'_>,
        out: &mut Vec<u8>,
        tries: &mut u64,
    ) -> Option<(u64, u8)> {
        let silent: Vec<_> =
            (0..self.keys.len()).filter(|index| !self.keys[*index].tells_numbers()).collect();
        if silent.is_empty() {
            return None;
        }
        let mut left = outward(numbers.first, numbers.more, numbers.likely);
        loop {
            let block: Vec<_> = left.by_ref().take(BLOCK).collect();
            if block.is_empty() {
                return None;
            }
            for &index in &silent {
                let here = usize::try_from(*tries / cost(record.body.len())).unwrap_or(BLOCK);
                let block = &block[..here.min(block.len())];
                let found = self.keys[index].find(block.iter().copied(), record, out);
                let place =
                    found.and_then(|(found, _)| block.iter().position(|number| *number == found));
                let failed = place.unwrap_or(block.len()) as u64;
                *tries -= failed * cost(record.body.len());
                if found.is_some() {
                    self.keep(index);
                    return found;
                }
                if block.len() == here {
                    return None;
                }
            }
        }
    }

    /// Opens a record of this phase or, where keys may have been updated, of a later generation of
    /// it.
    pub(super) fn find_in_generations(
        &mut self,
        numbers: Numbers,
        record: &Record<'_>,
        out: &mut Vec<u8>,
        tries: &mut u64,
    ) -> Option<(u64, u8)> {
        /// No handshake has more records.
        const HANDSHAKE: u64 = 64;
        /// Before keys are updated again, numbers up to here are tried.
        const NEAR: u64 = 1 << 20;
        const UPDATES: usize = 32;
        const AFTER_UPDATE: u64 = 1 << 14;
        let most = match self.kind {
            Kind::Early | Kind::Handshake => HANDSHAKE,
            Kind::Application | Kind::Epoch => NEAR,
        };
        let near = Numbers { more: numbers.more.min(most), ..numbers };
        let found = self.find(near, record, out, tries);
        if found.is_some() || matches!(self.kind, Kind::Early | Kind::Handshake) {
            return found;
        }
        if self.kind == Kind::Application {
            let numbers = Numbers { first: 0, more: numbers.more.min(AFTER_UPDATE), likely: 0 };
            let mut later = self.updated();
            for _ in 0..UPDATES {
                *tries = tries.checked_sub(UPDATE_COST)?;
                let found = later.find(numbers, record, out, tries);
                if found.is_some() {
                    *self = later;
                    return found;
                }
                later = later.updated();
            }
        }
        if numbers.more <= NEAR || self.tells_numbers() {
            return None;
        }
        self.search(numbers, record, out, tries)
    }

    /// This key is the one; its rivals are not.
    fn keep(&mut self, index: usize) {
        self.keys.swap(0, index);
        self.keys.truncate(1);
    }
}

/// What a try of a record costs.
const fn cost(len: usize) -> u64 {
    1 + (len / TRY_LEN) as u64
}
