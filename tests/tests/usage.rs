//! What is asked wrongly is answered with the thing that is wrong, and leaves nothing behind.

use std::fs;
use std::path::Path;
use std::process::Output;

use kuberewind_tests::traffic::{Mixed, Rate, numbered, send, send_frame, write_pcap};
use kuberewind_tests::{Recorder, SmallDisk, VethPair, data_dir, kuberewind, output, succeed};

#[test]
fn a_wrong_setting_is_refused_by_its_name() {
    let cases: [(&[&str], &[&str]); 12] = [
        (&["--set", "pcapdump.maxSize=500m"], &["pcapdump.maxSize", "500m"]),
        (&["--set", "pcapdump.maxSize=5"], &["pcapdump.maxSize", "5"]),
        (&["--set", "pcapdump.maxSize=1KB"], &["pcapdump.maxSize", "1KB"]),
        (&["--set", "pcapdump.maxTime=1d"], &["pcapdump.maxTime", "1d", "24h"]),
        (&["--set", "pcapdump.timeInterval=soon"], &["pcapdump.timeInterval", "soon"]),
        (&["--set", "pcapdump.maxSise=1GB"], &["pcapdump.maxSise", "pcapdump.maxSize"]),
        (&["--set", "nonsense=1"], &["nonsense"]),
        (&["--set", "tap.bpfOverride=tcp prot 80"], &["tcp prot 80"]),
        (&["--set", "tap.regex=.*"], &["tap.regex"]),
        (&["--values", "/no/such/file.yaml"], &["/no/such/file.yaml"]),
        (&["--interval", "5"], &["--interval"]),
        (&["--set", "pcapdump.maxTime"], &["pcapdump.maxTime"]),
    ];
    for (arguments, named) in cases {
        let data = data_dir();
        let mut command = kuberewind();
        command.args(["tap", "--local", "--data-dir"]).arg(data.path()).args(arguments);
        assert_refused(&output(&mut command), 2, arguments, named);
    }
}

#[test]
fn a_wrong_question_is_refused_by_its_name() {
    let (pair, data, out) = (VethPair::new(1500), data_dir(), tempfile::tempdir().unwrap());
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
    send_frame(&pair.sender, VethPair::INTERFACE, &numbered(1, 100));
    let path = |name: &str| out.path().join(name).display().to_string();
    let (text, pcap, missing) = (path("x.txt"), path("x.pcap"), path("missing/x.pcap"));
    let existing = path("there.pcap");
    fs::write(&existing, "mine").unwrap();
    let cases: [(i32, &[&str], &[&str]); 9] = [
        (2, &["--filter", "tcp prot 80"], &["tcp prot 80"]),
        (2, &["--dest", &text], &["x.txt", ".pcap"]),
        (2, &["--dest", &pcap, "--format", "pcapng"], &["x.pcap", "pcapng"]),
        (2, &["--format", "erf"], &["erf"]),
        (2, &["--time", "5"], &["5"]),
        (2, &["--time", "1d"], &["1d", "24h"]),
        (2, &["--time", "5m", "--since", "5m"], &["--time", "--since"]),
        (1, &["--dest", &missing], &["missing"]),
        (1, &["--dest", &existing], &["there.pcap"]),
    ];
    for (code, arguments, named) in cases {
        let dest = path("never.pcap");
        let default_dest: &[&str] =
            if arguments.contains(&"--dest") { &[] } else { &["--dest", &dest] };
        let done = recorder.pcapdump(&[arguments, default_dest].concat());
        assert_refused(&done, code, arguments, named);
    }
    assert_eq!(fs::read_to_string(&existing).unwrap(), "mine");
    assert_eq!(names(out.path()), ["there.pcap"], "something was left behind");
}

#[test]
fn a_directory_that_nobody_may_write_to_is_named() {
    let (pair, data, disk) = (VethPair::new(1500), data_dir(), SmallDisk::new(1_000_000));
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
    send_frame(&pair.sender, VethPair::INTERFACE, &numbered(1, 100));
    disk.make_read_only();
    let dest = disk.path().display().to_string();
    let done = recorder.pcapdump(&["--dest", &dest]);
    assert_refused(&done, 1, &["--dest", &dest], &[&dest]);
}

#[test]
fn a_full_disk_leaves_no_file_behind() {
    let (pair, data, out) = (VethPair::new(1500), data_dir(), tempfile::tempdir().unwrap());
    let disk = SmallDisk::new(1_000_000);
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
    let sent = out.path().join("sent.pcap");
    write_pcap(&sent, Mixed::new(31, 1500).take(10_000));
    send(&pair.sender, VethPair::INTERFACE, &sent, Rate::PerSecond(20_000));
    for name in ["full.pcap", "full.pcapng"] {
        let dest = disk.path().join(name).display().to_string();
        let done = recorder.pcapdump(&["--dest", &dest]);
        assert_refused(&done, 1, &["--dest", &dest], &[disk.path().to_str().unwrap()]);
        assert_eq!(disk.names(), Vec::<std::path::PathBuf>::new());
    }
}

#[test]
fn config_shows_each_value_and_where_it_comes_from() {
    let home = tempfile::tempdir().unwrap();
    let mut command = kuberewind();
    command.args(["config", "--set", "pcapdump.maxSize=2GB"]);
    let shown = succeed(command.env("HOME", home.path()).current_dir(home.path()));
    let origin = |key: &str| {
        let line = shown.lines().find(|line| line.contains(key));
        line.unwrap_or_else(|| panic!("no {key} in\n{shown}"))
    };
    assert!(origin("maxSize").contains("2GB") && origin("maxSize").contains("--set"), "{shown}");
    assert!(origin("maxTime").contains("1h") && origin("maxTime").contains("default"), "{shown}");
}

#[test]
fn without_a_recording_there_is_nothing_to_export_and_it_says_so() {
    let (data, out) = (data_dir(), tempfile::tempdir().unwrap());
    let dest = out.path().display().to_string();
    let done = kuberewind_tests::pcapdump(data.path(), &["--dest", &dest]);
    assert_refused(&done, 1, &["nothing recorded"], &[data.path().to_str().unwrap()]);
    assert_eq!(names(out.path()), Vec::<String>::new());
}

#[test]
fn without_a_recorder_status_says_that_none_answers() {
    let data = data_dir();
    let mut command = kuberewind();
    let done = output(command.args(["status", "--local", "--data-dir"]).arg(data.path()));
    assert_refused(&done, 1, &["status"], &[data.path().to_str().unwrap()]);
}

#[test]
fn without_a_cluster_local_is_suggested() {
    let home = tempfile::tempdir().unwrap();
    let mut command = kuberewind();
    let command = command.arg("pcapdump").env_remove("KUBECONFIG").env("HOME", home.path());
    let done = output(command);
    assert!(!done.status.success());
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("add --local"), "{said}");
}

fn assert_refused(done: &Output, code: i32, asked: &[&str], named: &[&str]) {
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(code), "{asked:?}\n{said}");
    for name in named {
        assert!(said.contains(name), "{asked:?}: the answer does not name `{name}`:\n{said}");
    }
    assert!(!said.contains("panicked"), "{asked:?}: {said}");
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}
