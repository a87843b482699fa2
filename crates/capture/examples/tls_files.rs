//! What it takes to attach to many different library files, and to detach from them.
//!
//! `cargo run --release -p kuberewind-capture --example tls_files 200` (root; `python3`, OpenSSL 3's
//! `libcrypto.so.3`): a process that loads so many copies of it.

use std::error::Error;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{env, fs};

use kuberewind_capture::{Target, TlsConfig, TlsProbes};
use kuberewind_packet::{NetnsId, Owner};

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libcrypto.so.3";
const LOAD: &str = "\
import ctypes, glob, sys
kept = [ctypes.CDLL(path) for path in glob.glob(sys.argv[1] + '/*.so')]
sys.stdin.read()
";

fn resident() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    Some(statm.split(' ').nth(1)?.parse::<u64>().ok()? * 4096)
}

fn main() -> Result<(), Box<dyn Error>> {
    let count: usize = env::args().nth(1).unwrap_or_else(|| "200".into()).parse()?;
    let folder = tempfile::tempdir_in("/dev/shm")?;
    for number in 0..count {
        fs::copy(LIBRARY, folder.path().join(format!("{number}.so")))?;
    }
    let mut process = Command::new("python3")
        .args(["-c", LOAD])
        .arg(folder.path())
        .stdin(Stdio::piped())
        .spawn()?;
    let maps = format!("/proc/{}/maps", process.id());
    let last = format!("{}/", folder.path().display());
    let loaded = || -> Result<usize, std::io::Error> {
        let maps = fs::read_to_string(&maps)?;
        let lines = maps.lines().filter(|line| line.contains(" r-xp ") && line.contains(&last));
        Ok(lines.count())
    };
    while loaded()? < count {
        sleep(Duration::from_millis(10));
    }
    let probes = TlsProbes::start(TlsConfig::default(), |_| {})?;
    let before = resident();
    let path = "/proc/self/ns/net";
    let netns = NetnsId(fs::metadata(path)?.ino());
    let began = Instant::now();
    probes.set_targets(&[Target { owner: Owner::Host, netns, path: path.into() }]);
    let of_its = |path: &str| path.starts_with(&last);
    let attached = || {
        let status = probes.status();
        status.libraries.iter().filter(|library| of_its(&library.path)).count()
    };
    while attached() < count {
        sleep(Duration::from_millis(1));
        if began.elapsed() > Duration::from_mins(1) {
            return Err(format!("{} of {count}: {:?}", attached(), probes.status().problems).into());
        }
    }
    println!("attach to {count} files: {:?}", began.elapsed());
    println!("memory: {before:?} bytes, then {:?}", resident());
    let began = Instant::now();
    probes.stop();
    println!("detach from all: {:?}", began.elapsed());
    drop(process.stdin.take());
    process.wait()?;
    Ok(())
}
