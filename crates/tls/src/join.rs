//! Secrets tied to the connections that they belong to.
//!
//! What TLS 1.3 derives a handshake secret from contains the hash of the hellos, and the same hash is
//! known from the packets: that ties a secret to its flow with no word from the process. What it
//! derives traffic secrets from is the main secret, which follows from the handshake secret.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use kuberewind_packet::{NetnsId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::handshakes::{Agreed, Handshakes, Hello, Name, Seen};
use crate::object::Lessons;
use crate::queues::Queues;
use crate::schedule::{expand_label, main_secret};
use crate::suite::Hash;
use crate::{
    Derived, KeyLog, KeyLogLabel, KeyLogLine, ObjectPath, Pin, Secret, SecretBytes, SecretEvent,
};

/// Secret and handshake come by different ways, in either order; one waits so long for the other.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connections that are known at a time, and secrets that wait; beyond that the oldest are given up of
/// the namespace that has most, so that none crowds out the others.
const MOST: usize = 1 << 15;

/// Secrets of one namespace that wait for one and the same thing: one for each label, perhaps from both
/// ends. A process can make up more.
const MOST_OF_A_CLUE: usize = 16;

/// After so long all packets that were sent before a secret was told have been read.
const SETTLED: Duration = Duration::from_secs(2);

/// Secrets that wait with a whole object, 17 KiB each; beyond that the oldest are given up.
const MOST_OBJECTS: usize = 960;

/// A secret, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// When the client said hello.
    pub hello: Timestamp,
    /// Where: the network namespace that both packet and process were in.
    pub netns: NetnsId,
    /// Who opened the connection.
    pub client: SocketAddr,
    /// To whom.
    pub server: SocketAddr,
    /// The name that the client asked for (RFC 6066 section 3).
    pub server_name: Option<String>,
    /// The secret.
    pub line: KeyLogLine,
}

/// The hellos of a connection once both are known, whether or not a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// The hellos.
    pub pin: Pin,
    /// The name that the client asked for (RFC 6066 section 3).
    pub server_name: Option<String>,
    /// Its secrets so far; those were [`Joined`], as those to come will be.
    pub lines: Vec<KeyLogLine>,
}

/// What was seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinCounts {
    /// `ClientHello`s.
    pub handshakes: u64,
    /// Of these, those whose application data can be decrypted.
    pub covered: u64,
    /// Secrets that probes told of.
    pub secrets: u64,
    /// Secrets for which no handshake was recorded, not within half a minute, or that are none of TLS.
    pub unmatched: u64,
}

/// Ties secrets to connections, in whichever order they come.
#[derive(Debug, Default)]
pub struct Joiner {
    handshakes: Handshakes,
    connections: HashMap<Name, Connection>,
    transcripts: HashMap<Vec<u8>, Vec<Name>>,
    mains: HashMap<Vec<u8>, Vec<Name>>,
    waiting: HashMap<Clue, Vec<SecretEvent>>,
    /// How many events wait.
    waiting_events: usize,
    /// Secrets with whole objects, until all earlier packets are known: memory that was used before may
    /// still hold the randoms of earlier connections.
    objects: VecDeque<SecretEvent>,
    lessons: Lessons,
    /// What goes when its time has come: connections,
    ageing: Queues<Name>,
    /// and what secrets wait for, some of which has come.
    ageing_clues: Queues<Clue>,
    joined: Vec<Joined>,
    pinned: Vec<Pinned>,
    counts: JoinCounts,
    by_netns: HashMap<NetnsId, JoinCounts>,
}

#[derive(Debug)]
struct Connection {
    hello: Hello,
    /// What was given out.
    given: KeyLog,
    /// Its keys in the other maps.
    transcripts: Vec<Vec<u8>>,
    mains: Vec<Vec<u8>>,
}

/// By what a secret names its connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Clue {
    Transcript(Vec<u8>),
    Main(Vec<u8>),
    Random(Name),
}

impl Joiner {
    /// Takes in a packet of a handshake, from the Ethernet header on.
    pub fn packet(&mut self, netns: NetnsId, time: Timestamp, frame: &[u8]) {
        for seen in self.handshakes.see(netns, time, frame) {
            match seen {
                Seen::Hello(hello) => self.hello(hello),
                Seen::Agreed(agreed) => self.agreed(agreed),
            }
        }
    }

    /// Takes in what a probe told.
    pub fn secret(&mut self, event: SecretEvent) {
        self.counts.secrets += 1;
        self.by_netns.entry(event.netns).or_default().secrets += 1;
        self.place(event);
    }

    /// What was joined since the last call; gives up what has waited too long at `now`.
    pub fn take(&mut self, now: Timestamp) -> Vec<Joined> {
        for name in self.ageing.take_older(now, PATIENCE) {
            self.forget(name);
        }
        for clue in self.ageing_clues.take_older(now, PATIENCE) {
            self.give_up(&clue);
        }
        while let Some(event) = self.objects.pop_front_if(|event| now.since(event.time) >= SETTLED)
        {
            self.place_object(&event);
        }
        std::mem::take(&mut self.joined)
    }

    /// The hellos that became known since the last call: once for each pair of addresses under which a
    /// connection is seen, and again when they are.
    pub fn take_pinned(&mut self) -> Vec<Pinned> {
        std::mem::take(&mut self.pinned)
    }

    /// Lets nothing wait any longer for earlier packets: they are all known, or will not come.
    pub fn settle(&mut self) {
        for event in std::mem::take(&mut self.objects) {
            self.place_object(&event);
        }
    }

    /// Where files' code keeps the client's random, as far as it was learned since the last call. The
    /// numbers are those of [`crate::Object::file`].
    pub fn take_learned(&mut self) -> Vec<(u32, ObjectPath)> {
        self.lessons.take()
    }

    /// All of it counted.
    pub const fn counts(&self) -> JoinCounts {
        self.counts
    }

    /// The same for each network namespace.
    pub fn counts_of(&self, netns: NetnsId) -> JoinCounts {
        self.by_netns.get(&netns).copied().unwrap_or_default()
    }

    fn hello(&mut self, hello: Hello) {
        let name = hello.name;
        if self.connections.contains_key(&name) {
            return; // sent again, or seen on two interfaces
        }
        let early = hello.early.clone();
        self.ageing.push(name.0, hello.time, name);
        if self.ageing.len() > MOST
            && let Some(oldest) = self.ageing.pop_from_longest()
        {
            self.forget(oldest);
        }
        self.counts.handshakes += 1;
        self.by_netns.entry(name.0).or_default().handshakes += 1;
        let connection = Connection {
            hello,
            given: KeyLog::default(),
            transcripts: Vec::new(),
            mains: Vec::new(),
        };
        self.connections.insert(name, connection);
        for hash in early {
            self.know_transcript(name, hash);
        }
        self.retry(&Clue::Random(name));
    }

    fn agreed(&mut self, agreed: Agreed) {
        let Agreed { name, pin, server_name, transcripts } = agreed;
        for hash in transcripts.into_iter().flatten() {
            self.know_transcript(name, hash);
        }
        let Some(pin) = pin else { return };
        let given = self.connections.get(&name).map(|connection| connection.given.lines());
        let lines = given.into_iter().flatten().collect();
        self.pinned.push(Pinned { pin, server_name, lines });
    }

    fn know_transcript(&mut self, name: Name, hash: Vec<u8>) {
        let Some(connection) = self.connections.get_mut(&name) else { return };
        connection.transcripts.push(hash.clone());
        self.transcripts.entry(hash.clone()).or_default().push(name);
        self.retry(&Clue::Transcript(hash));
    }

    fn know_main(&mut self, name: Name, main: Vec<u8>) {
        let Some(connection) = self.connections.get_mut(&name) else { return };
        if !connection.mains.contains(&main) {
            connection.mains.push(main.clone());
            self.mains.entry(main.clone()).or_default().push(name);
            self.retry(&Clue::Main(main));
        }
    }

    fn retry(&mut self, clue: &Clue) {
        let events = self.waiting.remove(clue).unwrap_or_default();
        self.waiting_events -= events.len();
        for event in events {
            self.place(event);
        }
    }

    /// Finds the connections of a secret, or lets it wait.
    fn place(&mut self, event: SecretEvent) {
        match &event.secret {
            Secret::KeyLog { label, client_random, secret } if label.fits(secret.0.len()) => {
                let name = (event.netns, *client_random);
                if self.connections.contains_key(&name) {
                    self.give(name, event.netns, *label, secret.clone());
                } else {
                    self.wait(Clue::Random(name), event);
                }
            }
            Secret::Derivation { label, key, transcript } => match Hash::by_len(transcript.len()) {
                Some(hash) if hash.len() == key.0.len() => {
                    let (label, key, transcript) = (*label, key.clone(), transcript.clone());
                    self.derive(hash, label, &key.0, transcript, event);
                }
                _ => self.counts.unmatched += 1,
            },
            Secret::InObject { label, secret, .. } if label.fits(secret.0.len()) => {
                if self.objects.len() == MOST_OBJECTS {
                    self.objects.pop_front();
                    self.counts.unmatched += 1;
                }
                self.objects.push_back(event);
            }
            Secret::KeyLog { .. } | Secret::InObject { .. } => self.counts.unmatched += 1,
        }
    }

    /// Finds the connection whose random stands in the object, and learns where it stands. Of several it
    /// is the last that had begun by then, unless another secret is known to be its.
    fn place_object(&mut self, event: &SecretEvent) {
        let Secret::InObject { label, secret, object } = &event.secret else { return };
        let began = |(_, random): (ObjectPath, [u8; 32])| {
            let Connection { hello, given, .. } = self.connections.get(&(event.netns, random))?;
            let mut others = given.candidates(&random, *label).filter(|other| *other != secret.0);
            (hello.time <= event.time && others.next().is_none()).then_some((hello.time, random))
        };
        let Some((_, random)) = object.randoms().filter_map(began).max() else {
            self.counts.unmatched += 1;
            return;
        };
        self.lessons.add(object.file, random, object.places_of(&random));
        self.give((event.netns, random), event.netns, *label, secret.clone());
    }

    fn derive(
        &mut self,
        hash: Hash,
        label: Derived,
        key: &[u8],
        transcript: Vec<u8>,
        event: SecretEvent,
    ) {
        let secret = expand_label(hash, key, label.label(), &transcript, hash.len());
        let (clue, names) = if label.is_of_hellos() {
            let names = self.transcripts.get(&transcript).cloned();
            (Clue::Transcript(transcript), names)
        } else {
            (Clue::Main(key.to_vec()), self.mains.get(key).cloned())
        };
        let Some(names) = names else { return self.wait(clue, event) };
        for name in names {
            self.give(name, event.netns, label.key_log_label(), SecretBytes(secret.clone()));
            if matches!(label, Derived::ClientHandshake | Derived::ServerHandshake) {
                self.know_main(name, main_secret(hash, key));
            }
        }
    }

    fn wait(&mut self, clue: Clue, event: SecretEvent) {
        let events = self.waiting.entry(clue.clone()).or_default();
        let of_its = events.iter().filter(|other| other.netns == event.netns).count();
        if of_its >= MOST_OF_A_CLUE {
            self.counts.unmatched += 1;
            return;
        }
        if events.is_empty() {
            self.ageing_clues.push(event.netns, event.time, clue);
        }
        events.push(event);
        self.waiting_events += 1;
        while self.waiting_events > MOST || self.ageing_clues.len() > 2 * MOST {
            let Some(oldest) = self.ageing_clues.pop_from_longest() else { break };
            self.give_up(&oldest);
        }
    }

    /// Gives out a secret that a process in `from` told of. Both ends may be probed, and a process can
    /// make up others' secrets: of these one at most is given out for a label.
    fn give(&mut self, name: Name, from: NetnsId, label: KeyLogLabel, secret: SecretBytes) {
        let Some(connection) = self.connections.get_mut(&name) else { return };
        let is_rival = from != name.0 && connection.given.has(&name.1, label);
        let line = KeyLogLine { label, client_random: name.1, secret };
        let was_covered = connection.is_covered();
        if is_rival || !connection.given.insert(line.clone()) {
            return;
        }
        if connection.is_covered() && !was_covered {
            self.counts.covered += 1;
            self.by_netns.entry(name.0).or_default().covered += 1;
        }
        let Hello { time, client, server, server_name, .. } = &connection.hello;
        self.joined.push(Joined {
            hello: *time,
            netns: name.0,
            client: *client,
            server: *server,
            server_name: server_name.clone(),
            line,
        });
    }

    /// Nothing that these secrets wait for will come.
    fn give_up(&mut self, clue: &Clue) {
        let events = self.waiting.remove(clue).unwrap_or_default();
        self.waiting_events -= events.len();
        self.counts.unmatched += events.len() as u64;
    }

    fn forget(&mut self, name: Name) {
        let Some(connection) = self.connections.remove(&name) else { return };
        for transcript in connection.transcripts {
            remove(&mut self.transcripts, &transcript, name);
        }
        for main in connection.mains {
            remove(&mut self.mains, &main, name);
        }
    }
}

impl Connection {
    fn is_covered(&self) -> bool {
        let has = |label| self.given.has(&self.hello.name.1, label);
        has(KeyLogLabel::ClientRandom)
            || (has(KeyLogLabel::ClientTraffic) && has(KeyLogLabel::ServerTraffic))
    }
}

fn remove(map: &mut HashMap<Vec<u8>, Vec<Name>>, key: &[u8], name: Name) {
    if let Some(names) = map.get_mut(key) {
        names.retain(|other| *other != name);
        if names.is_empty() {
            map.remove(key);
        }
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

    /// What a key log calls it.
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

    /// Whether the transcript ends with a hello, so that it can be computed from what is not
    /// encrypted.
    const fn is_of_hellos(self) -> bool {
        matches!(self, Self::ClientEarly | Self::ClientHandshake | Self::ServerHandshake)
    }
}
