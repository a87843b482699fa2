//! What stands in a file: the real packets, and the twins that they gave rise to.
//!
//! A twin's ports must be no real flow's, but a stream is read once, and of what comes later nothing is
//! known. So a twin avoids the ports of all packets before it; if a later one needs them, the twin is
//! given others in the file that was written: see [`Contents::moves`]. A pipe cannot be mended: there a
//! real connection between the same ends, from the same port to the server's plain port, looks to
//! readers as if ports were used twice.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Range;

use kuberewind_packet::pcapng::PacketBlock;
use kuberewind_packet::{Interface, NetnsId, Owner, PacketStream, Span, Timestamp};
use kuberewind_tls::{
    Decryptor, Event, KeyLog, KeyLogLine, Limits, Moves, Outcome, Place, PortsTaken, Twins,
};

use crate::report::{PlaintextReport, TlsReport, VantageReport};
use crate::vantage::Plan;
use crate::{Input, Merge, NodeReport, TlsParts};

/// The name of the interface that twins are on.
pub(crate) const TWINS: &str = "tls-plaintext";

/// A merge, what is left out of it, and what is added to it.
pub(crate) struct Contents<S> {
    merge: Merge<S>,
    /// None where nobody looked at the streams before: then nothing is left out.
    vantage: Option<Plan>,
    tls: TlsParts,
    /// What the file shall have of the secrets that came.
    key_log: Vec<u8>,
    /// The clients' randoms of the connections of which secrets came.
    connections: HashSet<[u8; 32]>,
    plaintext: Option<Plaintext>,
    /// Of the real packets and of twins, in the order in which they came.
    interfaces: Vec<Interface>,
    /// Places in `interfaces` of the merge's.
    real: Vec<u32>,
    /// Of each node's twins.
    twins: BTreeMap<String, u32>,
    /// The node of the newest real packet.
    node: String,
    now: Now,
}

/// What [`Contents::packet`] gives.
#[derive(Clone, Copy)]
enum Now {
    Real,
    /// With its number among the frames made.
    Twin(usize),
}

/// Decryption as far as it is.
struct Plaintext {
    /// None after the end.
    decryptor: Option<Decryptor>,
    twins: Twins,
    made: Made,
    report: PlaintextReport,
}

/// Frames that came of one real packet.
#[derive(Default)]
struct Made {
    bytes: Vec<u8>,
    frames: Vec<(Timestamp, Range<usize>)>,
}

impl<S: PacketStream> Contents<S> {
    /// Of the packets that `inputs` have in the window `asked`.
    pub(crate) fn new(
        asked: Span,
        inputs: impl IntoIterator<Item = Input<S>>,
        tls: TlsParts,
    ) -> Self {
        let mut inputs: Vec<_> = inputs.into_iter().collect();
        let surveys: Vec<_> = inputs.iter_mut().map(|input| input.survey.take()).collect();
        Self {
            merge: Merge::new(asked, inputs),
            vantage: surveys.iter().any(Option::is_some).then(|| Plan::new(surveys)),
            tls,
            key_log: Vec::new(),
            connections: HashSet::new(),
            plaintext: tls.plaintext.then(Plaintext::new),
            interfaces: Vec::new(),
            real: Vec::new(),
            twins: BTreeMap::new(),
            node: String::new(),
            now: Now::Real,
        }
    }

    /// Goes to the next packet; `false` when there is none.
    pub(crate) fn advance(&mut self) -> bool {
        if self.advance_in_made() {
            return true;
        }
        let more = self.advance_in_merge();
        self.learn_secrets();
        if more {
            self.now = Now::Real;
            self.number_interface();
            self.decrypt();
            return true;
        }
        if let Some(plaintext) = &mut self.plaintext {
            plaintext.finish();
        }
        self.advance_in_made()
    }

    /// Goes to the next recorded packet that is not left out.
    fn advance_in_merge(&mut self) -> bool {
        while self.merge.advance() {
            let Some(vantage) = &mut self.vantage else { return true };
            if !vantage.leaves_out(self.merge.lane(), &self.merge.packet()) {
                return true;
            }
            self.merge.leave_out();
        }
        false
    }

    /// The packet that [`Self::advance`] went to.
    pub(crate) fn packet(&self) -> PacketBlock<'_> {
        if let (Now::Twin(number), Some(Plaintext { made, .. })) = (self.now, &self.plaintext) {
            let (timestamp, range) = &made.frames[number];
            let data = &made.bytes[range.clone()];
            let interface = self.twins.get(&self.node).copied().unwrap_or_default();
            let original_len = u32::try_from(data.len()).unwrap_or(u32::MAX);
            return PacketBlock { interface, timestamp: *timestamp, original_len, data };
        }
        let packet = self.merge.packet();
        let interface = self.real.get(packet.interface as usize).copied();
        PacketBlock { interface: interface.unwrap_or_default(), ..packet }
    }

    /// Whether it was recorded.
    pub(crate) fn is_real(&self) -> bool {
        matches!(self.now, Now::Real)
    }

    /// The interfaces of the packets so far.
    pub(crate) fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// The key log that shall stand in the file before the packet, as far as it is not there yet.
    pub(crate) fn take_key_log(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.key_log)
    }

    /// Whether the next [`Self::advance`] will not wait.
    pub(crate) fn has_next_at_hand(&self) -> bool {
        let next = self.next_made();
        let made = self.plaintext.as_ref().map_or(0, |plaintext| plaintext.made.frames.len());
        next < made || self.merge.has_next_at_hand()
    }

    /// Which twins must move, once there are no more packets.
    pub(crate) fn moves(&mut self) -> Moves {
        self.plaintext.as_mut().map(|plaintext| plaintext.twins.moves()).unwrap_or_default()
    }

    /// What each stream had to say, and what became of TLS and of what was seen twice.
    pub(crate) fn finish(self) -> (Vec<NodeReport>, Option<TlsReport>, Option<VantageReport>) {
        let tls = (self.tls != TlsParts::default()).then(|| TlsReport {
            connections_with_secrets: self.connections.len() as u64,
            plaintext: self.plaintext.map(Plaintext::report),
        });
        (self.merge.finish(), tls, self.vantage.map(Plan::report))
    }

    fn next_made(&self) -> usize {
        match self.now {
            Now::Real => 0,
            Now::Twin(number) => number + 1,
        }
    }

    fn advance_in_made(&mut self) -> bool {
        let next = self.next_made();
        let Some(plaintext) = &mut self.plaintext else { return false };
        if next < plaintext.made.frames.len() {
            self.now = Now::Twin(next);
            self.number_twins();
            return true;
        }
        plaintext.made.bytes.clear();
        plaintext.made.frames.clear();
        self.now = Now::Real;
        false
    }

    fn learn_secrets(&mut self) {
        let text = self.merge.take_key_log();
        if text.is_empty() || self.tls == TlsParts::default() {
            return;
        }
        let words = String::from_utf8_lossy(&text);
        let lines = words.lines().filter_map(|line| line.parse::<KeyLogLine>().ok());
        let lines: Vec<_> = lines.collect();
        self.connections.extend(lines.iter().map(|line| line.client_random));
        if let Some(plaintext) = &mut self.plaintext {
            plaintext.learn(lines);
        }
        if self.tls.secrets {
            self.key_log.extend(text);
        }
    }

    fn number_interface(&mut self) {
        let known = self.real.len();
        for interface in &self.merge.interfaces()[known..] {
            self.real.push(number_of(&self.interfaces));
            self.interfaces.push(interface.clone());
        }
    }

    fn number_twins(&mut self) {
        if !self.twins.contains_key(&self.node) {
            let (node, name) = (self.node.clone(), TWINS.to_owned());
            self.twins.insert(node.clone(), number_of(&self.interfaces));
            self.interfaces.push(Interface { node, owner: Owner::Host, netns: NetnsId(0), name });
        }
    }

    fn decrypt(&mut self) {
        let Some(plaintext) = &mut self.plaintext else { return };
        let packet = self.merge.packet();
        let Some(interface) = self.merge.interfaces().get(packet.interface as usize) else {
            return;
        };
        if self.node != interface.node {
            self.node.clone_from(&interface.node);
        }
        plaintext.see(place(interface), &packet);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "4 billion interfaces fit no memory")]
fn number_of(interfaces: &[Interface]) -> u32 {
    interfaces.len() as u32
}

/// Network namespaces are numbered on each node for itself.
fn place(interface: &Interface) -> Place {
    let mut hasher = DefaultHasher::new();
    (&interface.node, interface.netns.0).hash(&mut hasher);
    Place(hasher.finish())
}

impl Plaintext {
    fn new() -> Self {
        Self {
            decryptor: Some(Decryptor::new(KeyLog::default(), Limits::default())),
            twins: Twins::new(PortsTaken::default()),
            made: Made::default(),
            report: PlaintextReport::default(),
        }
    }

    fn learn(&mut self, lines: Vec<KeyLogLine>) {
        if let Some(decryptor) = &mut self.decryptor {
            decryptor.learn(lines);
        }
    }

    fn see(&mut self, place: Place, packet: &PacketBlock<'_>) {
        let Self { decryptor, twins, made, report } = self;
        let PacketBlock { timestamp, original_len, data, .. } = *packet;
        twins.avoid(original_len, data);
        if let Some(decryptor) = decryptor {
            decryptor.see(place, timestamp, original_len, data, &mut |event| {
                hear(&event, twins, made, report);
            });
        }
    }

    fn finish(&mut self) {
        let Self { decryptor, twins, made, report } = self;
        if let Some(decryptor) = decryptor.take() {
            decryptor.finish(&mut |event| hear(&event, twins, made, report));
        }
    }

    fn report(self) -> PlaintextReport {
        let counts = self.twins.counts();
        PlaintextReport { packets: counts.frames, bytes: counts.bytes, ..self.report }
    }
}

fn hear(event: &Event<'_>, twins: &mut Twins, made: &mut Made, report: &mut PlaintextReport) {
    twins.hear(event, &mut |time, frame| {
        let start = made.bytes.len();
        made.bytes.extend_from_slice(frame);
        made.frames.push((time, start..made.bytes.len()));
    });
    if let Event::Report { report: of, .. } = event {
        match of.outcome {
            Outcome::Opened => report.decrypted += 1,
            Outcome::Partly(reason) => *report.partly.entry(reason.to_string()).or_default() += 1,
            Outcome::Sealed(reason) => *report.not.entry(reason.to_string()).or_default() += 1,
        }
    }
}
