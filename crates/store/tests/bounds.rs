//! The directory never takes more than it may, and what is not kept is accounted for.

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kuberewind_packet::{
    ByteSize, GapCause, LossCause, PacketSink, PacketStream, Slot, Span, Timestamp,
};
use kuberewind_store::{Appender, Choice, Limits, MinFree, Recording, Store, StoreConfig};
use support::{config, files, interface, limits, open, put, put_patiently, read, read_all};

const MIN: u64 = Limits::MIN_SIZE.bytes();
const FRAME: [u8; 1400] = [7; 1400];

fn sum(dir: &Path) -> u64 {
    let own = fs::metadata(dir).map_or(0, |meta| meta.size().max(meta.blocks() * 512));
    let Ok(entries) = fs::read_dir(dir) else { return own };
    let sizes = entries.flatten().filter_map(|entry| {
        let meta = entry.metadata().ok()?;
        Some(meta.size().max(meta.blocks() * 512))
    });
    own + sizes.sum::<u64>()
}

/// Adds up a directory all the time, in another thread.
struct Watcher {
    done: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
    thread: thread::JoinHandle<u64>,
}

impl Watcher {
    fn start(dir: PathBuf) -> Self {
        let (done, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (until, seen) = (Arc::clone(&done), Arc::clone(&most));
        let thread = thread::spawn(move || {
            let mut looks = 0;
            while !until.load(Ordering::Relaxed) {
                seen.fetch_max(sum(&dir), Ordering::Relaxed);
                looks += 1;
            }
            looks
        });
        Self { done, most, thread }
    }

    /// The most that was seen, and how often it looked.
    fn stop(self) -> (u64, u64) {
        self.done.store(true, Ordering::Relaxed);
        let looks = self.thread.join().unwrap();
        (self.most.load(Ordering::Relaxed), looks)
    }
}

fn flood(appender: &mut Appender, slot: Slot, until: impl Fn(u64) -> bool) -> u64 {
    let mut sent = 0;
    while !until(sent) {
        put_patiently(appender, slot, Timestamp::now(), &FRAME);
        sent += 1;
    }
    sent
}

#[test]
fn a_flood_never_exceeds_the_bound_and_fills_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut appender) = open(StoreConfig { limits: limits(MIN), ..config(dir.path()) });
    let slot = appender.open_interface(interface("eth0"));
    flood(&mut appender, slot, |sent| sent * 1400 > 2 * MIN);
    let watcher = Watcher::start(dir.path().to_owned());
    let end = Instant::now() + Duration::from_secs(6);
    flood(&mut appender, slot, |_| Instant::now() > end);
    let (most, looks) = watcher.stop();
    appender.flush();
    store.sync().unwrap();
    let status = store.status();
    assert!(most <= MIN, "{most} bytes seen");
    assert!(looks > 1_000, "only {looks} looks");
    let packet_bytes = status.packets_held * 1432;
    eprintln!("at most {most} of {MIN} bytes in {looks} looks, {packet_bytes} of them packets");
    assert!(packet_bytes * 10 >= MIN * 9, "{packet_bytes} of {MIN} bytes are packets");
    let (got, account) = read_all(&store);
    assert_eq!(got.len() as u64, status.packets_held);
    assert!(account.gaps.iter().any(|gap| gap.cause == GapCause::MaxSize), "{:?}", account.gaps);
}

#[test]
fn many_interfaces_and_small_packets_stay_within_the_bound_too() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut appender) = open(StoreConfig { limits: limits(MIN), ..config(dir.path()) });
    let slots: Vec<Slot> =
        (0..300).map(|i| appender.open_interface(interface(&format!("eth{i}")))).collect();
    let watcher = Watcher::start(dir.path().to_owned());
    for i in 0..400_000 {
        put_patiently(&mut appender, slots[i % slots.len()], Timestamp::now(), &FRAME[..60]);
    }
    appender.flush();
    store.sync().unwrap();
    let (most, _) = watcher.stop();
    assert!(most <= MIN, "{most} bytes seen");
    assert_eq!(store.status().packets, 400_000);
}

#[test]
fn too_small_a_bound_is_refused_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let refused = Store::open(StoreConfig { limits: limits(MIN - 1), ..config(dir.path()) });
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("pcapdump.maxSize"), "{error}");
}

#[test]
fn shrinking_the_bound_frees_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut appender) = open(config(dir.path()));
    let slot = appender.open_interface(interface("eth0"));
    flood(&mut appender, slot, |sent| sent * 1400 > 30_000_000);
    appender.flush();
    store.sync().unwrap();
    assert!(sum(dir.path()) > 30_000_000);
    store.set_limits(limits(MIN), Duration::from_mins(1)).unwrap();
    assert!(sum(dir.path()) <= MIN);
    assert!(sum(dir.path()) >= MIN * 9 / 10 - 1_000_000, "no more than needed");
    let (_, account) = read_all(&store);
    assert!(account.gaps.iter().any(|gap| gap.cause == GapCause::MaxSize));
}

#[test]
fn foreign_files_count_and_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let foreign = dir.path().join("notes.txt");
    fs::write(&foreign, vec![1; 8_000_000]).unwrap();
    let (store, mut appender) = open(StoreConfig { limits: limits(MIN), ..config(dir.path()) });
    let slot = appender.open_interface(interface("eth0"));
    let watcher = Watcher::start(dir.path().to_owned());
    flood(&mut appender, slot, |sent| sent * 1400 > 3 * MIN);
    appender.flush();
    store.sync().unwrap();
    assert!(watcher.stop().0 <= MIN);
    assert_eq!(fs::metadata(&foreign).unwrap().len(), 8_000_000);

    fs::write(&foreign, vec![1; 16_000_000]).unwrap();
    store.set_limits(limits(MIN), Duration::from_mins(1)).unwrap(); // looks around
    put(&mut appender, slot, Timestamp::now(), &FRAME);
    appender.flush();
    store.sync().unwrap();
    let status = store.status();
    assert_eq!(status.lost.get(&LossCause::Disk), Some(&1), "{status:?}");
    assert!(status.last_error.unwrap().contains("foreign files"));
    assert!(!status.held_back_by_min_free);
}

#[test]
fn a_full_file_system_sheds_the_oldest_and_then_holds_back() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut appender) = open(config(dir.path()));
    let slot = appender.open_interface(interface("eth0"));
    flood(&mut appender, slot, |sent| sent * 1400 > 5_000_000);
    appender.flush();
    store.sync().unwrap();
    let all = MinFree::Bytes(ByteSize::new(u64::MAX / 4));
    store
        .set_limits(Limits { min_free: all, ..limits(50_000_000) }, Duration::from_mins(1))
        .unwrap();
    put(&mut appender, slot, Timestamp::now(), &FRAME);
    appender.flush();
    store.sync().unwrap();
    let status = store.status();
    assert!(status.held_back_by_min_free);
    assert_eq!(status.lost.get(&LossCause::Disk), Some(&1));
    assert!(status.segments <= 1, "{status:?}");
    let (_, account) = read_all(&store);
    assert!(account.gaps.iter().any(|gap| gap.cause == GapCause::MinFree));
    assert_eq!(account.losses.iter().map(|lost| lost.loss.packets).sum::<u64>(), 1);

    store.set_limits(limits(50_000_000), Duration::from_mins(1)).unwrap();
    put(&mut appender, slot, Timestamp::now(), &FRAME);
    appender.flush();
    store.sync().unwrap();
    let resumed = store.status();
    assert_eq!((resumed.packets, resumed.held_back_by_min_free), (status.packets + 1, false));
}

#[test]
fn a_segment_goes_when_its_last_packet_is_too_old_and_no_window_reaches_further_back() {
    let dir = tempfile::tempdir().unwrap();
    let start = Timestamp::now().saturating_sub(Duration::from_secs(100));
    let (store, mut appender) = open(config(dir.path()));
    let slot = appender.open_interface(interface("eth0"));
    for second in 0..100 {
        put(&mut appender, slot, start.saturating_add(Duration::from_secs(second)), &FRAME);
    }
    drop(appender);
    store.close().unwrap();
    let short = |seconds| Limits { max_time: Duration::from_secs(seconds), ..limits(MIN) };
    let (store, _appender) = open(StoreConfig { limits: short(50), ..config(dir.path()) });
    let (got, account) = read_all(&store);
    assert!((48..=50).contains(&got.len()), "{}", got.len());
    let clipped = account.gaps.iter().find(|gap| gap.cause == GapCause::MaxTime).unwrap();
    assert_eq!(clipped.span.from, start);
    assert_eq!(store.status().segments, 1);
    // The segment is sealed; once its last packet is too old it goes.
    store.set_limits(short(0), Duration::from_mins(1)).unwrap();
    assert_eq!(store.status().segments, 0);
    assert!(files(dir.path(), ".pcapng").is_empty());
}

#[test]
fn an_idle_recording_seals_by_age_and_forgets_by_age() {
    let dir = tempfile::tempdir().unwrap();
    let interval = Duration::from_millis(50);
    let (store, mut appender) = open(StoreConfig { interval, ..config(dir.path()) });
    let slot = appender.open_interface(interface("eth0"));
    put(&mut appender, slot, Timestamp::now(), &FRAME);
    appender.flush();
    let deadline = Instant::now() + Duration::from_secs(10);
    while files(dir.path(), ".pcapng").is_empty() {
        assert!(Instant::now() < deadline, "sealed by age");
    }
    assert_eq!(support::judge(&files(dir.path(), ".pcapng")[0]), 1);
    let max_time = Duration::from_millis(800);
    store.set_limits(Limits { max_time, ..limits(MIN) }, interval).unwrap();
    while !files(dir.path(), ".pcapng").is_empty() {
        assert!(Instant::now() < deadline, "forgotten by age");
    }
    let (got, account) = read_all(&store);
    assert_eq!(got, []);
    assert!(account.gaps.iter().any(|gap| gap.cause == GapCause::MaxTime), "{account:?}");
}

#[test]
fn what_is_deleted_while_a_window_is_read_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut appender) = open(StoreConfig { limits: limits(MIN), ..config(dir.path()) });
    let slot = appender.open_interface(interface("eth0"));
    flood(&mut appender, slot, |sent| sent * 1400 > MIN / 2);
    appender.flush();
    store.sync().unwrap();
    let held = store.status().packets_held;
    let mut window = store.window(Span::ALL, Choice::default());
    assert!(window.advance().unwrap());
    let watcher = Watcher::start(dir.path().to_owned());
    flood(&mut appender, slot, |sent| sent * 1400 > 2 * MIN);
    appender.flush();
    store.sync().unwrap();
    let (got, account) = read(window);
    assert!((got.len() as u64) < held - 1, "{} of {held}", got.len());
    assert!(got.is_sorted_by_key(|got| got.time));
    let evicted: Vec<_> =
        account.gaps.iter().filter(|gap| gap.cause == GapCause::MaxSize).collect();
    assert_eq!(evicted.len(), 1, "{account:?}");
    assert_eq!(account.damaged, []);
    assert!(watcher.stop().0 <= MIN);

    let recording = Recording::open(dir.path()).unwrap();
    let mut window = recording.window(Span::ALL, Choice::default());
    assert!(window.advance().unwrap());
    flood(&mut appender, slot, |sent| sent * 1400 > 2 * MIN);
    appender.flush();
    store.sync().unwrap();
    let (_, account) = read(window);
    assert!(account.gaps.iter().any(|gap| gap.cause == GapCause::MaxSize), "{account:?}");
    assert_eq!(account.damaged, []);
}

#[test]
fn recording_resumes_after_the_directory_was_gone() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (store, mut appender) = open(config(&data));
    let slot = appender.open_interface(interface("eth0"));
    let mut write = |store: &Store| {
        put(&mut appender, slot, Timestamp::now(), &FRAME);
        appender.flush();
        store.sync().unwrap();
    };
    write(&store);
    fs::rename(&data, dir.path().join("away")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.status().write_errors == 0 {
        assert!(Instant::now() < deadline, "{:?}", store.status());
        write(&store);
    }
    assert!(store.status().last_error.unwrap().contains("segment"));
    fs::rename(dir.path().join("away"), &data).unwrap();
    let lost = store.status();
    while store.status().packets == lost.packets {
        assert!(Instant::now() < deadline, "{:?}", store.status());
        write(&store);
    }
    assert!(store.status().lost[&LossCause::Disk] >= 1);
    assert_eq!(store.status().last_error, None);
}

struct Mount(PathBuf);

impl Mount {
    fn tmpfs(path: PathBuf, size: &str) -> Self {
        fs::create_dir_all(&path).unwrap();
        let options = format!("size={size},mode=700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path);
        assert!(mount.status().unwrap().success());
        Self(path)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Takes what the file system has left.
fn fill_up(ballast: &Path) {
    let mut file = fs::OpenOptions::new().append(true).create(true).open(ballast).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
}

#[test]
fn a_recorder_that_finds_the_disk_full_makes_room_from_its_own_oldest() {
    let dir = tempfile::tempdir().unwrap();
    let mount = Mount::tmpfs(dir.path().join("small"), "6m");
    let (store, mut appender) = open(config(&mount.0));
    let slot = appender.open_interface(interface("eth0"));
    flood(&mut appender, slot, |sent| sent * 1400 > 4_000_000);
    drop(appender);
    store.close().unwrap();
    let before = files(&mount.0, ".pcapng").len();
    fill_up(&mount.0.join("ballast"));

    let (store, _appender) = open(config(&mount.0));
    assert_eq!(files(&mount.0, ".pcapng").len(), before - 1);
    let (_, account) = read_all(&store);
    assert!(account.gaps.iter().any(|gap| gap.cause == GapCause::MinFree), "{account:?}");
}

#[test]
fn recording_resumes_after_the_disk_was_full() {
    let dir = tempfile::tempdir().unwrap();
    let mount = Mount::tmpfs(dir.path().join("small"), "6m");
    let (store, mut appender) = open(config(&mount.0)); // 50 MB are allowed, 6 MiB are there
    let slot = appender.open_interface(interface("eth0"));
    flood(&mut appender, slot, |sent| sent * 1400 > 20_000_000);
    appender.flush();
    store.sync().unwrap();
    let status = store.status();
    assert!(status.packets * 1400 > 15_000_000, "it goes on by deleting: {status:?}");

    let ballast = mount.0.parent().unwrap().join("small/ballast");
    fill_up(&ballast);
    let before = store.status();
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.status().lost.get(&LossCause::Disk) == before.lost.get(&LossCause::Disk) {
        assert!(Instant::now() < deadline, "a full disk loses packets: {:?}", store.status());
        flood(&mut appender, slot, |sent| sent == 100);
        appender.flush();
        store.sync().unwrap();
        // Whatever it sheds, the ballast takes.
        fill_up(&ballast);
    }
    let full = store.status();
    assert!(full.held_back_by_min_free && full.last_error.is_some(), "{full:?}");
    fs::remove_file(&ballast).unwrap();
    while store.status().packets == full.packets {
        assert!(Instant::now() < deadline, "it resumes: {:?}", store.status());
        put(&mut appender, slot, Timestamp::now(), &FRAME);
        appender.flush();
        store.sync().unwrap();
    }
    assert_eq!(store.status().last_error, None);
    drop(appender);
    store.close().unwrap();
    let recording = Recording::open(&mount.0).unwrap();
    let (got, account) = read(recording.window(Span::ALL, Choice::default()));
    assert!(!got.is_empty());
    assert_eq!(account.damaged, []);
    let disk = account.losses.iter().filter(|lost| lost.loss.cause == LossCause::Disk);
    assert!(disk.map(|lost| lost.loss.packets).sum::<u64>() >= 1, "{account:?}");
    for file in files(&mount.0, ".pcapng") {
        support::judge(&file);
    }
}
