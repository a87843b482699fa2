//! Secrets find their handshakes.
//!
//! What TLS 1.3 derives a handshake secret from contains the hash of the hellos, and the same hash is
//! known from the packets: that ties a secret to its flow with no word from the process. What it
//! derives traffic secrets from is the main secret, which follows from the handshake secret.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use kuberewind_packet::{NetnsId, Timestamp};

use crate::decrypt::Reason;
use crate::handshakes::{Flow, Handshake, Handshakes};
use crate::keylog::{KeyLog, KeyLogLine};
use crate::schedule::{expand_label, main_secret};
use crate::suite::{Hash, Suite, Version};
use crate::{Derived, KeyLogLabel, Secret, SecretBytes, SecretEvent};

/// So many derivations from a main secret wait for it at once; there are six to a handshake.
const MAX_WAITING: usize = 1 << 20;

/// So many secrets are looked at for one handshake; there are seven kinds.
const MAX_LINES: usize = 64;

/// What came of a join.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joined {
    /// The handshakes, by time.
    pub handshakes: Vec<JoinedHandshake>,
    /// Secrets that belong to none of them, counted.
    pub unmatched: BTreeMap<Unmatched, u64>,
}

/// A handshake and its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedHandshake {
    /// When the `ClientHello` was first seen.
    pub time: Timestamp,
    /// Of the `ClientHello`.
    pub client_random: [u8; 32],
    /// Where it was seen: at both ends, before and after address translation.
    pub flows: Vec<Flow>,
    /// Once the server chose it.
    pub version: Option<Version>,
    /// The libraries whose secrets these are.
    pub libraries: BTreeSet<String>,
    /// Whether it can be opened with them.
    pub coverage: Coverage,
    /// The secrets.
    pub lines: Vec<KeyLogLine>,
}

/// Which of the secrets that open a connection are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Coverage {
    /// All.
    All,
    /// Some: one direction, or data without the handshake.
    Partial,
    /// None, and why not.
    None(Reason),
}

/// Why a secret belongs to no handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unmatched {
    /// No handshake with these hellos was recorded.
    NoHandshake,
    /// The handshake secret that it follows from was not seen.
    NoHandshakeSecret,
    /// No secret of TLS has its form.
    Malformed,
    /// More secrets waited than are kept.
    TooMany,
}

impl fmt::Display for Unmatched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoHandshake => "handshake not recorded",
            Self::NoHandshakeSecret => "handshake secret not seen",
            Self::Malformed => "not a secret of TLS",
            Self::TooMany => "too many at once",
        })
    }
}

impl Joined {
    /// The secrets of all handshakes.
    pub fn key_log(&self) -> KeyLog {
        let mut log = KeyLog::default();
        log.extend(self.handshakes.iter().flat_map(|handshake| handshake.lines.iter().cloned()));
        log
    }
}

impl Derived {
    /// What stands before the transcript in its derivation (RFC 8446 section 7.1).
    const fn label(self) -> &'static str {
        match self {
            Self::ClientEarly => "c e traffic",
            Self::ClientHandshake => "c hs traffic",
            Self::ServerHandshake => "s hs traffic",
            Self::ClientTraffic => "c ap traffic",
            Self::ServerTraffic => "s ap traffic",
            Self::Exporter => "exp master",
        }
    }

    const fn key_log_label(self) -> KeyLogLabel {
        match self {
            Self::ClientEarly => KeyLogLabel::ClientEarlyTraffic,
            Self::ClientHandshake => KeyLogLabel::ClientHandshakeTraffic,
            Self::ServerHandshake => KeyLogLabel::ServerHandshakeTraffic,
            Self::ClientTraffic => KeyLogLabel::ClientTraffic,
            Self::ServerTraffic => KeyLogLabel::ServerTraffic,
            Self::Exporter => KeyLogLabel::Exporter,
        }
    }

    const fn follows_from_main_secret(self) -> bool {
        matches!(self, Self::ClientTraffic | Self::ServerTraffic | Self::Exporter)
    }
}

/// Joins secrets with handshakes. Their order does not matter, and a secret that comes again (from the
/// other end, or from a second probe) counts once.
pub fn join(handshakes: &Handshakes, events: impl IntoIterator<Item = SecretEvent>) -> Joined {
    let mut join = Join::new(handshakes);
    for event in events {
        join.take(event);
    }
    join.settle()
}

/// A derivation whose secret is known.
struct Derivation {
    label: Derived,
    hash: Hash,
    key: Vec<u8>,
    transcript: Vec<u8>,
    netns: NetnsId,
    library: String,
}

struct Join<'a> {
    /// Indices into `found`, by hash of hellos.
    by_transcript: HashMap<&'a [u8], usize>,
    by_random: HashMap<[u8; 32], usize>,
    by_main_secret: HashMap<Vec<u8>, usize>,
    found: Vec<Found>,
    /// What follows from a main secret that may not have been seen yet; doubles once.
    waiting: HashMap<(Derived, Vec<u8>, Vec<u8>), Derivation>,
    unmatched: BTreeMap<Unmatched, u64>,
}

/// A handshake in the making.
struct Found {
    joined: JoinedHandshake,
    cipher: Option<u16>,
    /// Lines with a rank: those from a process in one of the flow's namespaces come before others.
    lines: Vec<(bool, KeyLogLine)>,
}

impl<'a> Join<'a> {
    fn new(handshakes: &'a Handshakes) -> Self {
        let mut join = Self {
            by_transcript: HashMap::new(),
            by_random: HashMap::new(),
            by_main_secret: HashMap::new(),
            found: Vec::new(),
            waiting: HashMap::new(),
            unmatched: BTreeMap::new(),
        };
        for handshake in handshakes.iter() {
            join.learn(handshake);
        }
        join
    }

    fn learn(&mut self, handshake: &'a Handshake) {
        let index = *self.by_random.entry(handshake.client_random).or_insert_with(|| {
            self.found.push(Found::new(handshake));
            self.found.len() - 1
        });
        let found = &mut self.found[index];
        if !found.joined.flows.contains(&handshake.flow) {
            found.joined.flows.push(handshake.flow);
        }
        for hash in &handshake.early {
            self.by_transcript.insert(hash, index);
        }
        if let Some(answer) = &handshake.answer {
            found.joined.version = Some(answer.version);
            found.cipher = Some(answer.cipher);
            for hash in &answer.transcripts {
                self.by_transcript.insert(hash, index);
            }
        }
    }

    fn take(&mut self, event: SecretEvent) {
        let SecretEvent { netns, library, secret, .. } = event;
        let (label, key, transcript) = match secret {
            Secret::KeyLog { label, client_random, secret } => {
                return self.take_line(label, client_random, secret, netns, library);
            }
            Secret::Derivation { label, key, transcript } => (label, key.0, transcript),
        };
        let Some(hash) = Hash::by_len(transcript.len()).filter(|hash| hash.len() == key.len())
        else {
            return self.count(Unmatched::Malformed);
        };
        let derivation = Derivation { label, hash, key, transcript, netns, library };
        if label.follows_from_main_secret() {
            return self.wait(derivation);
        }
        let Some(index) = self.by_transcript.get(derivation.transcript.as_slice()).copied() else {
            return self.count(Unmatched::NoHandshake);
        };
        if label != Derived::ClientEarly {
            self.by_main_secret.insert(main_secret(hash, &derivation.key), index);
        }
        if !self.found[index].derive(derivation) {
            self.count(Unmatched::TooMany);
        }
    }

    fn take_line(
        &mut self,
        label: KeyLogLabel,
        client_random: [u8; 32],
        secret: SecretBytes,
        netns: NetnsId,
        library: String,
    ) {
        if !label.fits(secret.0.len()) {
            return self.count(Unmatched::Malformed);
        }
        match self.by_random.get(&client_random) {
            None => self.count(Unmatched::NoHandshake),
            Some(index) => {
                let line = KeyLogLine { label, client_random, secret };
                if !self.found[*index].add(line, netns, library) {
                    self.count(Unmatched::TooMany);
                }
            }
        }
    }

    fn wait(&mut self, derivation: Derivation) {
        let Derivation { label, key, transcript, .. } = &derivation;
        let of = (*label, key.clone(), transcript.clone());
        if self.waiting.len() < MAX_WAITING {
            self.waiting.insert(of, derivation);
        } else if !self.waiting.contains_key(&of) {
            self.count(Unmatched::TooMany);
        }
    }

    fn settle(mut self) -> Joined {
        for (_, derivation) in std::mem::take(&mut self.waiting) {
            match self.by_main_secret.get(&derivation.key) {
                Some(index) => {
                    if !self.found[*index].derive(derivation) {
                        self.count(Unmatched::TooMany);
                    }
                }
                None => self.count(Unmatched::NoHandshakeSecret),
            }
        }
        let mut handshakes: Vec<_> = self.found.into_iter().map(Found::settle).collect();
        handshakes.sort_by_key(|handshake| (handshake.time, handshake.client_random));
        Joined { handshakes, unmatched: self.unmatched }
    }

    fn count(&mut self, why: Unmatched) {
        *self.unmatched.entry(why).or_default() += 1;
    }
}

impl Found {
    fn new(handshake: &Handshake) -> Self {
        let joined = JoinedHandshake {
            time: handshake.time,
            client_random: handshake.client_random,
            flows: Vec::new(),
            version: None,
            libraries: BTreeSet::new(),
            coverage: Coverage::None(Reason::NoSecret),
            lines: Vec::new(),
        };
        Self { joined, cipher: None, lines: Vec::new() }
    }

    /// `false` when there were too many.
    fn derive(&mut self, derivation: Derivation) -> bool {
        let Derivation { label, hash, key, transcript, netns, library } = derivation;
        let secret = expand_label(hash, &key, label.label(), &transcript, hash.len());
        let client_random = self.joined.client_random;
        let label = label.key_log_label();
        let line = KeyLogLine { label, client_random, secret: SecretBytes(secret) };
        self.add(line, netns, library)
    }

    /// `false` when there were too many.
    fn add(&mut self, line: KeyLogLine, netns: NetnsId, library: String) -> bool {
        let elsewhere = self.joined.flows.iter().all(|flow| flow.netns != netns);
        let known = self.lines.iter().position(|(_, known)| *known == line);
        let displaced = || self.lines.iter().position(|(rank, _)| *rank && !elsewhere);
        match known {
            Some(index) => self.lines[index].0 &= elsewhere,
            None if self.lines.len() < MAX_LINES => self.lines.push((elsewhere, line)),
            // One from the right place displaces one from elsewhere.
            None => match displaced() {
                Some(index) => self.lines[index] = (elsewhere, line),
                None => return false,
            },
        }
        self.joined.libraries.insert(library);
        true
    }

    fn settle(mut self) -> JoinedHandshake {
        let key = |(elsewhere, line): &(bool, KeyLogLine)| {
            (*elsewhere, line.label, line.secret.0.clone())
        };
        self.lines.sort_by_cached_key(key);
        let mut log = KeyLog::default();
        log.extend(self.lines.into_iter().map(|(_, line)| line));
        let mut joined = self.joined;
        joined.lines = log.lines().collect();
        joined.coverage = coverage(joined.version, self.cipher, &joined.lines);
        joined
    }
}

fn coverage(version: Option<Version>, cipher: Option<u16>, lines: &[KeyLogLine]) -> Coverage {
    let needed: &[KeyLogLabel] = match version {
        Some(Version::TLS13) => &[
            KeyLogLabel::ClientHandshakeTraffic,
            KeyLogLabel::ServerHandshakeTraffic,
            KeyLogLabel::ClientTraffic,
            KeyLogLabel::ServerTraffic,
        ],
        Some(Version::TLS12) => &[KeyLogLabel::ClientRandom],
        Some(other) => return Coverage::None(Reason::Version(other)),
        None => return Coverage::None(Reason::Unfinished),
    };
    if let (Some(version), Some(cipher)) = (version, cipher)
        && Suite::find(version, cipher).is_none()
    {
        return Coverage::None(Reason::Cipher(cipher));
    }
    let known = |label: &&KeyLogLabel| lines.iter().any(|line| line.label == **label);
    match needed.iter().filter(known).count() {
        0 => Coverage::None(Reason::NoSecret),
        count if count == needed.len() => Coverage::All,
        _ => Coverage::Partial,
    }
}
