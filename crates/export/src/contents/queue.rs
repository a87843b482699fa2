//! Packets that are made, and recorded ones that wait for what must stand before them.

use std::collections::VecDeque;

use kuberewind_packet::Timestamp;
use kuberewind_packet::pcapng::PacketBlock;

/// Packets that stand in the file next, in the order of time.
#[derive(Default)]
pub(super) struct Queue {
    packets: VecDeque<Queued>,
    bytes: usize,
}

/// A packet that is held.
pub(super) struct Queued {
    pub(super) interface: u32,
    pub(super) timestamp: Timestamp,
    pub(super) original_len: u32,
    pub(super) data: Vec<u8>,
    /// It was recorded.
    pub(super) real: bool,
}

impl Queued {
    /// A frame that was made.
    pub(super) fn made(interface: u32, timestamp: Timestamp, data: Vec<u8>) -> Self {
        let original_len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        Self { interface, timestamp, original_len, data, real: false }
    }

    /// A copy of a recorded packet.
    pub(super) fn recorded(interface: u32, packet: &PacketBlock<'_>) -> Self {
        let PacketBlock { timestamp, original_len, data, .. } = *packet;
        Self { interface, timestamp, original_len, data: data.to_vec(), real: true }
    }
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn pop(&mut self) -> Option<Queued> {
        let packet = self.packets.pop_front()?;
        self.bytes -= packet.data.len();
        Some(packet)
    }

    /// Puts a packet behind all that are not later.
    pub(super) fn add(&mut self, packet: Queued) {
        let at = self.packets.partition_point(|held| held.timestamp <= packet.timestamp);
        self.insert(at, packet);
    }

    /// Puts packets of one time before all that are not earlier.
    pub(super) fn add_before(&mut self, packets: impl IntoIterator<Item = Queued>) {
        for (place, packet) in packets.into_iter().enumerate() {
            let at = self.packets.partition_point(|held| held.timestamp < packet.timestamp);
            self.insert(at + place, packet);
        }
    }

    fn insert(&mut self, at: usize, packet: Queued) {
        self.bytes += packet.data.len();
        self.packets.insert(at, packet);
    }
}
