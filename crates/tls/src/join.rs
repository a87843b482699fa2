//! Secrets tied to the connections that they belong to.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use kuberewind_packet::{NetnsId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::handshakes::{Handshakes, Hello, Name, Seen, Transcript};
use crate::schedule::Hash;
use crate::{Derived, KeyLogLabel, KeyLogLine, Secret, SecretBytes, SecretEvent};

/// Secret and handshake come by different ways, in either order; one waits so long for the other.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connections and secrets that wait at a time; beyond that the oldest are given up.
const MOST: usize = 1 << 15;

/// A secret, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Secrets for which no handshake was recorded, not within half a minute.
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
    /// What goes when its time has come, oldest first.
    ageing: VecDeque<(Timestamp, Ageing)>,
    joined: Vec<Joined>,
    counts: JoinCounts,
    by_netns: HashMap<NetnsId, JoinCounts>,
}

#[derive(Debug)]
struct Connection {
    hello: Hello,
    /// The labels that were given out.
    given: Vec<KeyLogLabel>,
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

#[derive(Debug)]
enum Ageing {
    Connection(Name),
    Waiting(Clue),
}

impl Joiner {
    /// Takes in a packet of a handshake, from the Ethernet header on.
    pub fn packet(&mut self, netns: NetnsId, time: Timestamp, frame: &[u8]) {
        for seen in self.handshakes.see(netns, time, frame) {
            match seen {
                Seen::Hello(hello) => self.hello(hello),
                Seen::Agreed { name, transcript: Transcript::Hash(hash) } => {
                    self.know_transcript(name, hash);
                }
                Seen::Agreed { transcript: Transcript::Unused, .. } => {}
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
        let crowded = |joiner: &Self| joiner.ageing.len() > MOST;
        while let Some((since, _)) = self.ageing.front()
            && (now.since(*since) > PATIENCE || crowded(self))
        {
            let Some((_, ageing)) = self.ageing.pop_front() else { break };
            self.give_up(ageing);
        }
        std::mem::take(&mut self.joined)
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
        self.ageing.push_back((hello.time, Ageing::Connection(name)));
        self.counts.handshakes += 1;
        self.by_netns.entry(name.0).or_default().handshakes += 1;
        let connection =
            Connection { hello, given: Vec::new(), transcripts: Vec::new(), mains: Vec::new() };
        self.connections.insert(name, connection);
        for hash in early {
            self.know_transcript(name, hash);
        }
        self.retry(&Clue::Random(name));
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
            Secret::KeyLog { label, client_random, secret } => {
                let name = (event.netns, *client_random);
                let line = KeyLogLine {
                    label: *label,
                    client_random: *client_random,
                    secret: secret.clone(),
                };
                if self.connections.contains_key(&name) {
                    self.give(name, line);
                } else {
                    self.wait(Clue::Random(name), event);
                }
            }
            Secret::Derivation { label, key, transcript } => {
                let Some(hash) = Hash::of_len(transcript.len()) else { return };
                let clue = if is_of_hellos(*label) {
                    Clue::Transcript(transcript.clone())
                } else {
                    Clue::Main(key.0.clone())
                };
                let names = match &clue {
                    Clue::Transcript(transcript) => self.transcripts.get(transcript).cloned(),
                    Clue::Main(main) => self.mains.get(main).cloned(),
                    Clue::Random(_) => None,
                };
                let Some(names) = names else { return self.wait(clue, event) };
                let secret = hash.derive_secret(&key.0, label.label(), transcript);
                let follows_main =
                    matches!(label, Derived::ClientHandshake | Derived::ServerHandshake);
                for name in names {
                    let (label, secret) = (label.key_log_label(), SecretBytes(secret.clone()));
                    self.give(name, KeyLogLine { label, client_random: name.1, secret });
                    if follows_main {
                        self.know_main(name, hash.main_secret(&key.0));
                    }
                }
            }
        }
    }

    fn wait(&mut self, clue: Clue, event: SecretEvent) {
        if self.waiting_events >= MOST {
            self.counts.unmatched += 1;
            return;
        }
        self.waiting_events += 1;
        let time = event.time;
        let events = self.waiting.entry(clue.clone()).or_default();
        if events.is_empty() {
            self.ageing.push_back((time, Ageing::Waiting(clue)));
        }
        events.push(event);
    }

    fn give(&mut self, name: Name, line: KeyLogLine) {
        let Some(connection) = self.connections.get_mut(&name) else { return };
        if connection.given.contains(&line.label) {
            return; // both ends are probed
        }
        let was_covered = connection.is_covered();
        connection.given.push(line.label);
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

    fn give_up(&mut self, ageing: Ageing) {
        match ageing {
            Ageing::Waiting(clue) => {
                let events = self.waiting.remove(&clue).unwrap_or_default();
                self.waiting_events -= events.len();
                self.counts.unmatched += events.len() as u64;
            }
            Ageing::Connection(name) => {
                let Some(connection) = self.connections.remove(&name) else { return };
                for transcript in connection.transcripts {
                    remove(&mut self.transcripts, &transcript, name);
                }
                for main in connection.mains {
                    remove(&mut self.mains, &main, name);
                }
            }
        }
    }
}

impl Connection {
    fn is_covered(&self) -> bool {
        let has = |label| self.given.contains(&label);
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

/// Whether the transcript ends with a hello, so that it can be computed from what is not encrypted.
const fn is_of_hellos(label: Derived) -> bool {
    matches!(label, Derived::ClientEarly | Derived::ClientHandshake | Derived::ServerHandshake)
}
