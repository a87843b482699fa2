//! Somebody sets the clock: nothing is deleted early, every window is right, and the step is noted.

mod support;

use std::path::Path;
use std::time::Duration;

use kuberewind_packet::{PacketSink, Slot, Span, Timestamp};
use kuberewind_store::{Appender, Choice, Limits, Machine, Recording, Store, StoreConfig};
use proptest::prelude::*;
use support::{config, files, interface, judge, limits, open_on, put, read, wait_until};

const HOUR: Duration = Duration::from_hours(1);
const HOUR_NANOS: i64 = 3_600_000_000_000;
const MAX_TIME: Duration = Duration::from_mins(30);

/// A recorder whose packets are stamped by the machine's clock, as the kernel does it.
struct Recorder<'a> {
    machine: &'a Machine,
    dir: &'a Path,
    store: Store,
    appender: Appender,
    slot: Slot,
    /// Steps that were made.
    steps: usize,
}

impl<'a> Recorder<'a> {
    fn start(machine: &'a Machine, dir: &'a Path) -> Self {
        let limits = Limits { max_time: MAX_TIME, ..limits(16_000_000) };
        let (store, mut appender) = open_on(machine, StoreConfig { limits, ..config(dir) });
        let slot = appender.open_interface(interface("eth0"));
        let steps = store.status().clock_steps.len();
        Self { machine, dir, store, appender, slot, steps }
    }

    /// A packet of now, in a sealed segment of its own. Returns its time.
    fn packet(&mut self) -> Timestamp {
        let now = self.machine.clock.wall();
        put(&mut self.appender, self.slot, now, &[1; 100]);
        self.appender.flush();
        self.store.sync().unwrap();
        self.limit(Duration::ZERO);
        wait_until("it to be sealed", || files(self.dir, ".open").is_empty());
        self.limit(Duration::from_mins(1));
        now
    }

    /// Retention looks around at once.
    fn limit(&self, interval: Duration) {
        let limits = Limits { max_time: MAX_TIME, ..limits(16_000_000) };
        self.store.set_limits(limits, interval).unwrap();
    }

    fn step(&mut self, nanos: i64) {
        self.machine.clock.step(nanos);
        self.steps += 1;
        wait_until("the step to be noted", || self.store.status().clock_steps.len() == self.steps);
    }

    /// Everything up to now that is given out.
    fn window(&self) -> Vec<u64> {
        let now = self.machine.clock.wall().saturating_add(Duration::from_nanos(1));
        let (got, account) =
            read(self.store.window(Span::new(Timestamp::MIN, now), Choice::default()));
        assert!(got.is_sorted_by_key(|got| got.time));
        assert_eq!(account.damaged, []);
        got.iter().map(|got| got.time).collect()
    }

    fn close(self) {
        drop(self.appender);
        self.store.close().unwrap();
    }
}

fn nanos(times: &[Timestamp]) -> Vec<u64> {
    times.iter().map(|time| time.as_nanos()).collect()
}

#[test]
fn an_hour_forward_deletes_nothing_hides_nothing_and_is_told_also_after_a_restart() {
    let (machine, dir) = (Machine::default(), tempfile::tempdir().unwrap());
    let mut recorder = Recorder::start(&machine, dir.path());
    let before = recorder.packet();
    recorder.step(HOUR_NANOS);
    let after = recorder.packet();

    assert_eq!(recorder.window(), nanos(&[before, after]), "maxTime is half an hour");
    let span = Span::new(before, machine.clock.wall());
    let told = recorder.store.window(span, Choice::default());
    let account = kuberewind_packet::PacketStream::account(&told);
    let steps: Vec<String> = account.clock_steps.iter().map(ToString::to_string).collect();
    assert!(steps.len() == 1 && steps[0].starts_with("the clock stepped by +1h0m0s"), "{steps:?}");
    assert!(account.gaps.is_empty() && account.is_complete(), "{account:?}");
    recorder.close();

    let recorder = Recorder::start(&machine, dir.path());
    recorder.limit(Duration::from_mins(1));
    assert_eq!(recorder.window(), nanos(&[before, after]));
    machine.clock.pass(MAX_TIME + Duration::from_secs(1));
    recorder.limit(Duration::from_mins(1));
    assert_eq!(recorder.store.status().segments, 0, "once it is really old it goes");
    assert!(recorder.window().is_empty());
}

#[test]
fn an_hour_back_deletes_nothing_and_the_window_is_in_the_order_of_the_stamps() {
    let (machine, dir) = (Machine::default(), tempfile::tempdir().unwrap());
    let mut recorder = Recorder::start(&machine, dir.path());
    let before = recorder.packet();
    recorder.step(-HOUR_NANOS);
    let after = recorder.packet();
    assert_eq!(recorder.window(), nanos(&[after]), "a window ends now");
    let (all, account) = read(recorder.store.window(Span::ALL, Choice::default()));
    let all: Vec<u64> = all.iter().map(|got| got.time).collect();
    assert_eq!(all, nanos(&[after, before]));
    assert_eq!(account.clock_steps.len(), 1);
    let status = recorder.store.status();
    assert_eq!(status.segments, 2);
    recorder.close();
    for file in files(dir.path(), ".pcapng") {
        assert_eq!(judge(&file), 1);
    }
    let recording = Recording::open(dir.path()).unwrap();
    assert_eq!(read(recording.window(Span::ALL, Choice::default())).0.len(), 2);
}

#[test]
fn a_clock_that_was_wrong_and_is_set_right_again_leaves_maxtime_what_it_is() {
    let (machine, dir) = (Machine::default(), tempfile::tempdir().unwrap());
    let mut recorder = Recorder::start(&machine, dir.path());
    recorder.step(24 * HOUR_NANOS);
    recorder.step(-24 * HOUR_NANOS);
    recorder.packet();
    machine.clock.pass(MAX_TIME.saturating_sub(Duration::from_mins(1)));
    recorder.limit(Duration::from_mins(1));
    assert_eq!(recorder.store.status().segments, 1);
    machine.clock.pass(Duration::from_mins(2));
    recorder.limit(Duration::from_mins(1));
    assert_eq!(recorder.store.status().segments, 0);
}

#[test]
fn sleep_is_time_that_passes_and_no_step() {
    let (machine, dir) = (Machine::default(), tempfile::tempdir().unwrap());
    let mut recorder = Recorder::start(&machine, dir.path());
    recorder.packet();
    machine.clock.pass(HOUR);
    wait_until("the old packet to go", || recorder.store.status().segments == 0);
    assert_eq!(recorder.store.status().clock_steps, []);
}

#[derive(Clone, Copy, Debug)]
enum Turn {
    Packet,
    Pass(u64),
    Step(i64),
    Restart,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        3 => Just(Turn::Packet),
        2 => (1u64..1200).prop_map(Turn::Pass),
        2 => prop_oneof![-7200i64..-5, 5i64..7200].prop_map(Turn::Step),
        1 => Just(Turn::Restart),
    ];
    prop::collection::vec(turn, 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever is done to the clock: a packet that is younger than `maxTime` is there, and its file
    /// can be read.
    #[test]
    fn nothing_younger_than_maxtime_is_missing_however_the_clock_is_set(turns in turns()) {
        let (machine, dir) = (Machine::default(), tempfile::tempdir().unwrap());
        let mut recorder = Recorder::start(&machine, dir.path());
        let mut packets = Vec::new();
        for turn in turns {
            match turn {
                Turn::Packet => packets.push((recorder.packet(), machine.clock.since_boot())),
                Turn::Pass(seconds) => machine.clock.pass(Duration::from_secs(seconds)),
                Turn::Step(seconds) => recorder.step(seconds * 1_000_000_000),
                Turn::Restart => {
                    recorder.close();
                    recorder = Recorder::start(&machine, dir.path());
                }
            }
            recorder.limit(Duration::from_mins(1));
            let (got, account) = read(recorder.store.window(Span::ALL, Choice::default()));
            prop_assert_eq!(account.damaged, []);
            let now = machine.clock.since_boot();
            for (stamp, then) in &packets {
                let age = now.checked_sub(*then).unwrap();
                let there = got.iter().any(|got| got.time == stamp.as_nanos());
                let young = age + Duration::from_secs(1) < MAX_TIME;
                prop_assert!(there || !young, "{stamp:?} of {age:?} ago is missing");
            }
        }
    }
}
