//! Capture files: of anybody's making, and pcapng as the recorder writes it.

use std::fs;
use std::path::PathBuf;

use kuberewind_capture::replay;
use kuberewind_packet::pcapng::{Block, Blocks, next_block};
use kuberewind_packet::{Frame, Interface, Loss, MAX_CAPTURED, PacketSink, Slot, Timestamp, pcap};
use tempfile::TempDir;

use super::recording::{directory, segments};

/// Magic numbers of pcap, both byte orders, and heads of pcapng blocks.
pub(super) const WORDS: &[&str] = &[
    "\u{a}\r\r\n",
    "\u{1}\0\0\0",
    "\u{6}\0\0\0",
    "\u{3}\0\0\0",
    "\u{5}\0\0\0",
    "\u{1a}+<M",
    "M<+\u{1a}",
    "\u{65}\0\0\0",
    "\u{71}\0\0\0",
    "\u{14}\u{1}\0\0",
];

/// Type and end of the block at an offset.
pub(super) fn next_block_at(bytes: &[u8], at: usize) -> Option<(u32, usize)> {
    let head = bytes.get(at..)?.first_chunk::<4>()?;
    let (_, end) = next_block(bytes, at).ok()?;
    Some((u32::from_le_bytes(*head), end))
}

/// Segments, and pcap files of every link type that can be replayed, in both byte orders.
pub(super) fn files() -> Vec<Vec<u8>> {
    let mut ethernet = Vec::new();
    pcap::push_file_header(&mut ethernet);
    for i in 0..5u8 {
        let data = vec![i; 30 + usize::from(i) * 17];
        let at = Timestamp::from_nanos(1_795_383_005_000_000_000 + u64::from(i));
        pcap::push_packet(&mut ethernet, &Frame::whole(at, 1500, &data));
    }
    let of_link = |link: u8| {
        let mut file = ethernet.clone();
        file[20] = link;
        file
    };
    let mut big_endian = vec![
        0xa1, 0xb2, 0xc3, 0xd4, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 0, 0, 0, 1,
    ];
    big_endian.extend([0, 0, 0, 9, 0, 0, 0, 7, 0, 0, 0, 4, 0, 0, 0, 60, 1, 2, 3, 4]);
    let mut cooked2 = of_link(0x14);
    cooked2[21] = 1;
    let mut files =
        vec![ethernet.clone(), of_link(101), of_link(113), of_link(228), cooked2, big_endian];
    files.extend(segments());
    files
}

/// Blocks one after the other.
pub(super) fn blocks(input: &[u8]) -> String {
    let mut said = String::new();
    let mut last = None;
    for block in Blocks::new(input) {
        match block {
            Ok((start, block)) => {
                assert!(
                    last.is_none_or(|last| last < start) && start < input.len(),
                    "no way forward"
                );
                last = Some(start);
                match block {
                    Block::Interface(described) => {
                        if let Ok(interface) = described.interface() {
                            let again =
                                Interface::parse(&interface.if_name(), &interface.if_description());
                            assert_eq!(again.as_ref(), Ok(&interface), "not read back as written");
                        }
                        said.push('i');
                    }
                    Block::Packet(packet) => assert!(packet.data.len() < input.len()),
                    Block::Statistics(_) => said.push('s'),
                    Block::Section(_) => said.push('h'),
                    Block::Other(..) => said.push('o'),
                }
            }
            Err(error) => {
                assert!(error.offset() <= input.len());
                said += &error.to_string();
            }
        }
    }
    said
}

/// A file whose packets are recorded anew.
pub(super) fn replayed(input: &[u8]) -> String {
    thread_local! {
        static FILE: (TempDir, PathBuf) = {
            let dir = directory();
            let path = dir.path().join("foreign.pcap");
            (dir, path)
        };
    }
    FILE.with(|(_, path)| {
        fs::write(path, input).expect("a file");
        let mut sink = Checked::default();
        match replay(path, "n1", &mut sink) {
            Ok(packets) => {
                assert_eq!(packets, sink.packets);
                format!("{} interfaces", sink.open.len())
            }
            Err(error) => error.to_string(),
        }
    })
}

/// A sink that takes only what a store could take.
#[derive(Default)]
struct Checked {
    open: Vec<bool>,
    packets: u64,
}

impl PacketSink for Checked {
    fn open_interface(&mut self, _: Interface) -> Slot {
        self.open.push(true);
        Slot(u32::try_from(self.open.len() - 1).expect("few interfaces"))
    }

    fn close_interface(&mut self, slot: Slot) {
        assert!(std::mem::take(&mut self.open[slot.0 as usize]), "closed twice");
    }

    fn reserve(&mut self, _: usize) -> bool {
        true
    }

    fn packet(&mut self, slot: Slot, frame: &Frame<'_>) {
        assert!(self.open[slot.0 as usize], "a packet of a closed interface");
        assert!(frame.captured_len() <= MAX_CAPTURED, "longer than any reader takes");
        self.packets += 1;
    }

    fn loss(&mut self, _: Slot, _: Loss) {}

    fn tick(&mut self) {}

    fn flush(&mut self) {}
}
