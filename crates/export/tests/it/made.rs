//! Made-up packets and streams of them.

use std::fmt;

use kuberewind_export::{Export, Input};
use kuberewind_packet::pcapng::PacketBlock;
use kuberewind_packet::{
    Interface, NetnsId, Owner, PacketStream, Pod, Span, Timestamp, WindowAccount,
};
use proptest::prelude::*;

/// A packet of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) interface: u32,
    pub(crate) time: u64,
    pub(crate) original_len: u32,
    pub(crate) data: Vec<u8>,
}

impl Packet {
    pub(crate) fn of(block: &PacketBlock<'_>) -> Self {
        Self {
            interface: block.interface,
            time: block.timestamp.as_nanos(),
            original_len: block.original_len,
            data: block.data.to_vec(),
        }
    }
}

/// Why a made-up stream fails.
#[derive(Debug)]
pub(crate) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the disk caught fire")
    }
}

impl std::error::Error for Broken {}

/// A node's packets, made up.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) packets: Vec<Packet>,
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) account: WindowAccount,
    pub(crate) fails: bool,
    pub(crate) key_log: Vec<u8>,
    next: usize,
}

impl Made {
    /// A stream of these packets, with as many interfaces as they have.
    pub(crate) fn new(node: &str, packets: Vec<Packet>) -> Self {
        let count = packets.iter().map(|packet| packet.interface + 1).max().unwrap_or(0);
        let account = WindowAccount {
            held: Some(WINDOW),
            packets: packets.len() as u64,
            bytes: packets.iter().map(|packet| packet.data.len() as u64).sum(),
            ..WindowAccount::new(node.to_owned(), WINDOW)
        };
        let interfaces = (0..count).map(|number| interface(node, number)).collect();
        Self { packets, interfaces, account, fails: false, key_log: Vec::new(), next: 0 }
    }

    /// The same, but it fails after its last packet.
    pub(crate) fn failing(node: &str, packets: Vec<Packet>) -> Self {
        Self { fails: true, ..Self::new(node, packets) }
    }

    pub(crate) fn input(self) -> Input<Self> {
        Input { node: self.account.node.clone(), stream: self, fetch: None, survey: None }
    }
}

impl PacketStream for Made {
    type Error = Broken;

    fn advance(&mut self) -> Result<bool, Broken> {
        self.next += 1;
        let more = self.next <= self.packets.len();
        if !more && self.fails { Err(Broken) } else { Ok(more) }
    }

    fn packet(&self) -> PacketBlock<'_> {
        let Packet { interface, time, original_len, data } = &self.packets[self.next - 1];
        PacketBlock {
            interface: *interface,
            timestamp: Timestamp::from_nanos(*time),
            original_len: *original_len,
            data,
        }
    }

    fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    fn take_key_log(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.key_log)
    }

    fn account(&self) -> &WindowAccount {
        &self.account
    }
}

/// 2026-11-22T21:25:05Z to 21:30:05Z.
pub(crate) const WINDOW: Span =
    Span::new(Timestamp::from_parts(1_795_382_705, 0), Timestamp::from_parts(1_795_383_005, 0));

/// Interface number `number` of a node: of the host, of a namespace, of pods.
pub(crate) fn interface(node: &str, number: u32) -> Interface {
    let owner = match number % 3 {
        0 => Owner::Host,
        1 => Owner::Netns("blue".into()),
        _ => Owner::Pod(Pod {
            namespace: "shop".into(),
            name: format!("cart-{number}"),
            uid: format!("uid-{number}"),
        }),
    };
    let name = format!("eth{}", number / 3);
    Interface { node: node.to_owned(), owner, netns: NetnsId(4_026_531_840), name }
}

/// An Ethernet frame with an IPv4 UDP packet of so many bytes of payload, whose checksums are right.
pub(crate) fn udp(payload: usize) -> Vec<u8> {
    let udp_len = u16::try_from(8 + payload).unwrap();
    let mut ip = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    ip[2..4].copy_from_slice(&(20 + udp_len).to_be_bytes());
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    frame.extend(ip);
    frame.extend([0x30, 0x39, 0x27, 0x0f]);
    frame.extend(udp_len.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend((0..payload).map(|at| u8::try_from(at % 251).unwrap()));
    frame
}

/// `count` packets a millisecond apart from the start of the window, on `interfaces` interfaces.
pub(crate) fn packets(count: usize, interfaces: u32) -> Vec<Packet> {
    let packet = |index: usize| {
        let data = udp(index % 1400);
        let number = u32::try_from(index).unwrap();
        Packet {
            interface: number % interfaces,
            time: WINDOW.from.as_nanos() + u64::from(number) * 1_000_000,
            original_len: u32::try_from(data.len()).unwrap(),
            data,
        }
    };
    (0..count).map(packet).collect()
}

/// The export that tests ask for.
pub(crate) fn export() -> Export {
    Export {
        window: WINDOW,
        id: "web-1".into(),
        program: "kuberewind 0.1.0".into(),
        owner: None,
        tls: kuberewind_export::TlsParts::default(),
        unreachable: Vec::new(),
        notes: Vec::new(),
    }
}

/// Any packets at all, in the order of time, with many equal times.
pub(crate) fn any_packets(most: usize) -> impl Strategy<Value = Vec<Packet>> {
    let data = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        (0usize..9000).prop_map(|len| vec![7; len]),
    ];
    let packet = (0u32..6, 0u64..20, data, 0u32..3000);
    prop::collection::vec(packet, 0..most).prop_map(|packets| {
        let mut time = u64::from(u32::MAX);
        let each = packets.into_iter().map(|(interface, step, data, cut)| {
            time += step / 4;
            let original_len = u32::try_from(data.len()).unwrap() + cut;
            Packet { interface, time, original_len, data }
        });
        each.collect()
    })
}
