//! A packet between two recorded ends stands in the file once, and nothing that one of them saw alone
//! is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use kuberewind_export::{
    Destination, Export, Format, Place, Report, Survey, SurveyLimits, TlsParts, write,
};
use kuberewind_packet::pcapng::{Block, Blocks};
use kuberewind_packet::{Interface, Loss, LossAt, LossCause, Timestamp};
use proptest::prelude::*;

use crate::made::{Made, Packet, WINDOW, export};

/// The interfaces that `made::interface` makes of these numbers.
const HOST: u32 = 0;
const POD: u32 = 2;
const OTHER_POD: u32 = 5;

const CLIENT: [u8; 4] = [10, 0, 0, 1];
const SERVER: [u8; 4] = [10, 0, 0, 2];

const SYN: u8 = 2;
const FIN: u8 = 1;
const RST: u8 = 4;
const ACK: u8 = 16;

/// An IPv4 packet in an Ethernet frame, from the client or to it.
fn ip(
    to_server: bool,
    protocol: u8,
    hops: u8,
    identity: u16,
    place: u16,
    carried: &[u8],
) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
    frame.extend(u16::try_from(20 + carried.len()).unwrap().to_be_bytes());
    frame.extend(identity.to_be_bytes());
    frame.extend(place.to_be_bytes());
    frame.extend([hops, protocol, 0, 0]);
    let (from, to) = if to_server { (CLIENT, SERVER) } else { (SERVER, CLIENT) };
    frame.extend(from);
    frame.extend(to);
    frame.extend(carried);
    frame
}

fn ports(to_server: bool) -> Vec<u8> {
    let (from, to) = if to_server { (40_000_u16, 80_u16) } else { (80, 40_000) };
    [from.to_be_bytes(), to.to_be_bytes()].concat()
}

/// A segment; its payload tells where it stands.
#[derive(Clone, Copy, Debug)]
struct Segment {
    to_server: bool,
    sequence: u32,
    acknowledged: u32,
    flags: u8,
    len: u32,
}

impl Segment {
    fn frame(&self, hops: u8) -> Vec<u8> {
        let mut tcp = ports(self.to_server);
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledged.to_be_bytes());
        tcp.extend([0x50, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend((0..self.len).map(|at| self.sequence.wrapping_add(at).to_le_bytes()[0]));
        ip(self.to_server, 6, hops, 0, 0x4000, &tcp)
    }

    /// Reads back what `frame` wrote.
    fn of(frame: &[u8]) -> Option<Self> {
        let (ip, tcp) = frame.get(14..)?.split_at_checked(20)?;
        let word = |at: usize| u32::from_be_bytes(*tcp[at..].first_chunk().unwrap());
        (ip[9] == 6).then(|| Self {
            to_server: ip[12..16] == CLIENT,
            sequence: word(4),
            acknowledged: word(8),
            flags: tcp[13],
            len: u32::try_from(tcp.len() - 20).unwrap(),
        })
    }

    /// The sequence numbers that it uses.
    fn used(&self) -> impl Iterator<Item = u32> + use<> {
        let flags = u32::from(self.flags & SYN != 0) + u32::from(self.flags & FIN != 0);
        let sequence = self.sequence;
        (0..self.len + flags).map(move |at| sequence.wrapping_add(at))
    }

    /// The same in pieces of at most `most` bytes.
    fn cut(self, most: u32) -> Vec<Self> {
        if self.len <= most {
            return vec![self];
        }
        let piece = |at: u32| {
            let len = most.min(self.len - at);
            let last = at + len == self.len;
            let flags = if last { self.flags } else { self.flags & !FIN };
            Self { sequence: self.sequence.wrapping_add(at), len, flags, ..self }
        };
        (0..self.len).step_by(most as usize).map(piece).collect()
    }
}

fn udp(to_server: bool, hops: u8, payload: &[u8], checksum: [u8; 2]) -> Vec<u8> {
    let mut udp = ports(to_server);
    udp.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    udp.extend(checksum);
    udp.extend(payload);
    ip(to_server, 17, hops, 0, 0x4000, &udp)
}

/// Of one end, `micros` after the window's start.
fn at(interface: u32, micros: u64, data: Vec<u8>) -> Packet {
    let time = WINDOW.from.as_nanos() + micros * 1000;
    Packet { interface, time, original_len: u32::try_from(data.len()).unwrap(), data }
}

fn stream(node: &str, mut packets: Vec<Packet>) -> Made {
    packets.sort_by_key(|packet| packet.time);
    Made::new(node, packets)
}

/// All packets of the file, each with its node and interface.
fn exported(streams: &[Made], limits: Option<SurveyLimits>) -> (Vec<(String, Packet)>, Report) {
    let dir = tempfile::tempdir().unwrap();
    let destination =
        Destination { place: Place::Directory(dir.path().to_owned()), format: Format::Pcapng };
    let inputs = streams.iter().map(|stream| {
        let limits = limits.map(|limits| limits.shared_by(streams.len()));
        let survey =
            limits.map(|limits| Survey::of(&mut stream.clone(), limits, dir.path()).unwrap());
        kuberewind_export::Input { survey, ..stream.clone().input() }
    });
    let export = Export { tls: TlsParts::default(), ..export() };
    let report = write(&export, inputs, &destination, |_| ControlFlow::Continue(())).unwrap();
    let bytes = std::fs::read(report.file.as_ref().unwrap()).unwrap();
    let (mut interfaces, mut packets) = (Vec::new(), Vec::new());
    for block in Blocks::new(&bytes) {
        match block.unwrap().1 {
            Block::Interface(found) => {
                let interface = Interface::parse(found.name, found.description).unwrap();
                interfaces.push(format!("{} {}", interface.node, interface.if_name()));
            }
            Block::Packet(packet) => {
                let name = interfaces[packet.interface as usize].clone();
                packets.push((name, Packet { interface: 0, ..Packet::of(&packet) }));
            }
            _ => {}
        }
    }
    (packets, report)
}

fn one_view(streams: &[Made]) -> (Vec<(String, Packet)>, Report) {
    exported(streams, Some(SurveyLimits::default()))
}

/// Which interface shows how many packets.
fn shown(packets: &[(String, Packet)]) -> BTreeMap<&str, usize> {
    let mut shown = BTreeMap::new();
    for (name, _) in packets {
        *shown.entry(name.as_str()).or_default() += 1;
    }
    shown
}

/// A handshake, a request, `len` bytes of response, and the end.
fn conversation(client: u32, server: u32, len: u32) -> Vec<Segment> {
    let mut all = Vec::new();
    let (mut next, mut sent) = ([client, server], [0_u32; 2]);
    let mut say = |to_server: bool, flags: u8, len: u32| {
        let from = usize::from(!to_server);
        let acknowledged = if flags & ACK == 0 { 0 } else { next[1 - from] };
        all.push(Segment { to_server, sequence: next[from], acknowledged, flags, len });
        let used = len + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        next[from] = next[from].wrapping_add(used);
        sent[from] += 1;
    };
    say(true, SYN, 0);
    say(false, SYN | ACK, 0);
    say(true, ACK, 0);
    say(true, ACK, 70);
    say(false, ACK, 0);
    for _ in 0..len / 6000 {
        say(false, ACK, 6000);
        say(true, ACK, 0);
    }
    say(false, ACK | FIN, 0);
    say(true, ACK | FIN, 0);
    say(false, ACK, 0);
    all
}

/// What the two ends saw of it: the client's a millisecond before the server's. Long segments are
/// whole where they are sent and cut where they arrive.
fn both_ends(segments: &[Segment], start: u64) -> [Vec<Packet>; 2] {
    let mut ends = [Vec::new(), Vec::new()];
    for (number, segment) in (0..).zip(segments) {
        for (end, is_client) in [(0, true), (1, false)] {
            let sends = segment.to_server == is_client;
            let time = start + number * 2000 + if sends { 0 } else { 1000 };
            let hops = if sends { 64 } else { 62 };
            for segment in segment.cut(if sends { 64_000 } else { 1448 }) {
                ends[end].push(at(POD, time, segment.frame(hops)));
            }
        }
    }
    ends
}

#[test]
fn a_conversation_is_shown_as_the_client_saw_it_however_it_was_cut() {
    let [client, server] = both_ends(&conversation(1000, u32::MAX - 3000, 60_000), 0);
    assert_ne!(client.len(), server.len());
    let streams = [stream("n1", server.clone()), stream("n2", client.clone())];
    let (packets, report) = one_view(&streams);
    assert_eq!(shown(&packets), BTreeMap::from([("n2 shop/cart-2/eth0", client.len())]));
    let vantage = report.vantage.as_ref().unwrap();
    assert_eq!((vantage.connections, vantage.differing), (1, 0), "{report}");
    assert_eq!(vantage.left_out.packets, server.len() as u64);
    let line = format!(" {}): the same packets seen at the other end\n", "(");
    assert!(!report.to_string().contains(&line));
    assert!(report.to_string().contains("): the same packets seen at the other end\n"), "{report}");
    assert!(report.is_complete());
}

#[test]
fn all_views_are_in_the_file_where_nobody_looked_before() {
    let [client, server] = both_ends(&conversation(1000, 2000, 60_000), 0);
    let streams = [stream("n1", server.clone()), stream("n2", client.clone())];
    let (packets, report) = exported(&streams, None);
    assert_eq!(packets.len(), client.len() + server.len());
    assert_eq!((report.vantage, report.nodes[0].left_out.packets), (None, 0));
}

#[test]
fn the_end_that_lost_nothing_is_shown_and_the_flow_is_named() {
    let [mut client, server] = both_ends(&conversation(1000, 2000, 60_000), 0);
    client.drain(8..10);
    let left = client.len();
    let mut streams = [stream("n1", server.clone()), stream("n2", client)];
    let (packets, report) = one_view(&streams);
    assert_eq!(shown(&packets), BTreeMap::from([("n1 shop/cart-2/eth0", server.len())]));
    let vantage = report.vantage.as_ref().unwrap();
    let flow = &vantage.flows[0];
    assert_eq!(flow.flow, "10.0.0.1:40000 > 10.0.0.2:80 TCP");
    assert_eq!((flow.shown.node.as_str(), flow.others[0].packets), ("n1", left as u64));
    assert!(report.to_string().contains("not seen the same everywhere"), "{report}");

    // A loss that the recorder counted is enough, even where nobody can tell which packets it was.
    let [client, server] = both_ends(&conversation(1000, 2000, 60_000), 0);
    streams = [stream("n1", server), stream("n2", client)];
    let loss = Loss {
        cause: LossCause::Ring,
        packets: 1,
        from: WINDOW.from,
        to: Timestamp::from_nanos(WINDOW.from.as_nanos() + 1_000_000),
    };
    streams[1].account.losses = vec![LossAt { owner: "shop/cart-2".to_owned(), loss }];
    assert!(shown(&one_view(&streams).0).contains_key("n1 shop/cart-2/eth0"));
}

#[test]
fn what_only_the_other_end_saw_is_in_the_file() {
    let [mut client, mut server] = both_ends(&conversation(1000, 2000, 60_000), 0);
    client.drain(8..10);
    server.drain(7..9);
    let streams = [stream("n1", server), stream("n2", client)];
    let (packets, report) = one_view(&streams);
    let said: BTreeSet<_> =
        packets.iter().flat_map(|(_, packet)| Segment::of(&packet.data).unwrap().used()).collect();
    assert_eq!(said.len(), 60_000 + 70 + 4);
    assert_eq!(shown(&packets).len(), 2);
    assert!(report.to_string().contains("that nobody else saw"), "{report}");
}

#[test]
fn pods_go_before_the_machines_own_interfaces() {
    let [client, server] = both_ends(&conversation(1000, 2000, 6000), 0);
    let on = |interface: u32, packets: &[Packet]| {
        let on = |packet: &Packet| Packet { interface, ..packet.clone() };
        packets.iter().map(on).collect::<Vec<_>>()
    };
    // The machine's own interface sees what the client sends before the client's pod does.
    let earlier = |packet: Packet| Packet { time: packet.time - 500, ..packet };
    let mut host = on(HOST, &client);
    host = host.into_iter().map(earlier).collect();
    let (packets, report) = one_view(&[stream("n1", [host, on(POD, &server)].concat())]);
    assert_eq!(shown(&packets), BTreeMap::from([("n1 shop/cart-2/eth0", server.len())]));
    assert_eq!(report.vantage.unwrap().left_out.packets, client.len() as u64);
}

#[test]
fn two_pods_of_one_node_are_one_conversation() {
    let [client, server] = both_ends(&conversation(1000, 2000, 6000), 0);
    let hops = |packet: &Packet, interface: u32| {
        let mut data = packet.data.clone();
        data[22] = 64; // nobody routes between them
        Packet { interface, data, ..packet.clone() }
    };
    let mut packets: Vec<_> = client.iter().map(|packet| hops(packet, OTHER_POD)).collect();
    packets.extend(server.iter().map(|packet| hops(packet, POD)));
    let (packets, _) = one_view(&[stream("n1", packets)]);
    assert_eq!(shown(&packets), BTreeMap::from([("n1 shop/cart-5/eth1", client.len())]));
}

#[test]
fn ports_that_are_used_again_are_another_connection() {
    let first = both_ends(&conversation(1000, 2000, 6000), 0);
    let second = both_ends(&conversation(700_000, 800_000, 6000), 1_000_000);
    let count = first[0].len() + second[1].len();
    let [mut client, mut server] = first;
    // The client's end lost a part of the second one.
    client.extend(second[0].iter().enumerate().filter(|(at, _)| *at != 5).map(|(_, p)| p.clone()));
    server.extend(second[1].clone());
    let streams = [stream("n1", client), stream("n2", server)];
    let (packets, report) = one_view(&streams);
    assert_eq!(packets.len(), count);
    assert_eq!(report.vantage.unwrap().connections, 2);
}

#[test]
fn a_proxy_that_keeps_the_addresses_has_two_connections() {
    let [client, _] = both_ends(&conversation(1000, 2000, 6000), 0);
    let [_, server] = both_ends(&conversation(700_000, 800_000, 6000), 0);
    let count = client.len() + server.len();
    let (packets, report) = one_view(&[stream("n1", client), stream("n2", server)]);
    assert_eq!(packets.len(), count);
    assert_eq!(report.vantage.unwrap().connections, 0);
}

#[test]
fn a_connection_from_before_the_window_is_recognised() {
    let [client, server] = both_ends(&conversation(1000, 2000, 60_000), 0);
    // Another instant on each node; a window cuts them so.
    let streams = [stream("n1", server[6..].to_vec()), stream("n2", client[4..].to_vec())];
    let (packets, report) = one_view(&streams);
    assert_eq!(report.vantage.as_ref().unwrap().connections, 1, "{report}");
    assert_eq!(shown(&packets)["n2 shop/cart-2/eth0"], client.len() - 4);
    assert_eq!(packets.len(), client.len() - 4, "{report}");
}

#[test]
fn datagrams_are_compared_one_by_one_whatever_becomes_of_their_checksums() {
    let datagram = |end: usize, number: u64| {
        let (time, checksum) = (number * 500 + end as u64 * 100, [0, u8::try_from(end).unwrap()]);
        let hops = if end == 0 { 64 } else { 62 };
        at(POD, time, udp(true, hops, &number.to_le_bytes(), checksum))
    };
    let client: Vec<_> = (0..100).map(|number| datagram(0, number)).collect();
    // Three were lost on the way.
    let server = (0..100).filter(|number| number % 40 != 7).map(|number| datagram(1, number));
    let server: Vec<_> = server.collect();
    let (packets, report) = one_view(&[stream("n1", server.clone()), stream("n2", client.clone())]);
    assert_eq!(shown(&packets), BTreeMap::from([("n2 shop/cart-2/eth0", 100)]));
    assert_eq!(report.vantage.as_ref().unwrap().flows[0].others[0].packets, 97, "{report}");

    // The client's end lost some, too: those come from the other.
    let client: Vec<_> = client.into_iter().step_by(2).collect();
    let (packets, _) = one_view(&[stream("n1", server), stream("n2", client)]);
    let numbers: BTreeSet<_> =
        packets.iter().map(|(_, packet)| packet.data[42..].to_vec()).collect();
    assert_eq!((packets.len(), numbers.len()), (97, 97));
}

#[test]
fn equal_datagrams_at_other_times_are_others() {
    let beat =
        |end: u64, second: u64| at(POD, second * 5_000_000 + end, udp(true, 64, b"alive", [0, 0]));
    let early: Vec<_> = (0..5).map(|second| beat(0, second)).collect();
    let late: Vec<_> = (5..10).map(|second| beat(1, second)).collect();
    let (packets, _) = one_view(&[stream("n1", early), stream("n2", late)]);
    assert_eq!(packets.len(), 10);
}

#[test]
fn fragments_follow_their_datagram() {
    let payload: Vec<u8> = (0..40_u8).collect();
    let mut whole = ports(true);
    whole.extend([0, 48, 0, 0]);
    whole.extend(&payload);
    let piece = |end: usize, number: u64, first: bool| {
        let hops = if end == 0 { 64 } else { 62 };
        let (place, carried) = if first { (0x2000, &whole[..24]) } else { (3, &whole[24..]) };
        let identity = u16::try_from(number).unwrap();
        let time = number * 1000 + u64::from(!first) * 10 + end as u64 * 100;
        at(POD, time, ip(true, 17, hops, identity, place, carried))
    };
    let end = |end: usize| {
        let pieces =
            (0..50).flat_map(|number| [true, false].map(|first| piece(end, number, first)));
        pieces.collect::<Vec<_>>()
    };
    let (packets, report) = one_view(&[stream("n1", end(1)), stream("n2", end(0))]);
    assert_eq!(shown(&packets), BTreeMap::from([("n2 shop/cart-2/eth0", 100)]));
    assert_eq!(report.vantage.unwrap().connections, 1);
}

#[test]
fn what_there_is_no_room_for_stays_and_is_told() {
    let [client, server] = both_ends(&conversation(1000, 2000, 6000), 0);
    let datagrams = |end: u64| {
        let datagram = |number: u64| {
            at(POD, number * 500 + end, udp(true, 64, &(number + end).to_le_bytes(), [0, 0]))
        };
        (0..10).map(datagram).collect::<Vec<_>>()
    };
    let count = client.len() + server.len() + 20;
    let streams = [
        stream("n1", [server, datagrams(1)].concat()),
        stream("n2", [client, datagrams(0)].concat()),
    ];
    let (packets, report) = exported(&streams, Some(SurveyLimits { views: 0, datagrams: 0 }));
    assert_eq!(packets.len(), count);
    assert!(report.to_string().contains("were not compared"), "{report}");
    let (_, report) = exported(&streams, Some(SurveyLimits { views: 10, datagrams: 4 }));
    let flows = &report.vantage.as_ref().unwrap().flows;
    assert_eq!((flows.len(), flows[0].others[0].in_file), (1, 10), "{report}");
    assert!(report.to_string().contains("too many to compare"), "{report}");
}

/// One thing that happens between the two ends: who sees it, how it is cut, and what it is.
#[derive(Clone, Debug)]
struct Happening {
    to_server: bool,
    len: u32,
    cut: u32,
    flags: u8,
    is_udp: bool,
    repeated: bool,
    /// By the client's pod, the client's machine, the server's pod.
    seen: [bool; 3],
    pause: u64,
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let flags = prop_oneof![
        8 => Just(ACK), 1 => Just(ACK | FIN), 1 => Just(ACK | RST), 1 => Just(RST), 1 => Just(0),
        2 => Just(SYN),
    ];
    let seen = prop::array::uniform3(prop::bool::weighted(0.85));
    let one = (
        any::<bool>(),
        0_u32..40,
        1_u32..20,
        flags,
        prop::bool::weighted(0.3),
        any::<bool>(),
        seen,
        0_u64..5000,
    );
    let happening = one.prop_map(|(to_server, len, cut, flags, is_udp, repeated, seen, pause)| {
        Happening { to_server, len, cut, flags, is_udp, repeated, seen, pause }
    });
    prop::collection::vec(happening, 1..60)
}

/// What three interfaces on two nodes recorded of it.
fn recorded(happenings: &[Happening], skew: u64) -> Vec<Made> {
    let mut views = [const { Vec::new() }; 3];
    let (mut next, mut now) = ([1_000_000_u32, 3_000_000_000], 0);
    for (number, happening) in (0..).zip(happenings) {
        let Happening { to_server, len, cut, flags, is_udp, repeated, .. } = *happening;
        now += happening.pause;
        let from = usize::from(!to_server);
        if flags & SYN != 0 && !is_udp {
            // Another connection between the same ends.
            next[from] = next[from].wrapping_add(100_000_000);
        }
        let back = if repeated { len.min(20) } else { 0 };
        let segment = Segment {
            to_server,
            sequence: next[from].wrapping_sub(back),
            acknowledged: next[1 - from],
            flags,
            len: if flags & (SYN | RST) == 0 { len } else { 0 },
        };
        for (view, seen) in happening.seen.into_iter().enumerate() {
            let (sends, shift) = match view {
                0 => (to_server, 0),
                1 => (to_server, 10),
                _ => (!to_server, skew),
            };
            let time = now + shift + u64::from(!sends) * 50;
            if !seen {
                continue;
            }
            let interface = if view == 1 { HOST } else { POD };
            if is_udp {
                let content = if repeated { vec![7] } else { vec![number, 1, 2] };
                views[view].push(at(interface, time, udp(to_server, 64, &content, [0, 0])));
            } else {
                let pieces = segment.cut(if sends { 64_000 } else { cut });
                views[view].extend(pieces.iter().map(|piece| at(interface, time, piece.frame(64))));
            }
        }
        if !is_udp {
            let end = segment.used().last().map_or(segment.sequence, |last| last.wrapping_add(1));
            if end.wrapping_sub(next[from]) < 1 << 31 {
                next[from] = end;
            }
        }
    }
    let [client, host, server] = views;
    vec![stream("n1", [client, host].concat()), stream("n2", server)]
}

/// What packets say, apart from how it was cut into them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    used: BTreeSet<(bool, u32)>,
    resets: BTreeSet<bool>,
    /// The highest acknowledgement of each connection, which are far apart.
    acknowledged: BTreeMap<(bool, u32), u32>,
    datagrams: BTreeMap<Vec<u8>, usize>,
}

impl Said {
    fn by<'a>(packets: impl IntoIterator<Item = &'a Packet>) -> Self {
        let mut said = Self::default();
        for packet in packets {
            match Segment::of(&packet.data) {
                Some(segment) if segment.flags == 0 && segment.len == 0 => {
                    *said.datagrams.entry(packet.data.clone()).or_default() += 1;
                }
                Some(segment) => {
                    said.used.extend(segment.used().map(|at| (segment.to_server, at)));
                    if segment.flags & RST != 0 {
                        said.resets.insert(segment.to_server);
                    }
                    if segment.flags & ACK != 0 {
                        let connection = segment.acknowledged / 50_000_000;
                        let highest =
                            said.acknowledged.entry((segment.to_server, connection)).or_default();
                        *highest = segment.acknowledged.max(*highest);
                    }
                }
                None => *said.datagrams.entry(packet.data.clone()).or_default() += 1,
            }
        }
        said
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn each_packet_is_in_the_file_or_counted_and_what_one_view_saw_is_there(
        happenings in happenings(), skew in 0_u64..900_000,
    ) {
        let streams = recorded(&happenings, skew);
        let (packets, report) = one_view(&streams);
        for (stream, node) in streams.iter().zip(&report.nodes) {
            prop_assert_eq!(
                stream.packets.len() as u64,
                node.account.packets + node.left_out.packets
            );
        }
        prop_assert_eq!(report.packets, packets.len() as u64);
        let left_out = report.vantage.as_ref().unwrap().left_out.packets;
        prop_assert_eq!(
            report.packets + left_out,
            streams.iter().map(|stream| stream.packets.len() as u64).sum::<u64>()
        );

        let begun = happenings.iter().all(|one| one.flags & SYN == 0 || one.seen == [true; 3]);
        let in_file = Said::by(packets.iter().map(|(_, packet)| packet));
        for stream in &streams {
            for interface in [HOST, POD] {
                let view = stream.packets.iter().filter(|packet| packet.interface == interface);
                let view = Said::by(view);
                prop_assert!(view.used.is_subset(&in_file.used));
                prop_assert!(view.resets.is_subset(&in_file.resets));
                // Who missed how a connection began takes it for the one before it, and what is
                // acknowledged there for acknowledged all the way in between.
                for (what, highest) in view.acknowledged.iter().filter(|_| begun) {
                    prop_assert!(in_file.acknowledged.get(what) >= Some(highest));
                }
                for (datagram, count) in &view.datagrams {
                    prop_assert!(in_file.datagrams.get(datagram) >= Some(count));
                }
            }
        }
    }

    #[test]
    fn the_choice_does_not_depend_on_who_answered_first(
        happenings in happenings(), skew in 0_u64..900_000,
    ) {
        let mut streams = recorded(&happenings, skew);
        let sorted = |(mut packets, report): (Vec<(String, Packet)>, Report)| {
            packets.sort_by(|(a, one), (b, other)| {
                (one.time, a, &one.data).cmp(&(other.time, b, &other.data))
            });
            (packets, report.vantage)
        };
        let first = sorted(one_view(&streams));
        streams.reverse();
        prop_assert_eq!(first, sorted(one_view(&streams)));
    }

    #[test]
    fn all_is_everything(happenings in happenings(), skew in 0_u64..900_000) {
        let streams = recorded(&happenings, skew);
        let (packets, _) = exported(&streams, None);
        let named = |stream: &Made| {
            let name = |packet: &Packet| {
                let interface = &stream.interfaces[packet.interface as usize];
                format!("{} {}", interface.node, interface.if_name())
            };
            let of = |packet: &Packet| (name(packet), Packet { interface: 0, ..packet.clone() });
            stream.packets.iter().map(of).collect::<Vec<_>>()
        };
        let mut expected: Vec<_> = streams.iter().flat_map(named).collect();
        expected.sort_by_key(|(_, packet)| packet.time);
        prop_assert_eq!(packets, expected);
    }

    #[test]
    fn one_view_alone_is_everything(happenings in happenings()) {
        let streams = [recorded(&happenings, 0).pop().unwrap()];
        prop_assume!(!streams[0].packets.is_empty());
        prop_assert_eq!(one_view(&streams).0, exported(&streams, None).0);
    }
}
