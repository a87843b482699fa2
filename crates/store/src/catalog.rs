//! What is held, as the writer knows it and readers see it.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kuberewind_packet::{Damage, Gap, GapCause, LossAt, LossCause, Span, Timestamp};

use crate::StoreError;
use crate::clock::Clock;
use crate::index::Index;
use crate::journal::{self, History};
use crate::limits::Limits;
use crate::recover::Found;
use crate::retention::Held;
use crate::segment::Name;
use crate::status::{InterfaceLoss, StoreStatus};

/// One segment.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) name: Name,
    /// Whether its file has the name of an open one.
    pub(crate) open: bool,
    pub(crate) index: Arc<Index>,
    /// The times of its earliest and its latest packet.
    pub(crate) times: Option<(Timestamp, Timestamp)>,
    pub(crate) footprint: u64,
    pub(crate) damage: Option<Damage>,
    /// Cloned by whoever has its file open: an unlinked file takes room until it is closed.
    pub(crate) lease: Arc<()>,
    /// Its last packet was so old
    pub(crate) age: Duration,
    /// at this moment since boot.
    pub(crate) aged: Duration,
}

impl Segment {
    /// One that an earlier run left.
    pub(crate) fn found(found: Found, history: &History, clock: &Clock) -> Self {
        let Found { name, open, index, footprint, damage } = found;
        let times = index.times();
        let last = times.map(|(_, last)| last);
        let last = last.or_else(|| index.losses.iter().map(|lost| lost.loss.to).max());
        let last = last.or_else(|| index.notes.iter().map(|place| place.at).max());
        let age = last.map_or(Duration::ZERO, |last| history.steps.age(last, clock.wall()));
        let (index, lease, aged) = (Arc::new(index), Arc::new(()), clock.since_boot());
        Self { name, open, index, times, footprint, damage, lease, age, aged }
    }

    /// How old its last packet is. A step of the wall clock makes it no older.
    pub(crate) fn age(&self, history: &History, clock: &Clock) -> Duration {
        let by_boot = self.age + clock.since_boot().saturating_sub(self.aged);
        match self.times {
            Some((_, last)) => history.steps.age(last, clock.wall()).min(by_boot),
            None => by_boot,
        }
    }

    fn packets(&self) -> u64 {
        self.index.chunks.iter().map(|chunk| u64::from(chunk.packets)).sum()
    }
}

/// What all of them come to.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Oldest first.
    pub(crate) sealed: VecDeque<Segment>,
    /// The one that is being written.
    pub(crate) open: Option<Segment>,
    pub(crate) history: History,
    /// Losses that are not in a segment yet.
    pub(crate) pending: Vec<LossAt>,
    pub(crate) limits: Option<Limits>,
    /// The counting parts of the status.
    pub(crate) counted: StoreStatus,
    pub(crate) lost: BTreeMap<String, BTreeMap<LossCause, u64>>,
    /// What everything but the sealed segments takes.
    pub(crate) other_bytes: u64,
}

impl State {
    pub(crate) fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.sealed.iter().chain(&self.open)
    }

    /// From the oldest packet to just after the newest.
    pub(crate) fn held(&self) -> Option<Span> {
        let times = || self.segments().filter_map(|segment| segment.times);
        let from = times().map(|(first, _)| first).min()?;
        let last = times().map(|(_, last)| last).max()?;
        Some(Span::new(from, just_after(last)))
    }

    /// The sealed ones as retention sees them.
    pub(crate) fn held_segments(&self, clock: &Clock) -> Vec<Held> {
        let held = |segment: &Segment| Held {
            bytes: segment.footprint,
            age: segment.age(&self.history, clock),
        };
        self.sealed.iter().map(held).collect()
    }

    /// Nothing from before this is given out.
    pub(crate) fn cutoff(&self, now: Timestamp) -> Timestamp {
        self.limits
            .map_or(Timestamp::MIN, |limits| self.history.steps.earliest(limits.max_time, now))
    }

    pub(crate) fn status(&self) -> StoreStatus {
        let held = self.held();
        let interfaces = self.lost.iter();
        let interfaces = interfaces
            .map(|(name, lost)| InterfaceLoss { interface: name.clone(), lost: lost.clone() });
        let sealed_bytes: u64 = self.sealed.iter().map(|segment| segment.footprint).sum();
        StoreStatus {
            oldest: held.map(|held| held.from),
            newest: held.map(|held| Timestamp::from_nanos(held.to.as_nanos().saturating_sub(1))),
            bytes_held: sealed_bytes + self.other_bytes,
            segments: self.segments().count() as u64,
            packets_held: self.segments().map(Segment::packets).sum(),
            interfaces: interfaces.collect(),
            recording: self.history.is_on(),
            clock_steps: self.history.steps.all().to_vec(),
            ..self.counted.clone()
        }
    }
}

/// The first instant after a packet.
pub(crate) fn just_after(time: Timestamp) -> Timestamp {
    Timestamp::from_nanos(time.as_nanos().saturating_add(1))
}

/// The recording in one directory. The writer changes it; windows look in for a moment.
#[derive(Debug)]
pub(crate) struct Catalog {
    pub(crate) dir: PathBuf,
    pub(crate) node: String,
    /// Whether the writer is in this process: else what was deleted meanwhile stands in the journal.
    live: bool,
    pub(crate) clock: Clock,
    state: Mutex<State>,
}

/// A segment's file, and the lease on its bytes; both end together.
pub(crate) struct OpenFile {
    pub(crate) file: File,
    _lease: Arc<()>,
}

impl Catalog {
    pub(crate) const fn new(
        dir: PathBuf,
        node: String,
        live: bool,
        clock: Clock,
        state: State,
    ) -> Self {
        Self { dir, node, live, clock, state: Mutex::new(state) }
    }

    /// Held for moments only: no file is touched meanwhile.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a segment's file, or says why it is gone.
    pub(crate) fn open(
        &self,
        name: &Name,
        last: Timestamp,
    ) -> io::Result<Result<OpenFile, GapCause>> {
        let lease = {
            let state = self.state();
            let mut segments = state.segments();
            segments.find(|segment| segment.name == *name).map(|segment| Arc::clone(&segment.lease))
        };
        let Some(lease) = lease else { return Ok(Err(self.cause_of_deletion(last))) };
        match open_either(&self.dir, name) {
            Ok(file) => Ok(Ok(OpenFile { file, _lease: lease })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Err(self.cause_of_deletion(last)))
            }
            Err(error) => Err(error),
        }
    }

    fn cause_of_deletion(&self, time: Timestamp) -> GapCause {
        if self.live {
            return self.state().history.cause_of_deletion(time);
        }
        journal::read(&self.dir).unwrap_or_default().cause_of_deletion(time)
    }
}

/// It may be sealed at any moment, never the other way round.
pub(crate) fn open_either(dir: &Path, name: &Name) -> io::Result<File> {
    match File::open(dir.join(name.open())) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            File::open(dir.join(name.sealed()))
        }
        other => other,
    }
}

/// The event of a segment's deletion.
pub(crate) fn deleted(segment: &Segment, cause: GapCause) -> Option<Gap> {
    let (first, last) = segment.times?;
    Some(Gap { span: Span::new(first, just_after(last)), cause })
}

/// For a writer that has ended.
pub(crate) fn closed(dir: &Path) -> StoreError {
    StoreError::Closed { dir: dir.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn segment(last: Timestamp, age: Duration, clock: &Clock) -> Segment {
        let mut index = Index::new();
        index.note(1, (last, last), 0, 100);
        let name = Name::new(last, 1);
        let found = Found { name, open: false, index, footprint: 0, damage: None };
        Segment { age, ..Segment::found(found, &History::default(), clock) }
    }

    #[test]
    fn a_clock_stepping_forward_makes_nothing_old() {
        let (clock, history) = (Clock::default(), History::default());
        let last = clock.wall();
        let written_just_now = segment(last, Duration::ZERO, &clock);
        let an_hour_old_at_start = segment(last, HOUR, &clock);
        clock.step(24 * 3_600_000_000_000);
        assert!(written_just_now.age(&history, &clock) < HOUR);
        assert!(an_hour_old_at_start.age(&history, &clock) < 2 * HOUR);
    }

    #[test]
    fn a_clock_stepping_back_makes_nothing_old() {
        let (clock, history) = (Clock::default(), History::default());
        let segment = segment(clock.wall(), HOUR, &clock);
        clock.step(-3_600_000_000_000);
        assert_eq!(segment.age(&history, &clock), Duration::ZERO);
    }

    #[test]
    fn what_time_passes_makes_old() {
        let (clock, history) = (Clock::default(), History::default());
        let segment = segment(clock.wall(), Duration::ZERO, &clock);
        clock.pass(HOUR);
        assert!((HOUR..2 * HOUR).contains(&segment.age(&history, &clock)));
    }
}
