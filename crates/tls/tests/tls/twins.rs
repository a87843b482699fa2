//! tshark reads twins as what they are: plain conversations without a fault.

use std::path::Path;
use std::process::Command;

use kuberewind_packet::{Frame, Timestamp, pcap};
use kuberewind_tls::{Decryptor, Limits, Place, PortsTaken, Twins};
use crate::recorded::{Case, Packet, case, read_pcap};

/// The real packets and the twins, in the order of time.
struct Export {
    file: tempfile::NamedTempFile,
    twins: Vec<Packet>,
}

fn export(case: &Case, place: impl Fn(&Packet) -> Place) -> Export {
    let mut taken = PortsTaken::default();
    for packet in &case.packets {
        taken.see(packet.original_len, &packet.bytes);
    }
    let mut twins = Twins::new(taken);
    let mut decryptor = Decryptor::new(case.log.clone(), Limits::default());
    let (mut all, mut made) = (Vec::new(), Vec::new());
    for packet in &case.packets {
        all.push(packet.clone());
        let Packet { time, original_len, bytes } = packet;
        decryptor.see(place(packet), *time, *original_len, bytes, &mut |event| {
            twins.hear(&event, &mut |time, frame| made.push(made_up(time, frame)));
        });
        all.extend(made.drain(..));
    }
    decryptor.finish(&mut |event| {
        twins.hear(&event, &mut |time, frame| all.push(made_up(time, frame)));
    });
    assert!(all.is_sorted_by_key(|packet| packet.time), "twins come in the order of time");
    let twins: Vec<_> =
        all.iter().filter(|packet| packet.bytes[6..10] == *b"\x02TLS").cloned().collect();
    Export { file: write(&all), twins }
}

fn made_up(time: Timestamp, frame: &[u8]) -> Packet {
    Packet { time, original_len: frame.len().try_into().unwrap(), bytes: frame.to_vec() }
}

fn write(packets: &[Packet]) -> tempfile::NamedTempFile {
    let mut bytes = Vec::new();
    pcap::push_file_header(&mut bytes);
    for Packet { time, original_len, bytes: frame } in packets {
        pcap::push_packet(&mut bytes, &Frame::whole(*time, *original_len, frame));
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

fn tshark(file: &Path, args: &[&str]) -> Vec<String> {
    let output = Command::new("tshark").arg("-r").arg(file).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// What tshark finds wrong: checksums, retransmissions, holes, malformed content.
fn alarms(file: &Path) -> Vec<String> {
    let checks = ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"];
    let alarm = "tcp.analysis.flags || tcp.checksum_bad.expert || ip.checksum_bad.expert || \
                 _ws.malformed || http2.header.invalid";
    let fields = ["-Y", alarm, "-T", "fields", "-e", "frame.number", "-e", "eth.src", "-e", "_ws.expert.message"];
    tshark(file, &[&checks[..], &fields].concat())
        .into_iter()
        .filter(|line| line.contains("02:54:4c:53"))
        .collect()
}

#[track_caller]
fn shows(name: &str, filter: &str, fields: &[&str], expected: &[&str]) {
    let export = export(&case(name), |_| Place(0));
    let mut args = vec!["-Y", filter, "-T", "fields"];
    for field in fields {
        args.extend(["-e", field]);
    }
    assert_eq!(tshark(export.file.path(), &args), expected, "{name}");
    assert_eq!(alarms(export.file.path()), Vec::<String>::new(), "{name}");
}

#[test]
fn every_request_and_reply_of_http_is_dissected_without_settings() {
    for name in ["tls13", "tls12-aes128", "tls12-chacha", "tls13-retry"] {
        shows(
            name,
            "http",
            &["http.request.uri", "http.response.code", "http.content_length", "tcp.srcport"],
            &[],
        );
    }
}

#[test]
fn a_real_file_is_read_back() {
    assert!(!read_pcap(&std::fs::read(crate::recorded::fixture("tls13.pcap")).unwrap()).is_empty());
}
