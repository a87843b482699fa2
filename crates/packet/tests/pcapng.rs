//! What is written is read back; what is cut or damaged is said to be.

use kuberewind_packet::pcapng::{self, Block, BlockError, Blocks, Statistics};
use kuberewind_packet::{Frame, Interface, NetnsId, Owner, Timestamp};
use proptest::prelude::*;

fn interface(name: &str) -> Interface {
    Interface {
        node: "n1".into(),
        owner: Owner::Netns("blue".into()),
        netns: NetnsId(4_026_531_840),
        name: name.into(),
    }
}

fn push_packet(out: &mut Vec<u8>, interface: u32, frame: &Frame<'_>) {
    let start = out.len();
    out.resize(start + pcapng::packet_block_len(frame.captured_len()), 0xee);
    let len = pcapng::write_packet(&mut out[start..], interface, frame);
    assert_eq!(start + len, out.len());
    let mut pushed = out[..start].to_vec();
    pcapng::push_packet(&mut pushed, interface, frame);
    assert_eq!(pushed, *out);
}

fn file(packets: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    pcapng::push_section_header(&mut out, "kuberewind", Some("node=n1"));
    pcapng::push_interface(&mut out, &interface("eth0"));
    for (time, data) in packets {
        let (head, body) = data.split_at(data.len() / 3);
        let timestamp = Timestamp::from_nanos(*time);
        push_packet(&mut out, 0, &Frame { timestamp, original_len: 70_000, head, body });
    }
    pcapng::push_padding(&mut out, 40);
    pcapng::push_statistics(&mut out, &statistics());
    out
}

fn statistics() -> Statistics<'static> {
    Statistics {
        interface: 0,
        written: Timestamp::from_nanos(5_000_000_000_000),
        from: Some(Timestamp::from_nanos(1)),
        to: Some(Timestamp::from_nanos(u64::MAX)),
        received: Some(10),
        dropped: Some(3),
        comment: Some("ring: 3 packets"),
    }
}

fn packets() -> impl Strategy<Value = Vec<(u64, Vec<u8>)>> {
    prop::collection::vec((any::<u64>(), prop::collection::vec(any::<u8>(), 0..200)), 0..12)
}

#[test]
fn a_section_header_fills_its_room_and_no_more() {
    for len in (200..400).step_by(4).chain([65_536, 65_600, 200_000]) {
        for comment in [None, Some("node=n1"), Some("twenty bytes of text")] {
            let mut out = vec![1, 2, 3, 4];
            pcapng::push_section_header_in(&mut out, len, "kuberewind", comment);
            assert_eq!(out.len(), 4 + len);
            let (block, end) = pcapng::next_block(&out[4..], 0).unwrap();
            let header = pcapng::SectionHeader { program: Some("kuberewind"), comment };
            assert_eq!((block, end), (Block::Section(header), len));
        }
    }
}

proptest! {
    #[test]
    fn blocks_are_read_back_as_they_were_written(packets in packets()) {
        let file = file(&packets);
        let blocks: Vec<_> = Blocks::new(&file).map(|b| b.unwrap().1).collect();
        let Block::Section(section) = &blocks[0] else { panic!("{blocks:?}") };
        prop_assert_eq!((section.program, section.comment), (Some("kuberewind"), Some("node=n1")));
        let Block::Interface(description) = &blocks[1] else { panic!("{blocks:?}") };
        prop_assert_eq!(description.interface().unwrap(), interface("eth0"));
        let read: Vec<_> = blocks.iter().filter_map(|block| match block {
            Block::Packet(p) => Some((p.timestamp.as_nanos(), p.data.to_vec())),
            _ => None,
        }).collect();
        prop_assert_eq!(read, packets);
        prop_assert_eq!(blocks.last(), Some(&Block::Statistics(statistics())));
    }

    #[test]
    fn a_file_cut_at_any_byte_is_whole_up_to_its_last_block(packets in packets(), at in 0.0..1.0) {
        let file = file(&packets);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a fraction of a length")]
        let at = (file.len() as f64 * at) as usize;
        let starts: Vec<_> = Blocks::new(&file).map(|b| b.unwrap().0).collect();
        let mut blocks = Blocks::new(&file[..at]);
        let good = blocks.by_ref().take_while(Result::is_ok).count();
        if starts.contains(&at) {
            prop_assert_eq!(starts[good], at);
        } else {
            let cut = Blocks::new(&file[..at]).last().unwrap().unwrap_err();
            prop_assert_eq!(cut, BlockError::Cut { offset: starts[good] });
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Blocks::new(&bytes).count();
    }

    #[test]
    fn no_flipped_byte_makes_the_reader_panic(packets in packets(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut file = file(&packets);
        let at = at.index(file.len());
        file[at] = byte;
        let _ = Blocks::new(&file).count();
    }
}
