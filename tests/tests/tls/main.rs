//! What TLS said is in the export, for Wireshark without any setting.

mod judge;
mod lab;
mod nginx;
mod programs;

use std::path::Path;
use std::time::Duration;

use kuberewind_tests::judges::tshark;
use kuberewind_tests::{Netns, Program, Recorder, data_dir, succeed, wait_until};

const WITHIN: Duration = Duration::from_secs(30);
const PORT: &str = "8443";

/// `openssl s_server`, which answers every request with a page.
struct Server {
    _program: Program,
    netns: Netns,
}

impl Server {
    fn start(dir: &Path, version: &str) -> Self {
        let netns = Netns::new("tls");
        let file = |name: &str| dir.join(name).display().to_string();
        let (key, certificate) = (file("key.pem"), file("certificate.pem"));
        succeed(
            netns.exec("openssl").args(["req", "-x509", "-newkey", "rsa:2048", "-nodes"]).args([
                "-keyout",
                &key,
                "-out",
                &certificate,
                "-days",
                "2",
                "-subj",
                "/CN=localhost",
            ]),
        );
        let mut server = netns.exec("openssl");
        server.args(["s_server", "-www", "-accept", PORT, "-key", &key, "-cert", &certificate]);
        Self { _program: Program::start(server.arg(version)), netns }
    }

    fn get(&self, path: &str) -> bool {
        let url = format!("https://127.0.0.1:{PORT}/{path}");
        let mut curl = self.netns.exec("curl");
        curl.args(["--silent", "--insecure", "--output", "/dev/null", &url]);
        curl.status().is_ok_and(|status| status.success())
    }
}

fn decrypts(version: &str) {
    let (dir, data) = (data_dir(), data_dir());
    let server = Server::start(dir.path(), version);
    let recorder = Recorder::start(data.path(), &[&server.netns], &["--set", "tap.tls=true"]);
    wait_until("the server to answer", WITHIN, || server.get("warm"));
    for request in 0..5 {
        assert!(server.get(&format!("request-{request}")));
    }
    let uris = |path: &Path, more: &[&str]| {
        let fields = ["-Y", "http.request", "-T", "fields", "-e", "http.request.uri"];
        tshark(path, &[fields.as_slice(), more].concat())
    };
    let export = |name: &str, arguments: &[&str]| {
        let path = dir.path().join(name);
        let dest = path.display().to_string();
        let done = recorder.pcapdump(&[&["--dest", &dest], arguments].concat());
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        (path, String::from_utf8_lossy(&done.stdout).into_owned())
    };
    let expected: Vec<_> = (0..5).map(|request| format!("/request-{request}")).collect();
    // Secrets are written a moment after their handshake.
    wait_until("every request in the secrets' file", WITHIN, || {
        let _ = std::fs::remove_file(dir.path().join("secrets.pcapng"));
        let (path, _) = export("secrets.pcapng", &[]);
        uris(&path, &[]).ends_with(&expected)
    });
    let (twins, said) = export("twins.pcap", &[]);
    assert!(uris(&twins, &[]).ends_with(&expected), "{said}");
    assert!(said.contains("TLS conversations decrypted"), "{said}");
    let alarms = "eth.src[0:4]==02:54:4c:53 and (tcp.analysis.flags or tcp.checksum.status==Bad)";
    let checked = ["-o", "tcp.check_checksum:TRUE", "-Y", alarms];
    assert_eq!(tshark(&twins, &checked), Vec::<String>::new());

    let (plain, _) = export("plain.pcap", &["--tls", "none"]);
    let without = ["-Y", "!(eth.src[0:4]==02:54:4c:53)", "-T", "fields", "-e", "frame.time_epoch"];
    let all = ["-T", "fields", "-e", "frame.time_epoch"];
    let (before, after) = (tshark(&plain, &all), tshark(&twins, &without));
    // Curl's last packets may have come in between.
    assert_eq!(before[..after.len().min(before.len())], after[..after.len().min(before.len())]);
}

#[test]
fn tls_1_3_is_readable_in_both_formats_and_what_was_recorded_is_unchanged() {
    decrypts("-tls1_3");
}

#[test]
fn tls_1_2_is_readable_in_both_formats_and_what_was_recorded_is_unchanged() {
    decrypts("-tls1_2");
}

#[test]
fn secrets_stay_on_the_machine_when_told_so() {
    let (dir, data) = (data_dir(), data_dir());
    let server = Server::start(dir.path(), "-tls1_3");
    let settings = ["--set", "tap.tls=true,tap.tlsExport=false"];
    let recorder = Recorder::start(data.path(), &[&server.netns], &settings);
    wait_until("the server to answer", WITHIN, || server.get("hidden"));
    let dest = dir.path().join("x.pcapng");
    let done = recorder.pcapdump(&["--dest", &dest.display().to_string()]);
    assert!(done.status.success());
    let requests = ["-d", "tcp.port==8443,tls", "-Y", "http"];
    assert_eq!(tshark(&dest, &requests), Vec::<String>::new());
}
