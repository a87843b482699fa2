//! TLS: packets, secrets, and what they open.
//!
//! Inputs are not packets but what they carry, so that changed ones are still TCP: mutation would
//! rarely get past three headers.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use kuberewind_packet::{NetnsId, Timestamp};
use kuberewind_tls::{
    Decryptor, Derived, Event, Joiner, KeyLog, KeyLogLabel, KeyLogLine, Limits, Object, Pin,
    Pinned, Place, Secret, SecretBytes, SecretEvent, Segment, Sender, Twins,
};

/// Heads of records and handshake messages, extensions, and words of key logs.
pub(super) const WORDS: &[&str] = &[
    "in_object 1 8 48 ",
    "in_object 1 0 352 ",
    "\u{16}\u{3}\u{3}\0\u{4}\u{1}\0\0\0",
    "\u{16}\u{3}\u{1}\u{40}\0",
    "\u{14}\u{3}\u{3}\0\u{1}\u{1}",
    "\u{17}\u{3}\u{3}\0\u{11}",
    "\u{15}\u{3}\u{3}\0\u{2}\u{1}\0",
    "\u{2}\0\0\u{2}\u{3}\u{3}",
    "\u{18}\0\0\u{1}\u{1}",
    "\0+\0\u{2}\u{3}\u{4}",
    "\0)\0\u{2}\0\0",
    "\0*\0\0",
    "\0\0\0\u{5}\0\u{3}\0\0\0",
    "\nCLIENT_RANDOM ",
    "\nCLIENT_TRAFFIC_SECRET_0 ",
    "\nc_hs_traffic ",
    "00000000000000000000000000000000",
    "\n",
    "#",
];

const CASES: [&str; 14] = [
    "tls13",
    "tls13-aes128",
    "tls13-chacha",
    "tls13-early",
    "tls13-early-refused",
    "tls13-mutual",
    "tls13-resumed",
    "tls13-retry",
    "tls13-updated",
    "tls12-aes128",
    "tls12-chacha",
    "tls12-renegotiated",
    "tls12-resumed",
    "tls12-cbc",
];

const NETNS: NetnsId = NetnsId(1);

/// How a step's bits are read.
const FROM_SERVER: u8 = 1;
const SYN: u8 = 2;
const FIN: u8 = 4;
const RESET: u8 = 8;
const STEP: usize = 6;

/// A segment, told by where it stands after the one before it in its direction.
struct Step<'a> {
    flags: u8,
    /// Which connection.
    port: u8,
    /// Away from where the direction is.
    offset: i8,
    /// Since the step before, in 50 ms.
    later: u8,
    payload: &'a [u8],
}

/// `flags port offset later length:u16 payload`, as far as there is some.
fn steps(mut bytes: &[u8]) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    while let Some(([flags, port, offset, later, low, high], rest)) =
        bytes.split_first_chunk::<STEP>()
    {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (payload, rest) = rest.split_at(len);
        let offset = offset.cast_signed();
        steps.push(Step { flags: *flags, port: *port, offset, later: *later, payload });
        bytes = rest;
    }
    steps
}

/// The frames of these steps, each with its time.
fn frames(steps: &[Step<'_>]) -> Vec<(Timestamp, Vec<u8>)> {
    let mut next = [[1_000_u32; 2]; 256];
    let mut now = 1_000_000_000;
    let frame = |step: &Step<'_>| {
        now += u64::from(step.later) * 50_000_000;
        let next = &mut next[usize::from(step.port)];
        let own = usize::from(step.flags & FROM_SERVER);
        let sequence = next[own].wrapping_add_signed(step.offset.into());
        let acknowledged = next[1 - own];
        let len = u32::try_from(step.payload.len()).unwrap_or(0);
        let counted = u32::from(step.flags & (SYN | FIN) != 0);
        next[own] = sequence.wrapping_add(len + counted);
        (Timestamp::from_nanos(now), frame(step, sequence, acknowledged))
    };
    steps.iter().map(frame).collect()
}

/// IPv4 between two addresses; the server's port is 8443.
fn frame(step: &Step<'_>, sequence: u32, acknowledged: u32) -> Vec<u8> {
    let port = 40_000 + u16::from(step.port);
    let (source, destination, from, to) =
        if step.flags & FROM_SERVER == 0 { (1, 2, port, 8443) } else { (2, 1, 8443, port) };
    let flags = 0x10 | (step.flags & SYN) | (step.flags & FIN) >> 2 | (step.flags & RESET) >> 1;
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(u16::try_from(40 + step.payload.len()).unwrap_or(u16::MAX).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, source, 10, 0, 0, destination]);
    frame.extend([from, to].map(u16::to_be_bytes).concat());
    frame.extend([sequence, acknowledged].map(u32::to_be_bytes).concat());
    frame.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    frame.extend(step.payload);
    frame
}

fn fixture(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../crates/tls/tests/fixtures");
    let path = folder.join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

/// The steps of a recording.
fn recorded(name: &str) -> Vec<u8> {
    let file = fixture(&format!("{name}.pcap"));
    let word = |at: usize| file[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
    let (mut at, mut out) = (24, Vec::new());
    let mut clients = Vec::new();
    while at + 16 <= file.len() {
        let end = at + 16 + word(at + 8) as usize;
        if let Ok(segment) = Segment::read(&file[at + 16..end], word(at + 12)) {
            let client = clients.iter().position(|client| *client == segment.source);
            let server = clients.iter().position(|client| *client == segment.destination);
            let port = client.or(server).unwrap_or_else(|| {
                clients.push(segment.source);
                clients.len() - 1
            });
            let flag = |set: bool, flag: u8| if set { flag } else { 0 };
            let flags = flag(server.is_some(), FROM_SERVER)
                | flag(segment.syn, SYN)
                | flag(segment.fin, FIN)
                | flag(segment.reset, RESET);
            let len = u16::try_from(segment.payload.len()).unwrap_or(0).to_le_bytes();
            out.extend([flags, u8::try_from(port).unwrap_or(0), 0, 0, len[0], len[1]]);
            out.extend(segment.payload);
        }
        at = end;
    }
    out
}

/// Text and then steps.
fn with_text(text: &[u8], steps: &[u8]) -> Vec<u8> {
    let len = u16::try_from(text.len()).unwrap_or(0).to_le_bytes();
    [&len[..], text, steps].concat()
}

fn split(input: &[u8]) -> (String, &[u8]) {
    let Some((len, rest)) = input.split_first_chunk::<2>() else { return (String::new(), &[]) };
    let len = usize::from(u16::from_le_bytes(*len)).min(rest.len());
    let (text, rest) = rest.split_at(len);
    (String::from_utf8_lossy(text).into_owned(), rest)
}

/// Key logs, and the packets that they open.
pub(super) fn opened() -> Vec<Vec<u8>> {
    let of = |name: &&str| with_text(&fixture(&format!("{name}.keys")), &recorded(name));
    CASES.iter().map(of).collect()
}

/// The same without the packets of the handshakes, with what is known of them instead.
pub(super) fn older() -> Vec<Vec<u8>> {
    let of = |name: &&str| {
        let recorded = recorded(name);
        let steps = steps(&recorded);
        let hello = |kind: u8| {
            let is_it = move |step: &Step<'_>| {
                step.port == 0
                    && step.payload.first() == Some(&22)
                    && step.payload.get(5) == Some(&kind)
            };
            steps.iter().rposition(is_it)
        };
        let (client, server) = (hello(1)?, hello(2)?);
        let message = |at: usize| {
            let payload = steps[at].payload;
            let len = usize::from(u16::from_be_bytes([*payload.get(7)?, *payload.get(8)?]));
            Some(payload.get(5..9 + len)?.to_vec())
        };
        let pin = Pin {
            hello: Timestamp::from_nanos(1),
            netns: NETNS,
            client: ([10, 0, 0, 1], 40_000).into(),
            server: ([10, 0, 0, 2], 8443).into(),
            client_hello: message(client)?,
            server_hello: message(server)?,
        };
        let text =
            [&fixture(&format!("{name}.keys"))[..], format!("\n{pin}\n").as_bytes()].concat();
        let left = steps[..=server].iter().map(|step| STEP + step.payload.len()).sum::<usize>();
        Some(with_text(&text, &recorded[left..]))
    };
    CASES.iter().filter_map(of).collect()
}

/// What probes saw, and the packets that it belongs to.
pub(super) fn derived() -> Vec<Vec<u8>> {
    let of = |name: &&str| with_text(&fixture(&format!("{name}.derived")), &recorded(name));
    CASES.iter().map(of).collect()
}

pub(super) fn key_logs() -> Vec<Vec<u8>> {
    let of = |name: &&str| fixture(&format!("{name}.keys"));
    CASES.iter().map(of).chain([b"# comment\n\nSOMETHING_NEW 00 11\n".to_vec()]).collect()
}

/// The bytes of both directions of a recording, the client's first.
pub(super) fn conversations() -> Vec<Vec<u8>> {
    let of = |name: &&str| {
        let recorded = recorded(name);
        let steps = steps(&recorded);
        let of = |server: u8| {
            let own = steps.iter().filter(|s| s.flags & FROM_SERVER == server && s.port == 0);
            own.flat_map(|step| step.payload.iter().copied()).take(8_000).collect::<Vec<_>>()
        };
        let client = of(0);
        with_text(&client, &of(FROM_SERVER))
    };
    CASES.iter().map(of).collect()
}

/// A decryptor with little room, and twins of all that it opens. No byte is shown that the recordings
/// do not have: a changed record is never opened.
pub(super) fn decrypt(input: &[u8]) -> String {
    let (said, pieces) = open(input);
    let known = known();
    assert!(pieces.iter().all(|piece| known.contains(piece)), "a byte that nobody sent is shown");
    said
}

/// The contents of a recording's records, and whether the server sent them.
pub(super) fn said(name: &str) -> Vec<(bool, Vec<u8>)> {
    let text = String::from_utf8(fixture(&format!("{name}.keys"))).unwrap_or_default();
    let mut decryptor = Decryptor::new(KeyLog::parse(&text).unwrap_or_default(), Limits::default());
    let (input, mut said) = (recorded(name), Vec::new());
    let mut hear = |event: Event<'_>| {
        if let Event::Data { from, content, .. } = event {
            said.push((from == Sender::Server, content.bytes.to_vec()));
        }
    };
    for (time, frame) in frames(&steps(&input)) {
        let len = u32::try_from(frame.len()).unwrap_or(0);
        decryptor.see(Place(1), time, len, &frame, &mut hear);
    }
    said
}

/// Every record's content of every recording.
fn known() -> &'static HashSet<Vec<u8>> {
    static KNOWN: OnceLock<HashSet<Vec<u8>>> = OnceLock::new();
    KNOWN.get_or_init(|| opened().iter().flat_map(|input| open(input).1).collect())
}

fn open(input: &[u8]) -> (String, Vec<Vec<u8>>) {
    let (text, rest) = split(input);
    let (early, late): (Vec<_>, Vec<_>) = text
        .lines()
        .filter_map(|line| line.parse::<KeyLogLine>().ok())
        .partition(|line| !line.secret.0[0].is_multiple_of(8) || text.len() % 2 == 0);
    let mut log = KeyLog::default();
    log.extend(early);
    let total = if rest.len() % 2 == 0 { 256 << 10 } else { 20_000 };
    let limits =
        Limits { connections: 8, direction: total / 2, total, tries: 10_000, ..Limits::default() };
    let steps = steps(rest);
    let mut decryptor = Decryptor::new(log, limits);
    let mut heard = Heard::default();
    for pin in text.lines().filter_map(|line| line.parse::<Pin>().ok()) {
        decryptor.pin(Place(1), &pin);
    }
    let mut late = Some(late);
    for (number, (time, frame)) in frames(&steps).iter().enumerate() {
        if number == 5 {
            decryptor.learn(late.take().unwrap_or_default());
        }
        let len = u32::try_from(frame.len()).unwrap_or(0);
        heard.twins.avoid(len, frame);
        decryptor.see(Place(1), *time, len, frame, &mut |event| heard.hear(&event));
        assert!(decryptor.held() <= total, "{} bytes held", decryptor.held());
    }
    decryptor.finish(&mut |event| heard.hear(&event));
    let Heard { pieces, outcomes, twins, .. } = heard;
    let frames = twins.counts().frames.checked_ilog2();
    let said = format!("{outcomes:?} {} {frames:?}", pieces.len().min(12));
    (said, pieces)
}

/// What a decryptor says, and twins of it.
#[derive(Default)]
struct Heard {
    pieces: Vec<Vec<u8>>,
    outcomes: BTreeSet<String>,
    ended: HashSet<u64>,
    newest: Timestamp,
    twins: Twins,
}

impl Heard {
    fn hear(&mut self, event: &Event<'_>) {
        let (number, time) = match event {
            Event::Data { conversation, time, content, .. } => {
                self.pieces.push(content.bytes.to_vec());
                (conversation.number, *time)
            }
            Event::End { conversation, time, .. } => (conversation.number, *time),
            Event::Report { conversation, time, report } => {
                self.outcomes.insert(format!("{:?}", report.outcome));
                assert!(self.ended.insert(conversation.number), "two reports of one conversation");
                (conversation.number, *time)
            }
        };
        let is_last = matches!(event, Event::Report { .. });
        assert!(is_last || !self.ended.contains(&number), "an event after the report");
        assert!(self.newest <= time, "events step back in time");
        self.newest = time;
        self.twins.hear(event, &mut |_, frame| {
            let len = u32::try_from(frame.len()).unwrap_or(0);
            assert!(Segment::read(frame, len).is_ok(), "a twin's frame is no TCP");
        });
    }
}

/// Secrets and packets, alternating.
pub(super) fn join(input: &[u8]) -> String {
    let (text, rest) = split(input);
    let steps = steps(rest);
    let frames = frames(&steps);
    let mut events = text.lines().filter_map(event);
    let mut joiner = Joiner::default();
    // Which comes first is told by the length.
    let ahead = text.len() % 3;
    events.by_ref().take(ahead).for_each(|event| joiner.secret(event));
    let mut given = Vec::new();
    for (time, frame) in &frames {
        joiner.packet(NETNS, *time, frame);
        events.by_ref().take(1).for_each(|event| joiner.secret(event));
        given.extend(joiner.take(*time));
    }
    events.for_each(|event| joiner.secret(event));
    given.extend(joiner.take(Timestamp::from_nanos(2_000_000_000)));
    let counts = joiner.counts();
    assert!(counts.covered <= counts.handshakes, "{counts:?}");
    assert_eq!(counts, joiner.counts_of(NETNS).with_secrets(&counts), "of one namespace alone");
    let mut log = KeyLog::default();
    log.extend(given.iter().map(|given| given.line.clone()));
    assert!(log.handshakes() as u64 <= counts.handshakes, "a secret of no handshake");
    assert_eq!(KeyLog::parse(&log.to_text()).as_ref(), Ok(&log), "no key log comes out");
    for Pinned { pin, lines, .. } in joiner.take_pinned() {
        assert_eq!(pin.to_string().parse().as_ref(), Ok(&pin), "no pin comes out");
        assert!(lines.iter().all(|line| Some(line.client_random) == pin.client_random()));
    }
    joiner.settle();
    joiner.take(Timestamp::from_nanos(1 << 60));
    let labels: BTreeSet<_> = given.iter().map(|given| given.line.label).collect();
    let names = given.iter().filter_map(|given| given.server_name.as_ref());
    let names: BTreeSet<_> = names.map(String::len).collect();
    format!("{} {} {labels:?} {names:?}", counts.handshakes, counts.covered)
}

trait WithSecrets {
    fn with_secrets(self, all: &Self) -> Self;
}

impl WithSecrets for kuberewind_tls::JoinCounts {
    /// Secrets are counted for all namespaces together.
    fn with_secrets(self, all: &Self) -> Self {
        Self { secrets: all.secrets, unmatched: all.unmatched, ..self }
    }
}

/// `c_hs_traffic KEY TRANSCRIPT`, or a line of a key log.
fn event(line: &str) -> Option<SecretEvent> {
    let secret = line.parse::<KeyLogLine>().ok().map(|line| {
        let KeyLogLine { label, client_random, secret } = line;
        Secret::KeyLog { label, client_random, secret }
    });
    let secret = secret.or_else(|| derivation(line)).or_else(|| in_object(line))?;
    let (time, library) = (Timestamp::from_nanos(1_000_000_000), "OpenSSL".to_owned());
    Some(SecretEvent { time, netns: NETNS, pid: 1, library, secret })
}

/// `in_object FILE POINTER OFFSET` and a line of a key log, whose client's random stands there.
fn in_object(line: &str) -> Option<Secret> {
    let mut words = line.splitn(5, ' ');
    let is_it = words.next()? == "in_object";
    let file = words.next()?.parse().ok()?;
    let [pointer, offset] = [words.next()?, words.next()?].map(str::parse::<u16>);
    let (pointer, offset) = (pointer.ok()?, offset.ok()?);
    let KeyLogLine { label, client_random, secret } = words.next()?.parse().ok()?;
    let bytes = [&vec![0; usize::from(offset)][..], &client_random].concat();
    let (own, behind) = if pointer == 0 {
        (bytes, Vec::new())
    } else {
        (client_random.to_vec(), vec![(pointer, SecretBytes(bytes))])
    };
    let object = Object { file, own: SecretBytes(own), behind };
    is_it.then_some(Secret::InObject { label, secret, object })
}

fn derivation(line: &str) -> Option<Secret> {
    let mut words = line.split_ascii_whitespace();
    let label = match words.next()? {
        "c_e_traffic" => Derived::ClientEarly,
        "c_hs_traffic" => Derived::ClientHandshake,
        "s_hs_traffic" => Derived::ServerHandshake,
        "c_ap_traffic" => Derived::ClientTraffic,
        "s_ap_traffic" => Derived::ServerTraffic,
        "exp_master" => Derived::Exporter,
        _ => return None,
    };
    let key = SecretBytes(unhex(words.next()?));
    Some(Secret::Derivation { label, key, transcript: unhex(words.next()?) })
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |c: char| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let digits: Vec<u8> = text.chars().filter_map(digit).collect();
    digits.chunks(2).map(|two| two.iter().fold(0, |all, digit| all << 4 | digit)).collect()
}

/// Any text is a key log or is not; what is one is written and read again.
pub(super) fn key_log(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    match KeyLog::parse(&text) {
        Err(error) => error.to_string(),
        Ok(log) => {
            assert_eq!(KeyLog::parse(&log.to_text()).as_ref(), Ok(&log), "it is not read back");
            let labels: BTreeSet<KeyLogLabel> = log.lines().map(|line| line.label).collect();
            format!("{} {labels:?}", log.handshakes())
        }
    }
}

/// Records of both directions: the decryptor reads the same handshake of them whether they come in
/// large segments or in small ones. Why it reads no more depends on what came first, and the joiner
/// takes every segment that begins like a `ClientHello` for one. So does the decryptor where a connection
/// begins with something else.
pub(super) fn records(input: &[u8]) -> String {
    let (large, small) = (read_records(input, 1_400), read_records(input, 97));
    let is_tls = match input {
        [low, high, 22, 3, 0..=4, upper, lower, 1, ..] => {
            let body = u16::from_be_bytes([*upper, *lower]);
            u16::from_le_bytes([*low, *high]) > 5 && (1..=(1 << 14) + 2048).contains(&body)
        }
        _ => false,
    };
    assert!(!is_tls || large.0 == small.0, "segments make a difference: {} {}", large.0, small.0);
    format!("{} {}", large.0, large.1)
}

fn read_records(input: &[u8], size: usize) -> (String, String) {
    let Some((len, rest)) = input.split_first_chunk::<2>() else { return Default::default() };
    let len = usize::from(u16::from_le_bytes(*len)).min(rest.len());
    let (client, server) = rest.split_at(len);
    let step = |flags, payload| Step { flags, port: 0, offset: 0, later: 0, payload };
    let opening = [step(SYN, &[][..]), step(FROM_SERVER | SYN, &[])];
    let client = client.chunks(size).map(|payload| step(0, payload));
    let server = server.chunks(size).map(|payload| step(FROM_SERVER, payload));
    let steps: Vec<_> = opening.into_iter().chain(client).chain(server).collect();
    let (mut joiner, mut decryptor) =
        (Joiner::default(), Decryptor::new(KeyLog::default(), Limits::default()));
    let (mut versions, mut outcomes) = (Vec::new(), Vec::new());
    let mut hear = |event: Event<'_>| {
        if let Event::Report { report, .. } = event {
            versions.push(report.version);
            outcomes.push(report.outcome);
        }
    };
    for (time, frame) in frames(&steps) {
        joiner.packet(NETNS, time, &frame);
        decryptor.see(Place(1), time, u32::try_from(frame.len()).unwrap_or(0), &frame, &mut hear);
    }
    decryptor.finish(&mut hear);
    let handshakes = joiner.counts().handshakes;
    (format!("{versions:?}"), format!("{outcomes:?} {}", handshakes.min(3)))
}
