//! Many orders become one.

use kuberewind_export::{Merge, NodeReport};
use proptest::prelude::*;

use crate::made::{Made, Packet, WINDOW, any_packets, packets};

/// All packets, each with its interface's node and name instead of the number.
fn merged(streams: Vec<Made>) -> (Vec<(String, Packet)>, Vec<NodeReport>) {
    let mut merge = Merge::new(WINDOW, streams.into_iter().map(Made::input));
    let mut packets = Vec::new();
    while merge.advance() {
        let packet = merge.packet();
        let interface = &merge.interfaces()[packet.interface as usize];
        let name = format!("{} {}", interface.node, interface.if_name());
        packets.push((name, Packet { interface: 0, ..Packet::of(&packet) }));
    }
    assert!(!merge.advance());
    assert!(merge.packet().data.is_empty());
    (packets, merge.finish())
}

fn named(stream: &Made) -> Vec<(String, Packet)> {
    let name = |packet: &Packet| {
        let interface = &stream.interfaces[packet.interface as usize];
        format!("{} {}", interface.node, interface.if_name())
    };
    let named = |packet: &Packet| (name(packet), Packet { interface: 0, ..packet.clone() });
    stream.packets.iter().map(named).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn merging_is_a_stable_sort_of_everything(streams in prop::collection::vec(any_packets(25), 0..9)) {
        let made = |(index, packets)| Made::new(&format!("n{index}"), packets);
        let streams: Vec<_> = streams.into_iter().enumerate().map(made).collect();
        let mut expected: Vec<_> = streams.iter().flat_map(named).collect();
        expected.sort_by_key(|(_, packet)| packet.time);
        let (packets, nodes) = merged(streams.clone());
        prop_assert_eq!(packets, expected);
        let accounts: Vec<_> = streams.into_iter().map(|stream| stream.account).collect();
        prop_assert_eq!(nodes.into_iter().map(|node| node.account).collect::<Vec<_>>(), accounts);
    }
}

#[test]
fn a_failing_stream_is_named_and_the_others_go_on() {
    let streams = vec![
        Made::new("n1", packets(9, 2)),
        Made::failing("n2", packets(3, 2)),
        Made::new("n3", packets(7, 1)),
    ];
    let (all, nodes) = merged(streams);
    assert_eq!(all.len(), 9 + 3 + 7);
    let failures: Vec<_> = nodes.iter().map(|node| node.failure.as_deref()).collect();
    assert_eq!(failures, [None, Some("the disk caught fire"), None]);
    assert_eq!((nodes[1].account.node.as_str(), nodes[1].account.packets), ("n2", 3));
}

#[test]
fn a_stream_that_breaks_its_promises_is_ended_before_it_spoils_the_file() {
    let mut steps_back = packets(6, 1);
    steps_back[4].time = steps_back[2].time;
    let mut unannounced = Made::new("n2", packets(6, 2));
    unannounced.interfaces.truncate(1);
    let (all, nodes) = merged(vec![Made::new("n1", steps_back), unannounced]);
    assert_eq!(all.len(), 4 + 1);
    assert!(all.is_sorted_by_key(|(_, packet)| packet.time));
    assert!(nodes[0].failure.as_ref().unwrap().contains("step back in time"), "{nodes:?}");
    assert!(nodes[1].failure.as_ref().unwrap().contains("unknown interface"), "{nodes:?}");
}

#[test]
fn an_interface_that_comes_by_two_streams_is_one() {
    let mut merge = Merge::new(WINDOW, [1, 2].map(|_| Made::new("n1", packets(6, 3)).input()));
    while merge.advance() {}
    assert_eq!(merge.interfaces().len(), 3);
}
