//! Filters on stored packets, judged by libpcap itself.

use std::fmt::Write as _;
use std::fs;

use kuberewind_filter::{FilterError, StoredFilter};
use pcap::{Capture, Linktype};
use proptest::prelude::*;

/// All that libpcap's language can say about an Ethernet frame, more or less.
const EXPRESSIONS: [&str; 62] = [
    "",
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "sctp",
    "ip",
    "ip6",
    "arp",
    "rarp",
    "proto 132",
    "ip proto 17",
    "ip6 proto 58",
    "ip6 protochain 6",
    "port 53",
    "udp port 53",
    "tcp port 53",
    "sctp port 53",
    "src port 53",
    "dst port 53",
    "not port 22",
    "portrange 50-60",
    "tcp portrange 50-60",
    "host 10.0.0.1",
    "src host 10.0.0.1",
    "dst host 10.0.0.1",
    "net 10.0.0.0/8",
    "src net 10",
    "host fd00::1",
    "ip6 net fd00::/16",
    "ether host 02:00:00:00:00:01",
    "ether src 02:00:00:00:00:01",
    "ether broadcast",
    "ether multicast",
    "ip multicast",
    "ip6 multicast",
    "ether proto 0x0800",
    "vlan",
    "vlan 100",
    "vlan 100 and tcp",
    "vlan and vlan",
    "vlan and vlan and ip",
    "vlan 100 and (vlan 200 or ip)",
    "tcp or (vlan and tcp)",
    "mpls",
    "mpls 7 and ip",
    "pppoes",
    "geneve",
    "less 60",
    "greater 60",
    "len > 60 and len <= 1000",
    "tcp[tcpflags] & tcp-syn != 0",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0 and not net 10",
    "icmp[icmptype] = icmp-echo",
    "ip[6:2] & 0x1fff != 0",
    "ip[2:2] > 40 and ip[8] < 64",
    "ip[ip[8]] = 0",
    "ether[0] & 1 = 0 and ip[16] >= 224",
    "tcp[((tcp[12] & 0xf0) >> 2):4] = 0x47455420",
    "ip[2:2] / ip[8] = 3 or ip[2:2] % 7 = 1",
    "(ip[2:2] - ((ip[0] & 0xf) << 2)) != 0",
    "len * 3 > 100 or -len = 4294967236 or (len ^ 3 | 1) < 50",
];

/// Frames that often look like something, so that programs are run to their ends.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let tag = prop::sample::select(vec![0x8100_0064_u32, 0x88a8_0064, 0x9100_0001, 0x8100_00c8]);
    let ether_type = prop::sample::select(vec![
        0x0800_u16, 0x0800, 0x86dd, 0x86dd, 0x0806, 0x8035, 0x8847, 0x8864, 0x0040,
    ]);
    let first = prop::sample::select(vec![0x45_u8, 0x46, 0x60, 0x4f, 0x00]);
    let protocol = prop::sample::select(vec![6_u8, 17, 1, 58, 132, 44, 0, 47]);
    let header = (prop::collection::vec(tag, 0..3), ether_type, first, protocol, any::<bool>());
    (header, prop::collection::vec(frame_bytes(), 0..120)).prop_map(
        |((tags, ether_type, first, protocol, broadcast), rest)| {
            let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1];
            if broadcast {
                frame[..6].fill(0xff);
            }
            frame.extend(tags.iter().flat_map(|tag| tag.to_be_bytes()));
            frame.extend(ether_type.to_be_bytes());
            let mut packet = rest;
            let fields =
                [(0, first), (6, if ether_type == 0x86dd { protocol } else { 0 }), (9, protocol)];
            for (at, value) in fields {
                if let Some(byte) = packet.get_mut(at) {
                    *byte = value;
                }
            }
            frame.extend(packet);
            frame
        },
    )
}

fn frame_bytes() -> impl Strategy<Value = u8> {
    prop_oneof![
        3 => prop::sample::select(vec![0_u8, 1, 10, 22, 53, 0xfd, 0xff, 2]),
        1 => any::<u8>(),
    ]
}

fn frames_or_noise() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => frames(), 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whole_packets_match_as_libpcap_says(
        packets in prop::collection::vec(frames_or_noise(), 1..40),
    ) {
        let handle = Capture::dead(Linktype::ETHERNET).unwrap();
        for expression in EXPRESSIONS {
            let ours = StoredFilter::compile(expression).unwrap();
            let theirs = handle.compile(expression, true).unwrap();
            for packet in &packets {
                let len = u32::try_from(packet.len()).unwrap();
                prop_assert_eq!(
                    ours.matches(len, packet), theirs.filter(packet),
                    "`{}` on {:02x?}", expression, packet
                );
            }
        }
    }

    #[test]
    fn cut_packets_match_as_libpcap_says_of_a_file(
        packets in prop::collection::vec((frames_or_noise(), 0..1400_u32), 1..40),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cut.pcap");
        fs::write(&path, pcap_file(&packets)).unwrap();
        for expression in EXPRESSIONS {
            let ours = StoredFilter::compile(expression).unwrap();
            let mine: Vec<_> = (0_u32..).zip(&packets)
                .filter(|(_, (data, cut))| ours.matches(original_len(data, *cut), data))
                .map(|(number, _)| number)
                .collect();
            let mut file = Capture::from_file(&path).unwrap();
            file.filter(expression, true).unwrap();
            let mut theirs = Vec::new();
            while let Ok(packet) = file.next_packet() {
                theirs.push(u32::try_from(packet.header.ts.tv_sec).unwrap());
            }
            prop_assert_eq!(mine, theirs, "`{}`", expression);
        }
    }

    #[test]
    fn no_expression_and_no_packet_makes_it_panic(
        expression in "[a-z0-9 \\[\\]()<>=&:.!\0ü]{0,30}", packet in frames_or_noise(), len in any::<u32>(),
    ) {
        if let Ok(filter) = StoredFilter::compile(&expression) {
            filter.matches(len, &packet);
        }
    }
}

fn original_len(data: &[u8], cut: u32) -> u32 {
    u32::try_from(data.len()).unwrap() + cut
}

/// A pcap file in which packet n has n seconds.
fn pcap_file(packets: &[(Vec<u8>, u32)]) -> Vec<u8> {
    let mut file = Vec::new();
    let words = |words: &[u32]| words.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<_>>();
    file.extend(words(&[0xa1b2_c3d4, u32::from_ne_bytes([2, 0, 4, 0]), 0, 0, 262_144, 1]));
    for (number, (data, cut)) in (0_u32..).zip(packets) {
        let captured = u32::try_from(data.len()).unwrap();
        file.extend(words(&[number, 0, captured, original_len(data, *cut)]));
        file.extend(data);
    }
    file
}

#[test]
fn greater_and_less_ask_for_the_length_on_the_wire() {
    let filter = StoredFilter::compile("greater 1000").unwrap();
    assert!(filter.matches(1500, &[0; 60]));
    assert!(!filter.matches(60, &[0; 60]));
}

#[test]
fn a_stored_tag_is_part_of_the_packet() {
    let mut frame = vec![2; 12];
    frame.extend([0x81, 0, 0, 100, 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6]);
    frame.resize(64, 0);
    let matches = |expression| StoredFilter::compile(expression).unwrap().matches(64, &frame);
    assert!(!matches("tcp"));
    assert!(matches("vlan 100 and tcp"));
    assert!(matches("tcp or (vlan and tcp)"));
}

#[test]
fn a_filter_serves_many_threads() {
    fn shared<T: Send + Sync + 'static>(_: &T) {}
    shared(&StoredFilter::compile("tcp").unwrap());
}

#[test]
fn errors_hold_the_expression_and_what_libpcap_says() {
    let message = |expression| StoredFilter::compile(expression).unwrap_err().to_string();
    let mut messages = String::new();
    for expression in ["tcp prot 80", "tcp and udp", "inbound", "port 99999", "tcp\0"] {
        writeln!(messages, "{}", message(expression)).unwrap();
    }
    for part in [
        "filter `tcp prot 80`: ",
        "syntax error",
        "`tcp and udp`: expression rejects all packets",
        "inbound",
        "99999",
        "NUL",
    ] {
        assert!(messages.contains(part), "`{part}` in\n{messages}");
    }
    assert!(matches!(StoredFilter::compile("("), Err(FilterError::Expression { .. })));
}
