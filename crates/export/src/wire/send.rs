//! The node's end.

use std::collections::HashMap;
use std::io::{self, Write};

use kuberewind_packet::pcapng::{self, PacketBlock};
use kuberewind_packet::{Interface, PacketStream, Timestamp, WindowAccount};
use xxhash_rust::xxh3::Xxh3;
use zstd::bulk::Compressor;

use super::{
    Coding, HASH_LEN, HEAD_LEN, Head, Kind, MAGIC, MAX_INTERFACE_BYTES, MAX_INTERFACES,
    MAX_PACKETS, MAX_SECRETS, PACKETS_TARGET, VERSION,
};
use crate::report::sum_losses;

/// zstd's fastest regular level: the network, not the processor of a busy node, may be the limit.
const LEVEL: i32 = 1;

/// Why a window did not leave the node. Its receiver will see a stream without an end.
#[derive(Debug, thiserror::Error)]
pub enum SendError<E: std::error::Error + 'static> {
    /// The packets could not be read.
    #[error(transparent)]
    Stream(E),
    /// The packets could not be sent.
    #[error("send packets: {0}")]
    Io(#[from] io::Error),
    /// The stream breaks its own promise.
    #[error("send packets: the stream steps back in time, from {from} to {to}")]
    Order {
        /// The time of a packet,
        from: Timestamp,
        /// and of the one after it.
        to: Timestamp,
    },
    /// The stream breaks its own promise.
    #[error("send packets: the packet of {at} is of interface {interface}, which is not announced")]
    Interface {
        /// The time of the packet.
        at: Timestamp,
        /// The interface's number.
        interface: u32,
    },
}

/// Writes packets as the module describes.
pub struct Sender<W: Write> {
    out: W,
    hash: Xxh3,
    compressor: Option<Compressor<'static>>,
    /// Room for a frame's head, then the packets that wait to leave.
    frame: Vec<u8>,
    packed: Vec<u8>,
    numbers: HashMap<Interface, u32>,
    interface_bytes: usize,
    newest: Timestamp,
    packets: u64,
    bytes: u64,
}

impl<W: Write> Sender<W> {
    /// Starts a stream. `compress` asks for zstd; what does not shrink travels as it is.
    pub fn new(out: W, compress: bool) -> io::Result<Self> {
        let compressor = compress.then(|| Compressor::new(LEVEL)).transpose()?;
        let mut sender = Self {
            out,
            hash: Xxh3::new(),
            compressor,
            frame: Vec::with_capacity(HEAD_LEN + MAX_PACKETS + HASH_LEN),
            packed: Vec::new(),
            numbers: HashMap::new(),
            interface_bytes: 0,
            newest: Timestamp::MIN,
            packets: 0,
            bytes: 0,
        };
        let mut preface = [0; super::PREFACE_LEN];
        preface[..6].copy_from_slice(&MAGIC);
        preface[6..].copy_from_slice(&VERSION.to_le_bytes());
        sender.hash.update(&preface);
        sender.out.write_all(&preface)?;
        sender.start_packets();
        Ok(sender)
    }

    /// Sends all packets of `stream`. May be called again with a later window; its packets must
    /// not be older than those sent before.
    pub fn send<S: PacketStream>(&mut self, stream: &mut S) -> Result<(), SendError<S::Error>> {
        let mut numbers = Vec::new();
        while stream.advance().map_err(SendError::Stream)? {
            for interface in &stream.interfaces()[numbers.len()..] {
                numbers.push(self.number_of(interface)?);
            }
            let packet = stream.packet();
            let Some(&number) = numbers.get(packet.interface as usize) else {
                let PacketBlock { timestamp: at, interface, .. } = packet;
                return Err(SendError::Interface { at, interface });
            };
            if packet.timestamp < self.newest {
                return Err(SendError::Order { from: self.newest, to: packet.timestamp });
            }
            self.push_packet(number, &packet)?;
        }
        Ok(())
    }

    /// Sends lines of a TLS key log; before the packets that they open.
    pub fn secrets(&mut self, key_log: &[u8]) -> io::Result<()> {
        let mut rest = key_log;
        while !rest.is_empty() {
            let most = &rest[..rest.len().min(MAX_SECRETS)];
            let lines =
                most.iter().rposition(|byte| *byte == b'\n').map_or(most.len(), |end| end + 1);
            self.send_small(Kind::Secrets, &rest[..lines])?;
            rest = &rest[lines..];
        }
        Ok(())
    }

    /// Pushes out all that was sent, so that a live reader sees it. Writes to `out` even when there
    /// is nothing to push, so that a reader who has gone is noticed.
    pub fn flush(&mut self) -> io::Result<()> {
        self.send_packets()?;
        self.out.flush()
    }

    /// Ends the stream and gives back what it was written to.
    pub fn finish(mut self, account: &WindowAccount) -> io::Result<W> {
        if self.frame.len() > HEAD_LEN {
            self.send_packets()?;
        }
        self.send_small(Kind::Account, &account_json(account)?)?;
        let mut end = [0; super::END_LEN];
        end[..8].copy_from_slice(&self.packets.to_le_bytes());
        end[8..].copy_from_slice(&self.bytes.to_le_bytes());
        self.send_small(Kind::End, &end)?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// The interface's number on the wire; announces it at its first packet.
    #[expect(clippy::cast_possible_truncation, reason = "at most MAX_INTERFACES")]
    fn number_of(&mut self, interface: &Interface) -> io::Result<u32> {
        if let Some(&number) = self.numbers.get(interface) {
            return Ok(number);
        }
        let json = serde_json::to_vec(interface)?;
        self.interface_bytes += json.len();
        if self.numbers.len() == MAX_INTERFACES || self.interface_bytes > MAX_INTERFACE_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, TooMany::Interfaces));
        }
        self.send_small(Kind::Interface, &json)?;
        let number = self.numbers.len() as u32;
        self.numbers.insert(interface.clone(), number);
        Ok(number)
    }

    fn push_packet(&mut self, number: u32, packet: &PacketBlock<'_>) -> io::Result<()> {
        let frame = packet.frame();
        pcapng::push_packet(&mut self.frame, number, &frame);
        self.newest = frame.timestamp;
        self.packets += 1;
        self.bytes += u64::from(frame.captured_len());
        if self.frame.len() - HEAD_LEN >= PACKETS_TARGET { self.send_packets() } else { Ok(()) }
    }

    fn start_packets(&mut self) {
        self.frame.clear();
        self.frame.resize(HEAD_LEN, 0);
    }

    fn send_packets(&mut self) -> io::Result<()> {
        let mut frame = std::mem::take(&mut self.frame);
        let sent = self.send_frame(Kind::Packets, &mut frame);
        self.frame = frame;
        self.start_packets();
        sent
    }

    fn send_small(&mut self, kind: Kind, body: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(HEAD_LEN + body.len() + HASH_LEN);
        frame.resize(HEAD_LEN, 0);
        frame.extend(body);
        self.send_frame(kind, &mut frame)
    }

    /// Sends the body that stands behind room for a head, in one write.
    fn send_frame(&mut self, kind: Kind, frame: &mut Vec<u8>) -> io::Result<()> {
        let plain = frame.len() - HEAD_LEN;
        if plain > kind.limit() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                TooMany::Bytes { kind, plain },
            ));
        }
        let coding = self.pack(&frame[HEAD_LEN..])?;
        let frame = match coding {
            Coding::Plain => frame,
            Coding::Zstd => &mut self.packed,
        };
        let head = Head { kind, coding, stored: frame.len() - HEAD_LEN, plain };
        frame[..HEAD_LEN].copy_from_slice(&head.to_bytes());
        self.hash.update(frame);
        let hash = self.hash.digest().to_le_bytes();
        self.hash.update(&hash);
        frame.extend(hash);
        self.out.write_all(frame)
    }

    /// Packs `body` behind room for a head, if that makes it shorter.
    fn pack(&mut self, body: &[u8]) -> io::Result<Coding> {
        let Some(compressor) = &mut self.compressor else { return Ok(Coding::Plain) };
        self.packed.clear();
        self.packed.resize(HEAD_LEN + zstd::zstd_safe::compress_bound(body.len()), 0);
        let len = compressor.compress_to_buffer(body, &mut self.packed[HEAD_LEN..])?;
        self.packed.truncate(HEAD_LEN + len);
        Ok(if len < body.len() { Coding::Zstd } else { Coding::Plain })
    }
}

/// The account; where it is longer than a receiver takes, with its losses summed up.
fn account_json(account: &WindowAccount) -> serde_json::Result<Vec<u8>> {
    let json = serde_json::to_vec(account)?;
    if json.len() <= Kind::Account.limit() {
        return Ok(json);
    }
    let losses = sum_losses(&account.losses);
    serde_json::to_vec(&WindowAccount { losses, ..account.clone() })
}

/// More than a receiver would take.
#[derive(Debug, thiserror::Error)]
enum TooMany {
    #[error("more than {MAX_INTERFACES} interfaces in one stream")]
    Interfaces,
    #[error("a frame of {plain} bytes, more than the {} that {kind:?} may have", kind.limit())]
    Bytes { kind: Kind, plain: usize },
}
