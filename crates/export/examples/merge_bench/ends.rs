//! What the pods of some nodes say to each other, in a ring: each connection is recorded at both ends.

use std::convert::Infallible;

use kuberewind_packet::pcapng::PacketBlock;
use kuberewind_packet::{
    Interface, NetnsId, Owner, PacketStream, Pod, Span, Timestamp, WindowAccount,
};

/// Connections between two nodes that are open at a time; each packet is of any of them.
const CONNECTIONS: u64 = 1000;
const HEADERS: usize = 54;

/// What one node recorded of it: of the connections to the next node, and from the one before.
pub(crate) struct Ends {
    interfaces: Vec<Interface>,
    account: WindowAccount,
    talks: [Talk; 2],
    /// Whose packet it is.
    now: usize,
}

/// All connections between two nodes.
struct Talk {
    left: usize,
    random: u64,
    number: u64,
    time: u64,
    next: Vec<[u32; 2]>,
    frame: Vec<u8>,
}

impl Ends {
    /// Of `node` of so many, each with `packets` packets of `size` bytes.
    pub(crate) fn new(node: usize, nodes: usize, packets: usize, size: usize) -> Self {
        let interface = |number: usize| {
            let pod = Pod {
                namespace: "shop".to_owned(),
                name: format!("pod-{number}"),
                uid: format!("uid-{number}"),
            };
            Interface {
                node: format!("n{node}"),
                owner: Owner::Pod(pod),
                netns: NetnsId(number as u64),
                name: "eth0".to_owned(),
            }
        };
        let before = (node + nodes - 1) % nodes;
        // A server sees everything a little later.
        let talks = [(node, 0), (before, 100_000)]
            .map(|(pair, later)| Talk::new(pair as u64, packets / 2, size, later));
        Self {
            interfaces: vec![interface(0), interface(1)],
            account: WindowAccount::new(format!("n{node}"), Span::ALL),
            talks,
            now: 0,
        }
    }
}

impl PacketStream for Ends {
    type Error = Infallible;

    fn advance(&mut self) -> Result<bool, Infallible> {
        self.talks[self.now].advance();
        self.now = usize::from(self.talks[1].time < self.talks[0].time);
        Ok(self.talks[self.now].time < u64::MAX)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "packets are short, and there are two pods"
    )]
    fn packet(&self) -> PacketBlock<'_> {
        let Talk { time, frame, .. } = &self.talks[self.now];
        let (timestamp, original_len) = (Timestamp::from_nanos(*time), frame.len() as u32);
        PacketBlock { interface: self.now as u32, timestamp, original_len, data: frame }
    }

    fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    fn account(&self) -> &WindowAccount {
        &self.account
    }
}

impl Talk {
    fn new(pair: u64, packets: usize, size: usize, later: u64) -> Self {
        let mut frame = vec![0; size];
        frame[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
        frame[22..24].copy_from_slice(&[64, 6]);
        frame[16..18].copy_from_slice(&u16::try_from(size - 14).unwrap_or(0).to_be_bytes());
        let next = vec![[1_u32, 2]; usize::try_from(CONNECTIONS).unwrap_or(0)];
        let time = 1_795_382_705_000_000_000 + later;
        let mut talk =
            Self { left: packets, random: pair + 1, number: pair << 40, time, next, frame };
        talk.advance();
        talk
    }

    #[expect(clippy::cast_possible_truncation, reason = "bytes of larger numbers")]
    fn advance(&mut self) {
        let Some(left) = self.left.checked_sub(1) else {
            self.time = u64::MAX;
            return;
        };
        self.left = left;
        let (head, payload) = self.frame.split_at_mut(HEADERS);
        for chunk in payload.chunks_mut(8) {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            chunk.copy_from_slice(&self.random.to_le_bytes()[..chunk.len()]);
        }
        self.number += 1;
        self.time += self.random % 20_000;
        let connection = self.random >> 20 & 0xffff_ffff;
        let connection = connection % CONNECTIONS;
        let to_server = self.random >> 60 & 1 == 0;
        let [client, server] = &mut self.next[connection as usize];
        let (sequence, acknowledged) =
            if to_server { (client, *server) } else { (server, *client) };
        let pair = (self.number >> 40) as u8;
        let ends = [[10, pair, 0, 1], [10, pair + 1, 0, 2]];
        let ports = [(30_000 + connection as u16).to_be_bytes(), 80_u16.to_be_bytes()];
        let [from, to] = if to_server { [0, 1] } else { [1, 0] };
        head[26..30].copy_from_slice(&ends[from]);
        head[30..34].copy_from_slice(&ends[to]);
        head[34..36].copy_from_slice(&ports[from]);
        head[36..38].copy_from_slice(&ports[to]);
        head[38..42].copy_from_slice(&sequence.to_be_bytes());
        head[42..46].copy_from_slice(&acknowledged.to_be_bytes());
        head[46..48].copy_from_slice(&[0x50, 0x10]);
        *sequence = sequence.wrapping_add(payload.len() as u32);
    }
}
