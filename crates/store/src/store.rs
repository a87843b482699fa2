//! The recorder's and the reader's doors to a recording.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use kuberewind_packet::{Damage, GapCause, Span, Timestamp};
use tracing::warn;

use crate::StoreError;
use crate::appender::Appender;
use crate::buffer::Pool;
use crate::catalog::{Catalog, Segment, State, closed, deleted, open_either};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::index::{self, Index};
use crate::inlet::Inlet;
use crate::journal::{self, Event, History, Journal};
use crate::limits::Limits;
use crate::lock::{self, Lock};
use crate::note::{self, Note, Notes};
use crate::reach::{self, Reach, SegmentNumber};
use crate::recover::{self, Found};
use crate::segment::Name;
use crate::status::StoreStatus;
use crate::window::{Choice, Window};
use crate::writer::{Command, Pulse, Reply, Writer};

/// A recorder that was silent for so long writes no more, even if it lives; it gives a sign of life every
/// second.
const NO_SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// What a recorder that is killed has not written yet is not older than this, counted back from the last that
/// is known of it: of one ring all may be written up to now, while another one's packets still wait.
const UNWRITTEN: Duration = Duration::from_millis(500);

/// Where and how to record.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The data directory; made, for the owner alone, if it is not there.
    pub dir: PathBuf,
    /// The node's name.
    pub node: String,
    /// Who writes, such as `kuberewind 0.1.0`.
    pub program: String,
    /// How much is kept.
    pub limits: Limits,
    /// `pcapdump.timeInterval`: a segment is sealed after this long.
    pub interval: Duration,
    /// How many appenders.
    pub lanes: usize,
}

/// What a store runs on; tests move its clock and spoil its disk.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Its clocks.
    pub clock: Clock,
    /// Its disk.
    pub disk: Disk,
}

/// A recording that is being written.
#[derive(Debug)]
pub struct Store {
    catalog: Arc<Catalog>,
    pool: Arc<Pool>,
    /// store --commands--> writer; each waits for its answer.
    commands: Sender<Command>,
    writer: Option<JoinHandle<()>>,
    pulse: Arc<Pulse>,
    _lock: Lock,
}

impl Store {
    /// Takes the lock, finishes what a killed recorder left, makes room, and starts the writer.
    /// Recording counts as off until [`Self::set_recording`].
    ///
    /// # Errors
    /// The limits make no sense, another recorder holds the directory, or the file system refuses.
    pub fn open(config: StoreConfig) -> Result<(Self, Vec<Appender>), StoreError> {
        Self::open_on(&Machine::default(), config)
    }

    /// As [`Self::open`], on a machine whose clock and disk a test has in its hand.
    pub fn open_on(
        machine: &Machine,
        config: StoreConfig,
    ) -> Result<(Self, Vec<Appender>), StoreError> {
        config.limits.check()?;
        let lock = Lock::take(&config.dir)?;
        let (inlet, appenders) = Inlet::new(config.lanes, &config.limits);
        Ok((Self::over(machine, lock, config, inlet, None)?, appenders))
    }

    /// Opens a directory that is ours already, and writes what waits in the inlet. With `from`, another
    /// recorder kept everything of before that, and packets from then on are in the inlet.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_over(
        machine: &Machine,
        lock: Lock,
        config: StoreConfig,
        inlet: Inlet,
        from: Option<Timestamp>,
    ) -> Result<Self, StoreError> {
        config.limits.check()?;
        Self::over(machine, lock, config, inlet, from)
    }

    fn over(
        machine: &Machine,
        lock: Lock,
        config: StoreConfig,
        inlet: Inlet,
        from: Option<Timestamp>,
    ) -> Result<Self, StoreError> {
        let StoreConfig { dir, node, program, limits, interval, lanes: _ } = config;
        let Inlet { pool, fill, batches } = inlet;
        let clock = &machine.clock;
        let now = clock.wall();
        let (journal, state) = recall(&dir, clock, from)?;
        let next_sequence = state.sealed.back().map_or(0, |last| last.name.sequence + 1);
        let comment = format!("node={node} version={program} run={:x}", now.as_nanos());
        let catalog = Arc::new(Catalog::new(dir, node, true, clock.clone(), state));
        let mut writer = Writer::new(
            program,
            comment,
            limits,
            interval,
            Arc::clone(&catalog),
            journal,
            next_sequence,
            Arc::clone(&pool),
            fill,
            machine.disk.clone(),
        );
        let pulse = Arc::clone(&writer.pulse);
        writer.set_limits(limits, interval);
        let (commands, orders) = bounded(16);
        let writer = thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(batches, &orders))
            .map_err(StoreError::io("start the writer of", &catalog.dir))?;
        Ok(Self { catalog, pool, commands, writer: Some(writer), pulse, _lock: lock })
    }

    /// Changes the bounds; what they forbid is deleted before this returns.
    pub fn set_limits(&self, limits: Limits, interval: Duration) -> Result<(), StoreError> {
        limits.check()?;
        self.ask(|reply| Command::SetLimits(limits, interval, reply))
    }

    /// Notes that recording was switched on or off, so that what is missing meanwhile is known to
    /// have been meant.
    pub fn set_recording(&self, on: bool) -> Result<(), StoreError> {
        self.ask(|reply| Command::SetRecording(on, None, reply))
    }

    /// Notes that recording is on, and that nothing from `from` on is missing.
    pub fn set_recording_since(&self, from: Timestamp) -> Result<(), StoreError> {
        self.ask(|reply| Command::SetRecording(true, Some(from), reply))
    }

    /// Waits until everything that an appender flushed before this call is written: readable, also
    /// after the process is killed, though not after a power cut.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.ask(Command::Sync)
    }

    /// Writes bytes beside the packets: they count in the bound, and go when the packets around them
    /// go. Says in which segment they are once they are written, as with [`Self::sync`].
    ///
    /// # Errors
    /// The note is longer than a mebibyte, or cannot be written.
    pub fn note(&self, at: Timestamp, bytes: Vec<u8>) -> Result<SegmentNumber, StoreError> {
        if bytes.len() > note::LONGEST {
            return Err(StoreError::LongNote { len: bytes.len() });
        }
        self.ask(|reply| Command::Note(Note { at, bytes }, reply))
    }

    /// What is held, and what of it goes next.
    pub fn reach(&self) -> Reach {
        reach::reach(&self.catalog)
    }

    /// As [`Self::notes`], to be read one at a time, also while the store goes.
    pub fn read_notes(&self, span: Span) -> Notes {
        Notes { catalog: Arc::clone(&self.catalog), span }
    }

    /// The notes of `[from, to)` that are still held, in the order in which they were written.
    pub fn notes(&self, span: Span) -> Result<Vec<Note>, StoreError> {
        note::within(&self.catalog, span)
    }

    /// The chosen packets of `[from, to)` in the order of time, as they are held now.
    pub fn window(&self, span: Span, choice: Choice) -> Window {
        Window::new(Arc::clone(&self.catalog), span, choice)
    }

    /// How it goes.
    pub fn status(&self) -> StoreStatus {
        let status = self.catalog.state().status();
        let ended = self.writer.as_ref().is_none_or(JoinHandle::is_finished);
        let writer = self.pulse.state(ended);
        StoreStatus { buffer_bytes: self.pool.bytes(), writer, ..status }
    }

    /// Writes what appenders flushed, seals, notes the end, and lets go of the directory.
    pub fn close(mut self) -> Result<(), StoreError> {
        self.end(|reply| Command::Close(None, reply))
    }

    /// As [`Self::close`], where nothing was recorded from `at` on.
    pub fn close_at(mut self, at: Timestamp) -> Result<(), StoreError> {
        self.end(|reply| Command::Close(Some(at), reply))
    }

    /// As [`Self::close`], where another recorder has every packet from `at` on. Until that one says so
    /// itself, what is missing from then on counts as a crash's.
    pub fn hand_over(mut self, at: Timestamp) -> Result<(), StoreError> {
        self.end(|reply| Command::HandOver(at, reply))
    }

    /// Deletes everything that was recorded, and what was noted of it, and lets go of the directory.
    /// What else lies there stays.
    ///
    /// # Errors
    /// A file that cannot be deleted; those before it are.
    pub fn erase(mut self) -> Result<(), StoreError> {
        if let Err(error) = self.end(|reply| Command::Close(None, reply)) {
            warn!(%error, "the recording was not closed in good order before it was erased");
        }
        let dir = &self.catalog.dir;
        let segment = |(name, open): (Name, bool)| if open { name.open() } else { name.sealed() };
        let segments = recover::list(dir)?.into_iter().map(segment);
        // The lock last: until it is gone nobody else writes here.
        let notes = [journal::NAME, journal::NEW_NAME, lock::NAME].map(str::to_owned);
        for name in segments.chain(notes) {
            let path = dir.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io("erase", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn end(&mut self, how: impl FnOnce(Reply) -> Command) -> Result<(), StoreError> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let answer = self.ask(how);
        let _ = writer.join();
        answer
    }

    fn ask<T>(
        &self,
        command: impl FnOnce(Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        // writer --answer--> whoever asked
        let (reply, answer) = bounded(1);
        self.commands.send(command(reply)).map_err(|_| closed(&self.catalog.dir))?;
        answer.recv().map_err(|_| closed(&self.catalog.dir))?
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = self.end(|reply| Command::Close(None, reply)) {
            warn!(%error, "the recording was not closed in good order");
        }
    }
}

/// What earlier runs left, with the crash noted if the last one ended in one. Of one that crashed while it
/// handed over at `from`, a sign of life does not say that everything was written.
fn recall(
    dir: &Path,
    clock: &Clock,
    from: Option<Timestamp>,
) -> Result<(Journal, State), StoreError> {
    let now = clock.wall();
    // How old a segment is depends on how the clock was set; what is wrong with the journal is told
    // where it is opened.
    let history = journal::read(dir).unwrap_or_default();
    let mut state = State::default();
    for (name, open) in recover::list(dir)? {
        let finished = if open { recover::finish(dir, &name, now) } else { Ok(None) };
        let found = match finished {
            Ok(None) if open => continue,
            Ok(Some(found)) => Ok(found),
            // It cannot be finished now (a full disk): it can be read as it is.
            Ok(None) | Err(_) => recover::look(dir, &name, open),
        };
        match found {
            Ok(found) => state.sealed.push_back(Segment::found(found, &history, clock)),
            Err(error) => warn!(%error, "a segment is left out"),
        }
    }
    let mut shed = Vec::new();
    let (mut journal, history, touched) = loop {
        match Journal::open(dir) {
            // Nothing can be noted on a full disk: the oldest makes room, as while recording.
            Err(error) if error.is_full() => {
                let oldest = state.sealed.pop_front().ok_or(error)?;
                remove(dir, &oldest)?;
                shed.extend(deleted(&oldest, GapCause::MinFree).map(Event::Deleted));
            }
            opened => break opened?,
        }
    };
    state.history = history;
    for event in shed {
        state.history.apply(event);
        journal.note(event, &state.history)?;
    }
    if state.history.is_on() {
        let newest = state.held().map(|held| held.to);
        let alive = newest.into_iter().chain(touched).max().unwrap_or(now).min(now);
        let crashed = crashed(from.map_or(alive, |from| alive.min(from)));
        state.history.apply(crashed);
        journal.note(crashed, &state.history)?;
    }
    Ok((journal, state))
}

/// The end of a recorder of which the last is known from `alive`.
fn crashed(alive: Timestamp) -> Event {
    Event::Crashed { at: alive.saturating_sub(UNWRITTEN) }
}

fn remove(dir: &Path, segment: &Segment) -> Result<(), StoreError> {
    let name = if segment.open { segment.name.open() } else { segment.name.sealed() };
    let path = dir.join(name);
    fs::remove_file(&path).map_err(StoreError::io("delete segment", &path))
}

/// A recording on the disk, read without its recorder, which may be running.
#[derive(Debug)]
pub struct Recording {
    catalog: Arc<Catalog>,
}

impl Recording {
    /// Looks at what is there now; changes nothing.
    ///
    /// # Errors
    /// The directory or its journal cannot be read.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let mut state = State { history: journal::read(dir)?, ..State::default() };
        let clock = Clock::default();
        let now = clock.wall();
        for (name, open) in recover::list(dir)? {
            let found = match recover::look(dir, &name, open) {
                // Sealed since it was listed.
                Err(error) if error.is_not_found() && open => recover::look(dir, &name, false),
                other => other,
            };
            match found {
                Ok(found) => {
                    let segment = Segment::found(found, &state.history, &clock);
                    state.sealed.push_back(segment);
                }
                Err(error) if error.is_not_found() => {} // deleted since it was listed
                Err(error) => state.sealed.push_back(unreadable(name, open, &error, &clock)),
            }
        }
        let touched = journal::touched(dir).filter(|_| state.history.is_on());
        let is_over =
            |touched: &Timestamp| now.since(*touched) > NO_SIGN_OF_LIFE || !lock::is_locked(dir);
        if let Some(touched) = touched.filter(is_over) {
            let newest = state.held().map_or(touched, |held| held.to);
            state.history.apply(crashed(touched.max(newest).min(now)));
        }
        let node = node_of(dir, &state).unwrap_or_default();
        Ok(Self { catalog: Arc::new(Catalog::new(dir.to_owned(), node, false, clock, state)) })
    }

    /// From the oldest packet to just after the newest.
    pub fn held(&self) -> Option<Span> {
        self.catalog.state().held()
    }

    /// As [`Store::window`].
    pub fn window(&self, span: Span, choice: Choice) -> Window {
        Window::new(Arc::clone(&self.catalog), span, choice)
    }

    /// As [`Store::notes`].
    pub fn notes(&self, span: Span) -> Result<Vec<Note>, StoreError> {
        note::within(&self.catalog, span)
    }

    /// As [`Store::read_notes`].
    pub fn read_notes(&self, span: Span) -> Notes {
        Notes { catalog: Arc::clone(&self.catalog), span }
    }

    /// What is held; nothing is known of what was lost in memory.
    pub fn status(&self) -> StoreStatus {
        self.catalog.state().status()
    }
}

fn unreadable(name: Name, open: bool, error: &StoreError, clock: &Clock) -> Segment {
    let damage = Damage { segment: name.sealed(), reason: error.to_string() };
    let found = Found { name, open, index: Index::new(), footprint: 0, damage: Some(damage) };
    Segment::found(found, &History::default(), clock)
}

/// The node that wrote the newest segment that says so.
fn node_of(dir: &Path, state: &State) -> Option<String> {
    let mut newest = state.sealed.iter().rev();
    newest.find_map(|segment| index::node(&open_either(dir, &segment.name).ok()?))
}
