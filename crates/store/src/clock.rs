//! Where the store takes its time from, and what a step of the wall clock means for it.
//!
//! Packets carry the wall clock's time, and so does everything that is asked for. How old a packet is
//! must not change when somebody sets that clock: within a run the time since boot tells, and across
//! runs the steps that the journal remembers.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use kuberewind_packet::{ClockStep, Span, Timestamp};
use rustix::time::{ClockId, clock_gettime};

/// The machine's clocks, and how far a test has moved them.
#[derive(Clone, Debug, Default)]
pub struct Clock(Arc<Moved>);

#[derive(Debug, Default)]
struct Moved {
    /// Nanoseconds that the wall clock was set forward.
    stepped: AtomicI64,
    /// Nanoseconds that are to have passed besides those that did.
    passed: AtomicU64,
}

impl Clock {
    /// The wall clock, by which packets are stamped; anybody may set it.
    pub fn wall(&self) -> Timestamp {
        let now = Timestamp::now().as_nanos().saturating_add(self.0.passed.load(Ordering::Relaxed));
        Timestamp::from_nanos(now.saturating_add_signed(self.0.stepped.load(Ordering::Relaxed)))
    }

    /// Time since the machine was started, time in which it slept included; nobody can set it.
    pub fn since_boot(&self) -> Duration {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
        Duration::new(seconds, nanos) + Duration::from_nanos(self.0.passed.load(Ordering::Relaxed))
    }

    /// Sets the wall clock forward by so many nanoseconds, or back. For tests.
    pub fn step(&self, nanos: i64) {
        self.0.stepped.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Lets time pass. For tests.
    pub fn pass(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.passed.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// A wall clock that is further off than this from where it should be was set; what is less is the
/// slow steering of a time service.
const STEP: Duration = Duration::from_secs(1);

/// Notices when the wall clock is set.
#[derive(Debug)]
pub(crate) struct StepWatch {
    wall: Timestamp,
    since_boot: Duration,
}

impl StepWatch {
    pub(crate) fn new(clock: &Clock) -> Self {
        Self { wall: clock.wall(), since_boot: clock.since_boot() }
    }

    /// Whether it was set since the last look.
    pub(crate) fn look(&mut self, clock: &Clock) -> Option<ClockStep> {
        let now = Self::new(clock);
        let from = self.wall.saturating_add(now.since_boot.saturating_sub(self.since_boot));
        let step = ClockStep { from, to: now.wall };
        *self = now;
        (step.size() > STEP).then_some(step)
    }
}

/// Steps remembered.
const MOST_STEPS: usize = 32;

/// How the wall clock was set while this was recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Steps {
    all: Vec<ClockStep>,
    /// Stretches of the wall clock's time that never were: it was put forward over them, and not back.
    skipped: Vec<Span>,
}

impl Steps {
    pub(crate) fn all(&self) -> &[ClockStep] {
        &self.all
    }

    pub(crate) fn add(&mut self, step: ClockStep) {
        self.all.push(step);
        if self.all.len() > MOST_STEPS {
            self.all.remove(0);
            self.skipped = self.all.iter().fold(Vec::new(), skip);
        } else {
            self.skipped = skip(std::mem::take(&mut self.skipped), &step);
        }
    }

    /// How old a packet of this time is: time that never was does not make it older.
    pub(crate) fn age(&self, time: Timestamp, now: Timestamp) -> Duration {
        let since = Span::new(time, now);
        let skipped: Duration =
            self.skipped.iter().map(|skipped| skipped.intersect(&since).duration()).sum();
        now.since(time).saturating_sub(skipped)
    }

    /// Packets from before this are older than `age`.
    pub(crate) fn earliest(&self, age: Duration, now: Timestamp) -> Timestamp {
        let mut earliest = now.saturating_sub(age);
        for skipped in self.skipped.iter().rev() {
            if skipped.from >= now || skipped.to <= earliest {
                continue;
            }
            let within = Span::new(skipped.from, skipped.to.min(now));
            // What lies behind the stretch uses up its own part of the age, before it the rest.
            earliest = earliest.saturating_sub(within.duration());
        }
        earliest
    }
}

/// Adds what this step skipped, or gives back what it does not skip any more.
fn skip(mut skipped: Vec<Span>, step: &ClockStep) -> Vec<Span> {
    if step.from < step.to {
        skipped.push(Span::new(step.from, step.to));
        return skipped;
    }
    let spans = skipped.into_iter().map(|span| Span::new(span.from, span.to.min(step.to)));
    spans.filter(|span| !span.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: u64 = 3600;

    const fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    const fn step(from: u64, to: u64) -> ClockStep {
        ClockStep { from: at(from), to: at(to) }
    }

    fn steps(all: &[ClockStep]) -> Steps {
        let mut steps = Steps::default();
        for step in all {
            steps.add(*step);
        }
        steps
    }

    #[test]
    fn an_hour_forward_makes_nothing_an_hour_older() {
        let steps = steps(&[step(100 * HOUR, 101 * HOUR)]);
        let age = |time, now| steps.age(at(time), at(now)).as_secs();
        assert_eq!(age(100 * HOUR - 60, 101 * HOUR + 30), 90);
        assert_eq!(age(101 * HOUR + 10, 101 * HOUR + 30), 20);
        let earliest = steps.earliest(Duration::from_secs(90), at(101 * HOUR + 30));
        assert_eq!(earliest, at(100 * HOUR - 60));
        let long_after = steps.earliest(Duration::from_secs(90), at(102 * HOUR));
        assert_eq!(long_after, at(102 * HOUR - 90));
    }

    #[test]
    fn an_hour_forward_and_back_again_leaves_what_it_was() {
        let steps = steps(&[step(100 * HOUR, 101 * HOUR), step(101 * HOUR + 5, 100 * HOUR + 5)]);
        let age = steps.age(at(99 * HOUR), at(102 * HOUR)).as_secs();
        assert_eq!(age, 3 * HOUR - 5, "but for the five seconds that were skipped and are past");
    }

    #[test]
    fn the_watch_tells_a_step_from_time_that_passes() {
        let clock = Clock::default();
        let mut watch = StepWatch::new(&clock);
        clock.pass(Duration::from_hours(2));
        assert_eq!(watch.look(&clock), None);
        for hours in [1, -1, 5] {
            clock.step(hours * 3_600_000_000_000);
            let step = watch.look(&clock).unwrap();
            let by = i128::from(step.to.as_nanos()) - i128::from(step.from.as_nanos());
            assert!((by - i128::from(hours) * 3_600_000_000_000).abs() < 1_000_000_000, "{by}");
            assert_eq!(watch.look(&clock), None);
        }
        clock.step(900_000_000);
        assert_eq!(watch.look(&clock), None, "less than a step");
    }

    /// A clock that runs, is set forward and back, and stamps a packet now and then.
    fn history() -> impl Strategy<Value = Vec<(u64, i64)>> {
        prop::collection::vec((1u64..5_000, -20_000i64..20_000), 1..20)
    }

    proptest! {
        #[test]
        fn no_step_makes_a_packet_older_than_it_is_and_every_younger_one_is_in_reach(
            history in history(),
            max_age in 1u64..30_000,
        ) {
            let (mut wall, mut real) = (1_000_000i64, 0u64);
            let mut steps = Steps::default();
            let mut packets = Vec::new();
            for (run, by) in history {
                packets.push((wall, real));
                wall += i64::try_from(run).unwrap();
                real += run;
                packets.push((wall, real));
                let to = wall + by;
                let second = |seconds: i64| u64::try_from(seconds).unwrap();
                steps.add(step(second(wall), second(to)));
                wall = to;
            }
            let now = at(u64::try_from(wall).unwrap());
            let earliest = steps.earliest(Duration::from_secs(max_age), now);
            for (stamp, then) in packets {
                let stamp = at(u64::try_from(stamp).unwrap());
                let truly = real - then;
                prop_assert!(steps.age(stamp, now).as_secs() <= truly);
                prop_assert!(truly > max_age || stamp >= earliest, "{stamp:?} {truly} {earliest:?}");
            }
        }
    }
}
