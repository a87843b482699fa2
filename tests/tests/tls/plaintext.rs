//! Connections older than the recorder.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kuberewind_tests::judges::tshark;
use kuberewind_tests::{
    Netns, Program, Recorder, data_dir, pcapdump, python, self_signed, wait_until,
};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::openssl::Talk;

const WITHIN: Duration = Duration::from_secs(30);

/// A server and a client with a connection from before the recorder.
struct Older {
    program: Program,
    told: File,
    recorder: Recorder,
    dir: TempDir,
    _netns: Netns,
    data: TempDir,
}

impl Older {
    fn recorded_with(settings: &str) -> Self {
        let (dir, data, netns) = (data_dir(), data_dir(), Netns::new("older"));
        let [key, certificate, pipe] = ["key", "certificate", "pipe"].map(|n| dir.path().join(n));
        self_signed("older", &key, &certificate);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/programs/older.py");
        let mut command = netns.exec(&python());
        let mut program = Program::start(command.arg(source).args([&key, &certificate, &pipe]));
        program.wait_to_say("ready", WITHIN);
        let settings = format!("tap.tls=true,pcapdump.minFree=0B{settings}");
        let recorder = Recorder::start(data.path(), &[&netns], &["--set", &settings]);
        let told = OpenOptions::new().write(true).open(&pipe).expect("the client's pipe");
        Self { program, told, recorder, dir, _netns: netns, data }
    }

    fn get(&mut self, connection: &str, path: &str) {
        writeln!(self.told, "{connection} {path}").expect("tell the client");
        self.program.wait_to_say(&format!("got {path}\n"), WITHIN);
    }

    fn export(&self, arguments: &[&str]) -> PathBuf {
        let file = self.dir.path().join("out.pcap");
        let dest = file.display().to_string();
        // Exports never overwrite.
        let _ = std::fs::remove_file(&file);
        let done = self.recorder.pcapdump(&[&["--dest", &dest], arguments].concat());
        assert!(done.status.success(), "{done:?}");
        file
    }
}

/// Probes are attached soon after the recorder began.
fn wait_for_probes(recorder: &Recorder) {
    recorder.wait_status("probes of plaintext", WITHIN, |status| {
        let plaintext = status.tls.as_ref().and_then(|tls| tls.plaintext.as_ref());
        plaintext.is_some_and(|plaintext| !plaintext.files.is_empty())
    });
}

/// What was asked for, and how long the answers were.
fn http(file: &Path) -> Vec<String> {
    let fields = ["-e", "http.request.uri", "-e", "http.content_length"];
    tshark(file, &[&["-Y", "http", "-T", "fields"], &fields[..]].concat())
}

#[test]
fn a_connection_older_than_the_recorder_is_shown_where_that_is_asked_for_and_no_other_twice() {
    let mut older = Older::recorded_with(",tap.tlsPlaintext[0].regex=older");
    wait_for_probes(&older.recorder);
    // The server waits within a call that began before the probes came; what it returns nobody can tell.
    older.get("old", "/not-yet");
    older.get("old", "/one");
    older.get("new", "/two");
    older.get("old", "/three");
    let mut expected = Vec::new();
    for path in ["/one", "/two", "/three"] {
        expected.extend([format!("{path}\t"), format!("\t{}", path.len() * 3000)]);
    }
    let (mut found, mut expected) = (http(&older.export(&[])), expected);
    let first = [String::from("/not-yet\t"), format!("\t{}", "/not-yet".len() * 3000)];
    found.retain(|line| !first.contains(line));
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(http(&older.export(&["--tls", "none"])), [""; 0]);
}

/// First words wait for two seconds.
#[test]
fn what_was_said_just_before_the_recorder_stops_is_written() {
    let mut older = Older::recorded_with(",tap.tlsPlaintext[0].regex=older");
    wait_for_probes(&older.recorder);
    older.get("old", "/not-yet");
    older.get("old", "/last");
    older.get("new", "/not-twice");
    let Older { recorder, dir, data, program: _program, .. } = older;
    assert!(recorder.stop_by(Signal::TERM).success());
    let file = dir.path().join("after.pcap");
    let done = pcapdump(data.path(), &["--dest", &file.display().to_string()]);
    assert!(done.status.success(), "{done:?}");
    let found = http(&file);
    for path in ["/last", "/not-twice"] {
        let count = |line: &str| found.iter().filter(|found| *found == line).count();
        assert_eq!(count(&format!("{path}\t")), 1, "{path}: {found:?}");
        assert_eq!(count(&format!("\t{}", path.len() * 3000)), 1, "{path}: {found:?}");
    }
}

#[test]
fn nobody_who_is_not_chosen_is_read() {
    let mut older = Older::recorded_with(",tap.tlsPlaintext[0].regex=^another$");
    older.get("old", "/one");
    wait_until("packets to be there", WITHIN, || {
        !tshark(&older.export(&["--tls", "none"]), &["-Y", "tcp.len > 0"]).is_empty()
    });
    assert_eq!(http(&older.export(&[])), [""; 0]);
}

#[test]
fn plaintext_stays_on_the_machine_when_told_so() {
    let settings = ",tap.tlsPlaintext[0].regex=older,tap.tlsExport=false";
    let mut older = Older::recorded_with(settings);
    wait_for_probes(&older.recorder);
    older.get("old", "/one");
    assert_eq!(http(&older.export(&[])), [""; 0]);
}

#[test]
fn gnutls_is_read_like_openssl() {
    let (dir, data, netns) = (data_dir(), data_dir(), Netns::new("older"));
    let [key, certificate, file] = ["key", "certificate", "out.pcap"].map(|n| dir.path().join(n));
    self_signed("older", &key, &certificate);
    let mut command = netns.exec("gnutls-serv");
    command.args(["--echo", "--port", "10443", "--x509keyfile"]).arg(&key);
    let mut server = Program::start(command.arg("--x509certfile").arg(&certificate));
    server.wait_to_say("done", WITHIN);
    let mut command = netns.exec("gnutls-cli");
    let mut client = Talk::start(command.args(["--insecure", "--port", "10443", "127.0.0.1"]));
    client.hear("Simple Client Mode");
    let settings = "tap.tls=true,pcapdump.minFree=0B,tap.tlsPlaintext[0].regex=older";
    let recorder = Recorder::start(data.path(), &[&netns], &["--set", settings]);
    wait_for_probes(&recorder);
    for text in ["the first words", "the second words"] {
        client.say(&format!("{text}\n"));
        client.hear(text);
    }
    let done = recorder.pcapdump(&["--dest", &file.display().to_string()]);
    assert!(done.status.success(), "{done:?}");
    for text in ["the first words", "the second words"] {
        let filter = format!("frame contains \"{text}\"");
        let shown = tshark(&file, &["-Y", &filter, "-T", "fields", "-e", "eth.src"]);
        assert_eq!(shown.len(), 2, "asked and answered: {shown:?}");
        assert!(shown.iter().all(|source| source.starts_with("02:54:4c:50")), "{shown:?}");
    }
}
