//! What stands in a file: the real packets, and the twins that they gave rise to.
//!
//! A twin's ports must be no real flow's, but a stream is read once, and of what comes later nothing is
//! known. So a twin avoids the ports of all packets before it; if a later one needs them, the twin is
//! given others in the file that was written: see [`Contents::moves`]. A pipe cannot be mended: there a
//! real connection between the same ends, from the same port to the server's plain port, looks to
//! readers as if ports were used twice.

mod heard;
mod plaintext;
mod queue;
mod secrets;

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use kuberewind_packet::pcapng::PacketBlock;
use kuberewind_packet::{Interface, NetnsId, Owner, PacketStream, Span};
use kuberewind_tls::{Decision, Lead, Moves, Place};

use crate::contents::plaintext::{Gave, Plaintext};
use crate::contents::queue::{Queue, Queued};
use crate::contents::secrets::Secrets;
use crate::report::{OlderReport, TlsReport, VantageReport};
use crate::vantage::Plan;
use crate::{Input, Liveness, Merge, NodeReport, TlsParts};

/// The name of the interface that twins are on.
const TWINS: &str = "tls-plaintext";
/// The name of the interface that handshakes are on that lead into older connections.
const PINNED: &str = "tls-pinned";
/// The name of the interface that empty records are on that do.
const FILLER: &str = "tls-filler";
/// Bytes of packets that are held until it is known what must stand before them.
const MAX_HELD: usize = 32 << 20;

/// Whether nothing on the interface of this name was recorded.
pub(crate) fn is_made(name: &str) -> bool {
    [TWINS, PINNED, FILLER].contains(&name)
}

/// A merge, what is left out of it, and what is added to it.
pub(crate) struct Contents<S> {
    merge: Merge<S>,
    /// None where nobody looked at the streams before: then nothing is left out.
    vantage: Option<Plan>,
    tls: TlsParts,
    liveness: Liveness,
    secrets: Secrets,
    plaintext: Option<Plaintext>,
    older: OlderReport,
    /// Of the real packets and of made ones, in the order in which they came.
    interfaces: Vec<Interface>,
    /// Places in `interfaces` of the merge's.
    real: Vec<u32>,
    /// Of what was made, by node and name.
    made: BTreeMap<(String, &'static str), u32>,
    /// The node of each place.
    nodes: HashMap<Place, String>,
    /// The node of the newest real packet.
    node: String,
    queue: Queue,
    /// The packet that [`Contents::packet`] gives; none where it is the merge's.
    now: Option<Queued>,
    /// The merge has no more.
    ended: bool,
}

impl<S: PacketStream> Contents<S> {
    /// Of the packets that `inputs` have in the window `asked`.
    pub(crate) fn new(
        asked: Span,
        inputs: impl IntoIterator<Item = Input<S>>,
        tls: TlsParts,
        liveness: Liveness,
    ) -> Self {
        let mut inputs: Vec<_> = inputs.into_iter().collect();
        let surveys: Vec<_> = inputs.iter_mut().map(|input| input.survey.take()).collect();
        Self {
            merge: Merge::new(asked, inputs),
            vantage: surveys.iter().any(Option::is_some).then(|| Plan::new(surveys)),
            tls,
            liveness,
            secrets: Secrets::default(),
            plaintext: (tls != TlsParts::default()).then(|| Plaintext::new(tls)),
            older: OlderReport::default(),
            interfaces: Vec::new(),
            real: Vec::new(),
            made: BTreeMap::new(),
            nodes: HashMap::new(),
            node: String::new(),
            queue: Queue::default(),
            now: None,
            ended: false,
        }
    }

    /// Goes to the next packet; `false` when there is none.
    pub(crate) fn advance(&mut self) -> bool {
        loop {
            self.now = None;
            if !self.holds() {
                self.now = self.queue.pop();
            }
            if self.now.is_some() {
                return true;
            }
            if self.ended {
                return false;
            }
            let more = self.advance_in_merge();
            self.learn_secrets();
            if !more {
                self.ended = true;
                let gave = self.plaintext.as_mut().map(Plaintext::finish);
                self.add(gave.unwrap_or_default());
            } else if self.take() {
                return true;
            }
        }
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

    /// Takes the merge's packet; `false` if it must wait in the queue.
    fn take(&mut self) -> bool {
        self.number_interface();
        let gave = self.decrypt();
        let waits = !self.queue.is_empty() || self.holds() || !gave.decisions.is_empty();
        if waits {
            let packet = self.merge.packet();
            let interface = self.real_interface(packet.interface);
            self.queue.add(Queued::recorded(interface, &packet));
        }
        self.add(gave);
        !waits
    }

    /// Whether packets wait for what must stand before them.
    fn holds(&self) -> bool {
        !self.ended && self.plaintext.as_ref().is_some_and(Plaintext::holds)
    }

    /// The packet that [`Self::advance`] went to.
    pub(crate) fn packet(&self) -> PacketBlock<'_> {
        if let Some(Queued { interface, timestamp, original_len, data, .. }) = &self.now {
            let (interface, timestamp) = (*interface, *timestamp);
            return PacketBlock { interface, timestamp, original_len: *original_len, data };
        }
        let packet = self.merge.packet();
        PacketBlock { interface: self.real_interface(packet.interface), ..packet }
    }

    fn real_interface(&self, number: u32) -> u32 {
        self.real.get(number as usize).copied().unwrap_or_default()
    }

    /// Whether it was recorded.
    pub(crate) fn is_real(&self) -> bool {
        self.now.as_ref().is_none_or(|packet| packet.real)
    }

    /// The interfaces of the packets so far.
    pub(crate) fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// The key log that shall stand in the file before the packet, as far as it is not there yet.
    pub(crate) fn take_key_log(&mut self) -> Vec<u8> {
        let lines = self.secrets.take();
        if self.tls.secrets { lines } else { Vec::new() }
    }

    /// Whether the next [`Self::advance`] will not wait.
    pub(crate) fn has_next_at_hand(&self) -> bool {
        !self.queue.is_empty() && !self.holds() || self.merge.has_next_at_hand()
    }

    /// Which twins must move, once there are no more packets.
    pub(crate) fn moves(&mut self) -> Moves {
        self.plaintext.as_mut().map(Plaintext::moves).unwrap_or_default()
    }

    /// What each stream had to say, and what became of TLS and of what was seen twice.
    pub(crate) fn finish(self) -> (Vec<NodeReport>, Option<TlsReport>, Option<VantageReport>) {
        let tls = (self.tls != TlsParts::default()).then(|| TlsReport {
            connections_with_secrets: self.secrets.connections(),
            secrets_in_file: self.tls.secrets,
            older: (self.tls.secrets && self.older.connections > 0).then_some(self.older),
            plaintext: self.plaintext.and_then(Plaintext::report),
        });
        (self.merge.finish(), tls, self.vantage.map(Plan::report))
    }

    fn learn_secrets(&mut self) {
        let texts = self.merge.take_secrets();
        let Some(plaintext) = &mut self.plaintext else { return };
        if texts.is_empty() {
            return;
        }
        let learned = self.secrets.learn(&texts);
        let pins = learned.pins.into_iter();
        let pins = pins.map(|(node, pin)| (place(&node, pin.netns), pin)).collect();
        plaintext.learn(learned.lines, pins);
    }

    fn number_interface(&mut self) {
        let known = self.real.len();
        for interface in &self.merge.interfaces()[known..] {
            self.real.push(number_of(&self.interfaces));
            self.interfaces.push(interface.clone());
            let place = place(&interface.node, interface.netns);
            self.nodes.entry(place).or_insert_with(|| interface.node.clone());
        }
    }

    /// The number of the interface of this name for what is made of a node's packets.
    fn made_on(&mut self, node: &str, name: &'static str) -> u32 {
        let key = (node.to_owned(), name);
        if let Some(number) = self.made.get(&key) {
            return *number;
        }
        let number = number_of(&self.interfaces);
        let (node, name) = (node.to_owned(), name.to_owned());
        self.interfaces.push(Interface { node, owner: Owner::Host, netns: NetnsId(0), name });
        self.made.insert(key, number);
        number
    }

    fn decrypt(&mut self) -> Gave {
        let Some(plaintext) = &mut self.plaintext else { return Gave::default() };
        let packet = self.merge.packet();
        let Some(interface) = self.merge.interfaces().get(packet.interface as usize) else {
            return Gave::default();
        };
        if self.node != interface.node {
            self.node.clone_from(&interface.node);
        }
        let at_once = self.liveness == Liveness::Live || self.queue.bytes() > MAX_HELD;
        let gave = plaintext.see(place(&interface.node, interface.netns), &packet, at_once);
        for random in &gave.begun {
            self.secrets.release(random);
        }
        self.older.connections += u64::from(!gave.begun.is_empty());
        gave
    }

    /// Adds what was made.
    fn add(&mut self, gave: Gave) {
        for decision in gave.decisions {
            self.lead(decision);
        }
        if gave.twins.is_empty() {
            return; // as for nearly every packet
        }
        let interface = self.made_on(&self.node.clone(), TWINS);
        for (time, data) in gave.twins {
            self.queue.add(Queued::made(interface, time, data));
        }
    }

    /// Adds the frames that lead into a connection, before its first packet.
    fn lead(&mut self, Decision { place, began, frames }: Decision) {
        if frames.is_empty() {
            return;
        }
        let node = self.nodes.get(&place).cloned().unwrap_or_default();
        self.older.readable += 1;
        self.older.packets += frames.len() as u64;
        self.older.bytes += frames.iter().map(|(_, data)| data.len() as u64).sum::<u64>();
        let [pinned, filler] = [PINNED, FILLER].map(|name| self.made_on(&node, name));
        self.queue.add_before(frames.into_iter().map(|(lead, data)| {
            let interface = if lead == Lead::Handshake { pinned } else { filler };
            Queued::made(interface, began, data)
        }));
    }
}

#[expect(clippy::cast_possible_truncation, reason = "4 billion interfaces fit no memory")]
fn number_of(interfaces: &[Interface]) -> u32 {
    interfaces.len() as u32
}

/// Network namespaces are numbered on each node for itself.
fn place(node: &str, netns: NetnsId) -> Place {
    let mut hasher = DefaultHasher::new();
    (node, netns.0).hash(&mut hasher);
    Place(hasher.finish())
}
