//! What TLS said stands in the file beside the packets, for readers that know nothing of it.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

use kuberewind_export::{
    Destination, Export, Format, Input, Liveness, Place, Report, Survey, SurveyLimits, TlsParts,
    write, write_stream,
};

use kuberewind_packet::pcapng::PacketBlock;
use kuberewind_packet::{Interface, PacketStream, WindowAccount};

use crate::made::{Broken, Made, Packet, export};

pub(crate) const NONE: TlsParts = TlsParts { secrets: false, plaintext: false };
pub(crate) const SECRETS: TlsParts = TlsParts { secrets: true, plaintext: false };
pub(crate) const PLAINTEXT: TlsParts = TlsParts { secrets: false, plaintext: true };

/// A recording of the decryptor's own tests: three requests to port 8443, and what opens them.
fn recorded(with_secrets: bool) -> Made {
    recorded_as("tls13", with_secrets)
}

pub(crate) fn recorded_as(name: &str, with_secrets: bool) -> Made {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tls/tests/fixtures");
    let file = std::fs::read(folder.join(format!("{name}.pcap"))).unwrap();
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    let (mut at, mut packets) = (24, Vec::new());
    while at + 16 <= file.len() {
        let end = at + 16 + word(at + 8) as usize;
        packets.push(Packet {
            interface: 0,
            time: u64::from(word(at)) * 1_000_000_000 + u64::from(word(at + 4)),
            original_len: word(at + 12),
            data: file[at + 16..end].to_vec(),
        });
        at = end;
    }
    let mut made = Made::new("n1", packets);
    if with_secrets {
        made.key_log = std::fs::read(folder.join(format!("{name}.keys"))).unwrap();
    }
    made
}

pub(crate) fn write_to(dir: &Path, format: Format, tls: TlsParts, made: Made) -> (PathBuf, Report) {
    let destination = Destination { place: Place::Directory(dir.to_owned()), format };
    let export = Export { tls, ..export() };
    let report =
        write(&export, [made.input()], &destination, |_| ControlFlow::Continue(())).unwrap();
    (report.file.clone().unwrap(), report)
}

pub(crate) fn run(tool: &str, args: &[&str], file: &Path) -> String {
    let output = Command::new(tool).args(args).arg(file).output().unwrap();
    assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn requests(file: &Path, settings: &[&str]) -> Vec<String> {
    let fields = ["-Y", "http.request", "-T", "fields", "-e", "http.request.uri", "-r"];
    run("tshark", &[settings, &fields].concat(), file).lines().map(str::to_owned).collect()
}

#[test]
fn a_pcap_shows_http_without_settings_beside_the_packets_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let sent = recorded(true).packets;
    let (with, report) = write_to(dir.path(), Format::Pcap, PLAINTEXT, recorded(true));
    let (without, bare) = write_to(dir.path(), Format::Pcap, NONE, recorded(true));
    assert_eq!(requests(&with, &[]), ["/cart/0", "/cart/1", "/cart/2"]);
    assert!(requests(&without, &[]).is_empty());

    let real = dir.path().join("real.pcap");
    let filter = ["-Y", "!(eth.src[0:4] == 02:54:4c:53)", "-F", "nsecpcap", "-w"];
    let target = real.to_str().unwrap();
    run("tshark", &[&filter[..], &[target, "-r"]].concat(), &with);
    let hex = ["-n", "-tttt", "-xx", "-r"];
    let said = |file| run("tcpdump", &hex, file);
    assert_eq!(said(&real), said(&without));

    assert_eq!((report.packets, bare.packets), (sent.len() as u64, sent.len() as u64));
    assert_eq!(bare.tls, None);
    let tls = report.tls.as_ref().unwrap();
    let plaintext = tls.plaintext.as_ref().unwrap();
    assert_eq!((tls.connections_with_secrets, plaintext.decrypted), (1, 1));
    let all = run("tshark", &["-r"], &with).lines().count() as u64;
    assert_eq!(all, report.packets + plaintext.packets);
    let line = "tls      1 TLS conversation decrypted; 1 shown as a second conversation (eth.src \
                02:54:4c:53…; --tls none leaves it out)\n";
    assert!(report.to_string().contains(line), "{report}");
}

#[test]
fn a_pcapng_with_secrets_is_decrypted_by_its_readers() {
    let dir = tempfile::tempdir().unwrap();
    let (file, report) = write_to(dir.path(), Format::Pcapng, SECRETS, recorded(true));
    let port = ["-d", "tcp.port==8443,tls"];
    assert_eq!(requests(&file, &port), ["/cart/0", "/cart/1", "/cart/2"]);
    let line = "tls      secrets of 1 connection; 1 TLS conversation decrypted\n";
    assert!(report.to_string().contains(line), "{report}");
    assert!(run("capinfos", &["-M"], &file).contains("Number of decryption secrets in file: 1"));
    let merged = dir.path().join("merged.pcapng");
    run("mergecap", &["-w", merged.to_str().unwrap()], &file);
}

#[test]
fn twins_in_pcapng_are_on_an_interface_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let both = TlsParts { secrets: true, plaintext: true };
    let (file, report) = write_to(dir.path(), Format::Pcapng, both, recorded(true));
    let filter = ["-Y", "frame.interface_name == \"tls-plaintext\"", "-r"];
    let twins = run("tshark", &filter, &file).lines().count() as u64;
    assert_eq!(report.tls.unwrap().plaintext.unwrap().packets, twins);
    assert!(run("capinfos", &["-M"], &file).contains("Number of interfaces in file: 2"));
}

#[test]
fn what_could_not_be_decrypted_is_said_and_is_not_missing() {
    let dir = tempfile::tempdir().unwrap();
    for (format, parts) in [(Format::Pcap, PLAINTEXT), (Format::Pcapng, SECRETS)] {
        let (_, report) = write_to(dir.path(), format, parts, recorded(false));
        let line = "tls      0 TLS conversations decrypted; 1 not: no secret 1\n";
        assert!(report.to_string().contains(line), "{report}");
        assert!(report.is_complete());
    }
}

#[test]
fn a_pipe_carries_the_same_as_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let (file, _) = write_to(dir.path(), Format::Pcap, PLAINTEXT, recorded(true));
    let export = Export { tls: PLAINTEXT, ..export() };
    let go_on = |_| ControlFlow::Continue(());
    let mut out = Vec::new();
    let inputs = [recorded(true).input()];
    write_stream(&export, inputs, Format::Pcap, Liveness::Live, &mut out, go_on).unwrap();
    assert!(std::fs::read(file).unwrap() == out);
}

/// The beginning of a connection where the twin of an earlier one is: the client's port, to port 80.
fn later_where_the_twin_is(made: &Made) -> Packet {
    let (first, last) = (made.packets[0].clone(), made.packets.last().unwrap().time);
    let mut later = Packet { time: last + 1, ..first };
    // Ethernet, IPv4, the source's port.
    later.data[14 + 20 + 2..][..2].copy_from_slice(&80_u16.to_be_bytes());
    later
}

#[test]
fn a_recorded_packet_that_bears_the_mark_of_twins_is_not_changed() {
    for format in [Format::Pcap, Format::Pcapng] {
        let dir = tempfile::tempdir().unwrap();
        let mut made = recorded(true);
        let mut forged = later_where_the_twin_is(&made);
        forged.data[6..10].copy_from_slice(&[0x02, 0x54, 0x4c, 0x53]);
        made.packets.push(forged.clone());
        let (file, _) = write_to(dir.path(), format, PLAINTEXT, made);
        let written = std::fs::read(file).unwrap();
        let len = forged.data.len();
        assert!(written.windows(len).any(|part| part == forged.data), "{format:?}");
    }
}

#[test]
fn a_twin_makes_way_for_a_real_connection_that_comes_later() {
    for format in [Format::Pcap, Format::Pcapng] {
        let dir = tempfile::tempdir().unwrap();
        let mut made = recorded(true);
        let later = later_where_the_twin_is(&made);
        made.packets.push(later);
        let (file, _) = write_to(dir.path(), format, PLAINTEXT, made);
        let client = ["-Y", "tcp.flags.syn==1 and tcp.flags.ack==0", "-T", "fields", "-e"];
        let ports = run("tshark", &[&client[..], &["tcp.srcport", "-r"]].concat(), &file);
        let ports: Vec<_> = ports.lines().collect();
        let [real, twin, later] = ports[..] else { panic!("{ports:?}") };
        assert!(real == later && real != twin, "{ports:?}");
        assert_eq!(
            requests(&file, &["-Y", "eth.src[0:4]==02:54:4c:53"]),
            ["/cart/0", "/cart/1", "/cart/2"]
        );
        let alarm = "eth.src[0:4]==02:54:4c:53 and tcp.checksum.status!=Good \
                     or tcp.analysis.reused_ports";
        let checks = ["-o", "tcp.check_checksum:TRUE", "-Y", alarm, "-r"];
        assert_eq!(run("tshark", &checks, &file), "");
    }
}

/// Two windows of one connection each, as they are followed: the secrets of the second come with it.
struct Followed {
    made: Made,
    later: Vec<u8>,
    /// The time of its first packet.
    at: u64,
    is_due: bool,
}

impl PacketStream for Followed {
    type Error = Broken;

    fn advance(&mut self) -> Result<bool, Broken> {
        let more = self.made.advance()?;
        self.is_due |= more && self.made.packet().timestamp.as_nanos() >= self.at;
        Ok(more)
    }

    fn packet(&self) -> PacketBlock<'_> {
        self.made.packet()
    }

    fn interfaces(&self) -> &[Interface] {
        self.made.interfaces()
    }

    fn take_key_log(&mut self) -> Vec<u8> {
        let later = if self.is_due { std::mem::take(&mut self.later) } else { Vec::new() };
        [self.made.take_key_log(), later].concat()
    }

    fn account(&self) -> &WindowAccount {
        self.made.account()
    }
}

#[test]
fn secrets_that_come_later_stand_before_what_they_open() {
    let (first, second) = (recorded_as("tls13", true), recorded_as("tls12-aes128", true));
    let end = first.packets.last().unwrap().time;
    let mut packets = first.packets.clone();
    packets.extend(
        second
            .packets
            .iter()
            .enumerate()
            .map(|(number, packet)| Packet { time: end + 1 + number as u64, ..packet.clone() }),
    );
    for (format, tls) in [(Format::Pcapng, SECRETS), (Format::Pcap, PLAINTEXT)] {
        let mut made = Made::new("n1", packets.clone());
        made.key_log = first.key_log.clone();
        let stream = Followed { made, later: second.key_log.clone(), at: end + 1, is_due: false };
        let input = Input { node: "n1".to_owned(), stream, fetch: None, survey: None };
        let (export, mut out) = (Export { tls, ..export() }, Vec::new());
        let go_on = |_| ControlFlow::Continue(());
        let report =
            write_stream(&export, [input], format, Liveness::Live, &mut out, go_on).unwrap();
        assert_eq!(report.tls.unwrap().connections_with_secrets, 2);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("followed");
        std::fs::write(&file, out).unwrap();
        let expected = ["/cart/0", "/cart/1", "/cart/2"].repeat(2);
        assert_eq!(requests(&file, &["-d", "tcp.port==8443,tls"]), expected, "{format:?}");
    }
}

/// The server's end knows the secrets, the client's has the packets.
#[test]
fn secrets_of_the_end_that_is_left_out_open_what_the_other_saw() {
    let (mut packets, key_log) = (recorded(false).packets, recorded(true).key_log);
    for packet in &mut packets {
        // Between two pods, not within one: Ethernet, IPv4, its addresses, the source's port.
        let is_server = packet.data[34..36] == 8443_u16.to_be_bytes();
        let [from, to] = if is_server { [2, 1] } else { [1, 2] };
        packet.data[26..34].copy_from_slice(&[10, 0, 0, from, 10, 0, 0, to]);
    }
    let later = packets.iter().map(|packet| Packet { time: packet.time + 100, ..packet.clone() });
    let mut server = Made::new("n1", later.collect());
    server.key_log = key_log;
    let client = Made::new("n2", packets);
    let surveyed = |made: Made| {
        let survey =
            Survey::of(&mut made.clone(), SurveyLimits::default(), std::env::temp_dir()).unwrap();
        Input { survey: Some(survey), ..made.input() }
    };
    for (format, tls) in [(Format::Pcap, PLAINTEXT), (Format::Pcapng, SECRETS)] {
        let dir = tempfile::tempdir().unwrap();
        let destination = Destination { place: Place::Directory(dir.path().to_owned()), format };
        let export = Export { tls, ..export() };
        let inputs = [&server, &client].map(|made| surveyed(made.clone()));
        let report = write(&export, inputs, &destination, |_| ControlFlow::Continue(())).unwrap();
        let counts = report.nodes.iter().map(|node| (node.account.packets, node.left_out.packets));
        let all = client.packets.len() as u64;
        assert_eq!(counts.collect::<Vec<_>>(), [(0, all), (all, 0)]);
        let plaintext = report.tls.unwrap().plaintext;
        assert!(plaintext.is_none_or(|plaintext| plaintext.decrypted == 1), "once");
        let file = report.file.unwrap();
        assert_eq!(requests(&file, &[]), ["/cart/0", "/cart/1", "/cart/2"], "{format}");
    }
}
