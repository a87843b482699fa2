//! TLS secrets of real programs. Needs root, `ip`, `openssl`, `curl`, `nginx`, `python3`, `node` and
//! `go`.

#[allow(dead_code, reason = "these tests need namespaces, but no packets")]
mod support;
#[expect(unreachable_pub, reason = "the tests of the whole system have it in a library")]
#[path = "../../../tests/src/toolchain.rs"]
mod toolchain;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};

use kuberewind_capture::{TlsConfig, TlsProbes, TlsStatus};
use kuberewind_packet::Timestamp;
use kuberewind_tls::{Derived, KeyLogLabel, ObjectPath, Secret, SecretEvent};
use ring::hkdf::{HKDF_SHA256, HKDF_SHA384, KeyType, Prk};
use support::{Background, Netns, SOON, run, until};
use toolchain::{go, go_build};

/// Probes whose secrets are kept.
struct Seen {
    probes: TlsProbes,
    events: Arc<Mutex<Vec<SecretEvent>>>,
}

impl Seen {
    fn of(namespaces: &[&Netns]) -> Self {
        let events = Arc::<Mutex<Vec<SecretEvent>>>::default();
        let keep = Arc::clone(&events);
        let probes = TlsProbes::start(TlsConfig::default(), move |event| {
            keep.lock().unwrap().push(event);
        });
        let probes = probes.unwrap();
        probes.set_targets(&namespaces.iter().map(|netns| netns.target()).collect::<Vec<_>>());
        Self { probes, events }
    }

    fn events(&self) -> Vec<SecretEvent> {
        self.events.lock().unwrap().clone()
    }

    fn status(&self) -> TlsStatus {
        self.probes.status()
    }

    /// Waits until the probes are in a file that this process uses.
    fn attached(&self, path: &str) {
        until(&format!("probes in {path}"), SOON, || {
            self.status()
                .libraries
                .iter()
                .any(|library| library.path.ends_with(path) && library.processes > 0)
        });
    }

    /// Waits until every line of a key log was seen by `sides` processes.
    fn cover(&self, key_log: &Path, sides: usize) -> BTreeSet<(&'static str, Vec<u8>)> {
        let lines = lines(key_log);
        assert!(!lines.is_empty());
        until("the secrets in the key log", SOON, || {
            let events = self.events();
            lines.iter().all(|line| {
                let who = events.iter().filter(|event| line_of(event) == *line);
                who.map(|event| event.pid).collect::<BTreeSet<_>>().len() == sides
            })
        });
        lines
    }
}

/// The labels and secrets of a key log.
fn lines(key_log: &Path) -> BTreeSet<(&'static str, Vec<u8>)> {
    let text = fs::read_to_string(key_log).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let [label, _random, secret] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("not a line of a key log")
        };
        let label = LABELS.iter().find(|known| **known == label).unwrap();
        (*label, unhex(secret))
    });
    lines.collect()
}

/// The clients' randoms of a key log.
fn lines_with_random(key_log: &Path) -> BTreeSet<Vec<u8>> {
    let text = fs::read_to_string(key_log).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| unhex(line.split(' ').nth(1).unwrap())).collect()
}

const LABELS: [&str; 7] = [
    "CLIENT_RANDOM",
    "CLIENT_EARLY_TRAFFIC_SECRET",
    "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
    "SERVER_HANDSHAKE_TRAFFIC_SECRET",
    "CLIENT_TRAFFIC_SECRET_0",
    "SERVER_TRAFFIC_SECRET_0",
    "EXPORTER_SECRET",
];

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// What a key log would say.
fn line_of(event: &SecretEvent) -> (&'static str, Vec<u8>) {
    match &event.secret {
        Secret::Derivation { label, key, transcript } => {
            let (place, word) = match label {
                Derived::ClientEarly => (1, "c e traffic"),
                Derived::ClientHandshake => (2, "c hs traffic"),
                Derived::ServerHandshake => (3, "s hs traffic"),
                Derived::ClientTraffic => (4, "c ap traffic"),
                Derived::ServerTraffic => (5, "s ap traffic"),
                Derived::Exporter => (6, "exp master"),
            };
            (LABELS[place], expand_label(&key.0, word, transcript))
        }
        Secret::KeyLog { label, secret, .. } | Secret::InObject { label, secret, .. } => {
            let place = match label {
                KeyLogLabel::ClientRandom => 0,
                KeyLogLabel::ClientEarlyTraffic => 1,
                KeyLogLabel::ClientHandshakeTraffic => 2,
                KeyLogLabel::ServerHandshakeTraffic => 3,
                KeyLogLabel::ClientTraffic => 4,
                KeyLogLabel::ServerTraffic => 5,
                KeyLogLabel::Exporter => 6,
            };
            (LABELS[place], secret.0.clone())
        }
    }
}

struct Len(usize);

impl KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

/// `HKDF-Expand-Label` (RFC 8446 section 7.1).
fn expand_label(key: &[u8], label: &str, context: &[u8]) -> Vec<u8> {
    let algorithm = if key.len() == 48 { HKDF_SHA384 } else { HKDF_SHA256 };
    let byte = |len: usize| u8::try_from(len).unwrap();
    let head =
        [&[0, byte(key.len()), byte(label.len() + 6)][..], b"tls13 ", label.as_bytes()].concat();
    let mut secret = vec![0; key.len()];
    let info = [&head[..], &[byte(context.len())], context];
    let prk = Prk::new_less_safe(algorithm, key);
    prk.expand(&info, Len(secret.len())).unwrap().fill(&mut secret).unwrap();
    secret
}

/// A key and a certificate.
struct Lab {
    folder: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lab = Self { folder };
        let (key, cert) = (lab.path("key.pem"), lab.path("cert.pem"));
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
        let files = ["-keyout", &key, "-out", &cert, "-days", "2", "-subj", "/CN=localhost"];
        run("openssl", &[&["req", "-x509", "-nodes", "-batch"][..], &curve, &files].concat());
        lab
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn file(&self, name: &str, content: &str) -> String {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    fn key_log(&self) -> PathBuf {
        self.path("keys.log").into()
    }

    /// `openssl s_server`, ready.
    fn server(&self, netns: &Netns) -> Background {
        let (key, cert) = (self.path("key.pem"), self.path("cert.pem"));
        let arguments = ["s_server", "-accept", "4433", "-key", &key, "-cert", &cert, "-www"];
        let server = netns.spawn("openssl", &[&arguments[..], &["-quiet"]].concat());
        listens(&server, 4433);
        server
    }

    /// One request by curl, which writes a key log.
    fn curl(&self, netns: &Netns, arguments: &[&str]) {
        let mut command = netns.command("curl", arguments);
        let url = "https://127.0.0.1:4433/";
        command.args(["-sk", "--max-time", "10", "-o", "/dev/null", url]);
        let status = command.env("SSLKEYLOGFILE", self.key_log()).status().unwrap();
        assert!(status.success(), "curl: {status}");
    }
}

const TLS_1_3: [&str; 1] = ["--tlsv1.3"];
const TLS_1_2: [&str; 2] = ["--tls-max", "1.2"];

/// Waits until a process's namespace has a listener on a port.
fn listens(process: &Background, port: u16) {
    let wanted = format!(":{port:04X} ");
    until(&format!("a listener on port {port}"), SOON, || {
        ["tcp", "tcp6"].iter().any(|file| {
            let table = fs::read_to_string(format!("/proc/{}/net/{file}", process.0.id()));
            let table = table.unwrap_or_default();
            table.lines().any(|line| line.contains(&wanted) && line.contains(" 0A "))
        })
    });
}

#[test]
fn both_ends_show_the_secrets_of_tls_1_3() {
    let (lab, netns) = (Lab::new(), Netns::new());
    let seen = Seen::of(&[&netns]);
    let server = lab.server(&netns);
    seen.attached("/libcrypto.so.3");
    let before = Timestamp::now();
    lab.curl(&netns, &TLS_1_3);
    let after = Timestamp::now();
    let lines = seen.cover(&lab.key_log(), 2);
    assert_eq!(lines.len(), 5);
    for event in seen.events() {
        assert_eq!((event.netns, &event.library[..]), (netns.target().netns, "OpenSSL"));
        assert!(before < event.time && event.time < after, "{} at {}", before, event.time);
    }
    assert!(seen.events().iter().any(|event| event.pid == server.0.id()));
    let status = seen.status();
    let library = status.libraries.iter().find(|found| found.path.ends_with("/libcrypto.so.3"));
    let library = library.unwrap();
    assert!(library.version.as_ref().unwrap().starts_with("3."), "{library:?}");
    assert_eq!(library.build_id.as_ref().unwrap().len(), 40);
    assert_eq!(library.owners, [netns.target().owner]);
    assert_eq!((status.lost, status.unreadable, &status.problems[..]), (0, 0, &[][..]));
    assert_eq!(status.namespaces[0].secrets, status.secrets);
    seen.probes.stop();
}

#[test]
fn both_ends_show_the_main_secret_of_tls_1_2() {
    let (lab, netns) = (Lab::new(), Netns::new());
    let seen = Seen::of(&[&netns]);
    let _server = lab.server(&netns);
    seen.attached("/libcrypto.so.3");
    lab.curl(&netns, &TLS_1_2);
    let text = fs::read_to_string(lab.key_log()).unwrap();
    seen.cover(&lab.key_log(), 2);
    let random = text.lines().find_map(|line| line.strip_prefix("CLIENT_RANDOM ")).unwrap();
    for event in seen.events() {
        let Secret::KeyLog { label: KeyLogLabel::ClientRandom, client_random, .. } = event.secret
        else {
            panic!("{event:?}")
        };
        assert_eq!(unhex(&random[..64]), client_random);
    }
    seen.probes.stop();
}

#[test]
fn secrets_of_a_namespace_that_is_not_recorded_never_leave_the_kernel() {
    let (lab, recorded, other) = (Lab::new(), Netns::new(), Netns::new());
    let seen = Seen::of(&[&recorded]);
    let (_server, _other_server) = (lab.server(&recorded), lab.server(&other));
    seen.attached("/libcrypto.so.3");
    let (sent, passed) = (seen.status().secrets, seen.status().not_recorded);
    lab.curl(&other, &TLS_1_3);
    lab.curl(&other, &TLS_1_2);
    let status = seen.status();
    // The probes were there, and passed over it.
    assert!(status.not_recorded >= passed + 8, "{status:?}");
    assert_eq!(status.secrets, sent);
    fs::remove_file(lab.key_log()).unwrap();
    // What comes later in the ring is here; so would be what came before.
    lab.curl(&recorded, &TLS_1_3);
    seen.cover(&lab.key_log(), 2);
    assert!(seen.events().iter().all(|event| event.netns == recorded.target().netns));
    // And no longer, once it is not recorded any more.
    let before = seen.events().len();
    seen.probes.set_targets(&[other.target()]);
    lab.curl(&recorded, &TLS_1_3);
    fs::remove_file(lab.key_log()).unwrap();
    lab.curl(&other, &TLS_1_3);
    seen.cover(&lab.key_log(), 2);
    assert!(seen.events()[before..].iter().all(|event| event.netns == other.target().netns));
    seen.probes.stop();
}

/// Tells the probes of secrets that it makes up, as fast as it can; the first line says that it does.
const FLOOD: &str = "
import ctypes
class Param(ctypes.Structure):
    _fields_ = [('key', ctypes.c_char_p), ('kind', ctypes.c_uint), ('data', ctypes.c_char_p),
        ('size', ctypes.c_size_t), ('returned', ctypes.c_size_t)]
given = [(b'label', b'c hs traffic'), (b'key', b'k' * 32), (b'data', b'd' * 32)]
params = (Param * 4)(*[Param(key, 5, data, len(data), 0) for key, data in given])
derive = ctypes.CDLL('libcrypto.so.3').EVP_KDF_derive
print('done', flush=True)
while True:
    derive(None, None, 32, params)
";

#[test]
fn a_process_that_makes_up_secrets_takes_no_room_of_others() {
    let (lab, hostile, netns) = (Lab::new(), Netns::new(), Netns::new());
    let seen = Seen::of(&[&hostile, &netns]);
    let _server = lab.server(&netns);
    seen.attached("/libcrypto.so.3");
    let flood = lab.file("flood.py", FLOOD);
    let mut floods: Vec<_> =
        (0..2).map(|_| Conversation::start(hostile.command("python3", &[&flood]))).collect();
    floods.iter_mut().for_each(Conversation::ask);
    until("more than one may tell", SOON, || seen.status().refused > 10_000);
    for _ in 0..5 {
        lab.curl(&netns, &TLS_1_3);
    }
    // A handshake has five secrets on each side.
    until("all secrets of the other", SOON, || {
        let owner = netns.target().owner;
        let status = seen.status();
        status.namespaces.iter().any(|of| of.owner == owner && of.secrets == 50)
    });
    assert_eq!(seen.status().lost, 0);
    drop(floods);
    seen.probes.stop();
}

#[test]
fn processes_that_run_already_are_found() {
    let (lab, netns) = (Lab::new(), Netns::new());
    let _server = lab.server(&netns);
    let seen = Seen::of(&[&netns]);
    seen.attached("/libcrypto.so.3");
    lab.curl(&netns, &TLS_1_3);
    seen.cover(&lab.key_log(), 2);
    seen.probes.stop();
}

/// OpenSSL's libraries, copied: files that no probe has seen.
fn own_openssl(lab: &Lab, folder: &str) -> String {
    let folder = lab.path(folder);
    fs::create_dir_all(&folder).unwrap();
    for library in ["libssl.so.3", "libcrypto.so.3"] {
        fs::copy(
            Path::new("/usr/lib/x86_64-linux-gnu").join(library),
            Path::new(&folder).join(library),
        )
        .unwrap();
    }
    folder
}

/// A handshake of Python's with itself, without a socket; the key log gets its secrets.
const IN_MEMORY: &str = "
import ssl, sys
cert, key, log = sys.argv[1:]
def side(server):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    if server: context.load_cert_chain(cert, key)
    else: context.check_hostname, context.verify_mode, context.keylog_filename = False, ssl.CERT_NONE, log
    return context
def handshake():
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [side(False).wrap_bio(a, b), side(True).wrap_bio(b, a, server_side=True)]
    for _ in range(9):
        for one in sides:
            try: one.do_handshake()
            except ssl.SSLWantReadError: pass
";

/// Python that does this for each line on its standard input, and then says so.
fn python(netns: &Netns, lab: &Lab, libraries: &str, script: &str) -> Conversation {
    let program = lab.file("program.py", script);
    let log = lab.path("keys.log");
    let arguments = [&program, &lab.path("cert.pem"), &lab.path("key.pem"), &log];
    let mut command = netns.command("python3", &arguments.map(|argument| &argument[..]));
    command.env("LD_LIBRARY_PATH", libraries);
    Conversation::start(command)
}

/// A process that answers each line with a line.
struct Conversation {
    process: Background,
    answers: BufReader<ChildStdout>,
}

impl Conversation {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { process: Background(child), answers }
    }

    fn ask(&mut self) {
        self.process.0.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer, "done\n");
    }
}

#[test]
fn a_library_that_a_process_loads_late_is_found() {
    let (lab, netns) = (Lab::new(), Netns::new());
    let seen = Seen::of(&[&netns]);
    let libraries = own_openssl(&lab, "late");
    // Imports the module, and so loads the library, at the first line.
    let body = IN_MEMORY.replace('\n', "\n    ");
    let script = format!(
        "import sys\n\
         for line in sys.stdin:\n    \
             if 'ssl' in sys.modules: handshake()\n    \
             {body}\n    \
             print('done', flush=True)\n"
    );
    let mut python = python(&netns, &lab, &libraries, &script);
    until("the loader", SOON, || seen.status().loaders > 0);
    python.ask();
    // The loader told: sooner than the next regular look.
    seen.attached("late/libcrypto.so.3");
    python.ask();
    seen.cover(&lab.key_log(), 1);
    let pid = python.process.0.id();
    assert!(seen.events().iter().all(|event| event.pid == pid));
    seen.probes.stop();
}

#[test]
fn a_library_that_was_replaced_is_another_and_the_old_one_stays_while_it_is_used() {
    let (lab, netns) = (Lab::new(), Netns::new());
    let seen = Seen::of(&[&netns]);
    let libraries = own_openssl(&lab, "upgraded");
    let script = format!(
        "{IN_MEMORY}\nfor line in sys.stdin:\n    handshake()\n    print('done', flush=True)\n"
    );
    let mut old = python(&netns, &lab, &libraries, &script);
    seen.attached("upgraded/libcrypto.so.3");
    // As a package manager does it.
    let fresh = own_openssl(&lab, "fresh");
    for library in ["libssl.so.3", "libcrypto.so.3"] {
        fs::rename(Path::new(&fresh).join(library), Path::new(&libraries).join(library)).unwrap();
    }
    let mut new = python(&netns, &lab, &libraries, &script);
    until("probes in both", SOON, || {
        let status = seen.status();
        let watched =
            status.libraries.iter().filter(|found| found.path.contains("/upgraded/libcrypto"));
        watched.map(|found| found.processes).collect::<Vec<_>>() == [1, 1]
    });
    for python in [&mut old, &mut new] {
        python.ask();
        seen.cover(&lab.key_log(), 1);
        fs::remove_file(lab.key_log()).unwrap();
    }
    seen.probes.stop();
}

#[test]
fn nginx_shows_its_secrets() {
    let (lab, netns) = (Lab::new(), Netns::new());
    let seen = Seen::of(&[&netns]);
    let folder = lab.path("");
    let config = lab.file(
        "nginx.conf",
        &format!(
            "daemon off; worker_processes 2; error_log stderr; pid {folder}/pid;\n\
             events {{}}\n\
             http {{ access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};\n\
             fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};\n\
             server {{ listen 4433 ssl http2; ssl_protocols TLSv1.2 TLSv1.3;\n\
             ssl_certificate {folder}/cert.pem;\n\
             ssl_certificate_key {folder}/key.pem; location / {{ return 200 hello; }} }} }}\n"
        ),
    );
    let nginx = Nginx(netns.spawn("nginx", &["-c", &config, "-e", "stderr"]));
    listens(&nginx.0, 4433);
    seen.attached("/libcrypto.so.3");
    lab.curl(&netns, &TLS_1_3);
    seen.cover(&lab.key_log(), 2);
    fs::remove_file(lab.key_log()).unwrap();
    lab.curl(&netns, &TLS_1_2);
    seen.cover(&lab.key_log(), 2);
    seen.probes.stop();
}

/// Its workers end with their master only if it is asked.
struct Nginx(Background);

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.0.id().to_string()).status();
        let _ = self.0.0.wait();
    }
}

#[test]
fn node_shows_its_secrets() {
    let (lab, netns) = (Lab::new(), Netns::new());
    let seen = Seen::of(&[&netns]);
    let server = format!(
        "const fs = require('fs');\n\
         require('https').createServer({{ key: fs.readFileSync('{}'), cert: fs.readFileSync('{}') }},\n\
         (request, response) => response.end('hello')).listen(4433);\n",
        lab.path("key.pem"),
        lab.path("cert.pem"),
    );
    let node = netns.spawn("node", &["-e", &server]);
    listens(&node, 4433);
    seen.attached("/node");
    // A library that nobody used yet is probed some milliseconds after it is loaded: curl's next run.
    lab.curl(&netns, &TLS_1_3);
    until("probes in curl's library", SOON, || {
        seen.status().libraries.iter().any(|found| found.path.ends_with("libcrypto.so.3"))
    });
    fs::remove_file(lab.key_log()).unwrap();
    lab.curl(&netns, &TLS_1_3);
    seen.cover(&lab.key_log(), 2);
    assert!(seen.events().iter().any(|event| event.pid == node.0.id()));
    fs::remove_file(lab.key_log()).unwrap();
    lab.curl(&netns, &TLS_1_2);
    seen.cover(&lab.key_log(), 2);
    seen.probes.stop();
}

/// Where `GnuTLS` 3.7 keeps the client's random in its session.
const RIGHT: ObjectPath = ObjectPath { pointer: None, offset: 0x50 };

/// Waits until the server told what a client's key log says, in this way: with objects, or with the
/// random alone. The number of the file that objects came from.
fn told_by(seen: &Seen, server: &Background, key_log: &Path, in_objects: bool) -> u32 {
    let (lines, mut number) = (lines(key_log), 0);
    until("the secrets in the key log", SOON, || {
        let told = seen.events().into_iter().filter(|event| event.pid == server.0.id());
        let told = told.filter(|event| match &event.secret {
            Secret::InObject { object, .. } => {
                number = object.file;
                in_objects
            }
            _ => !in_objects,
        });
        told.map(|event| line_of(&event)).collect::<BTreeSet<_>>().is_superset(&lines)
    });
    number
}

/// How many secrets a process told.
fn told(seen: &Seen, of: &Background) -> usize {
    seen.events().iter().filter(|event| event.pid == of.0.id()).count()
}

fn gnutls_serv(lab: &Lab, netns: &Netns) -> Background {
    let (key, cert) = (lab.path("key.pem"), lab.path("cert.pem"));
    let files = ["--x509keyfile", &key, "--x509certfile", &cert];
    let server =
        netns.spawn("gnutls-serv", &[&["--http", "-q", "-p", "4433"][..], &files].concat());
    listens(&server, 4433);
    server
}

#[test]
fn gnutls_shows_objects_until_it_is_learned_where_the_random_is() {
    let (lab, netns) = (Lab::new(), Netns::new());
    let seen = Seen::of(&[&netns]);
    let server = gnutls_serv(&lab, &netns);
    until("probes in GnuTLS", SOON, || {
        seen.status().libraries.iter().any(|library| library.library == "GnuTLS")
    });
    let mut number = 0;
    for version in [&TLS_1_3[..], &TLS_1_2] {
        lab.curl(&netns, version);
        number = told_by(&seen, &server, &lab.key_log(), true);
        fs::remove_file(lab.key_log()).unwrap();
    }
    seen.probes.teacher()(number, RIGHT);
    // The order is obeyed a moment later; until then there are objects.
    until("secrets with the random alone", SOON, || {
        seen.events.lock().unwrap().clear();
        let _ = fs::remove_file(lab.key_log());
        lab.curl(&netns, &TLS_1_2);
        until("a secret", SOON, || told(&seen, &server) > 0);
        let in_object = |event: &SecretEvent| matches!(event.secret, Secret::InObject { .. });
        !seen.events().iter().any(in_object)
    });
    told_by(&seen, &server, &lab.key_log(), false);
    let random = lines_with_random(&lab.key_log());
    let told = seen.events().into_iter().filter_map(|event| match event.secret {
        Secret::KeyLog { client_random, .. } => Some(client_random.to_vec()),
        _ => None,
    });
    assert_eq!(told.collect::<BTreeSet<_>>(), random);
    assert_eq!(seen.status().problems, Vec::<String>::new());
    seen.probes.stop();
}

/// A process can make up connections in which the random stands elsewhere.
#[test]
fn where_the_library_s_code_and_its_connections_disagree_nothing_is_read() {
    let (lab, netns) = (Lab::new(), Netns::new());
    let seen = Seen::of(&[&netns]);
    let server = gnutls_serv(&lab, &netns);
    until("probes in GnuTLS", SOON, || {
        seen.status().libraries.iter().any(|library| library.library == "GnuTLS")
    });
    lab.curl(&netns, &TLS_1_3);
    let number = told_by(&seen, &server, &lab.key_log(), true);
    seen.probes.teacher()(number, ObjectPath { pointer: Some(8), offset: 0x50 });
    until("the problem", SOON, || {
        let status = seen.status();
        !status.libraries.iter().any(|library| library.library == "GnuTLS")
            && status.problems.iter().any(|problem| problem.contains("0x8 -> 0x50"))
    });
    seen.probes.stop();
}

#[test]
fn a_library_whose_secrets_cannot_be_seen_is_named() {
    let (lab, netns) = (Lab::new(), Netns::new());
    let seen = Seen::of(&[&netns]);
    let (source, library) =
        (lab.file("nss.c", "int SSL_ImportFD(void) { return 0; }"), lab.path("nss.so"));
    run("cc", &["-shared", "-o", &library, &source]);
    let script = format!("import ctypes, time; ctypes.CDLL('{library}'); time.sleep(600)");
    let _python = netns.spawn("python3", &["-c", &script]);
    until("NSS", SOON, || !seen.status().unsupported.is_empty());
    let status = seen.status();
    let [found] = &status.unsupported[..] else { panic!("{status:?}") };
    assert_eq!((&found.library[..], found.processes), ("NSS", 1));
    assert_eq!(found.owners, [netns.target().owner]);
    seen.probes.stop();
}

/// A server and a client in one, for `TLS=1.2` or `TLS=1.3`; writes a key log.
const GO: &str = r#"package main

import (
    "bufio"
    "crypto/tls"
    "fmt"
    "net"
    "os"
)

func check(err error) {
    if err != nil {
        panic(err)
    }
}

func main() {
    pair, err := tls.LoadX509KeyPair(os.Args[1], os.Args[2])
    check(err)
    version := uint16(tls.VersionTLS13)
    if os.Getenv("TLS") == "1.2" {
        version = tls.VersionTLS12
    }
    lines := bufio.NewScanner(os.Stdin)
    for lines.Scan() {
        log, err := os.Create(os.Args[3])
        check(err)
        a, b := net.Pipe()
        server := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{pair}, MaxVersion: version})
        client := tls.Client(b, &tls.Config{InsecureSkipVerify: true, KeyLogWriter: log})
        go func() {
            check(server.Handshake())
            server.Write([]byte("hello"))
        }()
        _, err = client.Read(make([]byte, 5))
        check(err)
        fmt.Println("done")
    }
}
"#;

/// Cargo's target directory.
fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_owned()
}

fn build_go(lab: &Lab, name: &str, flags: &[&str]) -> String {
    let (source, program) = (lab.file("main.go", GO), lab.path(name));
    let mut command = go_build(&target(), flags, source.as_ref(), program.as_ref());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

fn go_shows_its_secrets(flags: &[&str]) {
    let (lab, netns) = (Lab::new(), Netns::new());
    let seen = Seen::of(&[&netns]);
    let program = build_go(&lab, "program", flags);
    for (version, labels) in [("1.3", 4), ("1.2", 1)] {
        let files = ["cert.pem", "key.pem", "keys.log"].map(|name| lab.path(name));
        let mut command = netns.command(&program, &files.each_ref().map(|file| &file[..]));
        command.env("TLS", version);
        let mut go = Conversation::start(command);
        seen.attached("/program");
        until("the process", SOON, || {
            seen.status().libraries.iter().any(|found| found.processes == 1)
        });
        go.ask();
        // Client and server are one process.
        assert_eq!(seen.cover(&lab.key_log(), 1).len(), labels);
        assert!(seen.events().iter().all(|event| event.library == "Go"));
    }
    let library = seen.status().libraries.remove(0);
    let toolchain = run(go(&target()).to_str().unwrap(), &["env", "GOVERSION"]);
    assert_eq!(
        (&library.library[..], library.version),
        ("Go", toolchain.trim().strip_prefix("go").map(str::to_owned))
    );
    seen.probes.stop();
}

#[test]
fn go_shows_its_secrets_as_it_is_built() {
    go_shows_its_secrets(&[]);
}

#[test]
fn go_shows_its_secrets_when_it_is_stripped() {
    go_shows_its_secrets(&["-ldflags=-s -w"]);
}

#[test]
fn go_shows_its_secrets_when_it_is_position_independent() {
    go_shows_its_secrets(&["-buildmode=pie", "-ldflags=-s -w"]);
}
