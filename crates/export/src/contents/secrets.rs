//! Secrets as they came, told apart.

use std::collections::{HashMap, HashSet};

use kuberewind_tls::{KeyLogLine, Pin};

/// A client's random, by which a connection's secrets are found.
type Random = [u8; 32];

/// What came, and what of it the file shall have.
#[derive(Default)]
pub(super) struct Secrets {
    /// Lines that are not in the file yet.
    ready: Vec<u8>,
    /// Of connections that are older than the window, those of which no packet came: secrets of
    /// connections that are not in the file do not belong there.
    held: HashMap<Random, Vec<Vec<u8>>>,
    /// The connections of which secrets came.
    connections: HashSet<Random>,
}

/// What one text says.
#[derive(Default)]
pub(super) struct Learned {
    pub(super) lines: Vec<KeyLogLine>,
    /// Each with the node that it came from.
    pub(super) pins: Vec<(String, Pin)>,
}

impl Secrets {
    /// Takes what came from each node.
    pub(super) fn learn(&mut self, texts: &[(String, Vec<u8>)]) -> Learned {
        let mut learned = Learned::default();
        let mut lines = Vec::new();
        for (node, text) in texts {
            for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                match std::str::from_utf8(line).ok().and_then(|line| line.parse().ok()) {
                    Some(pin) => learned.pins.push((node.clone(), pin)),
                    None => lines.push(line),
                }
            }
        }
        lines.sort_unstable();
        lines.dedup();
        for (_, pin) in &learned.pins {
            // What had a packet before stays: `connections` has it.
            if let Some(random) = pin.client_random()
                && !self.connections.contains(&random)
            {
                self.held.entry(random).or_default();
            }
        }
        for line in lines {
            let parsed = String::from_utf8_lossy(line).parse::<KeyLogLine>().ok();
            let random = parsed.as_ref().map(|line| line.client_random);
            learned.lines.extend(parsed);
            if let Some(held) = random.and_then(|random| self.held.get_mut(&random)) {
                held.push([line, b"\n"].concat());
            } else {
                self.connections.extend(random);
                self.ready.extend(line);
                self.ready.push(b'\n');
            }
        }
        learned
    }

    /// The connection of this client's random has a packet.
    pub(super) fn release(&mut self, random: &Random) {
        if let Some(lines) = self.held.remove(random)
            && !lines.is_empty()
        {
            self.connections.insert(*random);
            self.ready.extend(lines.concat());
        }
    }

    /// The lines that shall stand before the next packet.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.ready)
    }

    /// Connections of which secrets came, and packets.
    pub(super) fn connections(&self) -> u64 {
        self.connections.len() as u64
    }
}
