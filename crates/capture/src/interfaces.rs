//! The interfaces of one recorded namespace: from the kernel's index to the sink's slot.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kuberewind_packet::{Frame, Interface, NetnsId, Owner, PacketSink, Slot, Timestamp};

use crate::ends::Ends;
use crate::links::{LinkEvent, Links};
use crate::status::InterfaceStatus;

/// A vanished interface's last packets are read from the ring within this time.
const LAST_PACKETS: Duration = Duration::from_secs(2);

/// Whose interfaces they are, and which of them are wanted.
#[derive(Clone, Debug)]
pub(crate) struct Label {
    /// The node.
    pub(crate) node: Arc<str>,
    /// Whose namespace.
    pub(crate) owner: Owner,
    /// Which.
    pub(crate) netns: NetnsId,
    /// The names of those that are recorded; empty for all.
    pub(crate) only: Arc<[String]>,
    /// The other ends of the links of all pods that are recorded.
    pub(crate) ends: Arc<Ends>,
}

impl Label {
    fn interface(&self, name: &str) -> Interface {
        Interface {
            node: self.node.to_string(),
            owner: self.owner.clone(),
            netns: self.netns,
            name: name.to_owned(),
        }
    }

    pub(crate) fn is_host(&self) -> bool {
        matches!(self.owner, Owner::Host)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == name)
    }
}

/// An interface that had packets.
#[derive(Debug)]
pub(crate) struct Seen {
    index: u32,
    name: String,
    wanted: bool,
    slot: Option<Slot>,
    packets: u64,
    bytes: u64,
    newest: Option<Timestamp>,
    gone: Option<Instant>,
}

impl Seen {
    /// Counts a packet of it.
    #[inline]
    pub(crate) fn count(&mut self, frame: &Frame<'_>) {
        self.packets += 1;
        self.bytes += u64::from(frame.captured_len());
        self.newest = self.newest.max(Some(frame.timestamp));
    }
}

/// The interfaces of a namespace.
#[derive(Debug)]
pub(crate) struct Interfaces {
    label: Label,
    links: Links,
    /// Names by index, also of interfaces that had no packet yet.
    names: HashMap<u32, String>,
    seen: Vec<Seen>,
    /// Where in `seen` the last packet's interface is: the next packet is mostly of the same.
    last: usize,
    any: Option<Slot>,
    /// Of the node: which of its interfaces are the other ends of links that are recorded in a pod.
    skipped: HashSet<u32>,
    /// As of this version.
    skipped_as_of: u64,
}

impl Interfaces {
    pub(crate) fn new(label: Label, links: Links, known: Vec<LinkEvent>) -> Self {
        let mut interfaces = Self {
            label,
            links,
            names: HashMap::new(),
            seen: Vec::new(),
            last: 0,
            any: None,
            skipped: HashSet::new(),
            skipped_as_of: 0,
        };
        for event in known {
            interfaces.note(event);
        }
        interfaces
    }

    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    pub(crate) fn into_links(self) -> Links {
        self.links
    }

    /// Whose they are.
    pub(crate) fn label(&self) -> &Label {
        &self.label
    }

    /// Leaves out the node's ends of pods' links from now on: their packets are recorded in the pods.
    #[inline]
    pub(crate) fn skip_ends(&mut self) {
        if self.label.is_host() && self.skipped_as_of != self.label.ends.version() {
            (self.skipped_as_of, self.skipped) = self.label.ends.all();
            for seen in &mut self.seen {
                seen.wanted = self.label.wants(&seen.name) && !self.skipped.contains(&seen.index);
            }
        }
    }

    /// The interface with this index and its slot; none when it is not wanted.
    #[inline]
    pub(crate) fn of<S: PacketSink>(
        &mut self,
        index: u32,
        sink: &mut S,
    ) -> Option<(Slot, &mut Seen)> {
        if self.seen.get(self.last).is_none_or(|seen| seen.index != index) {
            self.last = self.find(index);
        }
        let seen = &mut self.seen[self.last];
        if !seen.wanted {
            return None;
        }
        let label = &self.label;
        let slot =
            *seen.slot.get_or_insert_with(|| sink.open_interface(label.interface(&seen.name)));
        Some((slot, seen))
    }

    #[cold]
    fn find(&mut self, index: u32) -> usize {
        if !self.names.contains_key(&index) {
            self.refresh();
        }
        // From the back: a renamed interface is there twice, with its newer name behind.
        if let Some(place) = self.seen.iter().rposition(|seen| seen.index == index) {
            return place;
        }
        let name = self.name(index);
        self.seen.push(self.first_seen(index, name, None));
        self.seen.len() - 1
    }

    fn name(&mut self, index: u32) -> String {
        if let Some(name) = self.names.get(&index) {
            return name.clone();
        }
        match self.links.look_up(index) {
            Some(name) => self.names.entry(index).insert_entry(name).get().clone(),
            None => format!("if{index}"),
        }
    }

    /// Takes note of what happened to the namespace's interfaces.
    pub(crate) fn refresh(&mut self) {
        for event in self.links.take() {
            self.note(event);
        }
    }

    fn note(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Is { index, name, peer, .. } => {
                if let Some(peer) = peer.filter(|_| !self.label.is_host()) {
                    self.label.ends.note(self.label.netns, peer);
                }
                let renamed = self.names.get(&index).is_some_and(|known| *known != name);
                let guessed = self.seen.iter().any(|seen| seen.index == index && seen.name != name);
                if renamed || guessed {
                    self.retire(index);
                }
                self.names.insert(index, name);
            }
            // The name stays known until its last packets are read.
            LinkEvent::Gone(index) => {
                for seen in self.seen.iter_mut().filter(|seen| seen.index == index) {
                    seen.gone.get_or_insert_with(Instant::now);
                }
                if self.seen.iter().all(|seen| seen.index != index) {
                    self.seen.push(self.gone(index));
                }
            }
        }
    }

    fn gone(&self, index: u32) -> Seen {
        let name = self.names.get(&index).cloned().unwrap_or_else(|| format!("if{index}"));
        self.first_seen(index, name, Some(Instant::now()))
    }

    fn first_seen(&self, index: u32, name: String, gone: Option<Instant>) -> Seen {
        let wanted = self.label.wants(&name) && !self.skipped.contains(&index);
        Seen { index, name, wanted, slot: None, packets: 0, bytes: 0, newest: None, gone }
    }

    /// The interface goes on under another name.
    fn retire(&mut self, index: u32) {
        for seen in self.seen.iter_mut().filter(|seen| seen.index == index) {
            seen.gone.get_or_insert_with(Instant::now);
            // No index at all: its packets are looked up anew.
            seen.index = 0;
        }
    }

    /// Forgets interfaces that vanished and whose last packets have been read.
    pub(crate) fn forget_gone<S: PacketSink>(&mut self, sink: &mut S) {
        let over = |seen: &Seen| seen.gone.is_some_and(|gone| gone.elapsed() > LAST_PACKETS);
        if !self.seen.iter().any(over) {
            return;
        }
        for seen in self.seen.extract_if(.., |seen| over(seen)) {
            if let Some(slot) = seen.slot {
                sink.close_interface(slot);
            }
            self.names.remove(&seen.index);
        }
        self.last = 0;
    }

    /// The slot of what concerns the whole namespace.
    pub(crate) fn any<S: PacketSink>(&mut self, sink: &mut S) -> Slot {
        let label = &self.label;
        *self.any.get_or_insert_with(|| sink.open_interface(label.interface(Interface::ANY)))
    }

    /// Gives every slot back; packets that still come open new ones.
    pub(crate) fn close<S: PacketSink>(&mut self, sink: &mut S) {
        let slots = self.seen.iter_mut().filter_map(|seen| seen.slot.take()).chain(self.any.take());
        slots.for_each(|slot| sink.close_interface(slot));
    }

    /// As [`Self::close`], for good.
    pub(crate) fn leave<S: PacketSink>(&mut self, sink: &mut S) {
        self.close(sink);
        self.label.ends.forget(self.label.netns);
    }

    /// The namespace belongs to somebody else from now on.
    pub(crate) fn rename<S: PacketSink>(&mut self, owner: Owner, sink: &mut S) {
        self.close(sink);
        self.label.owner = owner;
    }

    /// The names of those that are to be recorded and are not there.
    pub(crate) fn lacking(&self) -> Vec<String> {
        let there = |wanted: &&String| self.names.values().any(|name| name == *wanted);
        self.label.only.iter().filter(|wanted| !there(wanted)).cloned().collect()
    }

    pub(crate) fn status(&self) -> Vec<InterfaceStatus> {
        let recorded = self.seen.iter().filter(|seen| seen.packets > 0);
        let mut interfaces: Vec<_> = recorded
            .map(|seen| InterfaceStatus {
                name: seen.name.clone(),
                packets: seen.packets,
                bytes: seen.bytes,
                newest: seen.newest,
            })
            .collect();
        interfaces.sort_by(|a, b| a.name.cmp(&b.name));
        interfaces
    }
}
