//! The whole recorder on a machine whose clock the test has in its hand.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use kuberewind_capture::{NetnsSpec, Opener};
use kuberewind_packet::Timestamp;
use kuberewind_store::{Machine, Store};
use kuberewind_tests::judges::tshark;
use kuberewind_tests::{Netns, Program, data_dir, pcapdump, python, self_signed, wait_until};

use super::{Identity, Recorder};
use crate::agent::tls::{ControlPlane, Tls, TlsSource};
use crate::agent::undecided::Shared;
use crate::config::{Effective, Sources};

const WITHIN: Duration = Duration::from_secs(30);
const MINUTE: Duration = Duration::from_mins(1);
/// Five minutes are held, and a segment is sealed every second.
const HELD: &str = "tap.tls=true,pcapdump.maxTime=5m,pcapdump.timeInterval=1s";

/// `serve PORT KEY CERTIFICATE` answers any path with itself and 20,000 bytes. `keep PORT VERSION GO` asks for
/// `/early`, from then on often for `/tick`, and for `/late` once the file GO is there.
const HTTP: &str = "\
import http.client, http.server, os, ssl, sys, time
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        body = self.path.encode() + b'.' * 20000
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
def serve(port, key, certificate):
    server = http.server.ThreadingHTTPServer(('127.0.0.1', int(port)), Answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print('ready', flush=True)
    server.serve_forever()
def keep(port, version, go):
    context = ssl._create_unverified_context()
    context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
    connection = http.client.HTTPSConnection('127.0.0.1', int(port), context=context)
    def ask(path):
        connection.request('GET', path)
        assert len(connection.getresponse().read()) == len(path) + 20000
    ask('/early-' + version)
    print('early', flush=True)
    while not os.path.exists(go):
        ask('/tick')
        time.sleep(0.02)
    ask('/late-' + version)
{'serve': serve, 'keep': keep}[sys.argv[1]](*sys.argv[2:])
";

/// TLS between programs of one machine.
struct Peers {
    netns: Netns,
    dir: tempfile::TempDir,
}

impl Peers {
    fn new() -> Self {
        let netns = Netns::new("recorder");
        netns.ip(&["link", "set", "lo", "up"]);
        let peers = Self { netns, dir: tempfile::tempdir().unwrap() };
        self_signed("server", peers.file("key").as_ref(), peers.file("certificate").as_ref());
        peers
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn http(&self, arguments: &[&str]) -> Program {
        self.start("python3", &["-c", HTTP], arguments)
    }

    fn grpc(&self, arguments: &[&str]) -> Program {
        let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/tests/tls/programs");
        let program = programs.join("grpc_bytes.py").display().to_string();
        self.start(&python(), &[&program], arguments)
    }

    fn start(&self, program: &str, first: &[&str], arguments: &[&str]) -> Program {
        let mut command: Command = self.netns.exec(program);
        Program::start(command.args(first).args(arguments))
    }
}

fn start(peers: &Peers, dir: &Path, machine: &Machine) -> Arc<Recorder> {
    let set = vec![HELD.to_owned(), format!("tap.dataDir={}", dir.display())];
    let settings = Effective::load(&Sources { set, ..Sources::default() }).unwrap();
    let opener = Opener::default();
    let tls = TlsSource { opener: opener.clone(), control_plane: ControlPlane::default() };
    let identity = Identity {
        node: "node".to_owned(),
        interfaces: Vec::new(),
        tls: Some(tls),
        undecided: Shared::new().0,
        opener,
        machine: machine.clone(),
    };
    let namespaces = vec![NetnsSpec::Name(peers.netns.name().to_owned())];
    Recorder::start(settings, true, identity, namespaces).unwrap()
}

/// A minute passes in which everybody does what is due.
fn pass_a_minute(recorder: &Recorder, machine: &Machine) {
    let open = || {
        let files = fs::read_dir(recorder.data_dir()).unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "open")).max()
    };
    let before = open();
    machine.clock.pass(MINUTE);
    wait_until("the next segment", WITHIN, || open() > before);
    wait_until("what older connections need to be kept", WITHIN, || {
        let reach = recorder.with_store(Store::reach).unwrap();
        recorder.with_tls(|tls: &Tls| tls.keeps_pins(&reach)).unwrap()
    });
}

fn hex(text: &str) -> String {
    text.bytes().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

#[test]
fn what_connections_say_that_are_older_by_ten_minutes_is_readable() {
    let (peers, data, machine) = (Peers::new(), data_dir(), Machine::default());
    let (key, certificate, go) = (peers.file("key"), peers.file("certificate"), peers.file("go"));
    let mut server = peers.http(&["serve", "8443", &key, &certificate]);
    let mut grpc = peers.grpc(&["server", "127.0.0.1", "50051", &certificate, &key]);
    for server in [&mut server, &mut grpc] {
        server.wait_to_say("ready", WITHIN);
    }
    let recorder = start(&peers, data.path(), &machine);
    wait_until("programs to be looked at", WITHIN, || recorder.has_looked());
    let mut clients = [
        peers.http(&["keep", "8443", "TLSv1_2", &go]),
        peers.http(&["keep", "8443", "TLSv1_3", &go]),
        peers.grpc(&["keep", "127.0.0.1", "50051", &certificate, &go]),
    ];
    for client in &mut clients {
        client.wait_to_say("early", WITHIN);
    }
    let tls = || recorder.status().unwrap().tls.unwrap();
    wait_until("secrets", WITHIN, || tls().covered == 3 && tls().pinned == 3);

    let early = Timestamp::now();
    for _ in 0..10 {
        pass_a_minute(&recorder, &machine);
    }
    wait_until("nothing of then to be held", WITHIN, || {
        recorder.status().unwrap().oldest.is_some_and(|oldest| oldest > early)
    });
    fs::write(&go, "").unwrap();
    for client in &mut clients {
        assert!(client.ended(WITHIN).success(), "{}", client.said());
    }
    recorder.stop().unwrap();

    for name in ["late.pcap", "late.pcapng"] {
        let file = peers.file(name);
        let done = pcapdump(data.path(), &["--dest", &file]);
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
        // Values in full.
        let seen = tshark(Path::new(&file), &["-T", "pdml", "-J", "http http2"]).join("\n");
        assert!(!seen.contains("early"), "{name} begins too early");
        for version in ["TLSv1_2", "TLSv1_3"] {
            let path = format!("/late-{version}");
            let body = hex(&path) + &hex(".").repeat(20_000);
            assert!(seen.contains(&body), "{path} in {name}: {said}");
        }
        for number in 0..5 {
            let value = format!("late-{number}");
            assert!(seen.contains(&value), "{value} in {name}: {said}");
        }
    }
}
