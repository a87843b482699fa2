//! Many nodes' packets in one order.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, HashMap};

use kuberewind_packet::pcapng::PacketBlock;
use kuberewind_packet::{Interface, PacketStream, Span, Timestamp, WindowAccount};

use crate::report::{Fetch, LeftOut, NodeReport, describe};
use crate::vantage::Survey;

/// One node's packets.
#[derive(Debug)]
pub struct Input<S> {
    /// The node: its name in the report when its stream fails before it has said who it is.
    pub node: String,
    /// Its packets.
    pub stream: S,
    /// How they came, for the report.
    pub fetch: Option<Fetch>,
    /// What a first look at the same packets found. With it, what several streams or interfaces saw
    /// stands in the file once; without it, all of the stream's packets do.
    pub survey: Option<Survey>,
}

/// All packets of all streams in the order of time; of equal times, the earlier stream's first, and
/// each stream's in its own order. Costs O(log streams) per packet.
///
/// A stream that fails is ended and named in the report; the others go on. So reading never fails.
pub struct Merge<S> {
    asked: Span,
    lanes: Vec<Lane<S>>,
    /// The next packet's time of each stream that has one; the top is the packet we are at.
    heap: BinaryHeap<Reverse<(Timestamp, usize)>>,
    started: bool,
    /// Secrets that nobody has taken yet, of each node that sent some.
    secrets: Vec<(String, Vec<u8>)>,
    /// The packet's interface in `table`.
    interface: u32,
    table: Table,
}

struct Lane<S> {
    node: String,
    stream: S,
    fetch: Option<Fetch>,
    /// Its interfaces' numbers in the table, for those that had a packet.
    numbers: Vec<Option<u32>>,
    newest: Timestamp,
    packets: u64,
    bytes: u64,
    left_out: LeftOut,
    failure: Option<String>,
    ended: bool,
}

impl<S: PacketStream> Merge<S> {
    /// Merges `inputs`. `asked` is what the report says of a node that could not say it itself.
    pub fn new(asked: Span, inputs: impl IntoIterator<Item = Input<S>>) -> Self {
        let lanes: Vec<_> = inputs.into_iter().map(Lane::new).collect();
        let heap = BinaryHeap::with_capacity(lanes.len());
        let (secrets, table) = (Vec::new(), Table::default());
        Self { asked, lanes, heap, started: false, secrets, interface: 0, table }
    }

    /// Goes to the next packet; `false` when no stream has one.
    pub fn advance(&mut self) -> bool {
        if self.started {
            self.replace_top();
        } else {
            self.start();
        }
        let Some(&Reverse((_, top))) = self.heap.peek() else { return false };
        self.interface = self.lanes[top].number_interface(&mut self.table);
        true
    }

    fn start(&mut self) {
        self.started = true;
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            self.heap.extend(lane.pull().map(|time| Reverse((time, index))));
            self.secrets.extend(lane.take_secrets());
        }
    }

    fn replace_top(&mut self) {
        let Some(mut top) = self.heap.peek_mut() else { return };
        let lane = &mut self.lanes[top.0.1];
        let pulled = lane.pull();
        self.secrets.extend(lane.take_secrets());
        match pulled {
            Some(time) => top.0.0 = time,
            None => drop(PeekMut::pop(top)),
        }
    }

    /// The packet that [`Self::advance`] went to. Its interface is an index into
    /// [`Self::interfaces`]. An empty packet when there is none.
    pub fn packet(&self) -> PacketBlock<'_> {
        match self.heap.peek() {
            Some(&Reverse((_, top))) => {
                PacketBlock { interface: self.interface, ..self.lanes[top].stream.packet() }
            }
            None => {
                PacketBlock { interface: 0, timestamp: Timestamp::MIN, original_len: 0, data: &[] }
            }
        }
    }

    /// The stream of that packet, counted from 0.
    pub(crate) fn lane(&self) -> usize {
        self.heap.peek().map_or(0, |Reverse((_, top))| *top)
    }

    /// The packet that [`Self::advance`] went to is not in the file.
    pub(crate) fn leave_out(&mut self) {
        let Some(&Reverse((_, top))) = self.heap.peek() else { return };
        let lane = &mut self.lanes[top];
        lane.left_out.packets += 1;
        lane.left_out.bytes += lane.stream.packet().data.len() as u64;
    }

    /// The interfaces of the packets so far, in the order of their first packets; only ever grows.
    pub fn interfaces(&self) -> &[Interface] {
        &self.table.interfaces
    }

    /// The TLS secrets that came with the streams since this was asked last: lines of a key log, with
    /// the node that sent them.
    pub fn take_secrets(&mut self) -> Vec<(String, Vec<u8>)> {
        std::mem::take(&mut self.secrets)
    }

    /// Whether the next [`Self::advance`] will not wait.
    pub fn has_next_at_hand(&self) -> bool {
        match self.heap.peek() {
            Some(&Reverse((_, top))) => self.lanes[top].stream.has_next_at_hand(),
            None => false,
        }
    }

    /// What each stream had to say, in their order.
    pub fn finish(self) -> Vec<NodeReport> {
        self.lanes.into_iter().map(|lane| lane.report(self.asked)).collect()
    }
}

impl<S: PacketStream> Lane<S> {
    fn new(input: Input<S>) -> Self {
        Self {
            node: input.node,
            stream: input.stream,
            fetch: input.fetch,
            numbers: Vec::new(),
            newest: Timestamp::MIN,
            packets: 0,
            bytes: 0,
            left_out: LeftOut::default(),
            failure: None,
            ended: false,
        }
    }

    /// Secrets that came, with the node as its interfaces name it.
    fn take_secrets(&mut self) -> Option<(String, Vec<u8>)> {
        let text = self.stream.take_key_log();
        if text.is_empty() {
            return None; // as for nearly every packet
        }
        let named = self.stream.interfaces().first().map(|interface| &interface.node);
        Some((named.unwrap_or(&self.node).clone(), text))
    }

    /// The time of the next packet; none at the end or when the stream fails.
    fn pull(&mut self) -> Option<Timestamp> {
        match self.stream.advance() {
            Ok(true) => {}
            Ok(false) => {
                self.ended = true;
                return None;
            }
            Err(error) => {
                self.failure = Some(describe(&error));
                return None;
            }
        }
        let PacketBlock { interface, timestamp, data, .. } = self.stream.packet();
        let failure = if timestamp < self.newest {
            format!("its packets step back in time, from {} to {timestamp}", self.newest)
        } else if interface as usize >= self.stream.interfaces().len() {
            format!("its packet of {timestamp} is of an unknown interface, {interface}")
        } else {
            self.newest = timestamp;
            self.packets += 1;
            self.bytes += data.len() as u64;
            return Some(timestamp);
        };
        self.failure = Some(failure);
        None
    }

    /// The number in the table of the current packet's interface, which `pull` has found to exist.
    fn number_interface(&mut self, table: &mut Table) -> u32 {
        let index = self.stream.packet().interface as usize;
        if let Some(&Some(number)) = self.numbers.get(index) {
            return number;
        }
        let number = table.number(&self.stream.interfaces()[index]);
        self.numbers.resize(self.numbers.len().max(index + 1), None);
        self.numbers[index] = Some(number);
        number
    }

    /// The counts are those of the packets that were handed on and not left out.
    fn report(self, asked: Span) -> NodeReport {
        let account = if self.ended {
            self.stream.account().clone()
        } else {
            WindowAccount::new(self.node, asked)
        };
        NodeReport {
            account: WindowAccount {
                packets: self.packets - self.left_out.packets,
                bytes: self.bytes - self.left_out.bytes,
                ..account
            },
            left_out: self.left_out,
            failure: self.failure,
            fetch: self.fetch,
        }
    }
}

/// One number for each interface, whichever stream it came by.
#[derive(Debug, Default)]
struct Table {
    interfaces: Vec<Interface>,
    numbers: HashMap<Interface, u32>,
}

impl Table {
    #[expect(clippy::cast_possible_truncation, reason = "4 billion interfaces fit no memory")]
    fn number(&mut self, interface: &Interface) -> u32 {
        if let Some(&number) = self.numbers.get(interface) {
            return number;
        }
        let number = self.interfaces.len() as u32;
        self.interfaces.push(interface.clone());
        self.numbers.insert(interface.clone(), number);
        number
    }
}
