//! The one thread that writes: buffers into segments, segments sealed, room made before.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, never, select};
use kuberewind_packet::{GapCause, LossAt, LossCause, Timestamp};
use tracing::{info, warn};

use crate::StoreError;
use crate::appender::{Batch, Lost, Recorded, add_loss};
use crate::buffer::{BUFFER_LEN, Buffer, PAGE, Pool};
use crate::catalog::{Catalog, Segment, deleted};
use crate::clock::{Clock, StepWatch};
use crate::disk::Disk;
use crate::journal::{self, Event, Journal};
use crate::limits::{Limits, disk_room};
use crate::lock;
use crate::note::Note;
use crate::reach::SegmentNumber;
use crate::retention::{self, Bounds, Plan, Usage};
use crate::route::{Route, Way};
use crate::segment::{Name, OpenSegment, footprint};
use crate::status::WriterState;

/// How often it looks after itself when no packets come.
const TICK: Duration = Duration::from_millis(100);
/// How often it looks for files that others put into the directory.
const LOOK_AROUND: Duration = Duration::from_millis(500);
/// How often it leaves a sign of life.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// After a write failed, packets are counted as lost for this long before the next try.
const PAUSE: Duration = Duration::from_millis(500);
/// A full disk may refuse what `statvfs` promised: so many segments go at once to make it take a
/// buffer.
const SHED_WHEN_FULL: usize = 3;
/// So many segments that could not be sealed are kept open for another try; what is beyond is sealed
/// when the store is opened next.
const MOST_LEFTOVERS: usize = 8;
/// A file system's own blocks that a write may take besides its bytes (extents, maps).
const METADATA: u64 = 65_536;

pub(crate) type Reply = Sender<Result<(), StoreError>>;

/// What the store asks of the writer.
#[derive(Debug)]
pub(crate) enum Command {
    SetLimits(Limits, Duration, Reply),
    /// From this moment on; none = now.
    SetRecording(bool, Option<Timestamp>, Reply),
    /// Answered with the segment that it is in.
    Note(Note, Sender<Result<SegmentNumber, StoreError>>),
    Sync(Reply),
    /// Nothing was recorded from this moment on; none = now.
    Close(Option<Timestamp>, Reply),
    /// As `Close`; another recorder has every packet from this moment on.
    HandOver(Timestamp, Reply),
}

/// By which others see that the writer goes on.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    clock: Clock,
    /// Nanoseconds since boot at which it last went round.
    beat: AtomicU64,
    /// Since when what it was given could not be written; 0 while it can.
    losing: AtomicU64,
}

impl Pulse {
    fn new(clock: Clock) -> Self {
        let pulse = Self { clock, ..Self::default() };
        pulse.beat();
        pulse
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.since_boot().as_nanos()).unwrap_or(u64::MAX)
    }

    fn beat(&self) {
        self.beat.store(self.now(), Ordering::Relaxed);
    }

    fn lose(&self) {
        let now = self.now();
        let _ = self.losing.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn write(&self) {
        self.losing.store(0, Ordering::Relaxed);
    }

    pub(crate) fn state(&self, ended: bool) -> WriterState {
        let since = |then| Duration::from_nanos(self.now().saturating_sub(then));
        let losing = self.losing.load(Ordering::Relaxed);
        WriterState {
            ended,
            silent_for: since(self.beat.load(Ordering::Relaxed)),
            losing_for: (losing > 0).then(|| since(losing)),
        }
    }
}

/// Why packets were not written.
enum Refusal {
    /// There is no room, and nothing is left to delete.
    HeldBack(GapCause),
    /// Not again so soon after an error.
    Paused,
    Failed(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) program: String,
    /// The section headers' comment.
    pub(crate) comment: String,
    pub(crate) limits: Limits,
    pub(crate) interval: Duration,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) journal: Journal,
    pub(crate) next_sequence: u64,
    pub(crate) pool: Arc<Pool>,
    pub(crate) fill: Arc<AtomicUsize>,
    pub(crate) pulse: Arc<Pulse>,
    disk: Disk,
    route: Route,
    way: Way,
    steps: StepWatch,
    segment: Option<OpenSegment>,
    /// What the open segment takes on the disk.
    open_footprint: u64,
    /// What files that are not ours take.
    foreign: u64,
    /// Deleted while readers had them open.
    unlinked: Vec<(Arc<()>, u64)>,
    /// Deleted in the catalog, but the file system would not.
    stuck: Vec<PathBuf>,
    /// Could not be sealed when it was their time.
    leftovers: Vec<OpenSegment>,
    /// Deleting what `statvfs` did not ask for made no room for a buffer.
    shed_in_vain: bool,
    /// Losses not yet written down.
    pending: Vec<Lost>,
    paused_until: Option<Instant>,
    looked_around: Instant,
    signed: Instant,
}

impl Writer {
    #[expect(clippy::too_many_arguments, reason = "called once, by `Store::open`")]
    pub(crate) fn new(
        program: String,
        comment: String,
        limits: Limits,
        interval: Duration,
        catalog: Arc<Catalog>,
        journal: Journal,
        next_sequence: u64,
        pool: Arc<Pool>,
        fill: Arc<AtomicUsize>,
        disk: Disk,
    ) -> Self {
        let pulse = Arc::new(Pulse::new(catalog.clock.clone()));
        let steps = StepWatch::new(&catalog.clock);
        Self {
            program,
            comment,
            limits,
            interval,
            catalog,
            journal,
            next_sequence,
            pool,
            fill,
            pulse,
            disk,
            route: Route::default(),
            way: Way::default(),
            steps,
            segment: None,
            open_footprint: 0,
            foreign: 0,
            unlinked: Vec::new(),
            stuck: Vec::new(),
            leftovers: Vec::new(),
            shed_in_vain: false,
            pending: Vec::new(),
            paused_until: None,
            looked_around: Instant::now(),
            signed: Instant::now(),
        }
    }

    /// Until it is told to close, or nobody is left who could.
    pub(crate) fn run(mut self, mut batches: Receiver<Batch>, commands: &Receiver<Command>) {
        loop {
            select! {
                recv(batches) -> batch => match batch {
                    Ok(batch) => self.take(batch, batches.len()),
                    Err(_) => batches = never(), // every appender is gone
                },
                recv(commands) -> command => match command {
                    Ok(Command::Close(at, reply)) => {
                        self.drain(&batches);
                        let _ = reply.send(self.close(at));
                        return;
                    }
                    Ok(Command::HandOver(at, reply)) => {
                        self.drain(&batches);
                        let _ = reply.send(self.hand_over(at));
                        return;
                    }
                    Ok(command) => self.obey(command, &batches),
                    Err(_) => return,
                },
                default(TICK) => {}
            }
            self.look_after();
            self.pulse.beat();
        }
    }

    fn obey(&mut self, command: Command, batches: &Receiver<Batch>) {
        let (reply, answer) = match command {
            Command::SetLimits(limits, interval, reply) => {
                self.set_limits(limits, interval);
                (reply, Ok(()))
            }
            Command::SetRecording(on, from, reply) => (reply, self.set_recording(on, from)),
            Command::Note(note, reply) => {
                let _ = reply.send(self.note(&note)); // as below
                return;
            }
            Command::Sync(reply) | Command::Close(_, reply) | Command::HandOver(_, reply) => {
                self.drain(batches);
                (reply, Ok(()))
            }
        };
        let _ = reply.send(answer); // who asked may have gone
    }

    /// Writes a note into the open segment.
    fn note(&mut self, note: &Note) -> Result<SegmentNumber, StoreError> {
        let refused = |dir: &Path| StoreError::NoRoom { dir: dir.to_owned() };
        let len = note.bytes.len() as u64;
        let limit = self.limits.segment_len();
        if self.segment.as_ref().is_some_and(|segment| segment.len() + len > limit) {
            self.seal();
        }
        match self.try_note(note, len) {
            Ok(number) => Ok(number),
            Err(Refusal::Failed(error)) => Err(error),
            Err(Refusal::HeldBack(_) | Refusal::Paused) => Err(refused(&self.catalog.dir)),
        }
    }

    fn try_note(&mut self, note: &Note, len: u64) -> Result<SegmentNumber, Refusal> {
        self.make_room(len)?;
        let segment = self.segment(note.at)?;
        segment.note(note.at, &note.bytes)?;
        let number = SegmentNumber(segment.name.sequence);
        self.publish()?;
        Ok(number)
    }

    /// Takes what was handed on before now.
    fn drain(&mut self, batches: &Receiver<Batch>) {
        for _ in 0..batches.len() {
            if let Ok(batch) = batches.try_recv() {
                self.take(batch, batches.len());
            }
        }
    }

    pub(crate) fn set_limits(&mut self, limits: Limits, interval: Duration) {
        (self.limits, self.interval) = (limits, interval);
        self.fill.store(limits.fill(), Ordering::Relaxed);
        self.catalog.state().limits = Some(limits);
        if self.segment.as_ref().is_some_and(|segment| segment.len() > limits.segment_len()) {
            self.seal();
        }
        self.look_around();
        let _ = self.make_room(0);
    }

    fn set_recording(&mut self, on: bool, from: Option<Timestamp>) -> Result<(), StoreError> {
        let at = from.unwrap_or_else(|| self.catalog.clock.wall());
        if self.catalog.state().history.is_on() == on {
            return Ok(());
        }
        self.note_in_journal(if on { Event::On { at } } else { Event::Off { at } })
    }

    fn note_in_journal(&mut self, event: Event) -> Result<(), StoreError> {
        let mut state = self.catalog.state();
        state.history.apply(event);
        let history = state.history.clone();
        drop(state);
        self.journal.note(event, &history)
    }

    /// Writes a batch, behind which `waiting` others wait.
    fn take(&mut self, batch: Batch, waiting: usize) {
        self.choose_way(waiting);
        for lost in &batch.losses {
            self.count_lost(lost);
        }
        if let Some(mut buffer) = batch.buffer {
            match self.write(&mut buffer, &batch.recorded) {
                Ok(()) => self.count_written(&batch.recorded),
                Err(refusal) => self.lose(&batch.recorded, refusal),
            }
            self.pool.give(buffer);
        }
        if !self.pending.is_empty() {
            self.catalog.state().pending = pending(&self.pending);
            self.write_losses();
        }
    }

    fn choose_way(&mut self, waiting: usize) {
        let way = self.route.choose(waiting, Instant::now());
        if way == self.way {
            return;
        }
        match way {
            Way::Cached => info!("the disk falls behind: writing into the page cache"),
            Way::Direct => info!("the disk keeps up: writing past the page cache again"),
        }
        self.way = way;
        if let Some(segment) = &mut self.segment {
            segment.take(way);
        }
    }

    fn write(&mut self, buffer: &mut Buffer, recorded: &[Recorded]) -> Result<(), Refusal> {
        if self.paused_until.is_some_and(|until| Instant::now() < until) {
            return Err(Refusal::Paused);
        }
        let len = buffer.len as u64;
        let limit = self.limits.segment_len();
        if self.segment.as_ref().is_some_and(|segment| segment.len() + len > limit) {
            self.seal();
        }
        for _ in 0..SHED_WHEN_FULL {
            match self.try_write(buffer, recorded) {
                Err(Refusal::Failed(error)) if error.is_full() && self.shed_oldest() => {}
                other => return other,
            }
        }
        let written = self.try_write(buffer, recorded);
        self.shed_in_vain = matches!(&written, Err(Refusal::Failed(error)) if error.is_full());
        written
    }

    fn try_write(&mut self, buffer: &mut Buffer, recorded: &[Recorded]) -> Result<(), Refusal> {
        let start = recorded.iter().map(|recorded| recorded.first).min();
        self.make_room(buffer.len as u64)?;
        self.segment(start.unwrap_or_else(|| self.catalog.clock.wall()))?
            .packets(buffer, recorded)?;
        self.publish()?;
        Ok(())
    }

    /// The open segment, or a new one.
    fn segment(&mut self, start: Timestamp) -> Result<&mut OpenSegment, StoreError> {
        let segment = if let Some(segment) = self.segment.take() {
            segment
        } else {
            let name = Name::new(start, self.next_sequence);
            self.next_sequence += 1;
            let head = (&*self.program, &*self.comment);
            OpenSegment::create(&self.catalog.dir, name, head, &self.disk, self.way)?
        };
        Ok(self.segment.insert(segment))
    }

    /// Lets readers see what was written.
    fn publish(&mut self) -> Result<(), StoreError> {
        let Some(segment) = &self.segment else { return Ok(()) };
        let footprint = segment.footprint()?;
        let (name, index) = (segment.name.clone(), Arc::new(segment.index.clone()));
        self.open_footprint = footprint;
        let other_bytes = self.other_bytes();
        let mut state = self.catalog.state();
        let lease = state.open.as_ref().map(|open| Arc::clone(&open.lease)).unwrap_or_default();
        state.open = Some(Segment {
            name,
            open: true,
            times: index.times(),
            index,
            footprint,
            damage: None,
            lease,
            age: Duration::ZERO,
            aged: self.catalog.clock.since_boot(),
        });
        state.other_bytes = other_bytes;
        Ok(())
    }

    /// Deletes until `bytes` more can be written within all bounds.
    fn make_room(&mut self, bytes: u64) -> Result<(), Refusal> {
        let seal = self.segment.as_ref().map_or(0, OpenSegment::seal_len);
        let wanted = if bytes == 0 { 0 } else { bytes + seal + METADATA + 4 * PAGE as u64 };
        let (mut disk_free, min_free) = self.disk();
        loop {
            let usage = Usage { other: self.other_bytes(), wanted, disk_free };
            let Plan { doomed, held_back } = self.plan(usage, min_free);
            let names: Vec<(Name, GapCause)> = {
                let state = self.catalog.state();
                doomed.iter().map(|(at, cause)| (state.sealed[*at].name.clone(), *cause)).collect()
            };
            for (name, cause) in &names {
                disk_free += self.delete(name, *cause)?;
            }
            match held_back {
                Some(cause) => {
                    self.catalog.state().counted.held_back_by_min_free = cause == GapCause::MinFree;
                    return Err(Refusal::HeldBack(cause));
                }
                None if names.is_empty() => {
                    self.catalog.state().counted.held_back_by_min_free = false;
                    return Ok(());
                }
                // What readers hold open still counts: look again.
                None => {}
            }
        }
    }

    fn plan(&self, usage: Usage, min_free: u64) -> Plan {
        let clock = &self.catalog.clock;
        let state = self.catalog.state();
        let held = state.held_segments(clock);
        let Limits { max_time, .. } = self.limits;
        retention::plan(
            &held,
            usage,
            Bounds { max_time, max_bytes: self.limits.usable(), min_free },
        )
    }

    /// Everything in the directory but the sealed segments and what is set aside.
    fn other_bytes(&mut self) -> u64 {
        self.unlinked.retain(|(lease, _)| Arc::strong_count(lease) > 1);
        let unlinked: u64 = self.unlinked.iter().map(|(_, bytes)| bytes).sum();
        self.open_footprint + self.foreign + unlinked
    }

    /// Bytes free on the file system, and how many must stay so.
    fn disk(&self) -> (u64, u64) {
        disk_room(&self.catalog.dir, self.limits.min_free)
    }

    /// Deletes a sealed segment and says how many bytes that freed at once. The journal says so
    /// first: a stretch must never be missing without its cause.
    ///
    /// A disk that lets nothing be deleted keeps it, and so does the catalog: what could be read goes
    /// on being read, and is not given up one segment after the other.
    fn delete(&mut self, name: &Name, cause: GapCause) -> Result<u64, StoreError> {
        let mut state = self.catalog.state();
        let Some(at) = state.sealed.iter().position(|segment| segment.name == *name) else {
            return Ok(0);
        };
        let before = state.history.clone();
        let Some(segment) = state.sealed.remove(at) else { return Ok(0) };
        self.leftovers.retain(|left| left.name != *name); // frees nothing while it is open
        let event = deleted(&segment, cause).map(Event::Deleted);
        if let Some(event) = event {
            state.history.apply(event);
        }
        let history = event.map(|event| (event, state.history.clone()));
        drop(state);
        if let Some((event, history)) = history
            && let Err(error) = self.journal.note(event, &history)
        {
            warn!(%error, "a deleted segment is not in the journal");
        }
        let path = self.catalog.dir.join(if segment.open { name.open() } else { name.sealed() });
        let removed = self.disk.remove(&path).map_err(StoreError::io("delete segment", &path));
        match removed {
            Err(error) if error.is_of_the_disk() => {
                let _ = self.journal.rewrite(&before, None); // it may have refused the event, too
                let mut state = self.catalog.state();
                state.history = before;
                state.sealed.insert(at, segment);
                return Err(error);
            }
            Err(error) if !error.is_not_found() => {
                warn!(%error, "a segment stays where it is");
                self.stuck.push(path);
                self.foreign += segment.footprint;
                return Ok(0);
            }
            _ => {}
        }
        if Arc::strong_count(&segment.lease) > 1 {
            self.unlinked.push((segment.lease, segment.footprint));
            return Ok(0);
        }
        Ok(segment.footprint)
    }

    /// The disk is full whatever `statvfs` says: whether a segment could go. Where that did not help,
    /// it is not tried again: of a device that has less room than it says, or a quota that others use
    /// up, the whole recording would go for nothing.
    fn shed_oldest(&mut self) -> bool {
        if self.shed_in_vain {
            return false;
        }
        let oldest = self.catalog.state().sealed.front().map(|segment| segment.name.clone());
        oldest.is_some_and(|name| self.delete(&name, GapCause::MinFree).is_ok())
    }

    /// Ends the open segment. One that cannot be sealed stays as it is, readable, and is sealed when
    /// the store is opened next.
    fn seal(&mut self) {
        let Some(mut segment) = self.segment.take() else { return };
        if segment.is_empty() {
            self.open_footprint = 0;
            self.catalog.state().open = None;
            self.stuck.extend(segment.discard());
            return;
        }
        let sealed = segment.seal(self.catalog.clock.wall());
        let open = sealed.is_err();
        let footprint = match sealed {
            Ok(footprint) => footprint,
            Err(error) => {
                self.note_error(&error);
                segment.footprint().unwrap_or(self.open_footprint)
            }
        };
        self.open_footprint = 0;
        let mut state = self.catalog.state();
        if let Some(published) = state.open.take() {
            let index = Arc::new(segment.index.clone());
            state.sealed.push_back(Segment { open, index, footprint, ..published });
        }
        drop(state);
        if open && self.leftovers.len() < MOST_LEFTOVERS {
            self.leftovers.push(segment);
        }
        let other = self.other_bytes();
        self.catalog.state().other_bytes = other;
    }

    /// Ends the segments that could not be ended when it was their time.
    fn seal_leftovers(&mut self) {
        for mut segment in std::mem::take(&mut self.leftovers) {
            if self.make_room(segment.seal_len()).is_err() {
                self.leftovers.push(segment);
                continue;
            }
            match segment.seal_after_all(self.catalog.clock.wall()) {
                Ok(footprint) => self.sealed_after_all(&segment.name, footprint),
                Err(error) => {
                    self.note_error(&error);
                    self.leftovers.push(segment);
                }
            }
        }
    }

    fn sealed_after_all(&self, name: &Name, footprint: u64) {
        let mut state = self.catalog.state();
        if let Some(segment) = state.sealed.iter_mut().find(|segment| segment.name == *name) {
            (segment.open, segment.footprint) = (false, footprint);
        }
    }

    fn count_written(&mut self, recorded: &[Recorded]) {
        let mut state = self.catalog.state();
        let counted = &mut state.counted;
        counted.packets += recorded.iter().map(|recorded| recorded.packets).sum::<u64>();
        counted.bytes += recorded.iter().map(|recorded| recorded.bytes).sum::<u64>();
        counted.last_written = Some(self.catalog.clock.wall());
        counted.last_error = None;
        counted.held_back_by_min_free = false;
        drop(state);
        self.pulse.write();
        self.shed_in_vain = false;
        if self.paused_until.take().is_some() {
            info!("writing again");
            self.seal_leftovers();
        }
    }

    fn lose(&mut self, recorded: &[Recorded], refusal: Refusal) {
        self.pulse.lose();
        match refusal {
            Refusal::Paused => {}
            Refusal::HeldBack(cause) => {
                let reason = match cause {
                    GapCause::MinFree => "the disk is too full: pcapdump.minFree would be broken",
                    _ => {
                        "foreign files in the data directory leave no room within pcapdump.maxSize"
                    }
                };
                let mut state = self.catalog.state();
                if state.counted.last_error.as_deref() != Some(reason) {
                    warn!("{reason}");
                    state.counted.last_error = Some(reason.to_owned());
                }
            }
            Refusal::Failed(error) => {
                self.note_error(&error);
                self.paused_until = Some(Instant::now() + PAUSE);
                if !error.is_full() {
                    // Something is wrong with this file, or with the directory: a new one, then.
                    self.seal();
                }
            }
        }
        for recorded in recorded {
            let (interface, loss) = (&recorded.interface, recorded.as_loss(LossCause::Disk));
            self.count_lost(&Lost { interface: Arc::clone(interface), loss });
        }
    }

    fn note_error(&self, error: &StoreError) {
        warn!(%error, "cannot write the recording");
        let mut state = self.catalog.state();
        state.counted.write_errors += 1;
        state.counted.last_error = Some(error.to_string());
    }

    fn count_lost(&mut self, lost: &Lost) {
        let Lost { interface, loss } = lost;
        add_loss(&mut self.pending, interface, *loss);
        let mut state = self.catalog.state();
        *state.counted.lost.entry(loss.cause).or_default() += loss.packets;
        let by_interface = state.lost.entry(interface.if_name()).or_default();
        *by_interface.entry(loss.cause).or_default() += loss.packets;
    }

    /// Writes losses down, beside the packets that were not lost.
    fn write_losses(&mut self) {
        if self.pending.is_empty() || self.paused_until.is_some_and(|until| Instant::now() < until)
        {
            return;
        }
        let losses = std::mem::take(&mut self.pending);
        match self.try_write_losses(&losses) {
            Ok(()) => self.catalog.state().pending.clear(),
            Err(refusal) => {
                self.pending = losses;
                if let Refusal::Failed(error) = refusal {
                    self.note_error(&error);
                    self.paused_until = Some(Instant::now() + PAUSE);
                }
            }
        }
    }

    fn try_write_losses(&mut self, losses: &[Lost]) -> Result<(), Refusal> {
        self.make_room(losses.len() as u64 * 600)?;
        let now = self.catalog.clock.wall();
        let start = losses.iter().map(|lost| lost.loss.from).min().unwrap_or(now);
        self.segment(start)?.losses(losses, now)?;
        self.publish()?;
        Ok(())
    }

    /// What is due by time.
    fn look_after(&mut self) {
        self.note_step_of_the_clock();
        let longest = self.interval.min(self.limits.max_time);
        if self.segment.as_ref().is_some_and(|segment| segment.since.elapsed() >= longest) {
            self.seal();
        }
        if self.looked_around.elapsed() >= LOOK_AROUND {
            self.look_around();
            let _ = self.make_room(0);
            self.write_losses();
            let held_back = self.is_held_back_by_min_free();
            self.catalog.state().counted.held_back_by_min_free = held_back;
        }
        if self.signed.elapsed() >= SIGN_OF_LIFE {
            self.signed = Instant::now();
            let _ = self.journal.touch();
        }
    }

    fn note_step_of_the_clock(&mut self) {
        let Some(step) = self.steps.look(&self.catalog.clock) else { return };
        warn!("{step}");
        if let Err(error) = self.note_in_journal(Event::Stepped(step)) {
            warn!(%error, "a step of the clock is not in the journal");
        }
    }

    /// Whether a buffer could not be written now.
    fn is_held_back_by_min_free(&mut self) -> bool {
        let (disk_free, min_free) = self.disk();
        let wanted = BUFFER_LEN as u64;
        let usage = Usage { other: self.other_bytes(), wanted, disk_free };
        self.plan(usage, min_free).held_back == Some(GapCause::MinFree)
    }

    /// Adds up the files that others put into the directory, and tries again to delete what could
    /// not be deleted.
    fn look_around(&mut self) {
        self.looked_around = Instant::now();
        if self.segment.as_ref().is_some_and(OpenSegment::is_lost) {
            warn!("somebody deleted the open segment");
            self.segment = None;
            self.open_footprint = 0;
            self.catalog.state().open = None;
        }
        self.stuck.retain(|path| self.disk.remove(path).is_err() && path.exists());
        let state = self.catalog.state();
        let ours: HashSet<Name> = state.segments().map(|segment| segment.name.clone()).collect();
        drop(state);
        let open = self.segment.as_ref().map(|segment| segment.name.clone());
        let is_ours = |name: &str| {
            matches!(name, journal::NAME | journal::NEW_NAME | lock::NAME)
                || Name::parse(name)
                    .is_some_and(|(name, _)| ours.contains(&name) || open.as_ref() == Some(&name))
        };
        self.foreign = self.directory_bytes() + foreign_bytes(&self.catalog.dir, &is_ours);
        let other = self.other_bytes();
        self.catalog.state().other_bytes = other;
    }

    fn directory_bytes(&self) -> u64 {
        fs::metadata(&self.catalog.dir).map_or(0, |meta| footprint(&meta))
    }

    pub(crate) fn close(&mut self, at: Option<Timestamp>) -> Result<(), StoreError> {
        self.write_losses();
        self.seal();
        self.set_recording(false, at)
    }

    fn hand_over(&mut self, at: Timestamp) -> Result<(), StoreError> {
        self.write_losses();
        self.seal();
        if !self.catalog.state().history.is_on() {
            return Ok(());
        }
        self.note_in_journal(Event::Crashed { at })
    }
}

fn pending(lost: &[Lost]) -> Vec<LossAt> {
    let losses = lost.iter();
    losses.map(|lost| LossAt { owner: lost.interface.owner.to_string(), loss: lost.loss }).collect()
}

fn foreign_bytes(dir: &Path, is_ours: &dyn Fn(&str) -> bool) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let sizes = entries.flatten().filter_map(|entry| {
        if entry.file_name().to_str().is_some_and(is_ours) {
            return None;
        }
        let meta = entry.metadata().ok()?;
        let within = if meta.is_dir() { foreign_bytes(&entry.path(), &|_| false) } else { 0 };
        Some(footprint(&meta) + within)
    });
    sizes.sum()
}
