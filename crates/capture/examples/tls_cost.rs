//! What the probes cost a handshake: Python's with itself, in memory, client and server together.
//!
//! `cargo run --release -p kuberewind-capture --example tls_cost` (root; `openssl`, `python3`)

use std::error::Error;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{env, fs, process};

use kuberewind_capture::{Target, TlsConfig, TlsProbes};
use kuberewind_packet::{NetnsId, Owner};

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

    let start = Instant::now();
    let probes = TlsProbes::start(TlsConfig::default(), |_| {})?;
    println!("load: {:?}", start.elapsed());
    let path = "/proc/self/ns/net";
    let netns = NetnsId(fs::metadata(path)?.ino());
    let target = Target { owner: Owner::Host, netns, path: path.into() };
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
