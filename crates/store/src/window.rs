//! A window of the recording, read in the order of time.
//!
//! Chunks are merged by their true first and last times; each is sorted in memory when its time has
//! come and dropped when it is used up. Memory is bounded: the packets of all chunks in hand take at
//! most [`BUDGET`], their order a third of that, and one chunk is read at a time (1 MiB). Where more
//! chunks overlap than fit (a replayed file without order; a clock that jumped), each gives its
//! packets in several goes and is read as often: slower, not bigger.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use kuberewind_packet::pcapng::{self, Block, PacketBlock};
use kuberewind_packet::{
    ClockStep, Damage, Gap, GapCause, Interface, Loss, LossCause, PacketStream, Span, Timestamp,
    WindowAccount,
};

use rustix::fs::{Advice, fadvise};

use crate::StoreError;
use crate::catalog::{Catalog, OpenFile, Segment, State, just_after};
use crate::index::{Chunk, Index};
use crate::journal::in_order;
use crate::segment::Name;

/// Which packets to keep, by original length and captured bytes.
pub type Keep = Box<dyn Fn(u32, &[u8]) -> bool + Send>;

/// Whose packets to keep, by the owner as [`kuberewind_packet::LossAt`] names it: `host`, the name of
/// a network namespace, or `namespace/pod`.
pub type KeepOwner = Box<dyn Fn(&str) -> bool + Send>;

/// Which interfaces' packets to keep.
pub type KeepInterface = Box<dyn Fn(&Interface) -> bool + Send>;

/// What of a span a window gives; by default all of it.
#[derive(Default)]
pub struct Choice {
    /// Packets of these owners. Asked once for each interface of a segment, so that the packets of
    /// others cost a look at their head. Losses of others are not this window's.
    pub owners: Option<KeepOwner>,
    /// Of those, packets of these interfaces.
    pub interfaces: Option<KeepInterface>,
    /// Of those, these packets.
    pub packets: Option<Keep>,
}

impl std::fmt::Debug for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { owners, interfaces, packets } = self;
        let mut all = f.debug_struct("Choice");
        all.field("owners", &owners.is_some()).field("interfaces", &interfaces.is_some());
        all.field("packets", &packets.is_some()).finish()
    }
}

/// Bytes of packets in memory at once.
const BUDGET: usize = 64 << 20;
/// A chunk gives at least so much at a go.
const LEAST_SHARE: usize = 4096;
/// Interface blocks are read in steps of this.
const INTERFACE_LEN: usize = 1024;
/// A window that ends this close to now counts as ending now when old packets are cut off: it was
/// asked for a moment ago, and waited until it was settled.
const JUST_NOW: std::time::Duration = std::time::Duration::from_secs(10);

/// Packets of a span in the order of time; packets of one time in the order in which they were
/// taken.
pub struct Window {
    catalog: Arc<Catalog>,
    /// What is given out of the span asked for.
    span: Span,
    choice: Choice,
    /// Chunks whose time has not come, by first time.
    waiting: VecDeque<Part>,
    /// Chunks that are being merged.
    runs: Vec<Option<Run>>,
    /// The next packet of each run; the current packet is the first's.
    heads: BinaryHeap<Reverse<Head>>,
    /// Whether there is a current packet.
    begun: bool,
    /// How many bytes a run may hold.
    share: usize,
    read: Vec<u8>,
    /// Of each segment, by sequence: its interfaces.
    numbers: HashMap<u64, Arc<[Number]>>,
    known: HashMap<Interface, Number>,
    interfaces: Vec<Interface>,
    /// How many packets had been given out when chunks were last found gone, and their span.
    gone: Option<(u64, Span)>,
    account: WindowAccount,
}

impl std::fmt::Debug for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Window").field("span", &self.span).finish_non_exhaustive()
    }
}

/// A chunk that touches the window.
#[derive(Clone, Debug)]
struct Part {
    segment: Arc<View>,
    chunk: Chunk,
    /// Among the window's chunks, in the order of writing.
    place: usize,
}

/// A segment as it was when the window began; no lease on its file.
#[derive(Debug)]
struct View {
    name: Name,
    index: Arc<Index>,
}

/// A chunk in hand.
#[derive(Debug)]
struct Run {
    part: Part,
    data: Vec<u8>,
    /// The interfaces of its segment.
    numbers: Arc<[Number]>,
    /// Its packets in order.
    order: Vec<At>,
    /// The current one.
    next: usize,
    /// Whether packets after the last of `order` were left on the disk.
    more: bool,
}

/// What an interface of a segment is in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    /// It has this number.
    Is(u32),
    /// Its packets are not wanted.
    Unwanted,
    /// Its description cannot be read.
    Unknown,
}

/// A packet in a chunk. Ordered by time, then by place in the chunk, which is unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct At {
    time: Timestamp,
    /// Where its block starts in the chunk,
    offset: u32,
    /// and in the run's data.
    data: u32,
}

/// A run's next packet. Ordered by time, then by the order of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Head {
    time: Timestamp,
    /// The place of its part.
    place: usize,
    /// Its run in `runs`.
    run: usize,
}

/// What reading a chunk gave.
enum Reading {
    Whole,
    Gone(GapCause),
    Damaged(String),
}

impl Window {
    pub(crate) fn new(catalog: Arc<Catalog>, asked: Span, choice: Choice) -> Self {
        let mut account = WindowAccount::new(catalog.node.clone(), asked);
        let state = catalog.state();
        let now = catalog.clock.wall();
        let recent = asked.to <= now && now.since(asked.to) <= JUST_NOW;
        let cutoff = state.cutoff(if recent { asked.to } else { now });
        let span = Span::new(asked.from.max(cutoff), asked.to);
        fill_in(&mut account, &state, span, cutoff);
        if let Some(wanted) = &choice.owners {
            // Of the undecided nobody knows whose they were: they may have been anybody's.
            let anybodys = |loss: &Loss| loss.cause == LossCause::Undecided;
            account.losses.retain(|lost| anybodys(&lost.loss) || wanted(&lost.owner));
        }
        let waiting = parts(&state, span);
        drop(state);
        let share = (BUDGET / overlap(&waiting).max(1)).max(LEAST_SHARE);
        Self {
            catalog,
            span,
            choice,
            waiting,
            runs: Vec::new(),
            heads: BinaryHeap::new(),
            begun: false,
            share,
            read: Vec::new(),
            numbers: HashMap::new(),
            known: HashMap::new(),
            interfaces: Vec::new(),
            gone: None,
            account,
        }
    }

    /// Goes on behind the current packet.
    fn step(&mut self) {
        let Some(mut head) = self.heads.peek_mut() else { return };
        let place = head.0.run;
        let Some(run) = &mut self.runs[place] else { return };
        run.next += 1;
        if let Some(at) = run.order.get(run.next) {
            head.0.time = at.time; // finds its new place in the heap when dropped
            return;
        }
        PeekMut::pop(head);
        let Some(run) = self.runs[place].take() else { return };
        if self.read.capacity() == 0 {
            self.read = run.data; // its memory serves the next chunk
        }
        if run.more {
            let behind = run.order.last().map(|at| (at.time, at.offset));
            self.load(run.part, behind);
        }
    }

    /// Takes in every chunk that may hold the next packet.
    fn load_due(&mut self) {
        while let Some(part) = self.waiting.front() {
            let due = self.heads.peek().is_none_or(|Reverse(head)| part.chunk.first <= head.time);
            if !due {
                return;
            }
            if let Some(part) = self.waiting.pop_front() {
                self.load(part, None);
            }
        }
    }

    /// Reads a chunk's packets, of those behind `behind` the next ones.
    fn load(&mut self, part: Part, behind: Option<(Timestamp, u32)>) {
        match self.read(&part) {
            Reading::Whole => {}
            Reading::Gone(cause) => return self.note_gone(&part.chunk, behind, cause),
            Reading::Damaged(reason) => self.note_damage(&part, reason),
        }
        let order = self.pick(&part, behind);
        let Some(At { time, .. }) = order.first().copied() else { return };
        let free = self.runs.iter().position(Option::is_none).unwrap_or(self.runs.len());
        let head = Head { time, place: part.place, run: free };
        let run = Some(self.run(part, order));
        if free == self.runs.len() {
            self.runs.push(run);
        } else {
            self.runs[free] = run;
        }
        self.heads.push(Reverse(head));
    }

    /// Reads a chunk's bytes into `self.read`, which is empty if it cannot be.
    fn read(&mut self, part: &Part) -> Reading {
        self.read.clear();
        let file = match self.catalog.open(&part.segment.name, part.chunk.last) {
            Ok(Ok(file)) => file,
            Ok(Err(cause)) => return Reading::Gone(cause),
            Err(error) => return Reading::Damaged(format!("cannot be opened: {error}")),
        };
        let Chunk { offset, len, .. } = part.chunk;
        // All of it at once instead of in the steps of a cautious read-ahead.
        let _ = fadvise(&file.file, offset, NonZeroU64::new(len.into()), Advice::WillNeed);
        self.read.resize(len as usize, 0);
        if let Err(error) = file.file.read_exact_at(&mut self.read, offset) {
            self.read.clear();
            return Reading::Damaged(format!("cannot be read at byte {offset}: {error}"));
        }
        self.number(part, &file);
        Reading::Whole
    }

    /// Gives the segment's interfaces their numbers in the window.
    fn number(&mut self, part: &Part, file: &OpenFile) {
        let View { name, index } = &*part.segment;
        if self.numbers.contains_key(&name.sequence) {
            return;
        }
        let wanted = |interface: &Interface| {
            let Choice { owners, interfaces, .. } = &self.choice;
            owners.as_ref().is_none_or(|wanted| wanted(&interface.owner.to_string()))
                && interfaces.as_ref().is_none_or(|wanted| wanted(interface))
        };
        let number = |offset: &u64| {
            let Ok(interface) = read_interface(file, *offset) else { return Number::Unknown };
            *self.known.entry(interface).or_insert_with_key(|interface| {
                if !wanted(interface) {
                    return Number::Unwanted;
                }
                self.interfaces.push(interface.clone());
                Number::Is(u32::try_from(self.interfaces.len() - 1).unwrap_or(u32::MAX))
            })
        };
        let numbers = index.interfaces.iter().map(number).collect();
        self.numbers.insert(name.sequence, numbers);
    }

    fn numbers(&self, part: &Part) -> Arc<[Number]> {
        self.numbers.get(&part.segment.name.sequence).cloned().unwrap_or_default()
    }

    /// The packets in `self.read` that belong to the window, in order.
    fn pick(&mut self, part: &Part, behind: Option<(Timestamp, u32)>) -> Vec<At> {
        let mut order = Vec::with_capacity(if behind.is_none() {
            part.chunk.packets.min(65_536) as usize
        } else {
            0
        });
        let mut damage = None;
        let numbers = self.numbers(part);
        for block in pcapng::Blocks::new(&self.read) {
            let (start, packet) = match block {
                Ok((start, Block::Packet(packet))) => (start, packet),
                Ok(_) => continue,
                Err(error) => {
                    damage = Some(format!("in the stretch at byte {}: {error}", part.chunk.offset));
                    break;
                }
            };
            let offset = u32::try_from(start).unwrap_or(u32::MAX);
            let time = packet.timestamp;
            if time < part.chunk.first {
                damage = Some(format!("its index is wrong about byte {}", part.chunk.offset));
                continue;
            }
            match numbers.get(packet.interface as usize) {
                Some(Number::Is(_)) => {}
                Some(Number::Unwanted) => continue,
                Some(Number::Unknown) | None => {
                    damage = Some(format!("a packet of an unknown interface {}", packet.interface));
                    continue;
                }
            }
            let wanted = self.span.contains(time)
                && behind.is_none_or(|behind| behind < (time, offset))
                && self
                    .choice
                    .packets
                    .as_ref()
                    .is_none_or(|keep| keep(packet.original_len, packet.data));
            if wanted {
                order.push(At { time, offset, data: offset });
            }
        }
        if let Some(reason) = damage {
            self.note_damage(part, reason);
        }
        order.sort_unstable();
        order
    }

    /// Takes as many of the packets in `self.read` as its share allows.
    fn run(&mut self, part: Part, mut order: Vec<At>) -> Run {
        let numbers = self.numbers(&part);
        if self.read.len() <= self.share {
            let data = std::mem::take(&mut self.read);
            return Run { part, data, numbers, order, next: 0, more: false };
        }
        let mut data = Vec::new();
        let mut taken = 0;
        for at in &mut order {
            let start = at.offset as usize;
            let end = pcapng::next_block(&self.read, start).map_or(start, |(_, end)| end);
            if taken > 0 && data.len() + (end - start) > self.share {
                break;
            }
            at.data = u32::try_from(data.len()).unwrap_or(u32::MAX);
            data.extend_from_slice(&self.read[start..end]);
            taken += 1;
        }
        let more = taken < order.len();
        order.truncate(taken);
        order.shrink_to_fit();
        Run { part, data, numbers, order, next: 0, more }
    }

    fn note_gone(&mut self, chunk: &Chunk, behind: Option<(Timestamp, u32)>, cause: GapCause) {
        let from = behind.map_or(chunk.first, |(time, _)| time);
        let mut span = Span::new(from, just_after(chunk.last)).intersect(&self.span);
        // With no packet between two chunks that are gone, one stretch is gone.
        if let Some((packets, before)) = self.gone
            && packets == self.account.packets
        {
            span = Span::new(before.from.min(span.from), before.to.max(span.to));
        }
        self.gone = Some((self.account.packets, span));
        let mut gaps = std::mem::take(&mut self.account.gaps);
        gaps.push(Gap { span, cause });
        self.account.gaps = in_order(gaps);
    }

    fn note_damage(&mut self, part: &Part, reason: String) {
        let segment = part.segment.name.sealed();
        if !self.account.damaged.iter().any(|damage| damage.segment == segment) {
            self.account.damaged.push(Damage { segment, reason });
        }
    }

    fn here(&self) -> Option<PacketBlock<'_>> {
        let Reverse(head) = self.heads.peek()?;
        let run = self.runs.get(head.run)?.as_ref()?;
        let at = run.order.get(run.next)?;
        let (block, _) = pcapng::next_block(&run.data, at.data as usize).ok()?;
        let Block::Packet(packet) = block else { return None };
        let Number::Is(interface) = *run.numbers.get(packet.interface as usize)? else {
            return None;
        };
        Some(PacketBlock { interface, ..packet })
    }
}

impl PacketStream for Window {
    type Error = StoreError;

    fn advance(&mut self) -> Result<bool, StoreError> {
        if self.begun {
            self.step();
        }
        self.load_due();
        self.begun = !self.heads.is_empty();
        if !self.begun {
            return Ok(false);
        }
        let bytes = self.here().map_or(0, |packet| packet.data.len() as u64);
        self.account.packets += 1;
        self.account.bytes += bytes;
        Ok(true)
    }

    fn packet(&self) -> PacketBlock<'_> {
        const NONE: PacketBlock<'static> =
            PacketBlock { interface: 0, timestamp: Timestamp::MIN, original_len: 0, data: &[] };
        self.here().unwrap_or(NONE)
    }

    fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    fn account(&self) -> &WindowAccount {
        &self.account
    }
}

/// What can be said before anything is read.
fn fill_in(account: &mut WindowAccount, state: &State, span: Span, cutoff: Timestamp) {
    let held = state.held().map(|held| Span::new(held.from.max(cutoff), held.to));
    account.held = held.filter(|held| !held.is_empty());
    let oldest = state.held().map(|held| held.from);
    account.gaps = state.history.gaps(account.asked, oldest, cutoff);
    let steps = state.history.steps.all().iter();
    account.clock_steps = steps.filter(|step| within(step, &account.asked)).copied().collect();
    let losses = state.segments().flat_map(|segment| &segment.index.losses).chain(&state.pending);
    account.losses =
        losses.filter(|lost| span.touches(lost.loss.from, lost.loss.to)).cloned().collect();
    account.losses.sort_by_key(|lost| (lost.loss.from, lost.loss.to));
    let segments: Vec<&Segment> = state.segments().collect();
    for (place, segment) in segments.iter().enumerate() {
        let Some(damage) = &segment.damage else { continue };
        // What cannot be read lies between its first packet and the next segment's last.
        let first = segment.times.map_or(Timestamp::MIN, |(first, _)| first);
        let next = segments[place + 1..].iter().find_map(|next| next.times);
        if span.touches(first, next.map_or(Timestamp::MAX, |(_, last)| last)) {
            account.damaged.push(damage.clone());
        }
    }
}

fn within(step: &ClockStep, asked: &Span) -> bool {
    let Span { from, to } = step.span();
    asked.touches(from, to)
}

/// The chunks that touch the span, by first time.
fn parts(state: &State, span: Span) -> VecDeque<Part> {
    let mut parts: Vec<Part> = state
        .segments()
        .flat_map(|segment| {
            let index = Arc::clone(&segment.index);
            let view = Arc::new(View { name: segment.name.clone(), index });
            segment.index.chunks.iter().map(move |chunk| (Arc::clone(&view), *chunk))
        })
        .filter(|(_, chunk)| chunk.packets > 0 && span.touches(chunk.first, chunk.last))
        .enumerate()
        .map(|(place, (segment, chunk))| Part { segment, chunk, place })
        .collect();
    parts.sort_by_key(|part| part.chunk.first);
    parts.into()
}

/// How many chunks are in hand at once, at most.
fn overlap(parts: &VecDeque<Part>) -> usize {
    let mut ends = BinaryHeap::new();
    let mut most = 0;
    for part in parts {
        while ends.peek().is_some_and(|Reverse(end)| *end < part.chunk.first) {
            ends.pop();
        }
        ends.push(Reverse(part.chunk.last));
        most = most.max(ends.len());
    }
    most
}

fn read_interface(file: &OpenFile, offset: u64) -> io::Result<Interface> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let mut bytes = vec![0; INTERFACE_LEN];
    loop {
        let read = file.file.read_at(&mut bytes, offset)?;
        match pcapng::next_block(&bytes[..read], 0) {
            Ok((Block::Interface(description), _)) => {
                return description.interface().map_err(|_| invalid());
            }
            Err(pcapng::BlockError::Cut { .. }) if read == bytes.len() && read < (1 << 18) => {
                bytes.resize(read * 4, 0);
            }
            _ => return Err(invalid()),
        }
    }
}
