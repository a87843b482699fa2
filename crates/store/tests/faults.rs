//! A disk that fails, stalls or may not be written to costs what it does not take, and nothing else.

mod support;

use std::path::Path;
use std::time::Duration;

use kuberewind_packet::{LossCause, PacketSink, Slot, Span, Timestamp};
use kuberewind_store::{Appender, Choice, Disk, Limits, Machine, Recording, Store, StoreConfig};
use proptest::prelude::*;
use rustix::io::Errno;
use support::{config, files, interface, judge, limits, open_on, put, read, read_all, wait_until};

const MIN: u64 = Limits::MIN_SIZE.bytes();

struct Recorder {
    disk: Disk,
    store: Store,
    appender: Appender,
    slot: Slot,
    sent: u64,
}

impl Recorder {
    fn start(dir: &Path) -> Self {
        let machine = Machine::default();
        let (store, mut appender) =
            open_on(&machine, StoreConfig { limits: limits(MIN), ..config(dir) });
        let slot = appender.open_interface(interface("eth0"));
        Self { disk: machine.disk, store, appender, slot, sent: 0 }
    }

    fn packets(&mut self, count: u64, len: usize) {
        for _ in 0..count {
            self.sent += 1;
            put(&mut self.appender, self.slot, Timestamp::now(), &vec![1; len]);
        }
        self.appender.flush();
        self.store.sync().unwrap();
    }

    fn lost(&self, cause: LossCause) -> u64 {
        self.store.status().lost.get(&cause).copied().unwrap_or(0)
    }

    /// Sends until a packet is written again, which happens by itself.
    fn until_written(&mut self) {
        let before = self.store.status().packets;
        wait_until("it to write again", || {
            self.packets(1, 100);
            self.store.status().packets > before
        });
        assert_eq!(self.store.status().last_error, None);
    }

    /// What was sent is there or lost, in every account.
    fn close(self, dir: &Path) {
        drop(self.appender);
        self.store.close().unwrap();
        let (got, account) =
            read(Recording::open(dir).unwrap().window(Span::ALL, Choice::default()));
        let lost: u64 = account.losses.iter().map(|lost| lost.loss.packets).sum();
        assert_eq!(account.damaged, []);
        assert_eq!(got.len() as u64 + lost, self.sent, "{:?}", account.losses);
        let judged: u64 = files(dir, ".pcapng").iter().map(|file| judge(file)).sum();
        assert_eq!(judged, got.len() as u64);
    }
}

#[test]
fn after_an_error_of_the_disk_recording_resumes_by_itself_and_the_loss_is_counted() {
    for error in [Errno::IO, Errno::ROFS] {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::start(dir.path());
        recorder.packets(100, 100);
        recorder.disk.fail(error.raw_os_error(), 0);
        recorder.packets(50, 100);
        assert_eq!(recorder.lost(LossCause::Disk), 50, "{error}");
        let status = recorder.store.status();
        assert!(status.last_error.is_some() && status.writer.losing_for.is_some(), "{status:?}");
        assert_eq!(read_all(&recorder.store).0.len(), 100, "{error} costs what was held");
        recorder.disk.fail(0, 0);
        recorder.until_written();
        assert_eq!(recorder.store.status().writer.losing_for, None);
        recorder.close(dir.path());
    }
}

#[test]
fn a_disk_that_fails_for_long_is_not_littered() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::start(dir.path());
    recorder.packets(10, 100);
    // A segment's head is still written, its packets are not.
    for _ in 0..5 {
        recorder.disk.fail(Errno::IO.raw_os_error(), 4096);
        let errors = recorder.store.status().write_errors;
        wait_until("another try", || {
            recorder.packets(1, 100);
            recorder.store.status().write_errors > errors
        });
    }
    recorder.disk.fail(0, 0);
    recorder.until_written();
    let left = || files(dir.path(), ".open").len() + files(dir.path(), ".pcapng").len();
    wait_until("nothing else to be left", || left() == 2);
    recorder.close(dir.path());
}

/// The kernel makes a file system read-only that it does not trust any more: nothing can be written,
/// nothing deleted, and nothing of a full recording must be given up for it.
#[test]
fn a_read_only_disk_does_not_cost_what_is_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::start(dir.path());
    while recorder.store.status().bytes_held < MIN * 9 / 10 {
        recorder.packets(500, 1400);
    }
    let held = recorder.store.status().packets_held;
    recorder.disk.fail(Errno::ROFS.raw_os_error(), 0);
    for _ in 0..5 {
        let losing = recorder.store.status().writer.losing_for;
        wait_until("another try", || {
            recorder.packets(10, 1400);
            recorder.store.status().writer.losing_for > losing
        });
    }
    assert!(recorder.lost(LossCause::Disk) > 0);
    assert!(recorder.store.status().last_error.unwrap().contains("ead-only"));
    let (got, account) = read_all(&recorder.store);
    assert_eq!((got.len() as u64, account.gaps.len()), (held, 1), "{:?}", account.gaps);
    recorder.disk.fail(0, 0);
    recorder.until_written();
    let kept = recorder.store.status().packets_held;
    assert!(kept >= held * 9 / 10, "{kept} of {held} are left");
    assert_eq!(read_all(&recorder.store).0.len() as u64, kept);
}

/// A device with less room than it says, a quota that others use up: `statvfs` promises room, and
/// deleting makes none.
#[test]
fn a_disk_that_is_full_whatever_goes_does_not_cost_the_whole_recording() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::start(dir.path());
    while recorder.store.status().bytes_held < MIN / 2 {
        recorder.packets(500, 1400);
    }
    let held = recorder.store.status();
    recorder.disk.full(true);
    for _ in 0..6 {
        let errors = recorder.store.status().write_errors;
        wait_until("another try", || {
            recorder.packets(1, 100);
            recorder.store.status().write_errors > errors
        });
    }
    let left = recorder.store.status();
    assert!(left.segments + 4 >= held.segments, "{} of {}", left.segments, held.segments);
    recorder.disk.full(false);
    recorder.until_written();
}

#[test]
fn a_slow_disk_costs_what_finds_no_buffer_and_is_caught_up_with() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::start(dir.path());
    recorder.disk.slow_down(Duration::from_millis(200));
    // More than all buffers hold, in less time than writing them takes.
    for _ in 0..60_000 {
        recorder.sent += 1;
        put(&mut recorder.appender, recorder.slot, Timestamp::now(), &[1; 1400]);
    }
    recorder.disk.slow_down(Duration::ZERO);
    recorder.packets(1, 100);
    let lost = recorder.lost(LossCause::Buffer);
    let status = recorder.store.status();
    assert!(lost > 0, "{status:?}");
    assert_eq!(status.packets + lost, recorder.sent, "{status:?}");
    assert_eq!(status.lost.len(), 1, "by no other cause: {status:?}");
}

#[test]
fn a_writer_that_the_disk_does_not_let_go_is_seen_from_outside() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::start(dir.path());
    recorder.packets(1, 100);
    assert!(recorder.store.status().writer.silent_for < Duration::from_secs(1));
    recorder.disk.slow_down(Duration::from_secs(3));
    put(&mut recorder.appender, recorder.slot, Timestamp::now(), &[1; 100]);
    recorder.appender.flush();
    wait_until("silence", || recorder.store.status().writer.silent_for > Duration::from_secs(1));
    recorder.disk.slow_down(Duration::ZERO);
    wait_until("a sign of life", || {
        recorder.store.status().writer.silent_for < Duration::from_secs(1)
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// The disk fails after any number of bytes, in the middle of a write too.
    #[test]
    fn a_write_that_breaks_off_anywhere_costs_its_own_packets_only(
        rounds in prop::collection::vec((0u64..20_000, 1u64..60, 1usize..1500), 1..4),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::start(dir.path());
        recorder.packets(10, 100);
        for (after, count, len) in rounds {
            recorder.disk.fail(Errno::IO.raw_os_error(), after);
            recorder.packets(count, len);
            recorder.disk.fail(0, 0);
            recorder.until_written();
            let (got, account) = read_all(&recorder.store);
            prop_assert_eq!(account.damaged, []);
            prop_assert_eq!(got.len() as u64, recorder.store.status().packets);
        }
        recorder.close(dir.path());
    }
}
