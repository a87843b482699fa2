//! What the plaintext probes cost a call of OpenSSL: Python's, which writes to itself over loopback.
//!
//! `cargo run --release -p kuberewind-capture --example plain_cost` (root; `openssl`, `python3`). By turns
//! without the probes, with them, and with them where the process is not chosen; medians of the turns.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{env, fs, process};

use kuberewind_capture::{Opener, Plaintext, PlaintextProbes, PlaintextTold, Target};
use kuberewind_packet::{NetnsId, Owner};

/// Asked for a size, it prints nanoseconds of processor time for each write and the read of it.
const PYTHON: &str = "
import socket, ssl, sys, threading, time
listener = socket.create_server(('127.0.0.1', 0))
client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.load_cert_chain(sys.argv[1])
ends = []
thread = threading.Thread(
    target=lambda: ends.append(server.wrap_socket(listener.accept()[0], server_side=True)))
thread.start()
here = client.wrap_socket(socket.create_connection(listener.getsockname()))
thread.join()
there, buffer = ends[0], bytearray(16384)
def round(size, times):
    data = bytes(size)
    start = time.process_time_ns()
    for _ in range(times):
        here.send(data)
        left = size
        while left: left -= there.recv_into(buffer)
    return (time.process_time_ns() - start) / times
for line in sys.stdin:
    size = int(line)
    times = 4000 if size < 4096 else 1000
    round(size, times // 10)
    print(round(size, times), flush=True)
";

const TURNS: usize = 15;
const SIZES: [usize; 2] = [1024, 16_384];

struct Program {
    child: Child,
    said: Box<dyn BufRead>,
}

impl Program {
    /// In a network namespace of its own, if `elsewhere`.
    fn start(certificate: &str, elsewhere: bool) -> Result<Self, Box<dyn Error>> {
        let mut command = Command::new(if elsewhere { "unshare" } else { "python3" });
        if elsewhere {
            let with_loopback = "ip link set lo up && exec python3 \"$@\"";
            command.args(["--net", "sh", "-c", with_loopback, "python3"]);
        }
        command.args(["-c", PYTHON, certificate]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let said = Box::new(BufReader::new(child.stdout.take().ok_or("no output")?));
        Ok(Self { child, said })
    }

    fn ask(&mut self, size: usize) -> Result<f64, Box<dyn Error>> {
        writeln!(self.child.stdin.as_mut().ok_or("no input")?, "{size}")?;
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        Ok(line.trim().parse()?)
    }
}

fn own_namespace() -> Result<Target, Box<dyn Error>> {
    let path = "/proc/self/ns/net";
    let netns = NetnsId(fs::metadata(path)?.ino());
    Ok(Target { owner: Owner::Host, netns, path: path.into() })
}

fn await_files(probes: &PlaintextProbes, there: bool) -> Result<(), Box<dyn Error>> {
    const STEP: Duration = Duration::from_millis(20);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !probes.has_looked() || probes.status().files.is_empty() == there {
        if Instant::now() > deadline {
            return Err(format!("probes: {:?}", probes.status()).into());
        }
        sleep(STEP);
    }
    // What is taken away goes a little later.
    sleep(Duration::from_millis(500));
    Ok(())
}

fn certificate(pem: &str) -> Result<(), Box<dyn Error>> {
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=x"];
    let files = ["-keyout", pem, "-out", &format!("{pem}.crt")];
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-nodes", "-batch"]).args(curve).args(files).output()?;
    let both = fs::read_to_string(pem)? + &fs::read_to_string(format!("{pem}.crt"))?;
    fs::write(pem, both)?;
    Ok(fs::remove_file(format!("{pem}.crt"))?)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), Box<dyn Error>> {
    let pem =
        env::temp_dir().join(format!("plain-cost-{}.pem", process::id())).display().to_string();
    certificate(&pem)?;
    let mut programs = [Program::start(&pem, false)?, Program::start(&pem, true)?];
    for program in &mut programs {
        program.ask(SIZES[0])?;
    }
    fs::remove_file(&pem)?;

    let told = Arc::new(AtomicU64::new(0));
    let tell = Arc::clone(&told);
    let probes = PlaintextProbes::start(Opener::default(), move |told| {
        if let PlaintextTold::Event(event) = told
            && let Plaintext::Data { bytes, .. } = event.happened
        {
            tell.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
    })?;
    let target = own_namespace()?;
    // By size: without, with, elsewhere, and the ratios of these two to the first.
    let mut measured = SIZES.map(|_| [const { Vec::new() }; 5]);
    for _ in 0..TURNS {
        let mut turn = [[0.0; 3]; SIZES.len()];
        for (which, targets) in [&[][..], std::slice::from_ref(&target)].into_iter().enumerate() {
            probes.set_targets(targets);
            await_files(&probes, !targets.is_empty())?;
            for (size, turn) in SIZES.iter().zip(&mut turn) {
                turn[which] = programs[0].ask(*size)?;
                turn[2] = programs[1].ask(*size)?;
            }
        }
        for (measured, [without, with, elsewhere]) in measured.iter_mut().zip(turn) {
            let values = [without, with, elsewhere, with / without, elsewhere / without];
            measured.iter_mut().zip(values).for_each(|(all, value)| all.push(value));
        }
    }
    for (size, measured) in SIZES.iter().zip(&mut measured) {
        let [without, with, elsewhere, its, other] =
            measured.each_mut().map(|values| median(values));
        println!(
            "{size} bytes written and read: {without:.0} ns without probes, {with:.0} ns with, \
             {elsewhere:.0} ns by who is not chosen; medians of the turns' ratios {its:.2}, {other:.2}"
        );
    }
    let status = probes.stop();
    println!(
        "told: {} bytes, lost: {}, unplaced: {}; load {}",
        told.load(Ordering::Relaxed),
        status.lost,
        status.unplaced,
        fs::read_to_string("/proc/loadavg")?.trim()
    );
    for program in &mut programs {
        program.child.kill()?;
        program.child.wait()?;
    }
    Ok(())
}
