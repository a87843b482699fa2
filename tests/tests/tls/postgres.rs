//! `PostgreSQL`, whose connections turn to TLS after a request for it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use kuberewind_tests::judges::tshark;
use kuberewind_tests::{Program, output, succeed};
use tempfile::TempDir;

use crate::judge::{self, unhex};
use crate::lab::{End, Lab, VERSIONS, WITHIN, other_end};

const USER: &str = "postgres";
const QUERY: &str = "SELECT repeat('wire ', 20000)";

/// Where Debian has the server's programs.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let mut found: Vec<_> = versions.map(|entry| entry.expect("a folder").path()).collect();
    found.sort();
    found.pop().expect("a version of PostgreSQL").join("bin")
}

fn id(flag: &str) -> u32 {
    let said = output(Command::new("id").args([flag, USER])).stdout;
    String::from_utf8_lossy(&said).trim().parse().expect("a user for PostgreSQL")
}

/// It refuses to run as root.
fn as_user(command: &mut Command) -> &mut Command {
    command.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"])
}

/// A server with a new database at the recorded end.
fn serve(lab: &mut Lab) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (user, group) = (id("-u"), id("-g"));
    let hand_over = |path: &Path| chown(path, Some(user), Some(group)).expect("the right to");
    hand_over(dir.path());
    for (of, name) in [(lab.files.certificate("server"), "crt"), (lab.files.key("server"), "key")] {
        let path = dir.path().join(name);
        fs::copy(of, &path).expect("a copy");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the right to");
        hand_over(&path);
    }
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (bin, data) = (programs(), at("data"));
    let mut init = Command::new("setpriv");
    as_user(&mut init).arg(bin.join("initdb")).args(["-D", &data, "-U", USER, "--no-sync"]);
    succeed(init.args(["--auth=trust", "--locale=C"]));
    let access = at("data/pg_hba.conf");
    fs::write(access, "host all all all trust\n").expect("a file");
    let mut server = lab.exec(End::Recorded, "setpriv");
    as_user(&mut server).arg(bin.join("postgres")).args(["-D", &data]);
    let settings = [
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", at("crt")),
        format!("ssl_key_file={}", at("key")),
        "listen_addresses=*".to_owned(),
        format!("unix_socket_directories={}", at("")),
        "fsync=off".to_owned(),
    ];
    let mut server = Program::start(server.args(settings.iter().flat_map(|set| ["-c", set])));
    server.wait_to_say("ready to accept connections", WITHIN);
    lab.keep(server);
    lab.wait_for_probes("/libcrypto.so.3");
    dir
}

/// What queries ask and what rows have, as Wireshark's own dissector for the protocol sees them.
fn said(file: &Path, field: &str) -> Vec<String> {
    let mut lines = tshark(file, &["-Y", "pgsql", "-T", "fields", "-e", field]);
    lines.retain(|line| !line.is_empty());
    lines
}

#[test]
fn postgres_is_readable() {
    let mut lab = Lab::new();
    let _data = serve(&mut lab);
    for version in VERSIONS {
        let mut client = lab.exec(End::Peer, "psql");
        client.arg(format!(
            "host={} user={USER} dbname={USER} sslmode=require ssl_max_protocol_version=TLSv{version}",
            other_end(End::Peer),
        ));
        succeed(client.args([
            "-At",
            "-c",
            &format!("{QUERY} AS of_{}", version.replace('.', "_")),
        ]));
    }
    lab.wait_for_connections(2);
    for name in ["postgres.pcap", "postgres.pcapng"] {
        let (file, report) = judge::export(lab.recorder(), &lab.files.path(""), name, &[]);
        let asked = VERSIONS.map(|version| format!("{QUERY} AS of_{}", version.replace('.', "_")));
        assert_eq!(said(&file, "pgsql.query"), asked, "{report}");
        let rows = said(&file, "pgsql.val.data");
        let row = "wire ".repeat(20_000).into_bytes();
        assert_eq!(rows.iter().filter(|shown| unhex(shown) == row).count(), 2, "{report}");
    }
}
