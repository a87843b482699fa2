//! Packets into the bytes of a file.

use std::collections::BTreeMap;

use kuberewind_packet::pcapng::{self, PacketBlock, Statistics};
use kuberewind_packet::{Interface, NetnsId, Owner, Span, pcap};

use crate::contents::is_made;
use crate::{Format, Report};

/// Writes one file, piece by piece, to the end of a buffer.
pub(crate) struct Encoder {
    format: Format,
    program: String,
    /// Packets of each interface that is in the file.
    received: Vec<u64>,
    /// A key log that is not in the file yet.
    key_log: Vec<u8>,
}

impl Encoder {
    pub(crate) fn new(format: Format, program: &str) -> Self {
        Self { format, program: program.to_owned(), received: Vec::new(), key_log: Vec::new() }
    }

    /// The start of the file. Its first `room` bytes can be written anew once the report is known:
    /// see [`Self::head`].
    pub(crate) fn begin(&self, out: &mut Vec<u8>, room: Room) {
        match (self.format, room) {
            (Format::Pcap, _) => pcap::push_file_header(out),
            (Format::Pcapng, Room::None) => pcapng::push_section_header(out, &self.program, None),
            (Format::Pcapng, Room::Bytes(_)) => out.extend(self.head("", room)),
        }
    }

    /// The start of the file with the report in it, as long as what [`Self::begin`] wrote; nothing
    /// where the format has no place for it.
    pub(crate) fn head(&self, report: &str, room: Room) -> Vec<u8> {
        let mut out = Vec::new();
        let (Format::Pcapng, Room::Bytes(room)) = (self.format, room) else { return out };
        pcapng::push_section_header(&mut out, &self.program, Some(""));
        let left = room.saturating_sub(out.len()).min(pcapng::MAX_OPTION);
        let comment = fit(report, left);
        out.clear();
        pcapng::push_section_header_in(&mut out, room, &self.program, comment.as_deref());
        out
    }

    /// TLS secrets, which stand before the next packet where the format has a place for them.
    pub(crate) fn secrets(&mut self, key_log: &[u8]) {
        if self.format == Format::Pcapng {
            self.key_log.extend_from_slice(key_log);
        }
    }

    /// One packet, after the descriptions of interfaces that the file does not have yet.
    pub(crate) fn packet(
        &mut self,
        out: &mut Vec<u8>,
        interfaces: &[Interface],
        packet: &PacketBlock<'_>,
    ) {
        let frame = packet.frame();
        if self.format == Format::Pcap {
            return pcap::push_packet(out, &frame);
        }
        self.describe(out, interfaces);
        if !self.key_log.is_empty() {
            pcapng::push_secrets(out, &std::mem::take(&mut self.key_log));
        }
        self.received[packet.interface as usize] += 1;
        pcapng::push_packet(out, packet.interface, &frame);
    }

    fn describe(&mut self, out: &mut Vec<u8>, interfaces: &[Interface]) {
        for interface in &interfaces[self.received.len()..] {
            pcapng::push_interface(out, interface);
            self.received.push(0);
        }
    }

    /// The end of the file: what was received and lost on each interface, and, where the head has
    /// no room for it, the report.
    pub(crate) fn end(
        &mut self,
        out: &mut Vec<u8>,
        interfaces: &[Interface],
        report: &Report,
        room: Room,
    ) {
        if self.format == Format::Pcap {
            return;
        }
        let interfaces = with_loss_bearers(interfaces, report);
        self.describe(out, &interfaces);
        let dropped = dropped(&interfaces, report);
        let covered = covered(report);
        let comment =
            (room == Room::None).then(|| fit(&report.to_string(), pcapng::MAX_OPTION)).flatten();
        for ((index, received), dropped) in (0..).zip(&self.received).zip(dropped) {
            let statistics = Statistics {
                interface: index,
                written: covered.unwrap_or(report.window).to,
                from: covered.map(|span| span.from),
                to: covered.map(|span| span.to),
                received: Some(*received),
                dropped,
                comment: comment.as_deref().filter(|_| index == 0),
            };
            pcapng::push_statistics(out, &statistics);
        }
    }
}

/// How much of the file's start is kept for the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// None: the file is a pipe, where nothing can be written twice.
    None,
    /// So many bytes, a multiple of 4.
    Bytes(usize),
}

impl Room {
    /// What the report of so many nodes takes, unless very much is lost.
    pub(crate) fn for_nodes(nodes: usize) -> Self {
        Self::Bytes((8 << 10) + (nodes << 12).min(pcapng::MAX_OPTION))
    }
}

/// The text, or as many of its lines as fit and a word about the rest; nothing for an empty one.
fn fit(text: &str, room: usize) -> Option<String> {
    const REST: &str = "… the rest did not fit: see the report on screen or in --report FILE";
    if text.len() <= room {
        return (!text.is_empty()).then(|| text.to_owned());
    }
    let start = text.floor_char_boundary(room.checked_sub(REST.len())?);
    let lines = text[..start].rfind('\n').map_or("", |end| &text[..=end]);
    Some(format!("{lines}{REST}"))
}

/// The part of the window that some node says something about; open ends stay unsaid.
fn covered(report: &Report) -> Option<Span> {
    let held = report.nodes.iter().filter_map(|node| node.account.held);
    let held = held.reduce(|a, b| Span::new(a.from.min(b.from), a.to.max(b.to)))?;
    Some(held.intersect(&report.window)).filter(|span| !span.is_empty())
}

/// Whose loss it was: the node and the owner.
type Bearer = (String, String);

fn bearer(interface: &Interface) -> Bearer {
    // Nothing that was made was lost while recording.
    let owner =
        if is_made(&interface.name) { interface.name.clone() } else { interface.owner.to_string() };
    (interface.node.clone(), owner)
}

/// Losses are known for each owner, not for each interface. So an owner with several interfaces gets
/// one more, `any`, to carry them. A file needs at least one interface: some readers refuse it
/// otherwise.
fn with_loss_bearers(interfaces: &[Interface], report: &Report) -> Vec<Interface> {
    let mut all = interfaces.to_vec();
    for (owner, _) in lost(report) {
        let mut own = interfaces.iter().filter(|interface| bearer(interface) == owner);
        if let (Some(first), Some(_)) = (own.next(), own.next()) {
            all.push(Interface { name: Interface::ANY.to_owned(), ..first.clone() });
        }
    }
    if all.is_empty() {
        let node = report.nodes.first().map_or(String::new(), |node| node.account.node.clone());
        let name = Interface::ANY.to_owned();
        all.push(Interface { node, owner: Owner::Host, netns: NetnsId::default(), name });
    }
    all
}

/// Packets lost on each interface, where that is known.
fn dropped(interfaces: &[Interface], report: &Report) -> Vec<Option<u64>> {
    let lost = lost(report);
    let mut bearers: BTreeMap<Bearer, usize> = BTreeMap::new();
    for (index, interface) in interfaces.iter().enumerate() {
        bearers.insert(bearer(interface), index); // the last one is `any` where there are several
    }
    let of = |(index, interface)| {
        let owner = bearer(interface);
        match lost.get(&owner) {
            None => Some(0),
            Some(packets) if bearers.get(&owner) == Some(&index) => Some(*packets),
            Some(_) => None,
        }
    };
    interfaces.iter().enumerate().map(of).collect()
}

fn lost(report: &Report) -> BTreeMap<Bearer, u64> {
    let mut lost = BTreeMap::new();
    for node in &report.nodes {
        for at in &node.account.losses {
            *lost.entry((node.account.node.clone(), at.owner.clone())).or_default() +=
                at.loss.packets;
        }
    }
    lost
}

#[cfg(test)]
mod tests {
    use kuberewind_packet::pcapng::{Block, Blocks};

    use super::*;

    #[test]
    fn a_head_is_as_long_whatever_the_report() {
        let encoder = Encoder::new(Format::Pcapng, "kuberewind 0.1.0");
        for nodes in [0, 1, 5, 1000] {
            let room = Room::for_nodes(nodes);
            let Room::Bytes(len) = room else { unreachable!() };
            for report in ["", "complete", &"line of a report\n".repeat(9000), &"ä".repeat(99_999)]
            {
                let head = encoder.head(report, room);
                assert_eq!(head.len(), len);
                let blocks: Vec<_> = Blocks::new(&head).map(|block| block.unwrap().1).collect();
                let Block::Section(section) = &blocks[0] else { panic!("{blocks:?}") };
                let comment = section.comment.unwrap_or_default();
                assert!(comment == report || comment.ends_with("--report FILE"), "{comment}");
                assert_eq!(blocks.len(), 1);
            }
        }
    }
}
