//! When recording was on, when it was not, and what was deleted since: why a stretch of time is not
//! in the recording.
//!
//! One JSON value a line, appended; rewritten shorter when it grows long. Lines that cannot be read
//! (a torn tail) are passed over.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use kuberewind_packet::{ClockStep, Gap, GapCause, Span, Timestamp};
use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::clock::Steps;

pub(crate) const NAME: &str = "journal";
pub(crate) const NEW_NAME: &str = "journal.new";

/// Stretches remembered of each kind; the oldest are joined.
const MOST_GAPS: usize = 64;

/// Something that happened to the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "event")]
pub(crate) enum Event {
    /// Recording was switched on.
    On { at: Timestamp },
    /// Recording was switched off, or the recorder ended in good order.
    Off { at: Timestamp },
    /// The recorder ended without a word, at the earliest at `at`.
    Crashed { at: Timestamp },
    /// A segment was deleted, whose packets reach over the gap.
    Deleted(Gap),
    /// The wall clock was set.
    Stepped(ClockStep),
    /// In a rewritten journal: recording was first switched on.
    Began { at: Timestamp },
    /// In a rewritten journal: recording was not on.
    Away(Gap),
}

/// What the events come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct History {
    began: Option<Timestamp>,
    /// Since when, and why, recording is not on; `None` while it is, or before it began.
    away_since: Option<(Timestamp, GapCause)>,
    away: Vec<Gap>,
    deleted: Vec<Gap>,
    /// How the clock was set.
    pub(crate) steps: Steps,
}

impl History {
    pub(crate) fn apply(&mut self, event: Event) {
        match event {
            Event::Began { at } => self.began = Some(at),
            Event::On { at } => {
                self.began.get_or_insert(at);
                self.end_absence(at);
            }
            Event::Off { at } => self.leave(at, GapCause::Stopped),
            Event::Crashed { at } => self.leave(at, GapCause::Crash),
            Event::Stepped(step) => self.steps.add(step),
            Event::Away(gap) => remember(&mut self.away, gap),
            Event::Deleted(gap) => match self.deleted.last_mut() {
                Some(last) if last.cause == gap.cause => last.span = join(last.span, gap.span),
                _ => remember(&mut self.deleted, gap),
            },
        }
    }

    fn leave(&mut self, at: Timestamp, cause: GapCause) {
        self.end_absence(at);
        if self.began.is_some() {
            self.away_since = Some((at, cause));
        }
    }

    fn end_absence(&mut self, at: Timestamp) {
        if let Some((since, cause)) = self.away_since.take()
            && since < at
        {
            remember(&mut self.away, Gap { span: Span::new(since, at), cause });
        }
    }

    /// Whether recording is on.
    pub(crate) const fn is_on(&self) -> bool {
        self.began.is_some() && self.away_since.is_none()
    }

    /// The events that lead here, as few as can be.
    fn retell(&self) -> Vec<Event> {
        let began = self.began.map(|at| Event::Began { at });
        let away = self.away.iter().map(|gap| Event::Away(*gap));
        let deleted = self.deleted.iter().map(|gap| Event::Deleted(*gap));
        let steps = self.steps.all().iter().map(|step| Event::Stepped(*step));
        let since = self.away_since.map(|(at, cause)| match cause {
            GapCause::Crash => Event::Crashed { at },
            _ => Event::Off { at },
        });
        began.into_iter().chain(steps).chain(away).chain(deleted).chain(since).collect()
    }

    /// Why what was recorded at `time` is not there any more.
    pub(crate) fn cause_of_deletion(&self, time: Timestamp) -> GapCause {
        let found = self.deleted.iter().rev().find(|gap| gap.span.contains(time));
        found.map_or(GapCause::MaxSize, |gap| gap.cause)
    }

    /// The stretches of `asked` that are not recorded, in the order of time.
    ///
    /// `oldest` is the oldest packet held, and nothing from before `cutoff` is given out.
    pub(crate) fn gaps(
        &self,
        asked: Span,
        oldest: Option<Timestamp>,
        cutoff: Timestamp,
    ) -> Vec<Gap> {
        let earliest = |a: Option<Timestamp>, b| Some(a.map_or(b, |a: Timestamp| a.min(b)));
        let began = oldest.into_iter().chain(self.began).fold(None, earliest);
        let began = self.deleted.iter().map(|gap| gap.span.from).fold(began, earliest);
        let began = began.unwrap_or(asked.to);
        let mut gaps = Vec::new();
        let mut named = |span: Span, cause| {
            let span = span.intersect(&asked);
            for part in without(span, &gaps) {
                gaps.push(Gap { span: part, cause });
            }
        };
        named(Span::new(Timestamp::MIN, began), GapCause::NotStarted);
        for gap in &self.away {
            named(gap.span, gap.cause);
        }
        if let Some((since, cause)) = self.away_since {
            named(Span::new(since, Timestamp::MAX), cause);
        }
        for gap in &self.deleted {
            named(gap.span, gap.cause);
        }
        named(Span::new(Timestamp::MIN, cutoff), GapCause::MaxTime);
        in_order(gaps)
    }
}

/// Sorts gaps by time and joins those that touch and have one cause.
pub(crate) fn in_order(mut gaps: Vec<Gap>) -> Vec<Gap> {
    gaps.sort_by_key(|gap| (gap.span.from, gap.span.to));
    let mut joined: Vec<Gap> = Vec::with_capacity(gaps.len());
    for gap in gaps {
        match joined.last_mut() {
            Some(last) if last.cause == gap.cause && gap.span.from <= last.span.to => {
                last.span = join(last.span, gap.span);
            }
            _ => joined.push(gap),
        }
    }
    joined
}

/// The parts of `span` that no gap covers.
fn without(span: Span, gaps: &[Gap]) -> Vec<Span> {
    let mut parts = vec![span];
    for gap in gaps {
        parts = parts
            .into_iter()
            .flat_map(|part| {
                [
                    Span::new(part.from, part.to.min(gap.span.from)),
                    Span::new(part.from.max(gap.span.to), part.to),
                ]
            })
            .filter(|part| !part.is_empty())
            .collect();
    }
    parts.retain(|part| !part.is_empty());
    parts
}

fn join(a: Span, b: Span) -> Span {
    Span::new(a.from.min(b.from), a.to.max(b.to))
}

/// Adds a gap; beyond [`MOST_GAPS`] the oldest two become one, with the later one's cause.
fn remember(gaps: &mut Vec<Gap>, gap: Gap) {
    gaps.push(gap);
    if gaps.len() > MOST_GAPS {
        let oldest = gaps.remove(0);
        gaps[0].span = join(oldest.span, gaps[0].span);
    }
}

/// The file.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Journal {
    /// It is never longer: [`MOST_GAPS`] of either kind and all steps of the clock, twice over.
    pub(crate) const MOST_BYTES: u64 = 40_960;

    /// Opens it and says what is in it, and when it was last touched.
    pub(crate) fn open(dir: &Path) -> Result<(Self, History, Option<Timestamp>), StoreError> {
        let path = dir.join(NAME);
        let touched = fs::metadata(&path).and_then(|meta| meta.modified()).ok();
        let history = read(dir)?;
        let mut journal = Self { file: append(&path)?, path, len: 0 };
        journal.rewrite(&history, touched)?;
        Ok((journal, history, touched.map(Timestamp::from)))
    }

    /// Writes an event down; `history` is what it leads to.
    pub(crate) fn note(&mut self, event: Event, history: &History) -> Result<(), StoreError> {
        let line = line(&event);
        if self.len + line.len() as u64 > Self::MOST_BYTES {
            return self.rewrite(history, None);
        }
        self.file.write_all(&line).map_err(StoreError::io("write journal", &self.path))?;
        self.len += line.len() as u64;
        Ok(())
    }

    /// Leaves a sign of life: after a crash, recording counts as on until here.
    pub(crate) fn touch(&self) -> io::Result<()> {
        self.file.set_modified(SystemTime::now())
    }

    /// `touched` keeps the last sign of life of an earlier run.
    pub(crate) fn rewrite(
        &mut self,
        history: &History,
        touched: Option<SystemTime>,
    ) -> Result<(), StoreError> {
        let new = self.path.with_file_name(NEW_NAME);
        let text: Vec<u8> = history.retell().iter().flat_map(line).collect();
        let _ = fs::remove_file(&new);
        let mut file = append(&new)?;
        file.write_all(&text)
            .and_then(|()| touched.map_or(Ok(()), |touched| file.set_modified(touched)))
            .map_err(StoreError::io("write journal", &new))?;
        fs::rename(&new, &self.path).map_err(StoreError::io("replace journal", &self.path))?;
        (self.file, self.len) = (file, text.len() as u64);
        Ok(())
    }
}

fn append(path: &Path) -> Result<File, StoreError> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    options.open(path).map_err(StoreError::io("open journal", path))
}

fn line(event: &Event) -> Vec<u8> {
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line
}

/// When the recorder of `dir` last gave a sign of life.
pub(crate) fn touched(dir: &Path) -> Option<Timestamp> {
    fs::metadata(dir.join(NAME)).and_then(|meta| meta.modified()).ok().map(Timestamp::from)
}

/// What the journal of `dir` comes to; that of one that is not there is empty.
pub(crate) fn read(dir: &Path) -> Result<History, StoreError> {
    let path = dir.join(NAME);
    let mut text = Vec::new();
    match File::open(&path).and_then(|file| file.take(16 << 20).read_to_end(&mut text)) {
        Ok(_) => Ok(parse(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(History::default()),
        Err(error) => Err(StoreError::io("read journal", &path)(error)),
    }
}

fn parse(text: &[u8]) -> History {
    let mut history = History::default();
    let events = text.split(|byte| *byte == b'\n').filter_map(|l| serde_json::from_slice(l).ok());
    events.for_each(|event| history.apply(event));
    history
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    const fn span(from: u64, to: u64) -> Span {
        Span::new(at(from), at(to))
    }

    fn told(events: &[Event]) -> History {
        let mut history = History::default();
        for event in events {
            history.apply(*event);
        }
        history
    }

    fn deleted(from: u64, to: u64, cause: GapCause) -> Event {
        Event::Deleted(Gap { span: span(from, to), cause })
    }

    #[test]
    fn every_missing_stretch_has_its_cause() {
        let history = told(&[
            Event::On { at: at(100) },
            Event::Off { at: at(200) },
            Event::On { at: at(250) },
            deleted(100, 150, GapCause::MaxTime),
            deleted(150, 270, GapCause::MaxSize),
            Event::Crashed { at: at(400) },
            Event::On { at: at(450) },
        ]);
        let gaps = history.gaps(span(50, 500), Some(at(260)), at(0));
        let gap = |from, to, cause| Gap { span: span(from, to), cause };
        assert_eq!(
            gaps,
            [
                gap(50, 100, GapCause::NotStarted),
                gap(100, 150, GapCause::MaxTime),
                gap(150, 200, GapCause::MaxSize),
                gap(200, 250, GapCause::Stopped),
                gap(250, 270, GapCause::MaxSize),
                gap(400, 450, GapCause::Crash),
            ]
        );
        assert_eq!(history.gaps(span(300, 390), Some(at(260)), at(0)), []);
        let old = history.gaps(span(270, 390), Some(at(260)), at(300));
        assert_eq!(old, [gap(270, 300, GapCause::MaxTime)]);
    }

    #[test]
    fn silence_is_not_a_gap() {
        let history = told(&[Event::On { at: at(100) }]);
        assert_eq!(history.gaps(span(100, 200), None, at(0)), []);
    }

    #[test]
    fn a_stop_that_has_not_ended_reaches_to_the_end() {
        let history = told(&[Event::On { at: at(100) }, Event::Off { at: at(200) }]);
        let gaps = history.gaps(span(150, 300), None, at(0));
        assert_eq!(gaps, [Gap { span: span(200, 300), cause: GapCause::Stopped }]);
    }

    #[test]
    fn retelling_changes_nothing_and_stays_short() {
        let mut history = told(&[Event::On { at: at(1) }]);
        for i in 1..1000 {
            history.apply(Event::Off { at: at(i * 100) });
            history.apply(Event::On { at: at(i * 100 + 10) });
            let cause = if i % 2 == 0 { GapCause::MaxSize } else { GapCause::MaxTime };
            history.apply(deleted(i * 100, i * 100 + 99, cause));
            history.apply(Event::Stepped(ClockStep { from: at(i * 100), to: at(i * 100 + 50) }));
        }
        let told_again = told(&history.retell());
        assert_eq!(told_again, history);
        let text: Vec<u8> = history.retell().iter().flat_map(line).collect();
        assert!(text.len() as u64 * 2 <= Journal::MOST_BYTES, "{}", text.len());
    }

    #[test]
    fn a_torn_tail_costs_only_its_own_line() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, mut history, _) = Journal::open(dir.path()).unwrap();
        for event in [Event::On { at: at(5) }, Event::Off { at: at(7) }] {
            history.apply(event);
            journal.note(event, &history).unwrap();
        }
        let whole = fs::read(dir.path().join(NAME)).unwrap();
        for len in 0..whole.len() {
            fs::write(dir.path().join(NAME), &whole[..len]).unwrap();
            let (_, read, _) = Journal::open(dir.path()).unwrap();
            let full_lines = whole[..=len].split(|byte| *byte == b'\n').count() - 1;
            let expected = [
                &[][..],
                &[Event::On { at: at(5) }],
                &[Event::On { at: at(5) }, Event::Off { at: at(7) }],
            ];
            assert_eq!(read, told(expected[full_lines]), "cut at {len}");
        }
    }

    #[test]
    fn the_file_never_outgrows_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, mut history, _) = Journal::open(dir.path()).unwrap();
        for i in 0..3000 {
            let cause = if i % 2 == 0 { GapCause::MaxSize } else { GapCause::MaxTime };
            let event = deleted(i, i + 1, cause);
            history.apply(event);
            journal.note(event, &history).unwrap();
            assert!(fs::metadata(dir.path().join(NAME)).unwrap().len() <= Journal::MOST_BYTES);
        }
        assert_eq!(read(dir.path()).unwrap(), history);
    }
}
