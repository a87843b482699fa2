//! A data directory in which one file is not what a recorder wrote.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kuberewind_packet::{
    ByteSize, Frame, Interface, Loss, LossCause, NetnsId, Owner, PacketSink, PacketStream, Pod,
    Slot, Span, Timestamp,
};
use kuberewind_store::{
    Choice, Limits, MinFree, Recording, Store, StoreConfig, StoreError, Window,
};
use tempfile::TempDir;

use super::capture_file::next_block_at;

const SEALED: &str = "20261122T213005Z-0000000001.pcapng";
const OPEN: &str = "20261122T213005Z-0000000001.pcapng.open";
const START: u64 = 1_795_383_005_000_000_000;
const INDEX_BLOCK: u32 = 0x8000_0002;

/// Heads of blocks and codes of options, and what comments say.
pub(super) const WORDS: &[&str] = &[
    "\u{a}\r\r\n",
    "\u{6}\0\0\0",
    "\u{5}\0\0\0",
    "\u{1}\0\0\0",
    "\u{2}\0\0",
    "\u{3}\0\0",
    "lost 12 packets: buffer",
    "node=n1 ",
    "netns/eth0",
    "lost 18446744073709551615 packets: ring",
];

/// What stands in indexes and journals.
pub(super) const JSON_WORDS: &[&str] = &[
    "\"version\":1",
    "\"chunks\":[",
    "\"losses\":[",
    "\"notes\":[",
    "\"interfaces\":[0",
    "18446744073709551615",
    "4294967295",
    "-1",
    "null",
    "[[0,0,0,0,0]]",
    "1e99",
    "{\"event\":\"on\",\"at\":\"2026-11-22T21:30:05Z\"}\n",
    "{\"event\":\"off\",\"at\":",
    "{\"event\":\"crashed\",\"at\":\"1970-01-01T00:00:00Z\"}\n",
    "{\"event\":\"stepped\",\"from\":\"2026-11-22T21:30:05Z\",\"to\":\"2026-11-22T20:30:05Z\"}\n",
    "{\"event\":\"stepped\",\"from\":\"1970-01-01T00:00:00Z\",\"to\":\"2026-11-22T22:30:05Z\"}\n",
    "{\"event\":\"away\",\"from\":\"2026-11-22T21:31:05Z\",\"to\":\"2026-11-22T21:30:05Z\",\"cause\":\"crash\"}\n",
    "{\"event\":\"deleted\",\"from\":\"1970-01-01T00:00:00Z\",\"to\":\"2554-07-21T23:34:33.709551615Z\",\"cause\":\"maxSize\"}\n",
    "\n",
];

/// A new directory in memory.
pub(super) fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a temporary directory")
}

fn config(dir: &Path) -> StoreConfig {
    StoreConfig {
        dir: dir.to_owned(),
        node: "n1".to_owned(),
        program: "kuberewind fuzz".to_owned(),
        limits: Limits {
            max_time: Duration::from_hours(1_000_000),
            max_size: ByteSize::new(50_000_000),
            min_free: MinFree::Bytes(ByteSize::new(0)),
        },
        interval: Duration::from_mins(1),
        lanes: 1,
    }
}

/// Three interfaces, packets of many lengths, a loss, a note; `count` rounds of it.
fn record(dir: &Path, count: u64) -> Store {
    let (store, mut appenders) = Store::open(config(dir)).expect("a store");
    store.set_recording(true).expect("recording");
    let mut appender = appenders.pop().expect("an appender");
    let pod = Pod { namespace: "shop".into(), name: "cart-7".into(), uid: "1-2-3".into() };
    let owners = [Owner::Host, Owner::Netns("blue".into()), Owner::Pod(pod)];
    let slots: Vec<Slot> = owners
        .into_iter()
        .zip(1..)
        .map(|(owner, netns)| {
            let (node, name) = ("n1".to_owned(), "eth0".to_owned());
            appender.open_interface(Interface { node, owner, netns: NetnsId(netns), name })
        })
        .collect();
    for i in 0..count {
        let at = Timestamp::from_nanos(START + i * 1_000_000);
        let data =
            vec![u8::try_from(i % 256).unwrap_or(0); 20 + usize::try_from(i % 90).unwrap_or(0)];
        let slot = slots[usize::try_from(i % 3).unwrap_or(0)];
        appender.packet(slot, &Frame::whole(at, 1500, &data));
        if i % 7 == 6 {
            let loss = Loss { cause: LossCause::Ring, packets: i, from: at, to: at };
            appender.loss(slot, loss);
            appender.flush();
            store.sync().expect("written");
            store.note(at, b"a note".to_vec()).expect("a note");
        }
    }
    appender.flush();
    store.sync().expect("written");
    store
}

fn only_file(dir: &Path, end: &str) -> PathBuf {
    let names = fs::read_dir(dir).expect("the directory").flatten().map(|entry| entry.path());
    let mut names = names.filter(|path| path.to_string_lossy().ends_with(end));
    names.next().expect("a segment")
}

/// Open ones and sealed ones, short and longer.
pub(super) fn segments() -> Vec<Vec<u8>> {
    let of = |count| {
        let dir = directory();
        let store = record(dir.path(), count);
        let open = fs::read(only_file(dir.path(), ".open")).expect("the open segment");
        store.close().expect("closed");
        [open, fs::read(only_file(dir.path(), ".pcapng")).expect("the sealed segment")]
    };
    [1, 8, 40].into_iter().flat_map(of).collect()
}

/// Where the index of a sealed segment starts.
fn index_start(segment: &[u8]) -> usize {
    let mut at = 0;
    while let Some((kind, end)) = next_block_at(segment, at) {
        if kind == INDEX_BLOCK {
            return at;
        }
        at = end;
    }
    segment.len()
}

fn whole_segment() -> Vec<u8> {
    thread_local! { static WHOLE: Vec<u8> = segments().pop().unwrap_or_default(); }
    WHOLE.with(Clone::clone)
}

/// The text of an index.
pub(super) fn indexes() -> Vec<Vec<u8>> {
    let whole = whole_segment();
    let start = index_start(&whole);
    vec![whole[start + 8..whole.len() - 4].to_vec()]
}

pub(super) fn journals() -> Vec<Vec<u8>> {
    let dir = directory();
    let store = record(dir.path(), 3);
    for on in [false, true, false, true] {
        store.set_recording(on).expect("switched");
    }
    store.close().expect("closed");
    let mut text = fs::read(dir.path().join("journal")).expect("the journal");
    text.extend(b"{\"event\":\"deleted\",\"from\":\"2026-11-22T21:29:05Z\",\"to\":\"2026-11-22T21:29:06Z\",\"cause\":\"maxTime\"}\n");
    text.extend(b"{\"event\":\"crashed\",\"at\":\"2026-11-22T21:30:05Z\"}\n");
    vec![text]
}

/// A sealed segment.
pub(super) fn sealed(input: &[u8]) -> String {
    in_directory(SEALED, input)
}

/// A whole segment with another index.
pub(super) fn index(input: &[u8]) -> String {
    let mut segment = whole_segment();
    segment.truncate(index_start(&segment));
    let padding = vec![b' '; input.len().next_multiple_of(4) - input.len()];
    let len = u32::try_from(input.len() + padding.len() + 12).unwrap_or(0).to_le_bytes();
    for part in [&INDEX_BLOCK.to_le_bytes()[..], &len, input, &padding, &len] {
        segment.extend(part);
    }
    in_directory(SEALED, &segment)
}

/// A journal beside a whole segment.
pub(super) fn journal(input: &[u8]) -> String {
    let dir = directory();
    fs::write(dir.path().join(SEALED), whole_segment()).expect("a segment");
    fs::write(dir.path().join("journal"), input).expect("a journal");
    let before = look(dir.path());
    let (store, _) = Store::open(config(dir.path())).expect("any journal is opened");
    store.close().expect("closed");
    let after = look(dir.path());
    assert_eq!(before.packets, after.packets, "the journal took packets with it");
    before.said
}

fn in_directory(name: &str, input: &[u8]) -> String {
    thread_local! { static DIR: TempDir = directory(); }
    DIR.with(|dir| {
        fs::write(dir.path().join(name), input).expect("a segment");
        look(dir.path()).said
    })
}

/// A segment that was being written. What can be read of it can still be read once a recorder has
/// finished it, and the finished one is whole.
pub(super) fn open(input: &[u8]) -> String {
    let dir = directory();
    fs::write(dir.path().join(OPEN), input).expect("a segment");
    let before = look(dir.path());
    assert_eq!(before.damaged, 0, "an open segment may end anywhere");
    let (store, _) = Store::open(config(dir.path())).expect("any segment is opened");
    let (live, _) = read(store.window(Span::ALL, Choice::default()));
    assert_eq!(live, before.packets, "finishing it changed what is in it");
    store.close().expect("closed");
    let after = look(dir.path());
    assert_eq!(
        (after.packets, after.damaged),
        (before.packets, 0),
        "sealing changed what is in it"
    );
    before.said
}

/// Does something with a window of a short recording.
pub(super) fn with_window<T>(work: impl FnOnce(&mut Window) -> T) -> T {
    let dir = directory();
    record(dir.path(), 40).close().expect("closed");
    let recording = Recording::open(dir.path()).expect("a recording");
    work(&mut recording.window(Span::ALL, Choice::default()))
}

struct Seen {
    packets: u64,
    damaged: usize,
    said: String,
}

/// Reads all of it, as it lies there.
fn look(dir: &Path) -> Seen {
    let recording = Recording::open(dir).expect("a directory can be looked at");
    let (packets, damage) = read(recording.window(Span::ALL, Choice::default()));
    let notes = recording.notes(Span::ALL).map(|notes| notes.len());
    let notes = notes.as_ref().map_err(StoreError::to_string);
    let status = recording.status();
    let window = recording.window(Span::ALL, Choice::default());
    let gaps: Vec<_> = window.account().gaps.iter().map(|gap| gap.cause).collect();
    let (losses, size) = (window.account().losses.len(), packets.checked_ilog2());
    let said = format!("{damage:?} {notes:?} {losses} {size:?} {gaps:?} {}", status.segments);
    Seen { packets, damaged: damage.len(), said }
}

/// All packets of a window, and what is damaged.
fn read(mut window: Window) -> (u64, Vec<String>) {
    let mut last = Timestamp::MIN;
    let (mut packets, mut bytes) = (0, 0);
    while window.advance().expect("a window names what is damaged") {
        let packet = window.packet();
        assert!(last <= packet.timestamp, "packets step back in time");
        assert!((packet.interface as usize) < window.interfaces().len(), "of no interface");
        last = packet.timestamp;
        packets += 1;
        bytes += packet.data.len() as u64;
    }
    let account = window.account();
    assert_eq!((account.packets, account.bytes), (packets, bytes), "the account is wrong");
    let gaps = account.gaps.windows(2).all(|pair| pair[0].span.to <= pair[1].span.from);
    assert!(gaps, "stretches are missing twice: {:?}", account.gaps);
    (packets, account.damaged.iter().map(|damage| damage.reason.clone()).collect())
}
