//! A cut through the packets at an instant of their own time: those stamped before it are one recorder's,
//! those from then on the next one's.
//!
//! The kernel stamps a packet once for all rings (`kuberewind_capture` sees to that), so two recorders
//! that cut at the same instant store each packet once between them, in whatever order either reads its
//! rings. All that is needed is that the cut is made before its instant has come: a packet stamped later
//! cannot have been given to a sink before.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kuberewind_packet::{Frame, Interface, Loss, PacketSink, Slot, Timestamp};

/// The cuts of all lanes of a recorder.
#[derive(Debug)]
pub(crate) struct Cutter<S> {
    lanes: Vec<Arc<Orders<S>>>,
}

/// Cutter --orders--> lane; a lane looks at the number with each packet, and at the list when it changed.
#[derive(Debug)]
struct Orders<S> {
    given: AtomicU64,
    list: Mutex<Vec<Order<S>>>,
}

#[derive(Debug)]
enum Order<S> {
    /// Packets from this instant on go there.
    Cut(Timestamp, S),
    /// Packets of before the cut are nobody's any more.
    Close,
    /// The cut is past: all packets go where those behind it went.
    Heal,
}

impl<S: PacketSink> Cutter<S> {
    /// For so many lanes, with their sinks: they take nothing before the first cut.
    pub(crate) fn new(lanes: usize) -> (Self, Vec<Cut<S>>) {
        let lanes: Vec<_> = (0..lanes).map(|_| Arc::new(Orders::new())).collect();
        let sinks = lanes.iter().map(|orders| Cut::new(Arc::clone(orders))).collect();
        (Self { lanes }, sinks)
    }

    /// From `at` on packets go to `next`, one for each lane. A cut that was made before and has not healed
    /// is forgotten, with what came behind it.
    pub(crate) fn cut(&self, at: Timestamp, next: Vec<S>) {
        for (orders, next) in self.lanes.iter().zip(next) {
            orders.give(Order::Cut(at, next));
        }
    }

    /// Gives up what takes packets of before the cut: those that come yet are dropped.
    pub(crate) fn close(&self) {
        self.lanes.iter().for_each(|orders| orders.give(Order::Close));
    }

    /// Ends the cut: what took packets from then on takes all.
    pub(crate) fn heal(&self) {
        self.lanes.iter().for_each(|orders| orders.give(Order::Heal));
    }
}

impl<S> Orders<S> {
    const fn new() -> Self {
        Self { given: AtomicU64::new(0), list: Mutex::new(Vec::new()) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Order<S>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, order: Order<S>) {
        self.lock().push(order);
        self.given.fetch_add(1, Ordering::SeqCst);
    }
}

/// The sink of one lane.
#[derive(Debug)]
pub(crate) struct Cut<S> {
    orders: Arc<Orders<S>>,
    obeyed: u64,
    at: Timestamp,
    before: Option<Side<S>>,
    behind: Option<Side<S>>,
    /// By our own slots.
    interfaces: Vec<Option<Interface>>,
}

/// One side of the cut.
#[derive(Debug)]
struct Side<S> {
    sink: S,
    /// Its slots, by ours.
    slots: Vec<Option<Slot>>,
}

impl<S: PacketSink> Side<S> {
    fn new(mut sink: S, interfaces: &[Option<Interface>]) -> Self {
        let mut open = |interface: &Option<Interface>| {
            interface.clone().map(|interface| sink.open_interface(interface))
        };
        let slots = interfaces.iter().map(&mut open).collect();
        Self { sink, slots }
    }

    fn slot(&self, slot: Slot) -> Option<Slot> {
        *self.slots.get(slot.0 as usize)?
    }

    fn open(&mut self, place: usize, interface: Interface) {
        if self.slots.len() <= place {
            self.slots.resize(place + 1, None);
        }
        self.slots[place] = Some(self.sink.open_interface(interface));
    }

    fn close(&mut self, slot: Slot) {
        if let Some(theirs) = self.slots.get_mut(slot.0 as usize).and_then(Option::take) {
            self.sink.close_interface(theirs);
        }
    }
}

impl<S: PacketSink> Cut<S> {
    fn new(orders: Arc<Orders<S>>) -> Self {
        let (before, behind) = (None, None);
        Self { orders, obeyed: 0, at: Timestamp::MAX, before, behind, interfaces: Vec::new() }
    }

    #[inline]
    fn obey(&mut self) {
        if self.orders.given.load(Ordering::SeqCst) != self.obeyed {
            self.obey_all();
        }
    }

    #[cold]
    fn obey_all(&mut self) {
        let orders = {
            let mut list = self.orders.lock();
            self.obeyed = self.orders.given.load(Ordering::SeqCst);
            std::mem::take(&mut *list)
        };
        for order in orders {
            match order {
                Order::Cut(at, next) => {
                    (self.at, self.behind) = (at, Some(Side::new(next, &self.interfaces)));
                }
                Order::Close => self.before = None,
                Order::Heal => {
                    if let Some(behind) = self.behind.take() {
                        (self.at, self.before) = (Timestamp::MAX, Some(behind));
                    }
                }
            }
        }
    }

    fn side(&mut self, time: Timestamp) -> Option<&mut Side<S>> {
        if time < self.at { self.before.as_mut() } else { self.behind.as_mut() }
    }

    fn sides(&mut self) -> impl Iterator<Item = &mut Side<S>> {
        self.before.iter_mut().chain(&mut self.behind)
    }
}

impl<S: PacketSink> PacketSink for Cut<S> {
    fn open_interface(&mut self, interface: Interface) -> Slot {
        self.obey();
        let free = self.interfaces.iter().position(Option::is_none);
        let place = free.unwrap_or(self.interfaces.len());
        for side in self.sides() {
            side.open(place, interface.clone());
        }
        if place == self.interfaces.len() {
            self.interfaces.push(Some(interface));
        } else {
            self.interfaces[place] = Some(interface);
        }
        Slot(u32::try_from(place).unwrap_or(u32::MAX))
    }

    fn close_interface(&mut self, slot: Slot) {
        self.obey();
        for side in self.sides() {
            side.close(slot);
        }
        if let Some(interface) = self.interfaces.get_mut(slot.0 as usize) {
            *interface = None;
        }
    }

    /// Whoever still writes packets of before the cut does not wait for room behind it.
    fn reserve(&mut self, bytes: usize) -> bool {
        self.obey();
        let behind = self.behind.as_mut().is_none_or(|side| side.sink.reserve(bytes));
        self.before.as_mut().map_or(behind, |side| side.sink.reserve(bytes))
    }

    #[inline]
    fn packet(&mut self, slot: Slot, frame: &Frame<'_>) {
        self.obey();
        if let Some(side) = self.side(frame.timestamp)
            && let Some(slot) = side.slot(slot)
        {
            side.sink.packet(slot, frame);
        }
    }

    /// One that may have happened on either side of the cut counts on both: before it for who has been
    /// recording, behind it for who is going to.
    fn loss(&mut self, slot: Slot, loss: Loss) {
        self.obey();
        let at = self.at;
        let before = self.before.as_mut().filter(|_| loss.from < at);
        let behind = self.behind.as_mut().filter(|_| loss.to >= at);
        for side in before.into_iter().chain(behind) {
            if let Some(slot) = side.slot(slot) {
                side.sink.loss(slot, loss);
            }
        }
    }

    fn tick(&mut self) {
        self.obey();
        self.sides().for_each(|side| side.sink.tick());
    }

    fn flush(&mut self) {
        self.obey();
        self.sides().for_each(|side| side.sink.flush());
    }
}

#[cfg(test)]
mod tests {
    use kuberewind_packet::{LossCause, NetnsId, Owner};
    use proptest::prelude::*;

    use super::*;

    /// What was stored, by whom: time and interface.
    type Stored = Arc<Mutex<Vec<(u64, String)>>>;

    #[derive(Debug)]
    struct Disk {
        stored: Stored,
        interfaces: Vec<Option<String>>,
        losses: Arc<Mutex<Vec<Loss>>>,
    }

    impl Disk {
        fn new() -> (Self, Stored) {
            let stored = Stored::default();
            let disk =
                Self { stored: stored.clone(), interfaces: Vec::new(), losses: Arc::default() };
            (disk, stored)
        }
    }

    impl PacketSink for Disk {
        /// The last free slot, unlike those before it: nothing shall depend on which.
        fn open_interface(&mut self, interface: Interface) -> Slot {
            let free = self.interfaces.iter().rposition(Option::is_none);
            let place = free.unwrap_or(self.interfaces.len());
            if place == self.interfaces.len() {
                self.interfaces.push(None);
            }
            self.interfaces[place] = Some(interface.name);
            Slot(u32::try_from(place).unwrap())
        }
        fn close_interface(&mut self, slot: Slot) {
            self.interfaces[slot.0 as usize] = None;
        }
        fn reserve(&mut self, _: usize) -> bool {
            true
        }
        fn packet(&mut self, slot: Slot, frame: &Frame<'_>) {
            let name = self.interfaces[slot.0 as usize].clone().expect("an open interface");
            self.stored.lock().unwrap().push((frame.timestamp.as_nanos(), name));
        }
        fn loss(&mut self, _: Slot, loss: Loss) {
            self.losses.lock().unwrap().push(loss);
        }
        fn tick(&mut self) {}
        fn flush(&mut self) {}
    }

    fn interface(name: &str) -> Interface {
        let (node, name) = ("n1".to_owned(), name.to_owned());
        Interface { node, owner: Owner::Host, netns: NetnsId(1), name }
    }

    const fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    /// A recorder with one lane.
    struct Recorder {
        cutter: Cutter<Disk>,
        sink: Cut<Disk>,
        /// Our slots of the open interfaces.
        slots: Vec<(Slot, String)>,
    }

    impl Recorder {
        fn new() -> Self {
            let (cutter, mut sinks) = Cutter::new(1);
            Self { cutter, sink: sinks.pop().unwrap(), slots: Vec::new() }
        }

        fn recording() -> (Self, Stored) {
            let recorder = Self::new();
            let stored = recorder.cut(Timestamp::MIN);
            recorder.cutter.heal();
            (recorder, stored)
        }

        fn cut(&self, at: Timestamp) -> Stored {
            let (disk, stored) = Disk::new();
            self.cutter.cut(at, vec![disk]);
            stored
        }

        fn open(&mut self, name: &str) {
            let slot = self.sink.open_interface(interface(name));
            self.slots.push((slot, name.to_owned()));
        }

        fn read(&mut self, time: u64, name: &str) {
            let (slot, _) = self.slots.iter().find(|(_, known)| known == name).unwrap();
            self.sink.packet(*slot, &Frame::whole(at(time), 1, b"x"));
        }
    }

    fn taken(stored: &Stored) -> Vec<(u64, String)> {
        stored.lock().unwrap().clone()
    }

    #[test]
    fn nothing_is_taken_before_the_first_cut_nor_from_before_it() {
        let mut new = Recorder::new();
        new.open("eth0");
        new.read(5, "eth0");
        let stored = new.cut(at(10));
        for time in [9, 10, 11] {
            new.read(time, "eth0");
        }
        assert_eq!(taken(&stored), [(10, "eth0".into()), (11, "eth0".into())]);
        new.cutter.heal();
        new.read(3, "eth0");
        assert_eq!(taken(&stored).len(), 3, "once it is healed all are taken");
    }

    #[test]
    fn a_second_cut_forgets_what_came_behind_the_first() {
        let mut new = Recorder::new();
        new.open("eth0");
        let first = new.cut(at(10));
        new.read(12, "eth0");
        let second = new.cut(at(20));
        new.read(15, "eth0");
        new.read(20, "eth0");
        assert_eq!((taken(&first).len(), taken(&second).len()), (1, 1));
    }

    #[test]
    fn a_loss_counts_where_it_may_have_been() {
        let (mut old, _) = Recorder::recording();
        old.open("eth0");
        let losses = |recorder: &Recorder| {
            let (disk, _) = Disk::new();
            let losses = disk.losses.clone();
            recorder.cutter.cut(at(10), vec![disk]);
            losses
        };
        let behind = losses(&old);
        let loss =
            |from, to| Loss { cause: LossCause::Ring, packets: 1, from: at(from), to: at(to) };
        let mut new = Recorder::new();
        new.open("eth0");
        let news = losses(&new);
        for recorder in [&mut old, &mut new] {
            for (from, to) in [(1, 9), (9, 10), (10, 12)] {
                recorder.sink.loss(Slot(0), loss(from, to));
            }
        }
        assert_eq!(*news.lock().unwrap(), [loss(9, 10), loss(10, 12)]);
        assert_eq!(*behind.lock().unwrap(), [loss(9, 10), loss(10, 12)]);
        let before = old.sink.before.unwrap().sink.losses;
        assert_eq!(*before.lock().unwrap(), [loss(1, 9), loss(9, 10)]);
    }

    /// What becomes of the handover.
    #[derive(Clone, Copy, Debug)]
    enum End {
        /// The new one goes on.
        Taken,
        /// The new one dies, and the old one takes back.
        TakenBack,
    }

    proptest! {
        /// Packets have any stamps, either recorder reads them in any order of its own and has opened the
        /// interfaces in another; the cut is made at any moment before its own time.
        #[test]
        fn every_packet_is_stored_once_in_whatever_order_it_is_read(
            stamps in prop::collection::vec((0u64..1000, 0usize..3), 1..200),
            cut in 0u64..1000,
            seeds in (any::<u64>(), any::<u64>()),
            end in prop_oneof![Just(End::Taken), Just(End::TakenBack)],
        ) {
            const NAMES: [&str; 3] = ["lo", "eth0", "eth1"];
            let shuffled = |seed: u64| {
                let mut order = stamps.clone();
                order.sort_by_key(|(time, name)| (time ^ seed).wrapping_mul(seed | 1) ^ *name as u64);
                order
            };
            let (mut old, before) = Recorder::recording();
            let mut new = Recorder::new();
            old.open("gone");
            for name in NAMES {
                old.open(name);
            }
            let (gone, _) = old.slots.remove(0);
            old.sink.close_interface(gone);
            // Only packets of before the cut can have been read when it is made.
            let (early, late): (Vec<_>, Vec<_>) = {
                let mut number = 0u64;
                shuffled(seeds.0).into_iter().partition(|(time, _)| {
                    number += 1;
                    *time < cut && (seeds.0 >> (number % 64)) & 1 == 0
                })
            };
            for (time, name) in early {
                old.read(time, NAMES[name]);
            }
            for name in NAMES.iter().rev() {
                new.open(name);
            }
            let (ours, theirs) = (old.cut(at(cut)), new.cut(at(cut)));
            for (time, name) in late {
                old.read(time, NAMES[name]);
            }
            for (time, name) in shuffled(seeds.1) {
                new.read(time, NAMES[name]);
            }
            let mut all = taken(&before);
            all.extend(taken(match end { End::Taken => &theirs, End::TakenBack => &ours }));
            let mut expected: Vec<_> =
                stamps.iter().map(|(time, name)| (*time, NAMES[*name].to_owned())).collect();
            all.sort();
            expected.sort();
            prop_assert_eq!(all, expected);
        }
    }
}
