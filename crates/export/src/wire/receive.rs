//! The other end: trusts nothing it is sent.

use std::cell::RefCell;
use std::io::{self, Read};
use std::ops::Range;

use kuberewind_packet::pcapng::{self, Block, PacketBlock};
use kuberewind_packet::{Interface, MAX_CAPTURED, PacketStream, Span, Timestamp, WindowAccount};
use xxhash_rust::xxh3::Xxh3;
use zstd::bulk::Decompressor;

use super::{
    Coding, HASH_LEN, HEAD_LEN, Head, Kind, MAGIC, MAX_INTERFACE_BYTES, MAX_INTERFACES,
    MAX_SECRET_BYTES, PREFACE_LEN, VERSION,
};

/// So much more room is made for a frame at a time.
const STEP: usize = 256 << 10;

/// Why a stream is not what a node sent. `at` is the byte at which it went wrong.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The bytes could not be read.
    #[error("read the packet stream: {0}")]
    Io(#[from] io::Error),
    /// Something else answered.
    #[error("this is not a kuberewind packet stream: it starts with \"{}\"", .start.escape_ascii())]
    Foreign {
        /// Its first bytes.
        start: [u8; PREFACE_LEN],
    },
    /// The two ends are of different releases.
    #[error(
        "the recorder sends packets in format {found}, this program reads format {VERSION}: \
         use the same release on both ends"
    )]
    Version {
        /// The sender's version.
        found: u16,
    },
    /// The sender or the connection went away.
    #[error("the packet stream breaks off after byte {at}, before its end mark")]
    Cut {
        /// Where.
        at: u64,
    },
    /// Bytes changed on the way, or the sender is broken.
    #[error("the packet stream is damaged at byte {at}: {reason}")]
    Damaged {
        /// Where the frame starts.
        at: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A description or an account that is not ours.
    #[error("the packet stream is damaged at byte {at}: {source}")]
    Json {
        /// Where the frame starts.
        at: u64,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Packets must come in the order of time.
    #[error("the packet stream steps back in time, from {from} to {to}")]
    Order {
        /// The time of a packet,
        from: Timestamp,
        /// and of the one after it.
        to: Timestamp,
    },
}

/// Reads what a [`super::Sender`] wrote. Packets that were handed out before an error are right;
/// that they are all is sure only once [`PacketStream::advance`] has said `false`.
///
/// Holds one unpacked frame, the interfaces and the account: about 70 KiB where the sender is ours and
/// has few interfaces, so that a thousand can be open; and about 128 MiB where somebody tries to exhaust it.
pub struct Received<R: Read> {
    input: R,
    at: u64,
    hash: Xxh3,
    plain: Vec<u8>,
    /// Where in `plain` the next packet starts; its length once all are read.
    next: usize,
    packet: Packet,
    interfaces: Vec<Interface>,
    interface_bytes: usize,
    key_log: Vec<u8>,
    account: Option<WindowAccount>,
    nothing_yet: WindowAccount,
    packets: u64,
    bytes: u64,
    state: State,
}

/// What a frame goes through on its way in. All streams of a thread share it: it is used for one frame
/// at a time.
struct Unpacking {
    decompressor: Decompressor<'static>,
    stored: Vec<u8>,
}

thread_local! {
    static UNPACKING: RefCell<Option<Unpacking>> = const { RefCell::new(None) };
}

/// The packet that `advance` went to; its bytes lie in `plain`.
#[derive(Clone, Debug, Default)]
struct Packet {
    interface: u32,
    timestamp: Timestamp,
    original_len: u32,
    data: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Ended,
    Failed,
}

impl<R: Read> Received<R> {
    /// Reads the start of a stream.
    pub fn open(mut input: R) -> Result<Self, WireError> {
        let mut start = [0; PREFACE_LEN];
        read_exact(&mut input, &mut start, 0)?;
        let [magic @ .., low, high] = start;
        if magic != MAGIC {
            return Err(WireError::Foreign { start });
        }
        let found = u16::from_le_bytes([low, high]);
        if found != VERSION {
            return Err(WireError::Version { found });
        }
        let mut hash = Xxh3::new();
        hash.update(&start);
        Ok(Self {
            input,
            at: PREFACE_LEN as u64,
            hash,
            plain: Vec::new(),
            next: 0,
            packet: Packet::default(),
            interfaces: Vec::new(),
            interface_bytes: 0,
            key_log: Vec::new(),
            account: None,
            nothing_yet: WindowAccount::new(String::new(), Span::ALL),
            packets: 0,
            bytes: 0,
            state: State::Open,
        })
    }

    fn step(&mut self) -> Result<bool, WireError> {
        while self.next == self.plain.len() {
            let start = self.at;
            match self.read_frame()? {
                Kind::Packets if self.account.is_some() => {
                    return Err(damaged(start, "packets after the account"));
                }
                Kind::Packets => self.next = 0,
                Kind::Interface => self.add_interface(start)?,
                Kind::Secrets => self.add_secrets(start)?,
                Kind::Account => self.take_account(start)?,
                Kind::End => {
                    self.check_end(start)?;
                    return Ok(false);
                }
            }
        }
        self.read_packet()?;
        Ok(true)
    }

    /// Reads a frame's body into `plain`, with `next` at its end.
    fn read_frame(&mut self) -> Result<Kind, WireError> {
        UNPACKING.with_borrow_mut(|unpacking| {
            let unpacking = match unpacking {
                Some(unpacking) => unpacking,
                None => unpacking.insert(Unpacking::new()?),
            };
            self.read_frame_through(unpacking)
        })
    }

    fn read_frame_through(&mut self, unpacking: &mut Unpacking) -> Result<Kind, WireError> {
        let start = self.at;
        let mut bytes = [0; HEAD_LEN];
        read_exact(&mut self.input, &mut bytes, start)?;
        let head = Head::parse(bytes).map_err(|reason| damaged(start, reason))?;
        self.hash.update(&bytes);
        self.at += HEAD_LEN as u64;
        let packed = head.coding == Coding::Zstd;
        let body = if packed { &mut unpacking.stored } else { &mut self.plain };
        read_body(&mut self.input, &mut self.at, body, head.stored)?;
        self.hash.update(body);
        self.check_hash(start)?;
        if packed {
            unpacking
                .unpack(&mut self.plain, head.plain)
                .map_err(|reason| damaged(start, reason))?;
        }
        if self.plain.len() != head.plain {
            return Err(damaged(start, "it unpacks to another length"));
        }
        self.next = self.plain.len();
        Ok(head.kind)
    }

    fn check_hash(&mut self, start: u64) -> Result<(), WireError> {
        let mut hash = [0; HASH_LEN];
        read_exact(&mut self.input, &mut hash, self.at)?;
        self.at += HASH_LEN as u64;
        if self.hash.digest() != u64::from_le_bytes(hash) {
            return Err(damaged(start, "its checksum is wrong"));
        }
        self.hash.update(&hash);
        Ok(())
    }

    fn add_interface(&mut self, start: u64) -> Result<(), WireError> {
        self.interface_bytes += self.plain.len();
        if self.interfaces.len() == MAX_INTERFACES || self.interface_bytes > MAX_INTERFACE_BYTES {
            return Err(damaged(start, "too many interfaces"));
        }
        let interface = serde_json::from_slice(&self.plain)
            .map_err(|source| WireError::Json { at: start, source })?;
        self.interfaces.push(interface);
        Ok(())
    }

    fn add_secrets(&mut self, start: u64) -> Result<(), WireError> {
        if self.key_log.len() + self.plain.len() > MAX_SECRET_BYTES {
            return Err(damaged(start, "too many secrets"));
        }
        self.key_log.extend_from_slice(&self.plain);
        Ok(())
    }

    fn take_account(&mut self, start: u64) -> Result<(), WireError> {
        if self.account.is_some() {
            return Err(damaged(start, "a second account"));
        }
        let account = serde_json::from_slice(&self.plain)
            .map_err(|source| WireError::Json { at: start, source })?;
        self.account = Some(account);
        Ok(())
    }

    fn check_end(&mut self, start: u64) -> Result<(), WireError> {
        if self.account.is_none() {
            return Err(damaged(start, "it ends without an account"));
        }
        let mut counts = self.packets.to_le_bytes().to_vec();
        counts.extend(self.bytes.to_le_bytes());
        if self.plain != counts {
            return Err(damaged(start, "the sender counted other packets than arrived"));
        }
        let mut more = [0];
        match read_exact(&mut self.input, &mut more, self.at) {
            Err(WireError::Cut { .. }) => Ok(()),
            Ok(()) => Err(damaged(self.at, "more bytes after the end mark")),
            Err(error) => Err(error),
        }
    }

    fn read_packet(&mut self) -> Result<(), WireError> {
        let bad = |reason| damaged(self.at, reason);
        let (block, end) =
            pcapng::next_block(&self.plain, self.next).map_err(|_| bad("a block is damaged"))?;
        let Block::Packet(packet) = block else { return Err(bad("a block that is no packet")) };
        let len = u32::try_from(packet.data.len()).unwrap_or(u32::MAX);
        if len > MAX_CAPTURED || end - self.next != pcapng::packet_block_len(len) {
            return Err(bad("a packet of a length that cannot be"));
        }
        if packet.interface as usize >= self.interfaces.len() {
            return Err(bad("a packet of an interface that was not announced"));
        }
        if packet.timestamp < self.packet.timestamp {
            return Err(WireError::Order { from: self.packet.timestamp, to: packet.timestamp });
        }
        // What stands before a packet's bytes in its block is the same for every packet.
        let data = self.next + pcapng::PACKET_DATA_AT;
        self.packet = Packet {
            interface: packet.interface,
            timestamp: packet.timestamp,
            original_len: packet.original_len,
            data: data..data + packet.data.len(),
        };
        self.next = end;
        self.packets += 1;
        self.bytes += u64::from(len);
        Ok(())
    }
}

impl Unpacking {
    fn new() -> io::Result<Self> {
        Ok(Self { decompressor: Decompressor::new()?, stored: Vec::new() })
    }

    fn unpack(&mut self, plain: &mut Vec<u8>, len: usize) -> Result<(), &'static str> {
        plain.clear();
        plain.reserve_exact(len);
        let unpacked = self.decompressor.decompress_to_buffer(&self.stored, plain);
        unpacked.map(drop).map_err(|_| "it does not unpack")
    }
}

/// Makes `body` the next `len` bytes. It grows with what arrives, not with what is promised.
fn read_body(
    input: &mut impl Read,
    at: &mut u64,
    body: &mut Vec<u8>,
    len: usize,
) -> Result<(), WireError> {
    body.truncate(len);
    let mut read = 0;
    while read < len {
        let end = len.min(body.len().max(read + STEP));
        body.resize(end, 0);
        read_exact(input, &mut body[read..], *at)?;
        *at += (end - read) as u64;
        read = end;
    }
    Ok(())
}

impl<R: Read> PacketStream for Received<R> {
    type Error = WireError;

    fn advance(&mut self) -> Result<bool, WireError> {
        match self.state {
            State::Ended => return Ok(false),
            State::Failed => return Err(WireError::Cut { at: self.at }),
            State::Open => {}
        }
        let step = self.step();
        match step {
            Ok(true) => {}
            Ok(false) => self.state = State::Ended,
            Err(_) => self.state = State::Failed,
        }
        if self.state != State::Open {
            self.packet.data = 0..0;
        }
        step
    }

    fn packet(&self) -> PacketBlock<'_> {
        let Packet { interface, timestamp, original_len, data } = self.packet.clone();
        let data = self.plain.get(data).unwrap_or_default();
        PacketBlock { interface, timestamp, original_len, data }
    }

    fn has_next_at_hand(&self) -> bool {
        self.next < self.plain.len()
    }

    fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    fn take_key_log(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.key_log)
    }

    fn account(&self) -> &WindowAccount {
        self.account.as_ref().unwrap_or(&self.nothing_yet)
    }
}

fn damaged(at: u64, reason: &'static str) -> WireError {
    WireError::Damaged { at, reason }
}

fn read_exact(input: &mut impl Read, out: &mut [u8], at: u64) -> Result<(), WireError> {
    input.read_exact(out).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => WireError::Cut { at },
        _ => WireError::Io(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preface() -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_le_bytes());
        out
    }

    /// A frame with a right checksum, so that only its content can be at fault.
    fn push_frame(stream: &mut Vec<u8>, head: Head, stored: &[u8]) {
        stream.extend(head.to_bytes());
        stream.extend(stored);
        let hash = xxhash_rust::xxh3::xxh3_64(stream);
        stream.extend(hash.to_le_bytes());
    }

    #[test]
    fn a_promise_of_much_is_not_believed_before_it_is_kept() {
        let mut stream = preface();
        let plain = Kind::Account.limit();
        stream.extend(
            Head { kind: Kind::Account, coding: Coding::Plain, stored: plain, plain }.to_bytes(),
        );
        let mut received = Received::open(&stream[..]).unwrap();
        assert!(matches!(received.advance(), Err(WireError::Cut { .. })));
        assert!(received.plain.capacity() <= STEP, "{}", received.plain.capacity());
    }

    #[test]
    fn a_bomb_unpacks_to_no_more_than_it_says() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
        for plain in [bomb.len() + 1, Kind::Packets.limit()] {
            let mut stream = preface();
            let head =
                Head { kind: Kind::Packets, coding: Coding::Zstd, stored: bomb.len(), plain };
            push_frame(&mut stream, head, &bomb);
            let mut received = Received::open(&stream[..]).unwrap();
            assert!(matches!(received.advance(), Err(WireError::Damaged { .. })));
            assert!(received.plain.capacity() <= Kind::Packets.limit());
        }
    }

    #[test]
    fn an_error_is_not_followed_by_a_peaceful_end() {
        let stream = preface();
        let mut received = Received::open(&stream[..]).unwrap();
        assert!(received.advance().is_err());
        assert!(received.advance().is_err());
    }

    #[test]
    fn packets_of_interfaces_that_were_not_announced_are_refused() {
        let mut block = vec![0; pcapng::packet_block_len(0)];
        let frame = kuberewind_packet::Frame::whole(Timestamp::MIN, 0, &[]);
        pcapng::write_packet(&mut block, 0, &frame);
        let mut stream = preface();
        let (stored, plain) = (block.len(), block.len());
        push_frame(
            &mut stream,
            Head { kind: Kind::Packets, coding: Coding::Plain, stored, plain },
            &block,
        );
        let error = Received::open(&stream[..]).unwrap().advance().unwrap_err();
        assert!(error.to_string().contains("not announced"), "{error}");
    }
}
