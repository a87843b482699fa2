//! Notes ride beside the packets and share their fate.

mod support;

use std::fs;

use kuberewind_packet::{PacketSink, Span, Timestamp};
use kuberewind_store::{Note, Recording, StoreError};
use support::{config, files, interface, judge, open, put};

fn at(nanos: u64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

#[test]
fn notes_are_read_back_from_open_sealed_and_torn_segments_and_readers_skip_them() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut appender) = open(config(dir.path()));
    let slot = appender.open_interface(interface("eth0"));
    let start = Timestamp::now().as_nanos();
    let mut expected = Vec::new();
    for i in 0..6u64 {
        put(&mut appender, slot, at(start + 10 * i), &[7; 60]);
        appender.flush();
        store.sync().unwrap();
        let note = Note { at: at(start + 10 * i + 1), bytes: vec![9; usize::try_from(i).unwrap()] };
        store.note(note.at, note.bytes.clone()).unwrap();
        expected.push(note);
    }
    assert_eq!(store.notes(Span::new(at(0), Timestamp::MAX)).unwrap(), expected);
    assert_eq!(
        store.notes(Span::new(at(start + 11), at(start + 31))).unwrap(),
        expected[1..3].to_vec()
    );

    let killed = tempfile::tempdir().unwrap();
    let open_file = files(dir.path(), ".open").remove(0);
    assert_eq!(judge(&open_file), 6);
    fs::copy(&open_file, killed.path().join(open_file.file_name().unwrap())).unwrap();
    let (again, _appender) = open(config(killed.path()));
    assert_eq!(again.notes(Span::new(at(0), Timestamp::MAX)).unwrap(), expected);

    drop(appender);
    store.close().unwrap();
    assert_eq!(judge(&files(dir.path(), ".pcapng").remove(0)), 6);
    let recording = Recording::open(dir.path()).unwrap();
    assert_eq!(recording.notes(Span::new(at(0), Timestamp::MAX)).unwrap(), expected);
}

#[test]
fn a_note_without_packets_is_kept_and_one_that_is_too_long_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, appender) = open(config(dir.path()));
    let now = Timestamp::now();
    store.note(now, b"alone".to_vec()).unwrap();
    let refused = store.note(now, vec![0; (1 << 20) + 1]);
    assert!(matches!(refused, Err(StoreError::LongNote { .. })), "{refused:?}");
    drop(appender);
    store.close().unwrap();
    let (store, _appender) = open(config(dir.path()));
    let notes = store.notes(Span::new(now, Timestamp::MAX)).unwrap();
    assert_eq!(notes, [Note { at: now, bytes: b"alone".to_vec() }]);
}
