//! Connections that began before the window are readable from its start, in both formats.

use std::collections::BTreeSet;
use std::path::Path;

use kuberewind_export::{Format, Report, TlsParts};
use kuberewind_packet::{NetnsId, Timestamp};
use kuberewind_tls::{Pin, Segment};

use crate::made::{Made, Packet};
use crate::tls::{NONE, PLAINTEXT, SECRETS, recorded_as, run, write_to};

/// Three requests in one connection each.
const CASES: [&str; 4] = ["tls13", "tls13-retry", "tls12-aes128", "tls12-chacha"];
const MARK: &str = "eth.src[0:4] == 02:54:4c:53";

/// The pin of the one connection in a recording whose hellos have a segment each.
fn pin(packets: &[Packet]) -> Pin {
    let hello = |kind: u8| {
        packets.iter().rev().find_map(|packet| {
            let segment = Segment::read(&packet.data, packet.original_len).ok()?;
            let payload = segment.payload;
            let is_it = payload.first() == Some(&22) && payload.get(5) == Some(&kind);
            let len = usize::from(u16::from_be_bytes([*payload.get(7)?, *payload.get(8)?]));
            is_it.then(|| (packet.time, segment, payload[5..9 + len].to_vec()))
        })
    };
    let (time, segment, client_hello) = hello(1).unwrap();
    let (_, _, server_hello) = hello(2).unwrap();
    Pin {
        hello: Timestamp::from_nanos(time),
        netns: NetnsId(4_026_531_840),
        client: segment.source,
        server: segment.destination,
        client_hello,
        server_hello,
    }
}

/// What is left of a recording from its packet `cut` on, with what a recorder sends of the connection.
fn rest(name: &str, cut: usize) -> Made {
    let whole = recorded_as(name, true);
    let mut rest = Made::new("n1", whole.packets[cut..].to_vec());
    let pin = pin(&whole.packets);
    rest.key_log = [&whole.key_log[..], b"\n", pin.to_string().as_bytes(), b"\n"].concat();
    rest
}

/// From here on the packets of a recording carry nothing of its hellos.
fn after_hellos(packets: &[Packet]) -> usize {
    let server_hello =
        |packet: &Packet| packet.data.get(66) == Some(&22) && packet.data.get(71) == Some(&2);
    packets.iter().rposition(server_hello).unwrap() + 1
}

/// Requests and the bodies of answers, each with its time, as tshark sees them.
fn http(file: &Path, filter: &str) -> Vec<(String, String)> {
    let filter = format!("http and ({filter})");
    let fields = "frame.time_epoch http.request.uri http.response.code http.file_data";
    let mut args =
        vec!["-d", "tcp.port==8443,tls", "-Y", &filter, "-T", "fields", "-E", "separator=/s"];
    args.extend(fields.split(' ').flat_map(|field| ["-e", field]));
    let lines = run("tshark", &[&args[..], &["-r"]].concat(), file);
    let split = |line: &str| {
        let (time, what) = line.split_once(' ').unwrap();
        (time.to_owned(), what.trim().to_owned())
    };
    lines.lines().map(split).filter(|(_, what)| !what.is_empty()).collect()
}

/// What tshark finds wrong with frames that are made or that stand behind them.
fn alarms(file: &Path) -> String {
    let checks = ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"];
    let made = format!(
        "_ws.malformed or tcp.analysis.flags or \
         ({MARK} and (tcp.checksum.status != Good or ip.checksum.status != Good))"
    );
    run("tshark", &[&checks[..], &["-d", "tcp.port==8443,tls", "-Y", &made, "-r"]].concat(), file)
}

fn export(format: Format, tls: TlsParts, made: Made) -> (tempfile::TempDir, Report) {
    let dir = tempfile::tempdir().unwrap();
    let (_, report) = write_to(dir.path(), format, tls, made);
    (dir, report)
}

#[test]
fn a_pcapng_is_decrypted_by_wireshark_from_any_packet_on() {
    for name in CASES {
        let whole = recorded_as(name, true);
        let (_dir, report) = export(Format::Pcapng, SECRETS, whole.clone());
        let all = http(report.file.as_ref().unwrap(), "tcp");
        assert_eq!(all.len(), 6, "{all:?}");
        let first = after_hellos(&whole.packets) + 2;
        for cut in (first..whole.packets.len() - 4).step_by(3) {
            let (_dir, report) = export(Format::Pcapng, SECRETS, rest(name, cut));
            let file = report.file.as_ref().unwrap();
            let shown = http(file, "tcp");
            assert!(all.ends_with(&shown), "{name} {cut}: {shown:#?}");
            let from = Timestamp::from_nanos(whole.packets[cut].time);
            let later = all.iter().filter(|(time, _)| {
                let (seconds, nanos) = time.split_once('.').unwrap();
                Timestamp::from_parts(seconds.parse().unwrap(), nanos.parse().unwrap()) >= from
            });
            // At most the records that were begun before the cut, one in each direction.
            assert!(shown.len() + 1 >= later.count(), "{name} {cut}: {shown:#?}, {report}");
            assert_eq!(report.packets, (whole.packets.len() - cut) as u64);
            if whole.packets.len() - cut > 16 {
                assert!(report.to_string().contains("1 readable from its start"), "{report}");
                assert!(!shown.is_empty(), "{name} {cut}");
            }
            assert_eq!(alarms(file), "", "{name} {cut}");
        }
    }
}

/// All that was said, but for one message in which the lost packet lay, stands in the file once with a
/// gap, from the gap on as a second conversation.
#[test]
fn what_follows_a_lost_packet_is_readable_in_both_formats() {
    for name in CASES {
        let whole = recorded_as(name, true);
        let (_dir, report) = export(Format::Pcapng, SECRETS, whole.clone());
        assert_eq!(report.tls.unwrap().plaintext.unwrap().shown, 0, "nothing is lost");
        let said = |file: &Path| -> BTreeSet<String> {
            http(file, "tcp").into_iter().map(|(_, what)| what).collect()
        };
        let all = said(report.file.as_ref().unwrap());
        let first = after_hellos(&whole.packets) + 6;
        let carries = |packet: &Packet| {
            let segment = Segment::read(&packet.data, packet.original_len).unwrap();
            !segment.payload.is_empty()
        };
        let lost = (first..whole.packets.len() - 4).filter(|at| carries(&whole.packets[*at]));
        for at in lost.step_by(4) {
            let mut torn = whole.clone();
            torn.packets.remove(at);
            for (format, parts) in [(Format::Pcapng, SECRETS), (Format::Pcap, PLAINTEXT)] {
                let (_dir, report) = export(format, parts, torn.clone());
                let file = report.file.as_ref().unwrap();
                let shown = said(file);
                let missing: Vec<_> = all.difference(&shown).collect();
                assert!(missing.len() <= 1, "{name} {at} {format:?}: {missing:?}, {report}");
                assert_eq!(run("tshark", &["-Y", "_ws.malformed", "-r"], file), "", "{name} {at}");
                let plaintext = report.tls.unwrap().plaintext.unwrap();
                assert_eq!(plaintext.partly["packets missing"], 1, "{plaintext}");
            }
        }
    }
}

#[test]
fn a_pcap_shows_http_from_any_packet_on() {
    for name in CASES {
        let whole = recorded_as(name, true);
        let (_dir, report) = export(Format::Pcap, PLAINTEXT, whole.clone());
        let all = http(report.file.as_ref().unwrap(), MARK);
        let first = after_hellos(&whole.packets) + 2;
        for cut in (first..whole.packets.len() - 4).step_by(4) {
            let (_dir, report) = export(Format::Pcap, PLAINTEXT, rest(name, cut));
            let shown = http(report.file.as_ref().unwrap(), MARK);
            assert!(all.ends_with(&shown), "{name} {cut}: {shown:#?}");
            assert_eq!(alarms(report.file.as_ref().unwrap()), "", "{name} {cut}");
            let plaintext = report.tls.unwrap().plaintext.unwrap();
            assert_eq!(plaintext.decrypted, 1, "{name} {cut}: {plaintext}");
            assert!(!shown.is_empty() || whole.packets.len() - cut < 12, "{name} {cut}");
        }
    }
}

#[test]
fn without_tls_the_file_has_the_recorded_packets_and_nothing_else() {
    for format in [Format::Pcap, Format::Pcapng] {
        let (_dir, with) = export(format, NONE, rest("tls13", 14));
        let mut bare = rest("tls13", 14);
        bare.key_log = Vec::new();
        let (_other, without) = export(format, NONE, bare);
        let read = |report: &Report| std::fs::read(report.file.as_ref().unwrap()).unwrap();
        assert_eq!(read(&with), read(&without));
    }
}

#[test]
fn secrets_of_connections_without_a_packet_are_not_in_the_file() {
    let mut made = rest("tls13", 14);
    let other = rest("tls12-aes128", 14);
    made.key_log.extend(&other.key_log);
    let (_dir, report) = export(Format::Pcapng, SECRETS, made);
    let file = std::fs::read(report.file.as_ref().unwrap()).unwrap();
    let has = |name: &str| {
        let line = recorded_as(name, true).key_log;
        let line = line.split(|byte| *byte == b'\n').next().unwrap();
        file.windows(line.len()).any(|part| part == line)
    };
    assert!(has("tls13") && !has("tls12-aes128"));
    assert!(!file.windows(11).any(|part| part == b"# handshake"));
    let text = report.to_string();
    assert!(text.contains("tls      secrets of 1 connection; 1 began before the window"), "{text}");
}
