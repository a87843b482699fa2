//! The door: starts the threads, and answers what is asked.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use kuberewind_filter::{CaptureFilter, Forbidden};
use kuberewind_packet::{ByteSize, LossAt, PacketSink, Span, Timestamp};

use crate::error::CaptureError;
use crate::lane::{LaneHandle, RecordId};
use crate::namespaces::Target;
use crate::opener::Opener;
use crate::plan::Desired;
use crate::recorded::{Counts, RETIRED_BY};
use crate::status::{CaptureStatus, NamespaceStatus, ThreadState, UndecidedStatus};
use crate::supervisor::{Event, Supervisor, Surveyed};
use crate::sys::{self, ArrivalStamps};

/// The longest wait for the rings to be read.
const SETTLED_BY: Duration = Duration::from_secs(10);
/// The longest wait for a count; a lane answers within milliseconds.
const COUNTED_BY: Duration = Duration::from_secs(1);

/// What to record, and with how much memory.
#[derive(Clone, Debug)]
pub struct CaptureConfig {
    /// This machine's name, for the interfaces.
    pub node: String,
    /// Which packets.
    pub filter: Arc<CaptureFilter>,
    /// `tap.ringMemory`: what all rings may take. None: 64 MiB and 256 KiB for each namespace.
    pub ring_memory: Option<ByteSize>,
    /// The names of the interfaces to record, in every namespace; empty for all.
    pub interfaces: Vec<String>,
    /// Who opens network namespaces.
    pub opener: Opener,
}

/// Packets on their way from the kernel to the sinks.
#[derive(Debug)]
pub struct Capture {
    /// anyone --events--> supervisor; unbounded: they are few, and nobody may block on them.
    events: Sender<Event>,
    supervisor: Option<JoinHandle<()>>,
    lanes: usize,
    _stamps: ArrivalStamps,
}

impl Capture {
    /// Starts one capture thread for each sink. Records nothing until [`Self::set_targets`].
    ///
    /// Fails when the kernel refuses the filter, or threads cannot be had.
    pub fn start<S: PacketSink + 'static>(
        config: CaptureConfig,
        sinks: Vec<S>,
    ) -> Result<Self, CaptureError> {
        let start = |what| move |source| CaptureError::Start { what, source };
        let instructions = config.filter.program().len();
        sys::try_filter(config.filter.program())
            .map_err(|source| CaptureError::FilterRefused { instructions, source })?;
        let stamps = ArrivalStamps::hold().map_err(start("time stamps on arrival"))?;
        let (events, inbox) = unbounded();
        let mut lanes = Vec::with_capacity(sinks.len());
        for (number, sink) in sinks.into_iter().enumerate() {
            let events: Sender<Event> = events.clone();
            let report = move |report| drop(events.send(Event::Lane(report)));
            let lane = LaneHandle::start(number, sink, report);
            lanes.push(lane.map_err(start("a capture thread"))?);
        }
        let count = lanes.len();
        let supervisor = Supervisor::new(
            (config.node.into(), config.interfaces.into()),
            config.opener,
            config.ring_memory,
            config.filter,
            lanes,
            (events.clone(), inbox),
        );
        let supervisor = supervisor.start().map_err(start("the capture supervisor"))?;
        Ok(Self { events, supervisor: Some(supervisor), lanes: count, _stamps: stamps })
    }

    /// Stores nothing of these addresses from now on where the node's own namespace
    /// ([`Owner::Host`](kuberewind_packet::Owner::Host)) is recorded.
    pub fn set_forbidden(&self, forbidden: Arc<Forbidden>) {
        self.tell(Event::Forbid(forbidden));
    }

    /// Opens and closes rings, off the capture threads, until exactly these are recorded. One that
    /// cannot be opened is a problem in [`Self::status`], and is tried again.
    pub fn set_targets(&self, targets: Vec<Target>) {
        self.set_desired(Desired::only(targets));
    }

    /// As [`Self::set_targets`], while it is not known of all namespaces whether they are to be
    /// recorded.
    pub fn set_desired(&self, desired: Desired) {
        self.tell(Event::Desire(desired));
    }

    /// As [`Self::set_desired`], but for those that are undecided: they stay as they are.
    pub fn decide(&self, desired: Desired) {
        self.tell(Event::Decide(desired));
    }

    /// Only these are undecided now. Those that are decided are to be told of before.
    pub fn set_undecided(&self, undecided: Vec<Target>) {
        self.tell(Event::Undecided(undecided));
    }

    /// Waits until what [`Self::set_desired`] asked for is recorded or has failed.
    pub fn settled_targets(&self) {
        let (answer, settled) = bounded(1);
        self.tell(Event::AwaitTargets(answer));
        // An error says that the capture has ended: nothing more will open.
        let _ = settled.recv();
    }

    /// Filters by this from now on: on every ring, without losing a packet that both filters take.
    pub fn set_filter(&self, filter: Arc<CaptureFilter>) -> Result<(), CaptureError> {
        let (answer, done) = bounded(1);
        self.tell(Event::Filter(filter, answer));
        done.recv().unwrap_or(Err(CaptureError::Ended))
    }

    /// Waits until every packet stamped before `to` has been given to its sink, and the sinks were
    /// flushed: at least 200 ms after `to`, since the kernel hands over a partly filled block only
    /// once it is 100 ms old.
    pub fn settle(&self, to: Timestamp) -> Result<(), CaptureError> {
        self.settle_span(Span::new(Timestamp::MIN, to)).map(drop)
    }

    /// As [`Self::settle`] to the end of `span`. Gives what of it is in memory and was given to no sink,
    /// since nobody has decided about its namespace.
    pub fn settle_span(&self, span: Span) -> Result<Vec<LossAt>, CaptureError> {
        let to = span.to;
        let began = Instant::now();
        let deadline = began + SETTLED_BY;
        let retired = to.saturating_add(RETIRED_BY);
        loop {
            let left = retired.since(Timestamp::now());
            if left.is_zero() {
                break;
            }
            if Instant::now() >= deadline {
                return Err(CaptureError::Unsettled { to, waited: began.elapsed() });
            }
            // In small steps: the wall clock may be set meanwhile.
            thread::sleep(left.min(RETIRED_BY));
        }
        let waiting = self.read_by(span, deadline)?;
        waiting.ok_or_else(|| CaptureError::Unsettled { to, waited: began.elapsed() })
    }

    /// Waits until everything that the rings have handed over by now has been given to its sink, and the
    /// sinks were flushed.
    pub fn read_rings(&self) -> Result<(), CaptureError> {
        let (to, began) = (Timestamp::now(), Instant::now());
        let read = self.read_by(Span::new(Timestamp::MIN, to), began + SETTLED_BY)?;
        read.map(drop).ok_or_else(|| CaptureError::Unsettled { to, waited: began.elapsed() })
    }

    /// Reads every ring; what of `span` waits for a decision. None when they were not all read in time.
    fn read_by(&self, span: Span, deadline: Instant) -> Result<Option<Vec<LossAt>>, CaptureError> {
        let (answer, read) = bounded(self.lanes);
        self.tell(Event::Settle(span, answer));
        let answers = receive(&read, self.lanes, deadline);
        if answers.len() == self.lanes {
            return Ok(Some(answers.into_iter().flatten().collect()));
        }
        if Instant::now() < deadline {
            return Err(CaptureError::Ended);
        }
        Ok(None)
    }

    /// What is recorded, what was lost, and what is wrong.
    pub fn status(&self) -> CaptureStatus {
        let (survey, surveyed) = bounded(1);
        let (counts, counted) = bounded(self.lanes);
        self.tell(Event::Survey(survey, counts));
        let deadline = Instant::now() + COUNTED_BY;
        let Ok(survey) = surveyed.recv_deadline(deadline) else { return CaptureStatus::default() };
        let counts: Vec<_> =
            receive(&counted, self.lanes, deadline).into_iter().flatten().collect();
        let mut counts: HashMap<RecordId, Counts> = counts.into_iter().collect();
        let mut problems = survey.problems;
        problems.extend(lacking(counts.values()));
        let stuck_for = counts.values().map(|counts| counts.stuck_for).max().unwrap_or_default();
        let (ended, silent_for) = (survey.ended, survey.silent_for);
        let threads = ThreadState { ended, silent_for, stuck_for };
        let mut cut = 0;
        let mut undecided = UndecidedStatus::default();
        let mut namespaces = Vec::new();
        for record in survey.records {
            let counts = counts.remove(&record.id);
            cut += counts.as_ref().map_or(0, |counts| counts.cut);
            if record.undecided {
                undecided.count(counts.map_or((0, 0), |counts| counts.held));
            } else {
                namespaces.push(namespace_status(record, counts));
            }
        }
        let (ring_bytes, ring_budget) = (survey.ring_bytes, survey.ring_budget);
        CaptureStatus { namespaces, undecided, ring_bytes, ring_budget, cut, problems, threads }
    }

    /// Reads every ring to its end, flushes the sinks and closes everything: about 0.3 s.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.tell(Event::Stop);
        if let Some(supervisor) = self.supervisor.take()
            && supervisor.join().is_err()
        {
            tracing::error!("the capture supervisor panicked");
        }
    }

    /// Fails only when the supervisor has ended; then the answer, if any is awaited, never comes.
    fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }
}

/// A line for each interface that was asked for and is in none of the namespaces.
fn lacking<'a>(counts: impl Iterator<Item = &'a Counts>) -> impl Iterator<Item = String> {
    let everywhere = counts.map(|counts| counts.lacking.clone()).reduce(|mut all, other| {
        all.retain(|name| other.contains(name));
        all
    });
    let line = |name| format!("interface {name} is not there; it is recorded once it appears");
    everywhere.into_iter().flatten().map(line)
}

impl Drop for Capture {
    fn drop(&mut self) {
        if self.supervisor.is_some() {
            self.end();
        }
    }
}

/// Up to `count` answers, fewer when the deadline passes or nobody is left to answer.
fn receive<T>(answers: &Receiver<T>, count: usize, deadline: Instant) -> Vec<T> {
    (0..count).map_while(|_| answers.recv_deadline(deadline).ok()).collect()
}

fn namespace_status(record: Surveyed, counts: Option<Counts>) -> NamespaceStatus {
    let (lost, interfaces) =
        counts.map(|counts| (counts.lost, counts.interfaces)).unwrap_or_default();
    NamespaceStatus {
        owner: record.target.owner,
        netns: record.target.netns,
        since: record.since,
        ring_bytes: record.ring_bytes,
        lost,
        interfaces,
    }
}
