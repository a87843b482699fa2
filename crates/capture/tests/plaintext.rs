//! Probes of plaintext in real programs. Needs root, `ip`, `python3` and OpenSSL's library.

#[allow(dead_code, reason = "these tests need namespaces, but no packets")]
mod support;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use kuberewind_capture::{Opener, PlaintextProbes};
use support::{Background, Netns, SOON, until};

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3";
/// Loads each library of a folder and keeps it.
const LOAD: &str = "
import ctypes, os, sys
kept = [ctypes.CDLL(os.path.join(sys.argv[1], name)) for name in os.listdir(sys.argv[1])]
print('ready', flush=True)
sys.stdin.read()
";

/// A process that has so many libraries of its own loaded.
fn loads(netns: &Netns, dir: &Path, count: usize) -> Background {
    fs::create_dir(dir).unwrap();
    for number in 0..count {
        fs::copy(LIBRARY, dir.join(format!("libssl-{number}.so"))).unwrap();
    }
    let mut process = netns.spawn("python3", &["-c", LOAD, dir.to_str().unwrap()]);
    let mut said = String::new();
    BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "ready\n");
    process
}

#[test]
fn whoever_loads_many_libraries_leaves_probes_for_others() {
    let (busy, quiet) = (Netns::new(), Netns::new());
    let dir = tempfile::tempdir().unwrap();
    let [many, one] = ["many", "one"].map(|name| dir.path().join(name));
    let _busy = loads(&busy, &many, 67);
    let _quiet = loads(&quiet, &one, 1);
    let probes = PlaintextProbes::start(Opener::default(), |_| {}).unwrap();
    probes.set_targets(&[busy.target(), quiet.target()]);
    until("all files to be looked at", SOON, || probes.has_looked());
    let status = probes.stop();
    let its = status.files.iter().filter(|file| file.starts_with(many.to_str().unwrap())).count();
    assert_eq!((its, status.files.len(), status.left_out), (64, 65, 3), "{status:?}");
    let problem =
        format!("attach to 3 files of {}: 64 of its files are probed already", busy.target().owner);
    assert_eq!(status.problems, [problem]);
}
