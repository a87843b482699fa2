//! TLS for who looks later than usual, or all the time: without a recorder, and following one.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kuberewind_tests::judges::tshark;
use kuberewind_tests::{
    Netns, Program, Recorder, data_dir, kuberewind, output, self_signed, wait_until,
};
use rustix::process::Signal;
use tempfile::TempDir;

const WITHIN: Duration = Duration::from_secs(30);
const PORT: &str = "8443";

/// A recorded network namespace with a server of TLS 1.3 that answers every request with a page, and
/// where things are.
struct Lab {
    recorder: Recorder,
    _server: Program,
    netns: Netns,
    dir: TempDir,
    data: TempDir,
}

impl Lab {
    /// Ready to decrypt.
    fn start(settings: &str) -> Self {
        let (dir, data, netns) = (data_dir(), data_dir(), Netns::new("later"));
        let [key, certificate] = ["key.pem", "certificate.pem"].map(|name| dir.path().join(name));
        self_signed("localhost", &key, &certificate);
        let mut server = netns.exec("openssl");
        server.args(["s_server", "-www", "-tls1_3", "-accept", PORT]);
        let server = Program::start(server.arg("-key").arg(key).arg("-cert").arg(certificate));
        let settings = format!("tap.tls=true,pcapdump.minFree=0B{settings}");
        let recorder = Recorder::start(data.path(), &[&netns], &["--set", &settings]);
        let lab = Self { recorder, _server: server, netns, dir, data };
        // The probes find OpenSSL as soon as the server runs; packets tell that they have.
        wait_until("the server to answer", WITHIN, || lab.get("warm"));
        wait_until("secrets to be seen", WITHIN, || {
            assert!(lab.get("warm"));
            let mut status = kuberewind();
            let status = status.args(["status", "--local", "--json", "--data-dir"]);
            let status = output(status.arg(lab.data.path())).stdout;
            let status: serde_json::Value = serde_json::from_slice(&status).expect("JSON");
            status["tls"]["covered"].as_u64() > Some(0)
        });
        lab
    }

    fn get(&self, path: &str) -> bool {
        let url = format!("https://127.0.0.1:{PORT}/{path}");
        let mut curl = self.netns.exec("curl");
        curl.args(["--silent", "--insecure", "--output", "/dev/null", &url]);
        curl.status().is_ok_and(|status| status.success())
    }
}

fn requests(path: &Path) -> Vec<String> {
    let uris = tshark(path, &["-Y", "http.request", "-T", "fields", "-e", "http.request.uri"]);
    uris.into_iter().filter(|uri| uri != "/warm").collect()
}

/// Exports without a recorder, perhaps in another mount namespace; what it said.
fn export(before: &str, data: &Path, file: &Path) -> String {
    let _ = fs::remove_file(file);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", &format!("{before}\nexec \"$@\""), "export"]);
    command.arg(kuberewind().get_program()).args(["pcapdump", "--local", "--data-dir"]);
    let done = output(command.arg(data).arg("--dest").arg(file));
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(done.status.success(), "{said}");
    said
}

#[test]
fn without_a_recorder_the_key_that_it_left_opens_until_the_machine_starts_anew() {
    let Lab { recorder, dir, data, netns: _netns, _server } = {
        let lab = Lab::start("");
        assert!(lab.get("last-words"));
        lab
    };
    assert!(recorder.stop_by(Signal::TERM).success());
    for name in ["left.pcap", "left.pcapng"] {
        let path = dir.path().join(name);
        let said = export("", data.path(), &path);
        assert_eq!(requests(&path), ["/last-words"], "{name}: {said}");
        assert!(!said.contains("left out"), "{said}");
    }
    // What a reboot takes away.
    let reboot = "mkdir -p /run/kuberewind; mount -t tmpfs none /run/kuberewind\n\
        mount -t tmpfs none /dev/shm";
    for name in ["gone.pcap", "gone.pcapng"] {
        let path = dir.path().join(name);
        let said = export(reboot, data.path(), &path);
        assert_eq!(requests(&path), [""; 0], "{said}");
        let note = "note: the key to the TLS secrets is gone, as after each start of the machine: \
                    they are left out";
        assert!(said.contains(note), "{said}");
    }
    // A recorder that starts then has a key of its own, which opens nothing older.
    let reborn = format!(
        "{reboot}\nmkdir -p -m 700 /run/kuberewind /dev/shm/kuberewind\n\
        for dir in /run /dev/shm; do head -c 32 /dev/urandom > $dir/kuberewind/key; done\n\
        chmod 700 /run/kuberewind"
    );
    let said = export(&reborn, data.path(), &dir.path().join("other.pcapng"));
    assert!(said.contains("the key to the TLS secrets is gone"), "{said}");
}

#[test]
fn secrets_that_must_stay_do_so_without_a_recorder_too() {
    let Lab { recorder, dir, data, netns: _netns, _server } = {
        let lab = Lab::start(",tap.tlsExport=false");
        assert!(lab.get("last-words"));
        lab
    };
    assert!(recorder.stop_by(Signal::TERM).success());
    let path = dir.path().join("stay.pcapng");
    let said = export("", data.path(), &path);
    assert_eq!(requests(&path), [""; 0]);
    assert!(said.contains("the TLS secrets stay here (tap.tlsExport=false)"), "{said}");
}

#[test]
fn who_follows_reads_each_conversation_as_it_comes() {
    let lab = Lab::start("");
    for format in ["pcapng", "pcap"] {
        let (program, data) = (kuberewind(), lab.data.path().display().to_string());
        let program = program.get_program().to_string_lossy().into_owned();
        let line = format!(
            "{program} pcapdump --local --time 1s --follow --data-dir {data} --format {format} \
             --dest - | tshark -n -l -r - -Y http.request -T fields -e http.request.uri"
        );
        let mut followed = Program::start(Command::new("sh").args(["-c", &line]));
        // The first one shows that it follows at all.
        wait_until("tshark to show a request", WITHIN, || {
            assert!(lab.get("first"));
            followed.assert_running();
            followed.said().contains("/first")
        });
        for number in 0..5 {
            assert!(lab.get(&format!("{format}-{number}")));
        }
        let uris = (0..5).map(|number| format!("/{format}-{number}"));
        let uris: Vec<_> = uris.collect();
        wait_until("tshark to show every request", WITHIN, || {
            uris.iter().all(|uri| followed.said().lines().any(|line| line == uri))
        });
    }
}
