//! A recording made in the test itself: 5 MB over loopback.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kuberewind_tls::{KeyLog, Outcome};

use crate::recorded::{decrypt, read_pcap};

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn run(folder: &Path, program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// curl fetches a file from openssl while tcpdump records.
fn fetch_while_recorded(options: &[&str], config: &str, body: &[u8]) -> (Vec<u8>, KeyLog) {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("body"), body).unwrap();
    let certificate = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=shop \
                       -keyout key.pem -out cert.pem";
    let words: Vec<_> = certificate.split_whitespace().collect();
    assert!(run(at, "openssl", &words).stderr(Stdio::null()).status().unwrap().success());
    let port = free_port();
    let accept = format!("127.0.0.1:{port}");
    let serve = ["s_server", "-accept", &accept, "-key", "key.pem", "-cert", "cert.pem", "-WWW"];
    let mut server = run(at, "openssl", &serve);
    std::fs::write(at.join("openssl.cnf"), config).unwrap();
    server.args(options).env("OPENSSL_CONF", at.join("openssl.cnf")).stderr(Stdio::null());
    let _server = Running(server.spawn().unwrap());
    let filter = format!("tcp port {port}");
    let record = ["-i", "lo", "-U", "-B", "65536", "--time-stamp-precision=nano", "-Z", "root"];
    let mut recorder = run(at, "tcpdump", &record);
    recorder.args(["-w", "lo.pcap", &filter]).stderr(Stdio::piped());
    let mut recorder = Running(recorder.spawn().unwrap());
    let mut said = BufReader::new(recorder.0.stderr.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("listening")));
    let listens = format!("sport = {port}");
    wait_until("openssl listens", || {
        !Command::new("ss").args(["-Hlnt", &listens]).output().unwrap().stdout.is_empty()
    });
    let url = format!("https://{accept}/body");
    let mut curl = run(at, "curl", &["-sk", "--http1.1", "-o", "got", &url]);
    assert!(curl.env("SSLKEYLOGFILE", at.join("keys")).status().unwrap().success());
    assert!(std::fs::read(at.join("got")).unwrap() == body);
    wait_until("tcpdump wrote both ends", || {
        let packets = read_pcap(&std::fs::read(at.join("lo.pcap")).unwrap());
        packets.iter().filter(|packet| packet.bytes[47] & 1 != 0).count() >= 2
    });
    let log = std::fs::read_to_string(at.join("keys")).unwrap();
    (std::fs::read(at.join("lo.pcap")).unwrap(), KeyLog::parse(&log).unwrap())
}

#[test]
fn five_megabytes_decrypt_to_the_byte() {
    let body: Vec<u8> = (0..5_000_000_u32).map(|n| (n ^ n >> 7 ^ n >> 15) as u8).collect();
    for version in ["-tls1_3", "-tls1_2"] {
        let (pcap, log) = fetch_while_recorded(&[version], "", &body);
        let said = decrypt(&read_pcap(&pcap), &log);
        assert_eq!(said.outcomes(), [Outcome::Opened], "{version}");
        assert!(said.server.ends_with(&body), "{version}: {} bytes", said.server.len());
        assert!(said.client.starts_with(b"GET /body HTTP/1.1\r\n"), "{version}");
    }
}

/// OpenSSL's `SSL_OP_NO_ENCRYPT_THEN_MAC`, as its configuration has it.
const MAC_THEN_ENCRYPT: &str = "\
    openssl_conf = all\n[all]\nssl_conf = modules\n[modules]\nsystem_default = tls\n\
    [tls]\nOptions = -EncryptThenMac\n";

#[test]
fn every_cbc_suite_decrypts_to_the_byte_whatever_is_done_first() {
    let body: Vec<u8> = (0..50_000_u32).map(|n| (n ^ n >> 7) as u8).collect();
    for suite in ["AES128-SHA", "AES256-SHA", "AES128-SHA256", "AES256-SHA384"] {
        for config in ["", MAC_THEN_ENCRYPT] {
            let suite = format!("ECDHE-ECDSA-{suite}");
            let options = ["-tls1_2", "-cipher", &suite];
            let (pcap, log) = fetch_while_recorded(&options, config, &body);
            let packets = read_pcap(&pcap);
            let hello = packets.iter().map(|packet| &packet.bytes[..]).find(|bytes| {
                bytes.get(66) == Some(&22) && bytes.get(71) == Some(&2) // a ServerHello
            });
            let extension = [0, 22, 0, 0];
            let agreed = hello.unwrap()[66..200].windows(4).any(|window| window == extension);
            assert_eq!(agreed, config.is_empty(), "{suite}: encrypt-then-MAC");
            let said = decrypt(&packets, &log);
            assert_eq!(said.outcomes(), [Outcome::Opened], "{suite} {config}");
            assert!(said.server.ends_with(&body), "{suite} {config}");
            assert!(said.client.starts_with(b"GET /body HTTP/1.1\r\n"), "{suite} {config}");
        }
    }
}
