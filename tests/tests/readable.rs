//! Outsiders read everything that is written: exports and sealed segments.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kuberewind_tests::judges::{capinfos, read_by_all};
use kuberewind_tests::traffic::{Mixed, Rate, send, write_pcap};
use kuberewind_tests::{CaptureFile, Recorder, VethPair, data_dir, segments};
use rustix::process::Signal;

const FRAMES: usize = 60_000;

#[test]
fn every_export_and_every_sealed_segment_is_read_by_all_judges() {
    let (pair, data, out) = (VethPair::new(9000), data_dir(), tempfile::tempdir().unwrap());
    let recorder =
        Recorder::start(data.path(), &[&pair.receiver], &["--set", "pcapdump.maxSize=300MB"]);
    let pcap = out.path().join("sent.pcap");
    write_pcap(&pcap, Mixed::new(11, 9000).take(FRAMES));
    send(&pair.sender, VethPair::INTERFACE, &pcap, Rate::PerSecond(20_000));

    let files = ["export.pcap", "export.pcapng"].map(|name| out.path().join(name));
    for file in &files {
        let done = recorder.pcapdump(&["--dest", file.to_str().unwrap()]);
        assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
        let packets = count(file);
        assert!(packets >= FRAMES as u64, "only {packets} packets");
        read_by_all(file, packets);
        assert!(capinfos(file).strictly_ordered);
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let [pcap, pcapng] = files.map(|file| CaptureFile::read(&file));
    let content = |file: &CaptureFile| {
        let packets = file.packets().take(FRAMES);
        packets.map(|p| (p.timestamp, p.original_len, p.data.to_vec())).collect::<Vec<_>>()
    };
    assert!(content(&pcap) == content(&pcapng), "the two formats hold the same, to the nanosecond");

    assert_eq!(recorder.stop_by(Signal::TERM).code(), Some(0));
    let segments = segments(data.path());
    assert!(!segments.is_empty());
    for segment in &segments {
        read_by_all(segment, count(segment));
    }
    assert!(segments.iter().map(|segment| count(segment)).sum::<u64>() >= FRAMES as u64);
}

fn count(file: &Path) -> u64 {
    CaptureFile::read(file).packets().count() as u64
}
