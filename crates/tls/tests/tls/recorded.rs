//! Recorded conversations: the fixtures beside this folder, and what is read from them.

use std::path::PathBuf;

use kuberewind_packet::{NetnsId, Timestamp};
use kuberewind_tls::{
    Content, Decryptor, Event, KeyLog, Limits, Outcome, Pin, Place, Report, Segment, Sender,
};

/// A packet as recorded.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) time: Timestamp,
    pub(crate) original_len: u32,
    pub(crate) bytes: Vec<u8>,
}

/// A recorded case; `tests/fixtures/make.py` made it.
pub(crate) struct Case {
    pub(crate) packets: Vec<Packet>,
    pub(crate) log: KeyLog,
    pub(crate) client: Vec<u8>,
    pub(crate) server: Vec<u8>,
}

/// What a decryptor says of a recording.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Said {
    pub(crate) client: Vec<u8>,
    pub(crate) server: Vec<u8>,
    /// Each piece with the bytes said to be lost before it.
    pub(crate) pieces: Vec<(u64, Sender, u64, Vec<u8>)>,
    pub(crate) ends: Vec<(u64, Sender, bool)>,
    pub(crate) reports: Vec<Report>,
    pub(crate) times: Vec<Timestamp>,
}

pub(crate) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub(crate) fn case(name: &str) -> Case {
    let bytes = |suffix: &str| std::fs::read(fixture(&format!("{name}.{suffix}")));
    let keys = String::from_utf8(bytes("keys").unwrap()).unwrap();
    Case {
        packets: read_pcap(&bytes("pcap").unwrap()),
        log: KeyLog::parse(&keys).unwrap(),
        client: bytes("client").unwrap_or_default(),
        server: bytes("server").unwrap_or_default(),
    }
}

/// Reads what tcpdump wrote with nanoseconds, as far as it has.
pub(crate) fn read_pcap(file: &[u8]) -> Vec<Packet> {
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    assert_eq!(word(0), 0xa1b2_3c4d, "nanoseconds, little endian");
    let (mut at, mut packets) = (24, Vec::new());
    while at + 16 <= file.len() {
        let len = word(at + 8) as usize;
        let Some(bytes) = file.get(at + 16..at + 16 + len) else { break };
        packets.push(Packet {
            time: Timestamp::from_parts(word(at), word(at + 4)),
            original_len: word(at + 12),
            bytes: bytes.to_vec(),
        });
        at += 16 + len;
    }
    packets
}

pub(crate) fn decrypt<'a>(packets: impl IntoIterator<Item = &'a Packet>, log: &KeyLog) -> Said {
    decrypt_within(packets, log, Limits::default())
}

pub(crate) fn decrypt_within<'a>(
    packets: impl IntoIterator<Item = &'a Packet>,
    log: &KeyLog,
    limits: Limits,
) -> Said {
    decrypt_by(Decryptor::new(log.clone(), limits), packets, limits)
}

/// Of connections that are older than the packets.
pub(crate) fn decrypt_pinned<'a>(
    packets: impl IntoIterator<Item = &'a Packet>,
    log: &KeyLog,
    pins: &[Pin],
) -> Said {
    let mut decryptor = Decryptor::new(log.clone(), Limits::default());
    for pin in pins {
        decryptor.pin(Place(1), pin);
    }
    decrypt_by(decryptor, packets, Limits::default())
}

fn decrypt_by<'a>(
    mut decryptor: Decryptor,
    packets: impl IntoIterator<Item = &'a Packet>,
    limits: Limits,
) -> Said {
    let mut said = Said::default();
    for packet in packets {
        let Packet { time, original_len, bytes } = packet;
        decryptor.see(Place(1), *time, *original_len, bytes, &mut |event| said.hear(&event));
        assert!(decryptor.held() <= limits.total, "{} bytes held", decryptor.held());
    }
    decryptor.finish(&mut |event| said.hear(&event));
    said
}

impl Said {
    fn hear(&mut self, event: &Event<'_>) {
        match event {
            Event::Data { conversation, from, time, content: Content { lost, bytes } } => {
                self.times.push(*time);
                match from {
                    Sender::Client => self.client.extend(*bytes),
                    Sender::Server => self.server.extend(*bytes),
                }
                self.pieces.push((conversation.number, *from, *lost, bytes.to_vec()));
            }
            Event::End { conversation, from, time, reset } => {
                self.times.push(*time);
                self.ends.push((conversation.number, *from, *reset));
            }
            Event::Report { report, .. } => self.reports.push(*report),
        }
    }

    pub(crate) fn outcomes(&self) -> Vec<Outcome> {
        self.reports.iter().map(|report| report.outcome).collect()
    }
}

/// The packets with every payload in pieces of `size` bytes, each in a segment of its own.
pub(crate) fn in_pieces(packets: &[Packet], size: usize) -> Vec<Packet> {
    packets.iter().flat_map(|packet| split(packet, size)).collect()
}

/// IPv4 without options, as on the fixtures' loopback.
fn split(packet: &Packet, size: usize) -> Vec<Packet> {
    let headers = 34 + usize::from(packet.bytes[46] >> 4) * 4;
    let payload = &packet.bytes[headers..];
    if payload.is_empty() {
        return vec![packet.clone()];
    }
    let sequence = u32::from_be_bytes(packet.bytes[38..42].try_into().unwrap());
    let piece = |(number, piece): (usize, &[u8])| {
        let mut bytes = [&packet.bytes[..headers], piece].concat();
        let total = u16::try_from(bytes.len() - 14).unwrap();
        bytes[16..18].copy_from_slice(&total.to_be_bytes());
        let sequence = sequence.wrapping_add(u32::try_from(number * size).unwrap());
        bytes[38..42].copy_from_slice(&sequence.to_be_bytes());
        Packet { original_len: bytes.len().try_into().unwrap(), bytes, ..packet.clone() }
    };
    payload.chunks(size).enumerate().map(piece).collect()
}

/// The same connection, in which both ends first say something else: `asked`, then `answered`.
pub(crate) fn behind(packets: &[Packet], asked: &[u8], answered: &[u8]) -> Vec<Packet> {
    let [syn, syn_ack, ack, rest @ ..] = packets else { panic!("no connection") };
    let client = Segment::read(&ack.bytes, ack.original_len).unwrap().source;
    let says = |headers: &Packet, payload: &[u8], before: [usize; 2]| {
        let mut bytes = [&headers.bytes[..], payload].concat();
        let total = u16::try_from(bytes.len() - 14).unwrap();
        bytes[16..18].copy_from_slice(&total.to_be_bytes());
        for (at, before) in [(38, before[0]), (42, before[1])] {
            let number = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
            let moved = number.wrapping_add(u32::try_from(before).unwrap());
            bytes[at..at + 4].copy_from_slice(&moved.to_be_bytes());
        }
        Packet { original_len: bytes.len().try_into().unwrap(), bytes, ..headers.clone() }
    };
    let both = [asked.len(), answered.len()];
    let server_acks = rest.iter().find(|packet| {
        let segment = Segment::read(&packet.bytes, packet.original_len).unwrap();
        segment.source != client && segment.payload.is_empty()
    });
    let mut answer = says(server_acks.unwrap(), &[], [0, 0]);
    // As if it had acknowledged nothing but the SYN.
    let first = Segment::read(&ack.bytes, ack.original_len).unwrap().sequence;
    answer.bytes[42..46].copy_from_slice(&first.to_be_bytes());
    let start = Segment::read(&syn_ack.bytes, syn_ack.original_len).unwrap().sequence;
    answer.bytes[38..42].copy_from_slice(&start.wrapping_add(1).to_be_bytes());
    let mut all = vec![syn.clone(), syn_ack.clone(), ack.clone()];
    all.push(says(ack, asked, [0, 0]));
    all.push(Packet { time: ack.time, ..says(&answer, answered, [0, asked.len()]) });
    all.extend(rest.iter().map(|packet| {
        let segment = Segment::read(&packet.bytes, packet.original_len).unwrap();
        let [asked, answered] = both;
        let before = if segment.source == client { [asked, answered] } else { [answered, asked] };
        says(packet, &[], before)
    }));
    all
}

/// The pins of all connections in a recording whose hellos have a segment each.
pub(crate) fn pins(packets: &[Packet]) -> Vec<Pin> {
    const RETRY: [u8; 2] = [0xcf, 0x21];
    let mut pins: Vec<Pin> = Vec::new();
    for packet in packets {
        let Ok(segment) = Segment::read(&packet.bytes, packet.original_len) else { continue };
        let Some([22, 3, _, high, low, kind @ (1 | 2), rest @ ..]) = segment.payload.get(..) else {
            continue;
        };
        let body = usize::from(u16::from_be_bytes([rest[1], rest[2]]));
        let message = segment.payload[5..9 + body].to_vec();
        assert!(usize::from(u16::from_be_bytes([*high, *low])) >= message.len());
        if *kind == 1 {
            let same = |pin: &&mut Pin| pin.client == segment.source && pin.server_hello.is_empty();
            if let Some(retried) = pins.iter_mut().find(same) {
                retried.client_hello = message;
                continue;
            }
            pins.push(Pin {
                hello: packet.time,
                netns: NetnsId(1),
                client: segment.source,
                server: segment.destination,
                client_hello: message,
                server_hello: Vec::new(),
            });
        } else if message[6..8] != RETRY {
            let pin = pins.iter_mut().find(|pin| pin.client == segment.destination);
            pin.unwrap().server_hello = message;
        }
    }
    pins
}
