//! What was recorded comes back, and others can read it as it lies on the disk.

mod support;

use kuberewind_packet::{PacketSink, Span, Timestamp};
use kuberewind_store::{Choice, Recording, Store};
use support::{config, files, interface, judge, open, put, put_patiently, read, read_all};

#[test]
fn what_was_appended_is_read_back_and_judged_good() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut appender) = open(config(dir.path()));
    let (eth0, lo) =
        (appender.open_interface(interface("eth0")), appender.open_interface(interface("lo")));
    let start = Timestamp::now().as_nanos();
    let frame =
        |i: u64| vec![u8::try_from(i % 251).unwrap(); 60 + usize::try_from(i % 1400).unwrap()];
    for i in 0..6_000 {
        let slot = if i % 3 == 0 { lo } else { eth0 };
        put_patiently(&mut appender, slot, Timestamp::from_nanos(start + i), &frame(i));
    }
    appender.flush();
    store.sync().unwrap();
    let (got, account) = read_all(&store);
    assert_eq!(got.len(), 6_000);
    for (i, got) in (0..).zip(&got) {
        let name = if i % 3 == 0 { "lo" } else { "eth0" };
        assert_eq!((got.time, &got.data, &*got.interface), (start + i, &frame(i), name));
    }
    assert_eq!((account.packets, account.losses, account.damaged), (6_000, vec![], vec![]));

    let on_disk = |end| -> u64 { files(dir.path(), end).iter().map(|path| judge(path)).sum() };
    assert!(!files(dir.path(), ".open").is_empty());
    assert_eq!(on_disk(".pcapng") + on_disk(".pcapng.open"), 6_000);
    drop(appender);
    store.close().unwrap();
    assert!(files(dir.path(), ".open").is_empty());
    assert_eq!(on_disk(".pcapng"), 6_000);
    let recording = Recording::open(dir.path()).unwrap();
    assert_eq!(read(recording.window(Span::ALL, Choice::default())).0, got);
}

#[test]
fn a_second_recorder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, _appender) = open(config(dir.path()));
    let refused = Store::open(config(dir.path())).unwrap_err().to_string();
    assert!(refused.contains(&format!("pid {}", std::process::id())), "{refused}");
}

#[test]
fn small_writes_share_pages_and_the_open_file_is_good_after_each() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut appender) = open(config(dir.path()));
    let slot = appender.open_interface(interface("eth0"));
    let start = Timestamp::now().as_nanos();
    for i in 0..200u64 {
        let data = vec![1; 20 + usize::try_from(i * 7 % 90).unwrap()];
        put(&mut appender, slot, Timestamp::from_nanos(start + i), &data);
        appender.flush();
        store.sync().unwrap();
        if i % 20 == 3 {
            let open = files(dir.path(), ".open");
            assert_eq!(judge(&open[0]), i + 1);
            let bytes = std::fs::metadata(&open[0]).unwrap().len();
            assert!(bytes <= 4096 * (1 + (i + 4) * 130 / 4096 + 1), "{bytes} bytes for {i}");
        }
    }
    assert_eq!(read_all(&store).0.len(), 200);
}
