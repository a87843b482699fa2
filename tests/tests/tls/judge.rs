//! What tshark finds in an export, told by nobody where to look.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use kuberewind_tests::judges::tshark;
use kuberewind_tests::{CaptureFile, Packet, Recorder};

/// The first bytes of the Ethernet source of what was added.
pub(crate) const MARK: [u8; 4] = [0x02, 0x54, 0x4c, 0x53];

/// What a client asked and what it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exchange {
    pub(crate) method: String,
    pub(crate) uri: String,
    pub(crate) asked: Body,
    pub(crate) status: u16,
    pub(crate) answered: Body,
}

/// Bytes that may be many.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Body(Vec<u8>);

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Body {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = self;
        let begin = String::from_utf8_lossy(&bytes[..bytes.len().min(24)]);
        write!(f, "{} bytes {begin:?}…", bytes.len())
    }
}

impl Exchange {
    /// Nothing asked, nothing answered.
    pub(crate) fn new(method: &str, uri: &str) -> Self {
        let (method, uri) = (method.to_owned(), uri.to_owned());
        Self { method, uri, asked: Body::default(), status: 200, answered: Body::default() }
    }

    /// What stands behind the `?`: the name of the conversation.
    fn tag(&self) -> String {
        self.uri.split_once('?').map(|(_, tag)| tag.to_owned()).unwrap_or_default()
    }
}

/// Conversations by their names.
pub(crate) type Named = BTreeMap<String, Vec<Exchange>>;

/// Asserts that exports of these names hold these conversations and no others, that what was recorded
/// is in them as it was, and that tshark takes no more offence at them than at the recorded packets
/// alone.
pub(crate) fn judge(recorder: &Recorder, dir: &Path, expected: &Named, names: &[&str]) {
    let (real, _) = export(recorder, dir, "real.pcap", &["--tls", "none"]);
    let known = alarms(&real);
    let real = CaptureFile::read(&real);
    for name in names {
        let (path, said) = export(recorder, dir, name, &[]);
        holds(&path, expected, &format!("{said}\n{:?}", recorder.status().tls));
        let (made, kept): (Vec<_>, Vec<_>) =
            alarms(&path).into_iter().partition(|alarm| alarm.made);
        assert_eq!(made, [], "alarms in what was added to {name}");
        let new: Vec<_> = kept.iter().filter(|alarm| !known.contains(alarm)).collect();
        assert_eq!(new, Vec::<&Alarm>::new(), "alarms in what was recorded, in {name}");
        let file = CaptureFile::read(&path);
        let mut kept = file.packets().filter(|packet| !packet.data[6..].starts_with(&MARK));
        for (number, packet) in real.packets().enumerate() {
            // A `.pcap` does not tell the interface.
            let same = kept.next().map(|kept| Packet { interface: None, ..kept });
            assert_eq!(same, Some(packet), "packet {number} is not as it was, in {name}");
        }
    }
}

/// Everything that is recorded, in a file; and what the command line said.
pub(crate) fn export(
    recorder: &Recorder,
    dir: &Path,
    name: &str,
    arguments: &[&str],
) -> (PathBuf, String) {
    let path = dir.join(name);
    let dest = path.display().to_string();
    let done = recorder.pcapdump(&[&["--dest", &dest], arguments].concat());
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    (path, said.into_owned())
}

pub(crate) fn holds(path: &Path, expected: &Named, said: &str) {
    let (found, file) = (conversations(path), path.display());
    for (tag, exchanges) in expected {
        let found = found.get(tag).unwrap_or_else(|| panic!("no {tag} in {file}\n{said}"));
        assert_eq!(found, exchanges, "{tag} in {file}\n{said}");
    }
    assert_eq!(found.len(), expected.len(), "{:?} in {file}", found.keys());
}

/// What tshark does not like.
#[derive(Debug, PartialEq, Eq)]
struct Alarm {
    made: bool,
    frame: String,
}

/// What [`alarms`] shows; each is empty, or says what is wrong.
const SIGNS: [&str; 12] = [
    "tcp.analysis.retransmission",
    "tcp.analysis.fast_retransmission",
    "tcp.analysis.spurious_retransmission",
    "tcp.analysis.out_of_order",
    "tcp.analysis.lost_segment",
    "tcp.analysis.ack_lost_segment",
    "tcp.analysis.duplicate_ack",
    "tcp.analysis.reused_ports",
    "tcp.analysis.window_full",
    "tcp.checksum.status",
    "ip.checksum.status",
    "_ws.malformed",
];

/// Retransmissions, holes and such, wrong checksums, and what is no valid packet.
fn alarms(path: &Path) -> Vec<Alarm> {
    let what = "tcp.analysis.flags or tcp.checksum.status==Bad or ip.checksum.status==Bad \
        or _ws.malformed";
    let checked = ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", "-Y", what];
    let shown = ["eth.src", "frame.time_epoch"].into_iter().chain(SIGNS);
    let shown = shown.flat_map(|field| ["-e", field]);
    let arguments: Vec<_> = checked.into_iter().chain(["-T", "fields"]).chain(shown).collect();
    let alarm = |line: String| Alarm { made: line.starts_with("02:54:4c:53"), frame: line };
    tshark(path, &arguments).into_iter().map(alarm).collect()
}

/// The conversations over HTTP, by their name.
fn conversations(path: &Path) -> Named {
    let lines = tshark(path, &["-T", "pdml", "-J", "frame tcp http http2"]);
    let mut found = Conversations::default();
    for line in &lines {
        found.line(line);
    }
    found.by_tag()
}

/// The reading of tshark's XML, in which each field has a line.
#[derive(Default)]
struct Conversations {
    /// Each stream's client's port: the first to speak.
    clients: BTreeMap<u32, String>,
    stream: u32,
    source: String,
    /// The HTTP/2 stream, or 0; counts messages in HTTP/1.
    inner: Option<u32>,
    /// Requests and answers, by stream, inner stream and place.
    asked: BTreeMap<(u32, u32), Vec<Message>>,
    answered: BTreeMap<(u32, u32), Vec<Message>>,
}

/// One of both.
#[derive(Clone, Debug, Default)]
struct Message {
    method: String,
    uri: String,
    status: u16,
    body: Vec<u8>,
}

impl Conversations {
    fn line(&mut self, line: &str) {
        let line = line.trim_start();
        if line.starts_with("<proto name=\"http\"") {
            self.inner = Some(0);
            self.side().push(Message::default());
        } else if line.starts_with("<packet>") {
            self.inner = None;
        }
        let Some(rest) = line.strip_prefix("<field name=\"") else { return };
        let Some((name, _)) = rest.split_once('"') else { return };
        let (show, value) = (attribute(line, "show"), attribute(line, "value"));
        match name {
            "tcp.srcport" => show.clone_into(&mut self.source),
            "tcp.stream" => {
                self.stream = show.parse().expect("a number");
                self.clients.entry(self.stream).or_insert_with(|| self.source.clone());
            }
            "http2.streamid" => {
                self.inner = show.parse().ok();
                if self.side().is_empty() {
                    self.side().push(Message::default());
                }
            }
            "http.request.method" | "http2.headers.method" => self.message().method = show.into(),
            "http.request.uri" | "http2.headers.path" => self.message().uri = show.into(),
            "http.response.code" | "http2.headers.status" => {
                self.message().status = show.parse().expect("a number");
            }
            "http.file_data" => self.message().body = unhex(value),
            // The whole body stands where its last part would.
            "http2.body.reassembled.length" => self.message().body.clear(),
            "http2.data.data" => self.message().body.extend(unhex(value)),
            _ => {}
        }
    }

    /// The messages of the current direction.
    fn side(&mut self) -> &mut Vec<Message> {
        let asks = self.clients.get(&self.stream) == Some(&self.source);
        let all = if asks { &mut self.asked } else { &mut self.answered };
        all.entry((self.stream, self.inner.unwrap_or(0))).or_default()
    }

    fn message(&mut self) -> &mut Message {
        self.side().last_mut().expect("a message before its fields")
    }

    fn by_tag(self) -> Named {
        let mut all = BTreeMap::<_, Vec<_>>::new();
        for (place, asked) in self.asked {
            let mut answered = self.answered.get(&place).cloned().unwrap_or_default().into_iter();
            // HTTP/2 has streams without messages; nginx was asked whether it is there.
            for asked in asked.into_iter().filter(|message| message.uri.contains('?')) {
                let answered = answered.next().unwrap_or_default();
                let exchange = Exchange {
                    method: asked.method,
                    uri: asked.uri,
                    asked: Body(asked.body),
                    status: answered.status,
                    answered: Body(answered.body),
                };
                all.entry(exchange.tag()).or_default().push(exchange);
            }
        }
        all
    }
}

pub(crate) fn attribute<'a>(line: &'a str, name: &str) -> &'a str {
    let rest = line.split_once(&format!(" {name}=\"")).map_or("", |(_, rest)| rest);
    rest.split_once('"').map_or("", |(value, _)| value)
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(byte).collect()
}
