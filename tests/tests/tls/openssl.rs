//! `openssl s_server` and `s_client`, and what they can do that others do not: sessions taken up
//! again, early data, a `HelloRetryRequest`, new keys.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kuberewind_tests::{Program, succeed};

use crate::judge::Exchange;
use crate::lab::{End, Lab, NGINX, VERSIONS, WITHIN, curl_arguments, other_end, series, text};

const PORT: u16 = 10443;

/// What makes `openssl` speak one version only.
fn only(version: &str) -> &'static str {
    if version == "1.2" { "-tls1_2" } else { "-tls1_3" }
}

/// `s_server` at the recorded end; with `-HTTP` it serves files that are whole answers.
fn serve(lab: &mut Lab, port: u16, more: &[&str]) {
    let mut command = lab.exec(End::Recorded, "openssl");
    command.args(["s_server", "-accept", &port.to_string()]).args(more);
    command.args(["-cert", &lab.files.certificate("server"), "-key", &lab.files.key("server")]);
    let mut server = Program::start(command.current_dir(lab.files.path("")));
    server.wait_to_say("ACCEPT", WITHIN);
    lab.keep(server);
    lab.wait_for_probes("/libcrypto.so.3");
}

/// A file that `s_server` finds: it takes what stands behind the `?` for a part of the name.
fn page(lab: &mut Lab, tag: &str) -> String {
    const LEN: usize = 100_000;
    let uri = format!("/text/{LEN}?{tag}");
    let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {LEN}\r\n\r\n");
    let answer = [head.as_bytes(), &text(LEN)].concat();
    fs::write(lab.files.path(&uri[1..]), answer).expect("a file");
    lab.expect(tag, vec![Exchange { answered: text(LEN).into(), ..Exchange::new("GET", &uri) }]);
    uri
}

/// Requests for `s_client`'s standard input.
fn requests(lab: &Lab, tag: &str) -> PathBuf {
    let mut all = Vec::new();
    let series = series(tag);
    for (number, exchange) in series.iter().enumerate() {
        let Exchange { method, uri, asked, .. } = exchange;
        let last = if number + 1 == series.len() { "Connection: close\r\n" } else { "" };
        let head = format!("{method} {uri} HTTP/1.1\r\nHost: here\r\n{last}");
        let length =
            format!("Content-Type: text/plain\r\nContent-Length: {}\r\n\r\n", asked.bytes().len());
        all.extend([head.as_bytes(), length.as_bytes(), asked.bytes()].concat());
    }
    let path = lab.files.path(tag);
    fs::write(&path, all).expect("a file");
    path
}

/// `s_client` sends a file to the other end.
pub(crate) fn send(lab: &Lab, (from, port): (End, u16), file: &Path, more: &[&str]) -> String {
    let mut shell = lab.exec(from, "sh");
    shell.args(["-c", "file=$1; shift; openssl s_client \"$@\" < \"$file\"", "sh"]).arg(file);
    let to = format!("{}:{port}", other_end(from));
    succeed(shell.args(["-connect", &to]).args(more))
}

/// `s_client` asks a server at the recorded end, and asks again with the session that it was given. The
/// answer must tell its length, and nothing comes behind it.
pub(crate) fn take_up_again(lab: &mut Lab, port: u16, version: &str, answered: &[u8]) {
    let session = lab.files.path(&format!("session-{port}-{version}")).display().to_string();
    for (time, option) in [("New", "-sess_out"), ("Reused", "-sess_in")] {
        let tag = format!("{time}-{port}-{version}");
        let uri = format!("/anything?{tag}");
        let file = lab.files.path(&format!("{tag}.request"));
        let head = format!("GET {uri} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
        fs::write(&file, head).expect("a file");
        let options = [only(version), "-ign_eof", option, &session];
        let said = send(lab, (End::Peer, port), &file, &options);
        assert!(said.contains(&format!("{time}, ")), "{said}");
        let answered = answered.to_vec().into();
        lab.expect(&tag, vec![Exchange { answered, ..Exchange::new("GET", &uri) }]);
    }
}

#[test]
fn s_server_and_s_client_are_readable() {
    let mut lab = Lab::new();
    serve(&mut lab, PORT, &["-HTTP"]);
    for version in VERSIONS {
        let uri = page(&mut lab, &format!("s_server-{version}"));
        let mut curl = lab.exec(End::Peer, "curl");
        let url = format!("https://{}:{PORT}{uri}", other_end(End::Peer));
        succeed(curl.args(curl_arguments(version)).arg(url));

        let tag = format!("s_client-{version}");
        let file = requests(&lab, &tag);
        send(&lab, (End::Recorded, NGINX), &file, &[only(version), "-ign_eof"]);
        lab.expect(&tag, series(&tag));
    }
    lab.judge();
}

/// Ours in the `.pcap`, Wireshark's own decryption in the `.pcapng`.
#[test]
fn cbc_suites_are_readable_whether_encrypted_or_authenticated_first() {
    let mut lab = Lab::new();
    let config = lab.files.path("mac-then-encrypt.cnf");
    let sections = [
        "openssl_conf = all",
        "[all]\nssl_conf = modules",
        "[modules]\nsystem_default = tls",
        "[tls]\nOptions = -EncryptThenMac",
    ];
    fs::write(&config, sections.join("\n")).expect("a file");
    serve(&mut lab, PORT, &["-HTTP", "-tls1_2"]);
    for suite in ["AES128-SHA", "AES256-SHA", "AES128-SHA256", "AES256-SHA384"] {
        for (order, config) in [("encrypted", None), ("authenticated", Some(&config))] {
            let uri = page(&mut lab, &format!("{suite}-{order}"));
            let mut curl = lab.exec(End::Peer, "curl");
            curl.envs(config.map(|config| ("OPENSSL_CONF", config)));
            curl.args(curl_arguments("1.2")).args(["--ciphers", &format!("ECDHE-ECDSA-{suite}")]);
            succeed(curl.arg(format!("https://{}:{PORT}{uri}", other_end(End::Peer))));
        }
    }
    lab.judge();
}

/// In the `.pcapng` it is not: Wireshark 4.0 does not take the end of TLS for the end of an answer.
#[test]
fn an_answer_that_ends_with_its_connection_is_whole_in_the_pcap() {
    let mut lab = Lab::new();
    serve(&mut lab, PORT, &["-WWW"]);
    for version in VERSIONS {
        let uri = format!("/text/10?{version}");
        fs::write(lab.files.path(&uri[1..]), text(10)).expect("a file");
        let mut curl = lab.exec(End::Peer, "curl");
        let url = format!("https://{}:{PORT}{uri}", other_end(End::Peer));
        succeed(curl.args(curl_arguments(version)).arg(url));
        let answered = text(10).into();
        lab.expect(version, vec![Exchange { answered, ..Exchange::new("GET", &uri) }]);
    }
    lab.judge_files(&["twins.pcap"]);
}

#[test]
fn retries_and_sessions_taken_up_again_are_readable() {
    const RETRIES: u16 = PORT;
    const RESUMES: u16 = PORT + 1;
    let mut lab = Lab::new();
    // It has none of the keys that clients guess.
    serve(&mut lab, RETRIES, &["-HTTP", "-groups", "P-521"]);
    serve(&mut lab, RESUMES, &["-HTTP"]);
    let ask = |lab: &mut Lab, port: u16, tag: &str, more: &[&str]| {
        let uri = page(lab, tag);
        let file = lab.files.path(&format!("{tag}.request"));
        fs::write(&file, format!("GET {uri} HTTP/1.1\r\n\r\n")).expect("a file");
        send(lab, (End::Peer, port), &file, &[more, &["-ign_eof"]].concat())
    };
    ask(&mut lab, RETRIES, "retried", &["-tls1_3"]);
    for version in VERSIONS {
        let session = lab.files.path("session").display().to_string();
        let options = [only(version), "-sess_out", &session];
        let said = ask(&mut lab, RESUMES, &format!("first-{version}"), &options);
        assert!(said.contains("New, "), "{said}");
        let options = [only(version), "-sess_in", &session];
        let said = ask(&mut lab, RESUMES, &format!("again-{version}"), &options);
        assert!(said.contains("Reused, "), "{said}");
    }
    lab.judge();
}

/// A program that is talked to.
pub(crate) struct Talk {
    child: Child,
}

impl Talk {
    pub(crate) fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        Self { child: child.expect("a program") }
    }

    pub(crate) fn say(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().expect("a pipe");
        stdin.write_all(text.as_bytes()).expect("a program that listens");
    }

    /// Reads until it has said this.
    pub(crate) fn hear(&mut self, text: &str) {
        let stdout = self.child.stdout.as_mut().expect("a pipe");
        let (mut heard, mut part) = (Vec::new(), [0; 4096]);
        while !String::from_utf8_lossy(&heard).contains(text) {
            let len = stdout.read(&mut part).expect("a program that speaks");
            assert!(len > 0, "no `{text}` in {}", String::from_utf8_lossy(&heard));
            heard.extend_from_slice(&part[..len]);
        }
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One request over HTTP/1.1, as it is sent and as it is expected in the file.
fn request(uri: &str, last: bool) -> (String, Exchange) {
    let close = if last { "Connection: close\r\n" } else { "" };
    let answered = text(10).into();
    let exchange = Exchange { answered, ..Exchange::new("GET", uri) };
    (format!("GET {uri} HTTP/1.1\r\nHost: here\r\n{close}\r\n"), exchange)
}

#[test]
fn early_data_is_readable() {
    let mut lab = Lab::new();
    // So that there are probes in the library before the client uses it.
    let _nginx = lab.nginx();
    let file = |name: &str| lab.files.path(name).display().to_string();
    let (session, early) = (file("session"), file("early"));
    let (text, exchange) = request("/text/10?early", false);
    fs::write(&early, text).expect("a file");
    let closes = lab.files.path("closes");
    let options = ["-tls1_3", "-ign_eof"];

    let (text, first) = request("/text/10?first", true);
    fs::write(&closes, text).expect("a file");
    let to = (End::Recorded, NGINX);
    send(&lab, to, &closes, &[&options[..], &["-sess_out", &session]].concat());
    lab.expect("first", vec![first]);

    let (text, second) = request("/text/10?early", true);
    fs::write(&closes, text).expect("a file");
    let more = ["-sess_in", &session, "-early_data", &early];
    let said = send(&lab, to, &closes, &[&options[..], &more].concat());
    assert!(said.contains("Early data was accepted"), "{said}");
    lab.expect("early", vec![exchange, second]);
    lab.judge();
}

#[test]
fn new_keys_within_a_connection_are_readable() {
    let mut lab = Lab::new();
    let _nginx = lab.nginx();
    let mut shell = lab.exec(End::Recorded, "sh");
    shell.args(["-c", "exec openssl s_client \"$@\" 2>&1", "sh", "-tls1_3", "-connect"]);
    shell.arg(format!("{}:{NGINX}", other_end(End::Recorded)));
    let mut client = Talk::start(&mut shell);
    let mut exchanges = Vec::new();
    // `k`: a new key of its own; `K`: it asks the server for one, too.
    for order in ["k\n", "K\n", ""] {
        let (text, exchange) = request("/text/10?keys", order.is_empty());
        exchanges.push(exchange);
        client.say(&text);
        client.hear("0000000.00");
        if !order.is_empty() {
            client.say(order);
            client.hear("KEYUPDATE");
        }
    }
    drop(client);
    lab.expect("keys", exchanges);
    lab.judge();
}
