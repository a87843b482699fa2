//! After any end, everything that was written is there, and what is missing has a name.

mod support;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use kuberewind_packet::pcapng::{Block, Blocks};
use kuberewind_packet::{GapCause, Loss, LossCause, PacketSink, Span, Timestamp};
use kuberewind_store::{Choice, Lock, Recording, Store};
use support::{config, files, interface, judge, open, put, read, read_all};

/// A directory as a killed recorder leaves it: copied while it was being written.
fn killed(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}

#[test]
fn a_segment_cut_at_any_byte_keeps_every_whole_packet_and_recording_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut appender) = open(config(dir.path()));
    let slots =
        [appender.open_interface(interface("eth0")), appender.open_interface(interface("lo"))];
    let start = Timestamp::now().as_nanos();
    for i in 0..12u64 {
        let len = usize::try_from(i * 17 % 60).unwrap();
        let slot = slots[usize::from(i % 3 == 2)];
        put(&mut appender, slot, Timestamp::from_nanos(start + i), &vec![5; len]);
        appender.flush();
        store.sync().unwrap();
    }
    let open_file = files(dir.path(), ".open").remove(0);
    let name = open_file.file_name().unwrap().to_owned();
    let whole = fs::read(&open_file).unwrap();
    assert_eq!(judge(&open_file), 12);
    let ends: Vec<usize> = Blocks::new(&whole)
        .map(Result::unwrap)
        .scan(None, |last: &mut Option<bool>, (offset, block)| {
            let end = last.take().map(|was_packet| (offset, was_packet));
            *last = Some(matches!(block, Block::Packet(_)));
            Some(end)
        })
        .flatten()
        .filter_map(|(end, was_packet)| was_packet.then_some(end))
        .collect();
    assert_eq!(ends.len(), 12);
    let content = ends.last().unwrap() + 40;

    let data = tempfile::tempdir().unwrap();
    for cut in 0..content {
        let torn = data.path().join(cut.to_string());
        fs::create_dir(&torn).unwrap();
        fs::write(torn.join(&name), &whole[..cut]).unwrap();
        let survive = ends.iter().filter(|end| **end <= cut).count();
        let reader = Recording::open(&torn).unwrap();
        assert_eq!(
            read(reader.window(Span::ALL, Choice::default())).0.len(),
            survive,
            "cut at {cut}, read only"
        );

        let (store, mut appender) = open(config(&torn));
        let (got, account) = read_all(&store);
        let times: Vec<u64> = got.iter().map(|got| got.time - start).collect();
        assert_eq!(times, (0..survive as u64).collect::<Vec<_>>(), "cut at {cut}");
        assert_eq!(account.damaged, []);
        let slot = appender.open_interface(interface("eth0"));
        put(&mut appender, slot, Timestamp::now(), b"more");
        drop(appender);
        store.close().unwrap();
        let reader = Recording::open(&torn).unwrap();
        assert_eq!(
            read(reader.window(Span::ALL, Choice::default())).0.len(),
            survive + 1,
            "cut at {cut}"
        );
        if cut % 101 == 7 {
            let judged: u64 = files(&torn, ".pcapng").iter().map(|path| judge(path)).sum();
            assert_eq!(judged, survive as u64 + 1);
        }
        fs::remove_dir_all(&torn).unwrap();
    }
}

#[test]
fn a_killed_recorder_costs_what_was_not_written_and_the_gap_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut appender) = open(config(dir.path()));
    let slot = appender.open_interface(interface("eth0"));
    for i in 0..5_000u64 {
        put(&mut appender, slot, Timestamp::now(), &[1; 700]);
        if i % 500 == 499 {
            appender.flush();
            store.sync().unwrap();
            let copy = killed(dir.path());
            let (again, _appender) = open(config(copy.path()));
            let (got, account) = read_all(&again);
            assert_eq!(got.len() as u64, i + 1);
            let missing: Vec<GapCause> = account.gaps.iter().map(|gap| gap.cause).collect();
            assert_eq!(missing, [GapCause::NotStarted, GapCause::Crash], "{account:?}");
            // Others' packets of that moment may not have been written.
            let last = Timestamp::from_nanos(got.last().unwrap().time);
            assert!(account.gaps[1].span.contains(last), "{account:?}");
        }
    }
}

#[test]
fn a_stop_and_a_good_end_are_not_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut appender) = open(config(dir.path()));
    let slot = appender.open_interface(interface("eth0"));
    put(&mut appender, slot, Timestamp::now(), b"one");
    appender.flush();
    store.sync().unwrap();
    store.set_recording(false).unwrap();
    store.set_recording(true).unwrap();
    put(&mut appender, slot, Timestamp::now(), b"two");
    drop(appender);
    store.close().unwrap();
    let (store, _appender) = open(config(dir.path()));
    let (got, account) = read_all(&store);
    assert_eq!(got.len(), 2);
    let causes: Vec<_> = account.gaps.iter().map(|gap| gap.cause).collect();
    assert_eq!(causes, [GapCause::NotStarted, GapCause::Stopped, GapCause::Stopped]);
    assert!(account.is_complete());
    assert!(store.status().recording);
}

#[test]
fn losses_are_in_the_windows_that_they_touch_also_after_a_restart_or_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut appender) = open(config(dir.path()));
    let slot = appender.open_interface(interface("any"));
    let eth0 = appender.open_interface(interface("eth0"));
    let now = Timestamp::now();
    let before = |seconds| now.saturating_sub(Duration::from_secs(seconds));
    put(&mut appender, eth0, before(60), b"early");
    let loss = Loss { cause: LossCause::Ring, packets: 37, from: before(30), to: before(29) };
    appender.loss(slot, loss);
    put(&mut appender, eth0, now, b"late");
    appender.flush();
    store.sync().unwrap();
    let expect = |window: kuberewind_store::Window, expected: &[Loss]| {
        let (_, account) = read(window);
        assert_eq!(account.losses.iter().map(|lost| lost.loss).collect::<Vec<_>>(), expected);
        assert!(account.losses.iter().all(|lost| lost.owner == "blue"));
    };
    let (with, without) = (Span::new(before(40), now), Span::new(before(20), now));
    expect(store.window(with, Choice::default()), &[loss]);
    expect(store.window(without, Choice::default()), &[]);
    expect(Recording::open(dir.path()).unwrap().window(with, Choice::default()), &[loss]);
    let copy = killed(dir.path());
    expect(open(config(copy.path())).0.window(with, Choice::default()), &[loss]);
    drop(appender);
    store.close().unwrap();
    for dir in [dir.path(), copy.path()] {
        let sealed = files(dir, ".pcapng").remove(0);
        assert_eq!(judge(&sealed), 2);
        let dropped: HashMap<u32, u64> = Blocks::new(&fs::read(&sealed).unwrap())
            .filter_map(|block| match block.unwrap().1 {
                Block::Statistics(statistics) => Some((statistics.interface, statistics.dropped?)),
                _ => None,
            })
            .collect();
        assert_eq!(dropped.values().sum::<u64>(), 37);
    }
    let recording = Recording::open(dir.path()).unwrap();
    expect(recording.window(with, Choice::default()), &[loss]);
    expect(recording.window(without, Choice::default()), &[]);
}

#[test]
fn without_a_recorder_or_a_sign_of_life_a_reader_calls_it_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut appender) = open(config(dir.path()));
    let slot = appender.open_interface(interface("eth0"));
    let minute_ago = Timestamp::now().saturating_sub(Duration::from_mins(1));
    put(&mut appender, slot, minute_ago, b"last words");
    appender.flush();
    store.sync().unwrap();
    let copy = killed(dir.path());
    let causes = || {
        let recording = Recording::open(copy.path()).unwrap();
        let account =
            read(recording.window(Span::new(minute_ago, Timestamp::now()), Choice::default())).1;
        account.gaps.iter().map(|gap| gap.cause).collect::<Vec<_>>()
    };
    assert_eq!(causes(), [GapCause::Crash], "nobody records there");
    let _lock = Lock::take(copy.path()).unwrap();
    assert_eq!(causes(), []);
    let journal = fs::File::options().append(true).open(copy.path().join("journal")).unwrap();
    journal.set_modified(std::time::SystemTime::now() - Duration::from_secs(30)).unwrap();
    assert_eq!(causes(), [GapCause::Crash]);
}

#[test]
fn a_damaged_segment_is_named_and_the_rest_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let start = Timestamp::now();
    for run in 0..3u64 {
        let (store, mut appender) = open(config(dir.path()));
        let slot = appender.open_interface(interface("eth0"));
        for i in 0..100u64 {
            let time = start.saturating_add(Duration::from_nanos(run * 1000 + i));
            put(&mut appender, slot, time, &[2; 100]);
        }
        drop(appender);
        store.close().unwrap();
    }
    let sealed = files(dir.path(), ".pcapng");
    let whole = fs::read(&sealed[1]).unwrap();
    let mut damaged = whole.clone();
    damaged[5_000..5_400].fill(0xff);
    for (bytes, least) in [(&damaged[..], 230), (&damaged[..9_000], 230), (&damaged[..0], 200)] {
        fs::write(&sealed[1], bytes).unwrap();
        let (got, account) =
            read(Recording::open(dir.path()).unwrap().window(Span::ALL, Choice::default()));
        assert!(got.len() >= least && got.len() < 300, "{}", got.len());
        assert!(got.is_sorted_by_key(|got| got.time));
        let named: Vec<_> = account.damaged.iter().map(|damage| &*damage.segment).collect();
        assert_eq!(named, [sealed[1].file_name().unwrap()], "{account:?}");
        let (store, _) = Store::open(config(dir.path())).unwrap();
        assert_eq!(read_all(&store).0.len(), got.len());
    }
    // Without its index, which the last block is, a segment is read from its start.
    let index = Blocks::new(&whole).last().unwrap().unwrap().0;
    fs::write(&sealed[1], &whole[..index]).unwrap();
    let (got, account) =
        read(Recording::open(dir.path()).unwrap().window(Span::ALL, Choice::default()));
    assert_eq!((got.len(), account.damaged), (300, vec![]));
}
