//! One recorder after the other, each with its own packets from one moment on.

mod support;

use kuberewind_packet::{GapCause, PacketSink, Span, Timestamp};
use kuberewind_store::{Appender, Choice, Inlet, Lock, Machine, Store, StoreError};

use support::{config, interface, open, put, read};

const CUT: u64 = 2_000_000_000_000_000_000;

const fn at(nanos: u64) -> Timestamp {
    Timestamp::from_nanos(CUT - 1000 + nanos)
}

/// Packets in the inlet of one who may not write yet.
fn waiting(times: &[u64]) -> (Inlet, Appender) {
    let (inlet, mut appenders) = Inlet::new(1, &config("".as_ref()).limits);
    let mut appender = appenders.pop().unwrap();
    let slot = appender.open_interface(interface("eth0"));
    for time in times {
        put(&mut appender, slot, at(*time), &[7; 60]);
    }
    appender.flush();
    (inlet, appender)
}

/// What is held around the cut, and what is said to be missing there.
fn held(store: &Store) -> (Vec<u64>, Vec<GapCause>) {
    let (got, account) = read(store.window(Span::new(at(0), at(5000)), Choice::default()));
    let times = got.iter().map(|got| got.time - at(0).as_nanos()).collect();
    let gaps = account.gaps.iter().map(|gap| gap.cause);
    (times, gaps.filter(|cause| *cause != GapCause::NotStarted).collect())
}

#[test]
fn what_waited_for_the_directory_follows_without_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let (old, mut appender) = open(config(dir.path()));
    old.set_recording(false).unwrap();
    old.set_recording_since(at(0)).unwrap();
    let slot = appender.open_interface(interface("eth0"));
    put(&mut appender, slot, at(10), &[7; 60]);
    appender.flush();
    let (inlet, _heir) = waiting(&[1000, 1020]);
    assert!(matches!(Lock::take(dir.path()), Err(StoreError::Locked { .. })));
    old.hand_over(at(1000)).unwrap();

    let lock = Lock::take(dir.path()).unwrap();
    let new =
        Store::open_over(&Machine::default(), lock, config(dir.path()), inlet, Some(at(1000)))
            .unwrap();
    new.sync().unwrap();
    assert_eq!(held(&new).1, [GapCause::Crash], "nobody has said yet that it goes on");
    new.set_recording_since(at(1000)).unwrap();
    assert_eq!(held(&new), (vec![10, 1000, 1020], vec![]));
}

#[test]
fn a_directory_that_nobody_took_over_says_from_when_on_packets_are_missing() {
    let dir = tempfile::tempdir().unwrap();
    let (old, _appender) = open(config(dir.path()));
    old.set_recording(false).unwrap();
    old.set_recording_since(at(0)).unwrap();
    old.hand_over(at(1000)).unwrap();
    let (new, _appender) = Store::open(config(dir.path())).unwrap();
    new.set_recording_since(at(3000)).unwrap();
    let (_, account) = read(new.window(Span::new(at(0), at(5000)), Choice::default()));
    let gap = account.gaps.iter().find(|gap| gap.cause == GapCause::Crash).unwrap();
    assert_eq!(gap.span, Span::new(at(1000), at(3000)));
}

#[test]
fn what_was_switched_off_is_not_missing_after_a_handover() {
    let dir = tempfile::tempdir().unwrap();
    let (old, _appender) = open(config(dir.path()));
    old.set_recording(false).unwrap();
    old.hand_over(at(1000)).unwrap();
    let (new, _appender) = Store::open(config(dir.path())).unwrap();
    assert!(!held(&new).1.contains(&GapCause::Crash));
}

/// It gave signs of life until the end, and yet not all was written.
#[test]
fn an_owner_that_is_killed_before_it_handed_over_leaves_a_gap_up_to_the_cut() {
    let dir = tempfile::tempdir().unwrap();
    let (old, appender) = open(config(dir.path()));
    let cut = Timestamp::now();
    let killed = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap().flatten() {
        std::fs::copy(entry.path(), killed.path().join(entry.file_name())).unwrap();
    }
    drop((old, appender));
    let (inlet, _heir) = waiting(&[]);
    let lock = Lock::take(killed.path()).unwrap();
    let new = Store::open_over(&Machine::default(), lock, config(killed.path()), inlet, Some(cut))
        .unwrap();
    new.set_recording_since(cut).unwrap();
    let all = Span::new(Timestamp::MIN, Timestamp::MAX);
    let (_, account) = read(new.window(all, Choice::default()));
    let crash = account.gaps.iter().find(|gap| gap.cause == GapCause::Crash).expect("a crash");
    assert_eq!(crash.span.to, cut);
    assert!(crash.span.from < cut);
}
