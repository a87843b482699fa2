//! What the probes cost a handshake: Python's with itself, in memory, client and server together.
//!
//! `cargo run --release -p kuberewind-capture --example tls_cost` (root; `openssl`, `python3`). With a
//! folder that holds pyOpenSSL, as `target/peers/cryptography-50.0.2-stripped`, and a Python that can use
//! it: where the function that writes key logs is probed.

use std::error::Error;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{env, fs, process};

use kuberewind_capture::{Target, TlsConfig, TlsProbes};
use kuberewind_packet::{NetnsId, Owner};
use kuberewind_tls::{ObjectPath, Secret};

/// Prints microseconds of processor time for each handshake: the least of five rounds.
const PYTHON: &str = "
import ssl, sys, time
def context(server):
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    if server: c.load_cert_chain(sys.argv[1])
    else: c.check_hostname, c.verify_mode = False, ssl.CERT_NONE
    c.maximum_version = ssl.TLSVersion.TLSv1_3 if sys.argv[2] == '1.3' else ssl.TLSVersion.TLSv1_2
    return c
client, server = context(False), context(True)
def handshake():
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(a, b), server.wrap_bio(b, a, server_side=True)]
    for _ in range(4):
        for one in sides:
            try: one.do_handshake()
            except ssl.SSLWantReadError: pass
def round():
    start = time.process_time()
    for _ in range(200): handshake()
    return (time.process_time() - start) / 200 * 1e6
handshake(); time.sleep(float(sys.argv[3]))
print(f'{min(round() for _ in range(5)):.0f}')
";

/// The same with pyOpenSSL.
const PYOPENSSL: &str = "
import sys, time
from OpenSSL import SSL
def context(server):
    c = SSL.Context(SSL.TLS_METHOD)
    if server: c.use_certificate_file(sys.argv[1]), c.use_privatekey_file(sys.argv[1])
    c.set_max_proto_version(SSL.TLS1_3_VERSION if sys.argv[2] == '1.3' else SSL.TLS1_2_VERSION)
    return c
client, server = context(False), context(True)
def handshake():
    sides = [SSL.Connection(client), SSL.Connection(server)]
    sides[0].set_connect_state(), sides[1].set_accept_state()
    for _ in range(4):
        for one, other in (sides, sides[::-1]):
            try: one.do_handshake()
            except SSL.WantReadError: pass
            try: other.bio_write(one.bio_read(65536))
            except SSL.WantReadError: pass
def round():
    start = time.process_time()
    for _ in range(200): handshake()
    return (time.process_time() - start) / 200 * 1e6
handshake(); time.sleep(float(sys.argv[3]))
print(f'{min(round() for _ in range(5)):.0f}')
";

/// At the function that writes key logs: with whole objects, and with the client's random alone.
fn key_log(certificate: &str, folder: &str, python: &str) -> Result<(), Box<dyn Error>> {
    let run = |version: &str, wait: &str| -> Result<String, Box<dyn Error>> {
        let mut command = Command::new(python);
        command.args(["-c", PYOPENSSL, certificate, version, wait]).env("PYTHONPATH", folder);
        Ok(String::from_utf8(command.output()?.stdout)?.trim().to_owned())
    };
    let (tell, told) = std::sync::mpsc::channel();
    let probes = TlsProbes::start(TlsConfig::default(), move |event| {
        if let Secret::InObject { object, .. } = event.secret {
            let _ = tell.send(object.file);
        }
    })?;
    let before = ["1.3", "1.2"].map(|version| run(version, "0"));
    probes.set_targets(&[own_namespace()?]);
    let objects = ["1.3", "1.2"].map(|version| run(version, "1"));
    let place = ObjectPath { pointer: None, offset: 0x188 };
    probes.teacher()(told.recv()?, place);
    let alone = ["1.3", "1.2"].map(|version| run(version, "1"));
    for (version, ((before, objects), alone)) in
        ["1.3", "1.2"].iter().zip(before.into_iter().zip(objects).zip(alone))
    {
        let (before, objects, alone) = (before?, objects?, alone?);
        println!(
            "TLS {version}, key log: {before} µs without probes, {objects} µs with objects, {alone} µs \
             with the random alone"
        );
    }
    println!("lost: {}", probes.status().lost);
    probes.stop();
    Ok(())
}

fn own_namespace() -> Result<Target, Box<dyn Error>> {
    let path = "/proc/self/ns/net";
    let netns = NetnsId(fs::metadata(path)?.ino());
    Ok(Target { owner: Owner::Host, netns, path: path.into() })
}

fn handshake(certificate: &str, version: &str, wait: &str) -> Result<String, Box<dyn Error>> {
    let arguments = ["-c", PYTHON, certificate, version, wait];
    let output = Command::new("python3").args(arguments).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn main() -> Result<(), Box<dyn Error>> {
    let certificate = env::temp_dir().join(format!("tls-cost-{}.pem", process::id()));
    let pem = certificate.display().to_string();
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=x"];
    let files = ["-keyout", &pem, "-out", &format!("{pem}.crt")];
    Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-batch"])
        .args(curve)
        .args(files)
        .output()?;
    let both = fs::read_to_string(&pem)? + &fs::read_to_string(format!("{pem}.crt"))?;
    fs::write(&pem, both)?;

    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [folder, python] = &arguments[..] {
        key_log(&pem, folder, python)?;
        fs::remove_file(&pem)?;
        return Ok(fs::remove_file(format!("{pem}.crt"))?);
    }
    let start = Instant::now();
    let probes = TlsProbes::start(TlsConfig::default(), |_| {})?;
    println!("load: {:?}", start.elapsed());
    let target = own_namespace()?;
    for version in ["1.3", "1.2"] {
        let without = handshake(&pem, version, "0")?;
        probes.set_targets(std::slice::from_ref(&target));
        let with = handshake(&pem, version, "1")?;
        // The probes stay in the file for a while.
        probes.set_targets(&[]);
        let elsewhere = handshake(&pem, version, "0")?;
        println!(
            "TLS {version}: {without} µs without probes, {with} µs recorded, {elsewhere} µs not recorded"
        );
        if version == "1.3" {
            // Until they are gone.
            sleep(Duration::from_secs(65));
        }
    }
    println!("lost: {}", probes.status().lost);
    let start = Instant::now();
    probes.stop();
    println!("stop: {:?}", start.elapsed());
    fs::remove_file(&pem)?;
    Ok(fs::remove_file(format!("{pem}.crt"))?)
}
