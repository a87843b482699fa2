//! A window holds exactly the packets of `[from, to)`: an hour of made time stamps, a file as the
//! packet source, the store, and what comes out of it and out of the command line.

use std::fs;
use std::path::Path;
use std::time::Duration;

use kuberewind_packet::pcapng::PacketBlock;
use kuberewind_packet::{ByteSize, Frame, PacketStream, Span, Timestamp, pcap};
use kuberewind_store::{Choice, Limits, MinFree, Recording, Store, StoreConfig};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const HOUR: u64 = 3600 * 1_000_000_000;
const PACKETS: u64 = 20_000;
/// Windows that the command line exports as well.
const EXPORTS: u32 = 10;

/// A packet's number is its content.
fn number(packet: &PacketBlock<'_>) -> u64 {
    u64::from_le_bytes(*packet.data.last_chunk().expect("eight bytes"))
}

/// Times within the hour, not in order, some of them equal: as rings give them.
fn times(start: Timestamp) -> Vec<Timestamp> {
    let step = HOUR / PACKETS;
    let back = |number: u64| {
        number.wrapping_mul(0x9e37_79b9) % 5 * step * u64::from(number.is_multiple_of(3))
    };
    let time = |number: u64| start.as_nanos() + (number * step).saturating_sub(back(number));
    (0..PACKETS).map(|number| Timestamp::from_nanos(time(number))).collect()
}

fn write_pcap(path: &Path, times: &[Timestamp]) {
    let mut file = Vec::new();
    pcap::push_file_header(&mut file);
    for (number, time) in times.iter().enumerate() {
        let mut data = vec![0; 60];
        data[12] = 0x08;
        data.extend(number.to_le_bytes());
        pcap::push_packet(&mut file, &Frame::whole(*time, 68, &data));
    }
    fs::write(path, file).expect("a pcap");
}

fn record(dir: &Path, source: &Path) {
    let limits = Limits {
        max_time: Duration::from_hours(24),
        max_size: ByteSize::new(100_000_000),
        min_free: MinFree::Percent(0),
    };
    let (store, mut appenders) = Store::open(StoreConfig {
        dir: dir.to_owned(),
        node: "n1".to_owned(),
        program: "test".to_owned(),
        limits,
        interval: Duration::from_mins(1),
        lanes: 1,
    })
    .expect("a store");
    store.set_recording(true).expect("on");
    let taken = kuberewind_capture::replay(source, "n1", &mut appenders[0]).expect("a replay");
    assert_eq!(taken, PACKETS);
    drop(appenders);
    store.close().expect("closed");
}

/// The numbers of the packets inside, in the order of time.
fn inside(times: &[Timestamp], span: Span) -> Vec<u64> {
    let mut inside: Vec<_> =
        (0..).zip(times).filter(|(_, time)| span.contains(**time)).map(|(n, t)| (*t, n)).collect();
    inside.sort_by_key(|(time, _)| *time);
    inside.into_iter().map(|(_, number)| number).collect()
}

fn read(recording: &Recording, span: Span) -> Vec<u64> {
    let mut window = recording.window(span, Choice::default());
    let mut numbers = Vec::new();
    while window.advance().expect("a packet") {
        numbers.push(number(&window.packet()));
    }
    assert_eq!(window.account().packets, numbers.len() as u64);
    numbers
}

fn export(dir: &Path, span: Span, to: &Path) -> Vec<u64> {
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_kuberewind"))
        .args(["pcapdump", "--local", "--format", "pcap", "--data-dir"])
        .arg(dir)
        .args(["--since", &span.from.to_string(), "--until", &span.to.to_string(), "--dest"])
        .arg(to)
        .output()
        .expect("kuberewind runs");
    assert!(status.status.code().is_some_and(|code| code == 0), "{status:?}");
    let file = fs::read(to).expect("the export");
    let mut rest = &file[pcap::FILE_HEADER_LEN..];
    let mut numbers = Vec::new();
    while let Some((record, next)) = rest.split_at_checked(pcap::RECORD_HEADER_LEN + 68) {
        numbers.push(u64::from_le_bytes(*record.last_chunk().expect("eight bytes")));
        rest = next;
    }
    assert!(rest.is_empty());
    numbers
}

#[test]
fn a_window_holds_the_packets_of_its_time_and_no_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, source) = (dir.path().join("data"), dir.path().join("hour.pcap"));
    let start = Timestamp::now().saturating_sub(Duration::from_hours(2));
    let times = times(start);
    write_pcap(&source, &times);
    record(&data, &source);
    let recording = Recording::open(&data).expect("a recording");

    // Edges fall on packets, beside them, and anywhere.
    let edge = (0..times.len(), prop::sample::select(vec![-1, 0, 1, 77_000_000]));
    let edge = edge.prop_map(|(at, beside)| {
        Timestamp::from_nanos(times[at].as_nanos().saturating_add_signed(beside))
    });
    let mut runner = TestRunner::new(Config::with_cases(200));
    let windows = (edge.clone(), edge).prop_map(|(a, b)| Span::new(a.min(b), a.max(b)));
    let exports = std::cell::Cell::new(0);
    runner
        .run(&windows, |span| {
            let expected = inside(&times, span);
            prop_assert_eq!(read(&recording, span), expected.clone());
            if exports.get() < EXPORTS && !expected.is_empty() {
                exports.set(exports.get() + 1);
                let to = dir.path().join(format!("{}.pcap", exports.get()));
                prop_assert_eq!(export(&data, span, &to), expected);
            }
            Ok(())
        })
        .expect("every window is exact");
    assert_eq!(exports.get(), EXPORTS);
}
