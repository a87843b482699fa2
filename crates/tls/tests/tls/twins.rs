//! tshark reads twins as what they are: plain conversations without a fault.

use std::path::Path;
use std::process::Command;

use crate::recorded::{Case, Packet, case};
use kuberewind_packet::{Frame, Timestamp, pcap};
use kuberewind_tls::{
    Content, Conversation, Decryptor, Event, Limits, Place, PortsTaken, Sender, Twins,
};

/// The real packets and the twins, in the order of time.
struct Export {
    file: tempfile::NamedTempFile,
    twins: Vec<Packet>,
}

fn export(case: &Case) -> Export {
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
        decryptor.see(Place(0), *time, *original_len, bytes, &mut |event| {
            twins.hear(&event, &mut |time, frame| made.push(made_up(time, frame)));
        });
        all.append(&mut made);
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
                 _ws.malformed";
    let fields = [
        "-Y",
        alarm,
        "-T",
        "fields",
        "-e",
        "frame.number",
        "-e",
        "eth.src",
        "-e",
        "_ws.expert.message",
    ];
    tshark(file, &[&checks[..], &fields].concat())
        .into_iter()
        .filter(|line| line.contains("02:54:4c:53"))
        .collect()
}

/// The fields of the frames that the filter takes, words apart by spaces.
fn fields(file: &Path, filter: &str, fields: &[&str]) -> Vec<String> {
    let mut args = vec!["-Y", filter, "-T", "fields", "-E", "separator=/s"];
    for field in fields {
        args.extend(["-e", field]);
    }
    tshark(file, &args)
}

#[test]
fn every_request_and_reply_of_http_is_dissected_without_settings() {
    for name in ["tls13", "tls12-aes128", "tls12-chacha", "tls13-retry"] {
        let export = export(&case(name));
        let file = export.file.path();
        let requests = fields(file, "http.request", &["http.request.uri", "tcp.dstport"]);
        assert_eq!(requests, ["/cart/0 80", "/cart/1 80", "/cart/2 80"], "{name}");
        let replies = fields(file, "http.response", &["http.response.code", "http.file_data"]);
        assert_eq!(replies.len(), 3, "{name}");
        let body = "200 0000000\\n0000001\\n";
        assert!(replies.iter().all(|reply| reply.starts_with(body)), "{name}: {replies:?}");
        assert_eq!(alarms(file), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn http2_is_dissected_without_settings() {
    let export = export(&case("http2"));
    let file = export.file.path();
    let paths = fields(file, "http2.headers.path", &["http2.headers.path", "tcp.dstport"]);
    assert_eq!(paths, ["/0.txt 80", "/1.txt 80", "/2.txt 80"]);
    let replies = fields(file, "http2.headers.status", &["http2.headers.status"]);
    assert_eq!(replies, ["200", "200", "200"]);
    assert_eq!(alarms(file), Vec::<String>::new());
}

#[test]
fn a_body_is_exported_by_wireshark_to_the_byte() {
    let case = case("tls13-long");
    let export = export(&case);
    let folder = tempfile::tempdir().unwrap();
    let objects = format!("http,{}", folder.path().display());
    tshark(export.file.path(), &["-q", "--export-objects", &objects]);
    let body = std::fs::read(folder.path().join("0")).unwrap();
    assert!(case.server.ends_with(&body) && body.len() == 150_000, "{} bytes", body.len());
    assert_eq!(alarms(export.file.path()), Vec::<String>::new());
}

#[test]
fn the_real_packets_are_dissected_as_without_twins() {
    for name in ["tls13", "http2", "tls12-resumed"] {
        let case = case(name);
        let real = write(&case.packets);
        let export = export(&case);
        let of = |file: &Path| {
            let seen = ["frame.time_epoch", "tcp.stream", "_ws.col.Protocol", "_ws.col.Info"];
            let lines = fields(file, "!(eth.src[0:4] == 02:54:4c:53)", &seen);
            assert_eq!(lines.len(), case.packets.len());
            lines
        };
        // Streams are numbered in the order in which they begin; the real one begins before its twin.
        let without_number = |line: String| {
            let words: Vec<_> = line.split(' ').collect();
            [&words[..1], &words[2..]].concat().join(" ")
        };
        let bare = |file| of(file).into_iter().map(without_number).collect::<Vec<_>>();
        assert_eq!(bare(export.file.path()), bare(real.path()), "{name}");
    }
}

#[test]
fn a_twin_takes_no_ports_that_are_taken() {
    let mut case = case("tls13");
    // The same conversation again, as if the real one ran at port 80: plain HTTP would have its ports.
    let at_80 = |packet: &Packet| {
        let mut packet = packet.clone();
        let at = if packet.bytes[34..36] == 8443_u16.to_be_bytes() { 34 } else { 36 };
        packet.bytes[at..at + 2].copy_from_slice(&80_u16.to_be_bytes());
        packet
    };
    let again: Vec<_> = case.packets.iter().map(at_80).collect();
    let both = case.packets.iter().zip(&again).flat_map(|(one, two)| [one.clone(), two.clone()]);
    case.packets = both.collect();
    let export = export(&case);
    let mut ports = fields(
        export.file.path(),
        "eth.src[0:4] == 02:54:4c:53 && tcp.flags.syn == 1 && tcp.flags.ack == 0",
        &["tcp.srcport", "tcp.dstport"],
    );
    ports.sort();
    let client = u16::from_be_bytes([case.packets[0].bytes[34], case.packets[0].bytes[35]]);
    assert_eq!(ports.len(), 2);
    assert!(ports.contains(&format!("{client} 8080")), "real port 80: {ports:?}");
    let moved = ports.iter().find(|ports| ports.ends_with(" 80")).unwrap();
    assert!(!moved.starts_with(&client.to_string()), "{client} to 80 is a real flow: {moved}");
}

#[test]
fn a_hole_in_the_real_one_is_a_hole_in_the_twin() {
    let mut case = case("tls13-long");
    case.packets.remove(70);
    let export = export(&case);
    let alarms = alarms(export.file.path());
    assert!(alarms.iter().any(|line| line.contains("Previous segment")), "{alarms:?}");
    assert!(!alarms.iter().any(|line| line.contains("etransmission")), "{alarms:?}");
}

#[test]
fn twins_of_ipv6_have_right_checksums() {
    let mut case = case("tls13");
    for packet in &mut case.packets {
        packet.bytes = as_ipv6(&packet.bytes);
        packet.original_len += 20;
    }
    let export = export(&case);
    let requests = fields(export.file.path(), "http.request", &["ipv6.dst", "http.request.uri"]);
    assert_eq!(requests[0], "fd00::1 /cart/0");
    assert_eq!(alarms(export.file.path()), Vec::<String>::new());
    assert!(export.twins.len() > 9);
}

/// The same segment between `fd00::1` and itself.
fn as_ipv6(frame: &[u8]) -> Vec<u8> {
    let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    let segment = &frame[34..14 + total];
    let address = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let len = (segment.len() as u16).to_be_bytes();
    [&frame[..12], &[0x86, 0xdd, 0x60, 0, 0, 0], &len, &[6, 64], &address, &address, segment]
        .concat()
}

fn conversation() -> Conversation {
    Conversation {
        number: 0,
        place: Place(0),
        client: "10.0.0.1:4000".parse().unwrap(),
        server: "10.0.0.2:8443".parse().unwrap(),
        resumed: false,
    }
}

#[test]
fn a_server_of_http2_that_speaks_first_is_understood() {
    let conversation = conversation();
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], settings].concat();
    // HEADERS of GET / by the static table (RFC 7541 appendix A).
    let request = b"\0\0\x03\x01\x05\0\0\0\x01\x82\x86\x84";
    let reply = b"\0\0\x01\x01\x05\0\0\0\x01\x88";
    let mut twins = Twins::new(PortsTaken::default());
    let mut made = Vec::new();
    let said: [(Sender, &[u8]); 4] = [
        (Sender::Server, settings),
        (Sender::Client, &preface),
        (Sender::Client, request),
        (Sender::Server, reply),
    ];
    for (second, (from, bytes)) in said.into_iter().enumerate() {
        let event = Event::Data {
            conversation: &conversation,
            from,
            time: Timestamp::from_parts(second as u32, 0),
            content: Content { lost: 0, bytes },
        };
        twins.hear(&event, &mut |time, frame| made.push(made_up(time, frame)));
    }
    let file = write(&made);
    assert_eq!(fields(file.path(), "http2.headers.path", &["http2.headers.path"]), ["/"]);
    assert_eq!(fields(file.path(), "http2.headers.status", &["http2.headers.status"]), ["200"]);
    assert_eq!(alarms(file.path()), Vec::<String>::new());
}

/// A record's content, as the decryptor told it.
#[derive(Clone)]
struct Said {
    conversation: Conversation,
    from: Sender,
    time: Timestamp,
    bytes: Vec<u8>,
}

fn said(case: &Case) -> Vec<Said> {
    let (mut all, mut decryptor) =
        (Vec::new(), Decryptor::new(case.log.clone(), Limits::default()));
    let mut hear = |event: Event<'_>| {
        if let Event::Data { conversation, from, time, content } = event {
            let (conversation, bytes) = (*conversation, content.bytes.to_vec());
            all.push(Said { conversation, from, time, bytes });
        }
    };
    for Packet { time, original_len, bytes } in &case.packets {
        decryptor.see(Place(0), *time, *original_len, bytes, &mut hear);
    }
    decryptor.finish(&mut hear);
    all
}

/// The twin of what is left when the first `cut` records are not at hand, and one more is lost.
fn twin_of_the_rest(all: &[Said], cut: usize, hole: usize) -> tempfile::NamedTempFile {
    let (mut packets, mut twins) = (Vec::new(), Twins::new(PortsTaken::default()));
    let mut lost = [0; 2];
    for (number, said) in all.iter().enumerate().skip(cut) {
        let side = usize::from(said.from == Sender::Server);
        if number == hole {
            lost[side] = said.bytes.len() as u64;
            continue;
        }
        let conversation = Conversation { resumed: cut > 0, ..said.conversation };
        let content = Content { lost: std::mem::take(&mut lost[side]), bytes: &said.bytes };
        let (from, time) = (said.from, said.time);
        let event = Event::Data { conversation: &conversation, from, time, content };
        twins.hear(&event, &mut |time, frame| packets.push(made_up(time, frame)));
    }
    write(&packets)
}

/// The header fields that tshark shows, and the data.
fn shown_of_http2(file: &Path) -> (Vec<(String, String)>, Vec<String>) {
    let lines = tshark(file, &["-T", "pdml", "-J", "http2"]);
    let attribute = |line: &str, name: &str| {
        let rest = line.split_once(&format!(" {name}=\""))?.1;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let (mut fields, mut data, mut name) = (Vec::new(), Vec::new(), String::new());
    for line in lines {
        let Some(value) = attribute(&line, "show") else { continue };
        if line.contains("name=\"http2.header.name\"") {
            name = value;
        } else if line.contains("name=\"http2.header.value\"") {
            fields.push((std::mem::take(&mut name), value));
        } else if line.contains("name=\"http2.data.data\"") {
            data.extend(attribute(&line, "value"));
        }
    }
    (fields, data)
}

#[test]
fn wherever_http2_is_cut_tshark_shows_nothing_that_was_not_sent() {
    let all = said(&case("http2"));
    let (fields, data) = shown_of_http2(twin_of_the_rest(&all, 0, usize::MAX).path());
    assert!(fields.len() > 20 && data.len() >= 3, "{fields:?}");
    let (mut unknown, mut known) = (0, 0);
    let none = usize::MAX;
    let cuts = (1..all.len()).map(|cut| (cut, none)).chain((1..all.len()).map(|hole| (0, hole)));
    for (cut, hole) in cuts {
        let (some, bodies) = shown_of_http2(twin_of_the_rest(&all, cut, hole).path());
        for field in &some {
            let is_unknown = field.0.starts_with("unknown-hpack-");
            unknown += usize::from(is_unknown);
            known += usize::from(!is_unknown);
            assert!(is_unknown || fields.contains(field), "cut {cut}, hole {hole}: {field:?}");
        }
        let is_new = |body: &&String| !data.contains(body);
        assert_eq!(bodies.iter().find(is_new), None, "cut {cut}, hole {hole}");
    }
    assert!(unknown > 0 && known > unknown, "{known} fields known, {unknown} not");
}

#[test]
fn a_server_whose_first_words_are_lost_is_not_shown_with_fields_of_others() {
    let conversation = conversation();
    // An answer of which the only field is entry 62, whatever that was.
    let ping = b"\0\0\x08\x06\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let answer = b"\0\0\x01\x01\x05\0\0\0\x01\xbe";
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut shown = Vec::new();
    let mut twins = Twins::new(PortsTaken::default());
    let said = [
        (Sender::Server, 50, &answer[..]),
        (Sender::Client, 0, &preface[..]),
        (Sender::Server, 0, &ping[..]),
        (Sender::Server, 0, &answer[..]),
    ];
    for (from, lost, bytes) in said {
        let content = Content { lost, bytes };
        let event =
            Event::Data { conversation: &conversation, from, time: Timestamp::default(), content };
        twins.hear(&event, &mut |_, frame| shown.extend_from_slice(frame));
    }
    let has = |words: &[u8]| shown.windows(words.len()).any(|part| part == words);
    assert!(has(&preface[..]));
    assert!(has(b"unknown-hpack-1"));
    assert!(!has(answer));
}

#[test]
fn wherever_http1_is_cut_what_follows_the_cut_message_is_dissected() {
    let piece = |number: u32, from, bytes: Vec<u8>| Said {
        conversation: conversation(),
        from,
        time: Timestamp::from_parts(number, 0),
        bytes,
    };
    // Head and body in records of their own; the body has no line's end, or has some.
    for body in [&[b'.'; 3_000][..], &[&[b'\n'; 100][..], &[b'.'; 2_900]].concat()] {
        let half = body.len() / 2;
        let all: Vec<_> = (0..4)
            .flat_map(|number| {
                let head = format!("Content-Length: {}\r\n\r\n", body.len());
                let request = format!("POST /{number} HTTP/1.1\r\nHost: a\r\n{head}");
                let answer = format!("HTTP/1.1 200 OK\r\nX-Number: {number}\r\n{head}");
                let message = |from, head: String| {
                    [head.as_bytes(), &body[..half], &body[half..]]
                        .map(|part| (from, part.to_vec()))
                };
                [message(Sender::Client, request), message(Sender::Server, answer)].concat()
            })
            .enumerate()
            .map(|(number, (from, bytes))| piece(number as u32, from, bytes))
            .collect();
        for cut in 1..all.len() - 6 {
            let file = twin_of_the_rest(&all, cut, usize::MAX);
            let (requests, answers) = (all.len() / 6 - cut.div_ceil(6), (all.len() - cut + 3) / 6);
            let kinds = ["http.request.method", "http.response.code"];
            let lines = fields(file.path(), "http.request or http.response", &kinds);
            let asked = lines.iter().filter(|line| line.starts_with("POST")).count();
            assert_eq!((asked, lines.len() - asked), (requests, answers), "cut {cut}: {lines:?}");
            assert_eq!(alarms(file.path()), Vec::<String>::new(), "cut {cut}");
        }
    }
}

#[test]
fn a_twin_that_begins_anew_is_dissected_without_what_was_told_before() {
    let conversation = Conversation { resumed: true, ..conversation() };
    let mut twins = Twins::new(PortsTaken::default()).beginning_at(7_000);
    let (mut before, mut since) = (Vec::new(), Vec::new());
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes();
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n".to_vec();
    let said = [
        (Sender::Client, request("/before")),
        (Sender::Server, head.clone()),
        (Sender::Server, vec![b'.'; 1_000]),
        (Sender::Server, vec![b'.'; 2_000]),
        (Sender::Client, request("/since")),
        (Sender::Server, head),
        (Sender::Server, vec![b'.'; 3_000]),
    ];
    for (number, (from, bytes)) in said.iter().enumerate() {
        let time = Timestamp::from_parts(u32::try_from(number).unwrap(), 0);
        let made = if number < 3 { &mut before } else { &mut since };
        let mut sink = |time, frame: &[u8]| made.push(made_up(time, frame));
        if number == 3 {
            twins.begin_anew(&conversation, 5_000, time, &mut sink);
        }
        let content = Content { lost: 0, bytes };
        let event = Event::Data { conversation: &conversation, from: *from, time, content };
        twins.hear(&event, &mut sink);
    }
    let seen = |packets: &[Packet]| {
        let file = write(packets);
        let shown = ["http.request.uri", "http.response.code", "tcp.stream"];
        (fields(file.path(), "http.request or http.response", &shown), alarms(file.path()).len())
    };
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(seen(&since), (words(&["/since  0", " 200 0"]), 0));
    // Both recorders' in one file: the lower numbers are no retransmissions, but ports used again.
    let both = seen(&[before, since].concat());
    assert_eq!(both, (words(&["/before  0", "/since  1", " 200 1"]), 1));
}
