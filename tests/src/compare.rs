//! Whether two recorders saw the same.

use std::collections::HashMap;
use std::time::Duration;

use kuberewind_packet::Timestamp;

use crate::flow::{Flow, flow};
use crate::{CaptureFile, Packet};

/// Two frames that stand around what is compared; before and after them the recorders may differ,
/// since they did not start at the same instant.
#[derive(Clone, Copy, Debug)]
pub struct Between<'a> {
    /// The frame before.
    pub first: &'a [u8],
    /// The frame after.
    pub last: &'a [u8],
}

impl Between<'_> {
    /// The IP packets of one interface that stand between the two frames. ARP and what else is not
    /// IP is not recorded, so it is not compared.
    fn cut<'f>(&self, file: &'f CaptureFile, interface: Option<&str>) -> Vec<Packet<'f>> {
        let ours = |packet: &Packet<'_>| interface.is_none() || packet.interface == interface;
        let mut packets = file.packets().filter(ours);
        assert!(packets.any(|packet| packet.data == self.first), "the first frame is not there");
        let mut between = Vec::new();
        for packet in packets {
            if packet.data == self.last {
                return between;
            }
            if flow(packet.data).is_some() {
                between.push(packet);
            }
        }
        panic!("the last frame is not there");
    }
}

/// Asserts that `ours` (of `interface`, if given) holds exactly the IP packets of `theirs`: the same
/// bytes and original lengths as often, each flow in the order of its stamps, and stamped within
/// `tolerance`. Gives how many they were.
///
/// Of two packets of a flow that two processors hand over at once, the kernel may give each socket
/// another one first, and it stamps them for each: so the orders need not be the same.
pub fn assert_same(
    ours: &CaptureFile,
    interface: Option<&str>,
    theirs: &CaptureFile,
    between: Between<'_>,
    tolerance: Duration,
) -> usize {
    let ours = between.cut(ours, interface);
    let theirs = between.cut(theirs, None);
    assert_same_bytes(&ours, &theirs);
    assert_in_order(&ours);
    assert_same_stamps(&ours, &theirs, tolerance);
    ours.len()
}

/// As multisets: sorted copies are equal. A difference is told by its first packet on either side.
fn assert_same_bytes(ours: &[Packet<'_>], theirs: &[Packet<'_>]) {
    let (sorted_ours, sorted_theirs) = (sorted(ours), sorted(theirs));
    if sorted_ours == sorted_theirs {
        return;
    }
    let (missing, extra) = difference(&sorted_ours, &sorted_theirs);
    panic!(
        "recorded {} packets, tcpdump {}\nmissing {}: {}\ntoo many {}: {}",
        ours.len(),
        theirs.len(),
        missing.len(),
        show(&missing),
        extra.len(),
        show(&extra),
    );
}

type Content<'a> = (u32, &'a [u8]);

fn sorted<'a>(packets: &[Packet<'a>]) -> Vec<Content<'a>> {
    let mut contents: Vec<_> = packets.iter().map(|p| (p.original_len, p.data)).collect();
    contents.sort_unstable();
    contents
}

fn difference<'a>(
    ours: &[Content<'a>],
    theirs: &[Content<'a>],
) -> (Vec<Content<'a>>, Vec<Content<'a>>) {
    let mut counts: HashMap<Content<'a>, i64> = HashMap::new();
    let theirs = theirs.iter().map(|content| (content, 1));
    for (content, sign) in theirs.chain(ours.iter().map(|content| (content, -1))) {
        *counts.entry(*content).or_default() += sign;
    }
    let with = |sign: i64| {
        counts.iter().filter(move |(_, count)| count.signum() == sign).map(|(c, _)| *c).collect()
    };
    (with(1), with(-1))
}

fn show(contents: &[Content<'_>]) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for (original_len, data) in contents.iter().take(3) {
        let _ = write!(text, "\n  {original_len} bytes, captured {}: ", data.len());
        data.iter().take(64).for_each(|byte| {
            let _ = write!(text, "{byte:02x}");
        });
    }
    text
}

fn assert_in_order(packets: &[Packet<'_>]) {
    let mut last: HashMap<Flow<'_>, Timestamp> = HashMap::new();
    for packet in packets {
        let Some(flow) = flow(packet.data) else { continue };
        let before = last.insert(flow, packet.timestamp);
        assert!(before <= Some(packet.timestamp), "after a packet of {before:?}: {packet:x?}");
    }
}

fn assert_same_stamps(ours: &[Packet<'_>], theirs: &[Packet<'_>], tolerance: Duration) {
    let (ours, theirs) = (stamps(ours), stamps(theirs));
    for (content, theirs) in &theirs {
        for (ours, theirs) in ours[content].iter().zip(theirs) {
            let apart = ours.since(*theirs).max(theirs.since(*ours));
            assert!(apart <= tolerance, "stamped {apart:?} apart: {}", show(&[*content]));
        }
    }
}

fn stamps<'a>(packets: &[Packet<'a>]) -> HashMap<Content<'a>, Vec<Timestamp>> {
    let mut stamps: HashMap<_, Vec<_>> = HashMap::new();
    for packet in packets {
        let content = (packet.original_len, packet.data);
        stamps.entry(content).or_default().push(packet.timestamp);
    }
    for stamps in stamps.values_mut() {
        stamps.sort_unstable();
    }
    stamps
}
