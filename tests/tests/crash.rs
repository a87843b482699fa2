//! However it ends, what was recorded stays.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use kuberewind_packet::Timestamp;
use kuberewind_tests::judges::read_by_all;
use kuberewind_tests::traffic::{
    Rate, number_of, numbered, send, send_frame, start_sending, write_pcap,
};
use kuberewind_tests::{
    CaptureFile, Packet, Program, Recorder, Tcpdump, VethPair, crashes, data_dir, kuberewind,
    segments, window,
};
use rustix::process::Signal;

const LAST: u32 = u32::MAX;

#[test]
fn kill_9_under_load_loses_at_most_the_last_second_and_doubles_nothing() {
    let (pair, data, out) = (VethPair::new(1500), data_dir(), tempfile::tempdir().unwrap());
    let pcap = out.path().join("load.pcap");
    write_pcap(&pcap, (0..200_000).map(|number| numbered(number, 300)));
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
    let tcpdump = Tcpdump::start(&pair.receiver, VethPair::INTERFACE);
    let load = Rate::PerSecond(20_000);
    let mut sender = start_sending(&pair.sender, VethPair::INTERFACE, &pcap, load);
    recorder.wait_status("some load", Duration::from_secs(30), |status| status.packets > 80_000);

    sender.assert_running();
    let killed = Timestamp::now();
    recorder.stop_by(Signal::KILL);
    let restarted = Recorder::start(data.path(), &[&pair.receiver], &[]);

    sender.ended(Duration::from_mins(1));
    let last = numbered(LAST, 300);
    send_frame(&pair.sender, VethPair::INTERFACE, &last);
    let theirs = tcpdump.stop_after(&last);
    let (counts, crashes) = counts_and_crashes(data.path());
    assert_missing_is_named(&counts, &theirs, &crashes, &[killed]);

    restarted.stop_by(Signal::TERM);
    for segment in segments(data.path()) {
        read_by_all(&segment, CaptureFile::read(&segment).packets().count() as u64);
    }
}

#[test]
fn twenty_kills_in_a_row_cost_at_most_the_last_second_each() {
    const KILLS: u64 = 20;
    let (pair, data, out) = (VethPair::new(1500), data_dir(), tempfile::tempdir().unwrap());
    let pcap = out.path().join("load.pcap");
    write_pcap(&pcap, (0..900_000).map(|number| numbered(number, 100)));
    let tcpdump = Tcpdump::start(&pair.receiver, VethPair::INTERFACE);
    let load = Rate::PerSecond(10_000);
    let mut sender = start_sending(&pair.sender, VethPair::INTERFACE, &pcap, load);

    // Whom: recorders that have taken anything from a few packets to a second's worth.
    let mut killed = Vec::new();
    for kill in 0..KILLS {
        let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
        let enough = 1 + kill.wrapping_mul(2_654_435_761) % 9_000;
        recorder.wait_status("load", Duration::from_secs(30), |status| status.packets >= enough);
        killed.push(Timestamp::now());
        recorder.stop_by(Signal::KILL);
    }
    sender.assert_running();
    sender.signal(Signal::TERM);
    sender.ended(Duration::from_secs(10));
    let last = numbered(LAST, 100);
    send_frame(&pair.sender, VethPair::INTERFACE, &last);
    let theirs = tcpdump.stop_after(&last);

    // Who asks for the window is told of the last one, too: it records on.
    let _recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
    let (counts, crashes) = counts_and_crashes(data.path());
    assert_missing_is_named(&counts, &theirs, &crashes, &killed);
    for segment in segments(data.path()) {
        CaptureFile::read(&segment);
    }
}

#[test]
fn ctrl_c_and_sigterm_seal_within_a_second_and_lose_nothing() {
    for signal in [Signal::INT, Signal::TERM] {
        let (pair, data, out) = (VethPair::new(1500), data_dir(), tempfile::tempdir().unwrap());
        let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
        let pcap = out.path().join("some.pcap");
        write_pcap(&pcap, (0..1_000).map(|number| numbered(number, 300)));
        send(&pair.sender, VethPair::INTERFACE, &pcap, Rate::TopSpeed);

        let asked = Instant::now();
        let ended = recorder.stop_by(signal);
        let took = asked.elapsed();

        assert_eq!(ended.code(), Some(0), "{signal:?}");
        assert!(took < Duration::from_secs(1), "{signal:?} took {took:?}");
        let sealed = segments(data.path());
        let sealed: BTreeSet<_> = sealed.iter().flat_map(|segment| numbers(segment)).collect();
        assert_eq!(sealed.len(), 1_000, "{signal:?}: not all is in sealed segments");
        // No agent runs any more: the recording on disk is exported as it lies.
        assert_eq!(counts(&window(data.path(), 0, &[])).len(), 1_000);
    }
}

#[test]
fn a_second_recorder_on_the_same_directory_is_refused_and_told_whose_it_is() {
    let (pair, data) = (VethPair::new(1500), data_dir());
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
    let mut command = kuberewind();
    command.args(["tap", "--local", "--netns", pair.receiver.name(), "--data-dir"]);
    let mut second = Program::start(command.arg(data.path()));
    assert_eq!(second.ended(Duration::from_secs(5)).code(), Some(1), "{}", second.said());
    let (said, pid) = (second.said(), recorder.program().id().to_string());
    assert!(said.contains(&pid), "does not name process {pid}: {said}");

    send_frame(&pair.sender, VethPair::INTERFACE, &numbered(5, 100));
    assert_eq!(counts(&recorder.window(&[])).len(), 1, "the first is not disturbed");
}

#[test]
fn a_recording_goes_on_where_the_last_one_ended() {
    let (pair, data) = (VethPair::new(1500), data_dir());
    for number in 0..3 {
        let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
        send_frame(&pair.sender, VethPair::INTERFACE, &numbered(number, 100));
        assert_eq!(counts(&recorder.window(&[])).len(), number as usize + 1);
        assert_eq!(recorder.stop_by(Signal::TERM).code(), Some(0));
    }
}

fn numbers(segment: &Path) -> Vec<u32> {
    CaptureFile::read(segment).packets().filter_map(|packet| number_of(packet.data)).collect()
}

/// How often each packet is in an export of everything, and what it names as missing since a recorder was
/// killed.
fn counts_and_crashes(data: &Path) -> (BTreeMap<u32, u32>, Vec<Range<Timestamp>>) {
    let out = tempfile::tempdir().unwrap();
    let report = out.path().join("report.json");
    let counts = counts(&window(data, 3, &["--report", &report.display().to_string()]));
    let report = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    (counts, crashes(&report))
}

/// Nothing is there twice, and what tcpdump has besides, from the first packet on, is named as missing
/// around one of the kills, and not older than a second then.
fn assert_missing_is_named(
    counts: &BTreeMap<u32, u32>,
    theirs: &CaptureFile,
    crashes: &[Range<Timestamp>],
    killed: &[Timestamp],
) {
    let doubled: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
    assert!(doubled.is_empty(), "{} doubled: {:?}", doubled.len(), doubled.first());
    let is_missing = |packet: &Packet<'_>| {
        number_of(packet.data).is_some_and(|number| !counts.contains_key(&number))
    };
    let packets = theirs.packets().skip_while(is_missing);
    let missing: Vec<_> = packets.filter(is_missing).map(|packet| packet.timestamp).collect();
    let is_excused = |time: &Timestamp| {
        let gap = crashes.iter().find(|gap| gap.contains(time));
        let kill = gap.and_then(|gap| killed.iter().find(|kill| gap.contains(kill)));
        kill.is_some_and(|kill| *time > kill.saturating_sub(Duration::from_secs(1)))
    };
    let wrong: Vec<_> = missing.iter().filter(|time| !is_excused(time)).collect();
    assert!(
        wrong.is_empty(),
        "{} of {} missing: {wrong:.3?}\n{crashes:?}\n{killed:?}",
        wrong.len(),
        missing.len()
    );
}

fn counts(file: &CaptureFile) -> BTreeMap<u32, u32> {
    let mut counts = BTreeMap::new();
    for number in file.packets().filter_map(|packet| number_of(packet.data)) {
        *counts.entry(number).or_default() += 1;
    }
    counts
}
