//! Programs that speak TLS, at both ends of a cable of which one end is recorded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kuberewind_tests::{
    Netns, Program, Recorder, VethPair, data_dir, output, self_signed, succeed, target_dir,
    wait_until,
};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::judge::{self, Exchange};

pub(crate) const WITHIN: Duration = Duration::from_secs(30);
/// Where nginx listens: HTTP/1.1, HTTP/2, HTTP/1.1 that asks for the client's certificate.
pub(crate) const NGINX: u16 = 8443;
pub(crate) const NGINX_HTTP2: u16 = 9443;
pub(crate) const NGINX_MUTUAL: u16 = 7443;
/// HTTP/2 with TLS 1.2 only.
pub(crate) const NGINX_OLD: u16 = 8444;

/// Clients' ports. Between them Wireshark knows no protocol: where it does, at either end, it does not
/// look for TLS, be the secrets in the file or not (`tshark -G decodes`).
const CLIENTS: &str = "50100 56999";

/// What every client asks for, in one connection.
const SERIES: [(&str, &str, usize); 4] = [
    ("GET", "/text/10", 0),
    ("POST", "/post", 3000),
    ("GET", "/text/100000", 0),
    ("GET", "/text/1", 0),
];

/// The end of the cable at which a program runs. Secrets are read at the recorded one only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Recorded,
    Peer,
}

/// The versions that there are.
pub(crate) const VERSIONS: [&str; 2] = ["1.2", "1.3"];

/// Keys, certificates and the files that servers serve.
#[derive(Debug)]
pub(crate) struct Files {
    dir: TempDir,
}

/// See the module.
pub(crate) struct Lab {
    pair: VethPair,
    pub(crate) files: Files,
    recorder: Option<Recorder>,
    settings: Vec<String>,
    servers: Vec<Program>,
    data: TempDir,
    _peer: Nginx,
    expected: BTreeMap<String, Vec<Exchange>>,
    /// Connections with TLS.
    connections: u64,
}

/// nginx, with a worker of its own.
pub(crate) struct Nginx {
    master: Program,
    _dir: TempDir,
}

/// So many bytes that tell their own place.
pub(crate) fn text(len: usize) -> Vec<u8> {
    (0..=len / 8).flat_map(|number| format!("{number:07}.").into_bytes()).take(len).collect()
}

impl Files {
    fn new() -> Self {
        let files = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        fs::create_dir(files.path("text")).expect("a directory");
        for len in [1, 10, 100_000] {
            fs::write(files.path(&format!("text/{len}")), text(len)).expect("a file");
        }
        fs::write(files.path("body"), text(3000)).expect("a file");
        for name in ["server", "client"] {
            let (key, certificate) = (files.key(name), files.certificate(name));
            self_signed(name, key.as_ref(), certificate.as_ref());
        }
        files
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn named(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub(crate) fn key(&self, of: &str) -> String {
        self.named(&format!("{of}.key"))
    }

    pub(crate) fn certificate(&self, of: &str) -> String {
        self.named(&format!("{of}.pem"))
    }
}

/// A program of these tests, by its file.
pub(crate) fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/programs").join(name)
}

impl Nginx {
    fn start(netns: &Netns, files: &Files) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = dir.path().join("nginx.conf");
        fs::write(&config, nginx_config(dir.path(), files)).expect("a file");
        let mut command = netns.exec("nginx");
        command.arg("-e").arg(dir.path().join("error.log")).arg("-c").arg(&config);
        let master = Program::start(&mut command);
        let listens = || output(netns.exec("curl").arg("http://127.0.0.1/")).status.success();
        wait_until("nginx to answer", WITHIN, listens);
        Self { master, _dir: dir }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers would outlive it.
        self.master.signal(Signal::TERM);
        self.master.ended(WITHIN);
    }
}

/// To answer before it has read all of a request stops some clients: so it asks itself.
fn nginx_config(dir: &Path, files: &Files) -> String {
    let (dir, root) = (dir.display(), files.dir.path().display());
    let places = ["body", "fastcgi", "proxy", "scgi", "uwsgi"].map(|kind| match kind {
        "body" => format!("client_body_temp_path {dir}/body;"),
        kind => format!("{kind}_temp_path {dir}/{kind};"),
    });
    let (key, certificate) = (files.key("server"), files.certificate("server"));
    let clients = files.certificate("client");
    let places = places.join(" ");
    format!(
        "daemon off; user root; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log;
        events {{ }}
        http {{
            access_log off; default_type text/plain; root {root}; {places}
            ssl_certificate {certificate}; ssl_certificate_key {key};
            ssl_protocols TLSv1.2 TLSv1.3; ssl_client_certificate {clients};
            ssl_early_data on;
            server {{
                listen 80; listen {NGINX} ssl; listen {NGINX_HTTP2} ssl http2;
                location /post {{ proxy_pass http://unix:{dir}/reads-bodies; }}
            }}
            server {{
                listen {NGINX_MUTUAL} ssl;
                ssl_verify_client on;
                location /post {{ proxy_pass http://unix:{dir}/reads-bodies; }}
            }}
            server {{
                listen {NGINX_OLD} ssl http2;
                ssl_protocols TLSv1.2;
                location /post {{ proxy_pass http://unix:{dir}/reads-bodies; }}
            }}
            server {{ listen unix:{dir}/reads-bodies; return 200 posted; }}
        }}"
    )
}

impl Lab {
    /// An idle cable, recorded; nginx at the other end.
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// The same with more settings.
    pub(crate) fn with(settings: &[&str]) -> Self {
        let (pair, data, files) = (VethPair::new(1500), data_dir(), Files::new());
        for netns in [&pair.sender, &pair.receiver] {
            let range = format!("net.ipv4.ip_local_port_range={CLIENTS}");
            succeed(netns.exec("sysctl").args(["-q", "-w", &range]));
        }
        let peer = Nginx::start(&pair.sender, &files);
        // They record little: a disk that is rather full will do.
        let always = ["--set", "tap.tls=true,pcapdump.minFree=1GB"];
        let arguments = [&always, settings].concat();
        let mut lab = Self {
            pair,
            files,
            recorder: None,
            settings: arguments.iter().map(ToString::to_string).collect(),
            servers: Vec::new(),
            data,
            _peer: peer,
            expected: BTreeMap::new(),
            connections: 0,
        };
        lab.start_recorder();
        lab
    }

    /// Starts the recorder, on what an earlier one left.
    pub(crate) fn start_recorder(&mut self) {
        let settings: Vec<_> = self.settings.iter().map(String::as_str).collect();
        self.recorder = Some(Recorder::start(self.data_dir(), &[&self.pair.receiver], &settings));
    }

    /// With SIGKILL.
    pub(crate) fn kill_recorder(&mut self) {
        self.recorder.take().expect("a recorder").stop_by(Signal::KILL);
    }

    /// Where it records.
    pub(crate) fn data_dir(&self) -> &Path {
        self.data.path()
    }

    /// A program that will run at this end.
    pub(crate) fn exec(&self, end: End, program: &str) -> Command {
        match end {
            End::Recorded => self.pair.receiver.exec(program),
            End::Peer => self.pair.sender.exec(program),
        }
    }

    /// nginx at the recorded end, too.
    pub(crate) fn nginx(&self) -> Nginx {
        let nginx = Nginx::start(&self.pair.receiver, &self.files);
        self.wait_for_probes("/libcrypto.so.3");
        nginx
    }

    /// Starts a server at the recorded end: `program … server ADDRESS PORT CERTIFICATE KEY more`,
    /// which says `ready`; waits until secrets are read from `library`, which it uses.
    pub(crate) fn serve(&mut self, program: &[&str], library: &str, port: u16, more: &[&str]) {
        let mut command = self.exec(End::Recorded, program[0]);
        command.args(&program[1..]).args(["server", "0.0.0.0", &port.to_string()]);
        command.args([self.files.certificate("server"), self.files.key("server")]).args(more);
        let mut server = Program::start(&mut command);
        server.wait_to_say("ready", WITHIN);
        self.servers.push(server);
        self.wait_for_probes(library);
    }

    /// Starts a program at the recorded end that loads a library and says `ready`; waits until secrets
    /// are read from it.
    pub(crate) fn load(&mut self, program: &[&str], library: &str) {
        let mut command = self.exec(End::Recorded, program[0]);
        let mut program = Program::start(command.args(&program[1..]));
        program.wait_to_say("ready", WITHIN);
        self.servers.push(program);
        self.wait_for_probes(library);
    }

    /// Keeps a server.
    pub(crate) fn keep(&mut self, server: Program) {
        self.servers.push(server);
    }

    pub(crate) fn wait_for_probes(&self, library: &str) {
        let what = format!("probes in {library}");
        self.recorder().wait_status(&what, WITHIN, |status| status.has_probes_in(library));
    }

    /// Runs a client to its end: `program … client ADDRESS PORT VERSION TAG more`. It asks the server
    /// at the other end of the cable for the whole series.
    pub(crate) fn ask(
        &mut self,
        program: &[&str],
        (from, port): (End, u16),
        version: &str,
        tag: &str,
        more: &[&str],
    ) {
        let mut command = self.exec(from, program[0]);
        command.args(&program[1..]).args(["client", other_end(from), &port.to_string()]);
        succeed(command.args([version, tag]).args(more));
        self.expect(tag, series(tag));
    }

    /// The series, asked by curl.
    pub(crate) fn curl(
        &mut self,
        (from, port): (End, u16),
        version: &str,
        tag: &str,
        more: &[&str],
    ) {
        let mut command = self.exec(from, "curl");
        for (number, (method, path, _)) in SERIES.iter().enumerate() {
            if number > 0 {
                command.arg("--next");
            }
            command.args(curl_arguments(version)).args(more);
            if *method == "POST" {
                let body = format!("@{}", self.files.path("body").display());
                command.args(["-H", "Expect:", "-H", "Content-Type: text/plain"]);
                command.args(["--data-binary", &body]);
            }
            command.arg(format!("https://{}:{port}{path}?{tag}", other_end(from)));
        }
        succeed(&mut command);
        self.expect(tag, series(tag));
    }

    /// This conversation over TLS must be in the files.
    pub(crate) fn expect(&mut self, tag: &str, exchanges: Vec<Exchange>) {
        self.connections += 1;
        self.expect_plain(tag, exchanges);
    }

    /// This conversation must be in the files.
    pub(crate) fn expect_plain(&mut self, tag: &str, exchanges: Vec<Exchange>) {
        let before = self.expected.insert(tag.to_owned(), exchanges);
        assert!(before.is_none(), "two conversations of one name: {tag}");
    }

    pub(crate) fn recorder(&self) -> &Recorder {
        self.recorder.as_ref().expect("a recorder")
    }

    /// Waits until exports can decrypt all connections.
    pub(crate) fn wait_for_secrets(&self) {
        self.wait_for_connections(self.connections);
    }

    /// Waits until exports can decrypt as many connections, which are all.
    pub(crate) fn wait_for_connections(&self, all: u64) {
        self.recorder().wait_status("the secrets of every connection", WITHIN, |status| {
            status.tls.as_ref().is_some_and(|tls| tls.handshakes == all && tls.covered == all)
        });
    }

    /// Has tshark look at everything that was said, in both formats.
    pub(crate) fn judge(&self) {
        self.judge_files(&["secrets.pcapng", "twins.pcap"]);
    }

    /// The same in these files.
    pub(crate) fn judge_files(&self, names: &[&str]) {
        self.wait_for_secrets();
        judge::judge(self.recorder(), self.files.dir.path(), &self.expected, names);
    }
}

/// What makes curl quiet, strict and of one version of TLS.
pub(crate) fn curl_arguments(version: &str) -> Vec<&str> {
    let mut arguments =
        vec!["--silent", "--show-error", "--fail", "--insecure", "--max-time", "20"];
    arguments.extend(["--output", "/dev/null"]);
    match version {
        "1.2" => arguments.extend(["--tls-max", "1.2"]),
        _ => arguments.push("--tlsv1.3"),
    }
    arguments
}

/// The address of the other end.
pub(crate) fn other_end(from: End) -> &'static str {
    match from {
        End::Recorded => VethPair::SENDER[0],
        End::Peer => VethPair::RECEIVER[0],
    }
}

/// The series, asked and answered.
pub(crate) fn series(tag: &str) -> Vec<Exchange> {
    let exchange = |(method, path, asked): (&str, &str, usize)| Exchange {
        asked: text(asked).into(),
        answered: match path.strip_prefix("/text/") {
            Some(len) => text(len.parse().expect("a length")).into(),
            None => b"posted".to_vec().into(),
        },
        ..Exchange::new(method, &format!("{path}?{tag}"))
    };
    SERIES.map(exchange).into()
}

/// Go's programs, built once.
pub(crate) fn go_program(name: &str, flags: &[&str]) -> String {
    let folder = target_dir().join("tmp/go-programs");
    fs::create_dir_all(&folder).expect("a directory");
    let program = folder.join(name);
    let source = source("main.go");
    succeed(&mut kuberewind_tests::toolchain::go_build(&target_dir(), flags, &source, &program));
    program.display().to_string()
}
