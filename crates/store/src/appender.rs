//! The capture thread's end of the store: encodes packets into a buffer and hands whole buffers on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, TrySendError};
use kuberewind_packet::pcapng::{self, MIN_PADDING};
use kuberewind_packet::{Frame, Interface, Loss, LossCause, PacketSink, Slot, Timestamp};

use crate::buffer::{BUFFER_LEN, Buffer, Pool};

/// A buffer that holds packets is handed on after this long even if it is not full: what `kill -9`
/// costs is this, the time between two ticks, and the write.
const PATIENCE: Duration = Duration::from_millis(200);

/// A packet that does not fit leaves the rest of its buffer unused: up to so much is set aside per
/// buffer when room is promised. Longer packets are rare.
const LEFT_OVER: usize = 65_536;

/// What an appender hands to the writer.
#[derive(Debug)]
pub(crate) struct Batch {
    /// Packets, if any, their interface numbers counting in `recorded`.
    pub(crate) buffer: Option<Buffer>,
    pub(crate) recorded: Vec<Recorded>,
    pub(crate) losses: Vec<Lost>,
}

/// The packets of one interface in one buffer.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) interface: Arc<Interface>,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) first: Timestamp,
    pub(crate) last: Timestamp,
}

/// A loss and the interface it is about.
#[derive(Clone, Debug)]
pub(crate) struct Lost {
    pub(crate) interface: Arc<Interface>,
    pub(crate) loss: Loss,
}

/// Adds a loss, to an earlier one of the same interface and cause where there is one.
pub(crate) fn add_loss(losses: &mut Vec<Lost>, interface: &Arc<Interface>, loss: Loss) {
    let same = |lost: &&mut Lost| {
        lost.loss.cause == loss.cause
            && (Arc::ptr_eq(&lost.interface, interface) || lost.interface == *interface)
    };
    match losses.iter_mut().find(same) {
        Some(Lost { loss: earlier, .. }) => {
            earlier.packets += loss.packets;
            earlier.from = earlier.from.min(loss.from);
            earlier.to = earlier.to.max(loss.to);
        }
        None => losses.push(Lost { interface: Arc::clone(interface), loss }),
    }
}

/// The sink of one capture thread ("lane"). Never blocks. Dropping it hands on what it holds.
#[derive(Debug)]
pub struct Appender {
    slots: Vec<Option<Known>>,
    current: Option<Buffer>,
    /// When the first packet went into `current`.
    since: Instant,
    /// Counts the buffers, so that an interface's place in an earlier one is not taken for this one's.
    generation: u64,
    recorded: Vec<Recorded>,
    losses: Vec<Lost>,
    spare: Vec<Buffer>,
    /// How far buffers are filled: less than they hold where `pcapdump.maxSize` is small.
    fill: Arc<AtomicUsize>,
    pool: Arc<Pool>,
    /// appenders --batches--> writer; holds every buffer that there is, so it is never full of them.
    out: Sender<Batch>,
}

#[derive(Debug)]
struct Known {
    interface: Arc<Interface>,
    /// Its place in `recorded` if the generation is the current one.
    place: (u64, usize),
}

impl Appender {
    pub(crate) fn new(pool: Arc<Pool>, fill: Arc<AtomicUsize>, out: Sender<Batch>) -> Self {
        Self {
            slots: Vec::new(),
            current: None,
            since: Instant::now(),
            generation: 1,
            recorded: Vec::new(),
            losses: Vec::new(),
            spare: Vec::new(),
            fill,
            pool,
            out,
        }
    }

    /// Bytes that still go into the current buffer, so that padding after them fits too.
    fn room(&self) -> usize {
        let filled = self.current.as_ref().map_or(usize::MAX, |buffer| buffer.len);
        self.fill.load(Ordering::Relaxed).saturating_sub(filled)
    }

    /// Goes on with an empty buffer; whether there is one.
    fn turn(&mut self) -> bool {
        if self.current.is_some() {
            self.hand_on();
        }
        self.current = self.spare.pop().or_else(|| self.pool.take());
        self.since = Instant::now();
        self.current.is_some()
    }

    fn hand_on(&mut self) {
        let buffer = self.current.take_if(|buffer| buffer.len > 0);
        if buffer.is_none() && self.losses.is_empty() {
            return;
        }
        self.generation += 1;
        let recorded = std::mem::take(&mut self.recorded);
        let losses = std::mem::take(&mut self.losses);
        match self.out.try_send(Batch { buffer, recorded, losses }) {
            Ok(()) => {}
            Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) => self.lose(batch),
        }
    }

    /// The writer is gone, or does not take it: its packets are lost, and that is not.
    fn lose(&mut self, batch: Batch) {
        self.losses = batch.losses;
        for recorded in &batch.recorded {
            add_loss(&mut self.losses, &recorded.interface, recorded.as_loss(LossCause::Buffer));
        }
        if let Some(buffer) = batch.buffer {
            self.pool.give(buffer);
        }
    }

    fn count_lost(&mut self, slot: Slot, loss: Loss) {
        if let Some(Some(known)) = self.slots.get(slot.0 as usize) {
            add_loss(&mut self.losses, &known.interface, loss);
        }
    }
}

impl Recorded {
    fn new(interface: &Arc<Interface>) -> Self {
        Self {
            interface: Arc::clone(interface),
            packets: 0,
            bytes: 0,
            first: Timestamp::MAX,
            last: Timestamp::MIN,
        }
    }

    fn count(&mut self, frame: &Frame<'_>) {
        self.packets += 1;
        self.bytes += u64::from(frame.captured_len());
        self.first = self.first.min(frame.timestamp);
        self.last = self.last.max(frame.timestamp);
    }

    /// As what it is when it cannot be kept.
    pub(crate) const fn as_loss(&self, cause: LossCause) -> Loss {
        Loss { cause, packets: self.packets, from: self.first, to: self.last }
    }
}

impl PacketSink for Appender {
    fn open_interface(&mut self, interface: Interface) -> Slot {
        let known = Some(Known { interface: Arc::new(interface), place: (0, 0) });
        let slot = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(known);
        } else {
            self.slots[slot] = known;
        }
        Slot(u32::try_from(slot).unwrap_or(u32::MAX))
    }

    fn close_interface(&mut self, slot: Slot) {
        if let Some(known) = self.slots.get_mut(slot.0 as usize) {
            *known = None;
        }
    }

    fn reserve(&mut self, bytes: usize) -> bool {
        let fill = self.fill.load(Ordering::Relaxed);
        let usable = fill.saturating_sub(LEFT_OVER).max(1);
        let room = if self.current.is_some() { self.room().saturating_sub(LEFT_OVER) } else { 0 };
        let spares = bytes.saturating_sub(room).div_ceil(usable);
        while self.spare.len() < spares {
            let Some(buffer) = self.pool.take() else { return false };
            self.spare.push(buffer);
        }
        true
    }

    fn packet(&mut self, slot: Slot, frame: &Frame<'_>) {
        let len = pcapng::packet_block_len(frame.captured_len());
        if self.room() < len && (len > BUFFER_LEN - MIN_PADDING || !self.turn()) {
            let at = frame.timestamp;
            self.count_lost(slot, Loss { cause: LossCause::Buffer, packets: 1, from: at, to: at });
            return;
        }
        let Some(Some(known)) = self.slots.get_mut(slot.0 as usize) else { return };
        let Some(buffer) = &mut self.current else { return };
        if known.place.0 != self.generation {
            known.place = (self.generation, self.recorded.len());
            self.recorded.push(Recorded::new(&known.interface));
        }
        let place = known.place.1;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "fewer interfaces than a buffer's bytes"
        )]
        let number = place as u32;
        let out = &mut buffer.pages.bytes_mut()[buffer.len..];
        buffer.len += pcapng::write_packet(out, number, frame);
        self.recorded[place].count(frame);
    }

    fn loss(&mut self, slot: Slot, loss: Loss) {
        self.count_lost(slot, loss);
    }

    fn tick(&mut self) {
        let holds = self.current.as_ref().is_some_and(|buffer| buffer.len > 0);
        // Losses ride with a buffer; alone they go only while nothing waits, so that the queue is
        // left to the buffers.
        let due = if holds {
            self.since.elapsed() >= PATIENCE
        } else {
            !self.losses.is_empty() && self.out.is_empty()
        };
        if due {
            self.hand_on();
        }
    }

    fn flush(&mut self) {
        self.hand_on();
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        self.hand_on();
        for buffer in self.current.take().into_iter().chain(self.spare.drain(..)) {
            self.pool.give(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::{Receiver, bounded};
    use kuberewind_packet::{NetnsId, Owner};

    fn appender(buffers: usize) -> (Appender, Receiver<Batch>, Arc<Pool>) {
        let (out, batches) = bounded(buffers + 4);
        let pool = Arc::new(Pool::new(buffers));
        let fill = Arc::new(AtomicUsize::new(BUFFER_LEN - MIN_PADDING));
        (Appender::new(Arc::clone(&pool), fill, out), batches, pool)
    }

    fn interface(name: &str) -> Interface {
        let (node, name) = ("n1".to_owned(), name.to_owned());
        Interface { node, owner: Owner::Host, netns: NetnsId(1), name }
    }

    static DATA: [u8; 60_000] = [0; 60_000];

    fn put(appender: &mut Appender, slot: Slot, nanos: u64) {
        let time = Timestamp::from_nanos(nanos);
        appender.packet(slot, &Frame::whole(time, 60_000, &DATA));
    }

    #[test]
    fn with_every_buffer_waiting_packets_are_counted_by_interface_and_the_ring_keeps_its_own() {
        let (mut appender, batches, pool) = appender(2);
        let slots =
            [appender.open_interface(interface("a")), appender.open_interface(interface("b"))];
        for i in 0..75u64 {
            put(&mut appender, slots[usize::from(i % 4 == 0)], i);
        }
        // 34 packets fit a buffer.
        assert!(!appender.reserve(60_000), "the ring is to hold what comes now");
        let waiting: Vec<Batch> = batches.try_iter().collect();
        let packets =
            |batch: &Batch| batch.recorded.iter().map(|recorded| recorded.packets).sum::<u64>();
        assert_eq!(waiting.iter().map(packets).sum::<u64>(), 68);
        for batch in waiting {
            pool.give(batch.buffer.unwrap());
        }
        assert!(appender.reserve(60_000));
        appender.flush();
        let batch = batches.try_recv().unwrap();
        let lost = |name: &str| {
            let of_it = |lost: &&Lost| lost.interface.name == name;
            batch.losses.iter().find(of_it).map(|lost| lost.loss).unwrap()
        };
        let time = Timestamp::from_nanos;
        let expected = |packets, from, to| Loss {
            cause: LossCause::Buffer,
            packets,
            from: time(from),
            to: time(to),
        };
        assert_eq!((lost("a"), lost("b")), (expected(5, 69, 74), expected(2, 68, 72)));
    }

    #[test]
    fn what_was_promised_fits() {
        let (mut appender, _batches, _pool) = appender(8);
        let slot = appender.open_interface(interface("a"));
        for i in 0..5 {
            put(&mut appender, slot, i);
        }
        assert!(appender.reserve(4_000_000));
        for i in 0..66 {
            put(&mut appender, slot, i);
        }
        assert!(appender.losses.is_empty());
    }

    #[test]
    fn a_slot_that_comes_again_is_another_interface() {
        let (mut appender, batches, _pool) = appender(2);
        let a = appender.open_interface(interface("a"));
        put(&mut appender, a, 1);
        appender.close_interface(a);
        let b = appender.open_interface(interface("b"));
        assert_eq!(a, b);
        put(&mut appender, b, 2);
        appender.flush();
        let batch = batches.try_recv().unwrap();
        let names: Vec<_> =
            batch.recorded.iter().map(|r| (&*r.interface.name, r.packets)).collect();
        assert_eq!(names, [("a", 1), ("b", 1)]);
    }

    #[test]
    fn a_partial_buffer_goes_when_it_has_waited_long_enough() {
        let (mut appender, batches, _pool) = appender(2);
        let slot = appender.open_interface(interface("a"));
        let start = Instant::now();
        put(&mut appender, slot, 1);
        while batches.is_empty() {
            assert!(start.elapsed() < Duration::from_secs(5));
            appender.tick();
        }
        assert!(start.elapsed() >= PATIENCE);
    }

    #[test]
    fn without_a_writer_packets_are_lost_and_counted() {
        let (mut appender, batches, pool) = appender(1);
        drop(batches);
        let slot = appender.open_interface(interface("a"));
        for i in 0..10 {
            put(&mut appender, slot, i);
            appender.flush();
        }
        assert_eq!(appender.losses[0].loss.packets, 10);
        assert!(pool.take().is_some(), "its buffer comes back");
    }
}
