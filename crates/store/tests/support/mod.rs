//! Builders for recordings.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kuberewind_packet::{
    ByteSize, Frame, Interface, NetnsId, Owner, PacketSink, PacketStream, Slot, Span, Timestamp,
    WindowAccount,
};
use kuberewind_store::{Appender, Choice, Limits, MinFree, Store, StoreConfig, Window};

pub(crate) fn limits(max_size: u64) -> Limits {
    Limits {
        max_time: Duration::from_hours(24),
        max_size: ByteSize::new(max_size),
        min_free: MinFree::Bytes(ByteSize::new(0)),
    }
}

pub(crate) fn config(dir: &Path) -> StoreConfig {
    StoreConfig {
        dir: dir.to_owned(),
        node: "n1".into(),
        program: "kuberewind test".into(),
        limits: limits(50_000_000),
        interval: Duration::from_mins(1),
        lanes: 1,
    }
}

/// A store with one lane, recording.
pub(crate) fn open(config: StoreConfig) -> (Store, Appender) {
    let (store, mut appenders) = Store::open(config).unwrap();
    store.set_recording(true).unwrap();
    (store, appenders.pop().unwrap())
}

pub(crate) fn interface(name: &str) -> Interface {
    Interface {
        node: "n1".into(),
        owner: Owner::Netns("blue".into()),
        netns: NetnsId(7),
        name: name.into(),
    }
}

pub(crate) fn put(appender: &mut Appender, slot: Slot, time: Timestamp, data: &[u8]) {
    appender.packet(slot, &Frame::whole(time, u32::try_from(data.len()).unwrap(), data));
}

/// As the capture thread does: asks for room first, and waits for it.
pub(crate) fn put_patiently(appender: &mut Appender, slot: Slot, time: Timestamp, data: &[u8]) {
    while !appender.reserve(data.len() + 64) {
        std::thread::yield_now();
    }
    put(appender, slot, time, data);
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Got {
    pub(crate) time: u64,
    pub(crate) interface: String,
    pub(crate) data: Vec<u8>,
}

pub(crate) fn read(mut window: Window) -> (Vec<Got>, WindowAccount) {
    let mut got = Vec::new();
    while window.advance().unwrap() {
        let packet = window.packet();
        got.push(Got {
            time: packet.timestamp.as_nanos(),
            interface: window.interfaces()[packet.interface as usize].name.clone(),
            data: packet.data.to_vec(),
        });
    }
    (got, window.account().clone())
}

pub(crate) fn read_all(store: &Store) -> (Vec<Got>, WindowAccount) {
    read(store.window(Span::ALL, Choice::default()))
}

/// Packets that tshark and capinfos count in a file; they must have nothing to complain about.
pub(crate) fn judge(path: &Path) -> u64 {
    let capinfos =
        Command::new("capinfos").args(["-T", "-M", "-r", "-c"]).arg(path).output().unwrap();
    assert!(capinfos.status.success(), "{capinfos:?}");
    assert_eq!(String::from_utf8_lossy(&capinfos.stderr), "", "capinfos on {}", path.display());
    let counted = String::from_utf8(capinfos.stdout).unwrap();
    let counted: u64 = counted.trim().rsplit('\t').next().unwrap().parse().unwrap();
    let fields = ["-n", "-T", "fields", "-e", "frame.number", "-r"];
    let tshark = Command::new("tshark").args(fields).arg(path).output().unwrap();
    assert!(tshark.status.success(), "{tshark:?}");
    let complaints = String::from_utf8_lossy(&tshark.stderr)
        .replace("Running as user \"root\" and group \"root\". This could be dangerous.\n", "");
    assert_eq!(complaints, "", "tshark on {}", path.display());
    let shown = String::from_utf8(tshark.stdout).unwrap().lines().count() as u64;
    assert_eq!(counted, shown, "capinfos and tshark agree on {}", path.display());
    counted
}

/// The files of a data directory whose names end so, in order.
pub(crate) fn files(dir: &Path, end: &str) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().ends_with(end))
        .collect();
    files.sort();
    files
}
