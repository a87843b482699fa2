//! How fast a recording decrypts: `throughput FILE.pcap KEYLOG` (nanoseconds, little endian).

use std::process::ExitCode;
use std::time::Instant;

use kuberewind_packet::Timestamp;
use kuberewind_tls::{Decryptor, Event, Joiner, KeyLog, Limits, Place, PortsTaken, Twins};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(pcap), Some(keys)) = (arguments.next(), arguments.next()) else {
        eprintln!("throughput FILE.pcap KEYLOG");
        return ExitCode::from(2);
    };
    let (Ok(file), Ok(keys)) = (std::fs::read(pcap), std::fs::read_to_string(keys)) else {
        eprintln!("cannot read the files");
        return ExitCode::FAILURE;
    };
    let Ok(log) = KeyLog::parse(&keys) else {
        eprintln!("not a key log");
        return ExitCode::FAILURE;
    };
    hellos(&file);
    plaintext(&file, log.clone());
    twins(&file, log);
    ExitCode::SUCCESS
}

fn hellos(file: &[u8]) {
    let mut joiner = Joiner::default();
    let begun = Instant::now();
    let mut count = 0;
    packets(file, |time, _, bytes| {
        count += 1;
        joiner.packet(kuberewind_packet::NetnsId(1), time, bytes);
    });
    let each = begun.elapsed() / count.max(1);
    let handshakes = joiner.counts().handshakes;
    println!("handshakes: {handshakes} in {count} packets, {each:?} a packet");
}

fn plaintext(file: &[u8], log: KeyLog) {
    let mut bytes = 0;
    let mut sink = |event: Event<'_>| match event {
        Event::Data { content, .. } => bytes += content.bytes.len(),
        Event::Report { report, .. } => println!("{report:?}"),
        Event::End { .. } => {}
    };
    let mut decryptor = Decryptor::new(log, Limits::default());
    let begun = Instant::now();
    packets(file, |time, len, frame| decryptor.see(Place(0), time, len, frame, &mut sink));
    decryptor.finish(&mut sink);
    println!("plaintext: {bytes} bytes, {}", rate(bytes, begun));
}

fn twins(file: &[u8], log: KeyLog) {
    let mut twins = Twins::new(PortsTaken::default());
    let mut bytes = 0;
    let mut decryptor = Decryptor::new(log, Limits::default());
    let begun = Instant::now();
    packets(file, |time, len, frame| {
        decryptor.see(Place(0), time, len, frame, &mut |event| {
            twins.hear(&event, &mut |_, frame| bytes += frame.len());
        });
    });
    println!("with twins: {bytes} bytes of frames, {}", rate(bytes, begun));
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn rate(bytes: usize, begun: Instant) -> String {
    format!("{:.0} MB/s", bytes as f64 / 1e6 / begun.elapsed().as_secs_f64())
}

fn packets(file: &[u8], mut see: impl FnMut(Timestamp, u32, &[u8])) {
    let word = |at: usize| Some(u32::from_le_bytes(file.get(at..at + 4)?.try_into().ok()?));
    let mut at = 24;
    while let (Some(seconds), Some(nanos), Some(captured), Some(len)) =
        (word(at), word(at + 4), word(at + 8), word(at + 12))
    {
        let end = at + 16 + captured as usize;
        let Some(bytes) = file.get(at + 16..end) else { break };
        see(Timestamp::from_parts(seconds, nanos), len, bytes);
        at = end;
    }
}
