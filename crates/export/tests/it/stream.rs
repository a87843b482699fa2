//! Packets in a pipe: seen as they come, and no fuss when the reader has enough.

use std::io::{self, BufRead, BufReader, PipeWriter, Write};
use std::ops::ControlFlow;
use std::process::{Command, Stdio};
use std::thread;

use kuberewind_export::wire::{Received, Sender};
use kuberewind_export::{Format, Input, Liveness, Report, write_stream};
use kuberewind_packet::WindowAccount;

use crate::made::{Made, Packet, WINDOW, export, packets};

/// What the agent does: windows that follow each other, each flushed.
fn send_each(mut sender: Sender<PipeWriter>, packets: Vec<Packet>, mut after: impl FnMut()) {
    for packet in packets {
        sender.send(&mut Made::new("n1", vec![packet])).unwrap();
        sender.flush().unwrap();
        after();
    }
    sender.finish(&WindowAccount::new("n1".into(), WINDOW)).unwrap();
}

#[test]
fn a_live_reader_is_shown_each_packet_before_the_next_one_comes() {
    for format in Format::ALL {
        for reader in [
            &["tshark", "-l", "-i", "-", "-n"][..],
            &["tcpdump", "-l", "-n", "-r", "-"],
            &["tshark", "-l", "-n", "-r", "-"],
        ] {
            let mut reader = Command::new(reader[0])
                .args(&reader[1..])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let stdin = reader.stdin.take().unwrap();
            let mut shown = BufReader::new(reader.stdout.take().unwrap()).lines();
            let (input, output) = io::pipe().unwrap();
            let exporter = thread::spawn(move || {
                let stream = Received::open(input).unwrap();
                let inputs = [Input { node: "n1".into(), stream, fetch: None, survey: None }];
                let go_on = |_| ControlFlow::Continue(());
                write_stream(&export(), inputs, format, Liveness::Live, stdin, go_on).unwrap()
            });
            // Nothing more is sent until the reader has shown what was.
            let mut count = 0;
            send_each(Sender::new(output, true).unwrap(), packets(5, 2), || {
                let line = shown.next().unwrap().unwrap();
                assert!(line.contains("10.0.0.1"), "{line}");
                count += 1;
            });
            let report = exporter.join().unwrap();
            assert_eq!((count, report.packets), (5, 5));
            assert!(reader.wait().unwrap().success());
        }
    }
}

#[test]
fn a_reader_who_closes_the_pipe_ends_it_quietly() {
    let (input, output) = io::pipe().unwrap();
    drop(input);
    let inputs = [Made::new("n1", packets(5, 2)).input()];
    let go_on = |_| ControlFlow::Continue(());
    let report =
        write_stream(&export(), inputs, Format::Pcap, Liveness::Live, output, go_on).unwrap();
    assert_eq!(report.notes, ["the reader closed the pipe"]);
    assert!(report.is_complete());
}

#[test]
fn the_caller_can_stop_it() {
    let inputs = [Made::new("n1", packets(5, 2)).input()];
    let stop = |_| ControlFlow::Break(());
    let report =
        write_stream(&export(), inputs, Format::Pcap, Liveness::Live, Vec::new(), stop).unwrap();
    assert_eq!(report.notes, ["stopped on request"]);
}

struct Full;

impl Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn any_other_error_of_the_pipe_is_one() {
    let inputs = [Made::new("n1", packets(5, 2)).input()];
    let go_on = |_| ControlFlow::Continue(());
    let error =
        write_stream(&export(), inputs, Format::Pcap, Liveness::Whole, Full, go_on).unwrap_err();
    assert!(error.to_string().starts_with("write packets to standard output"), "{error}");
}

#[test]
fn a_pipe_carries_the_same_packets_as_a_file_and_the_report_at_its_end() {
    let mut out = Vec::new();
    let inputs = [Made::new("n1", packets(50, 4)).input()];
    let go_on = |_| ControlFlow::Continue(());
    let report: Report =
        write_stream(&export(), inputs, Format::Pcapng, Liveness::Whole, &mut out, go_on).unwrap();
    assert_eq!((report.packets, report.file_bytes, report.file), (50, out.len() as u64, None));
    let text = String::from_utf8_lossy(&out);
    assert!(text.contains("\ncomplete"), "the report is in the last blocks");
}
