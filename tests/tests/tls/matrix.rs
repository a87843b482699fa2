//! Every library in many versions, each as server and as client, in TLS 1.2 and 1.3: a table.

use std::panic::{AssertUnwindSafe, catch_unwind};

use kuberewind_tests::peers::{node, pyopenssl, rustls};
use kuberewind_tests::{python, target_dir};

use crate::lab::{End, Lab, NGINX, NGINX_HTTP2, VERSIONS, go_program, source};
use crate::programs::PORT;
use crate::{boringssl, envoy, gnutls};

/// What is at the recorded end.
enum Peer {
    /// A program of these tests: how it is run, and the file that secrets are read from.
    Series(Vec<String>, &'static str),
    Grpc,
    Curl,
    GnuTls,
    Envoy,
}

const SIDES: [&str; 2] = ["server", "client"];

/// The rows: library, version, what brings it, and that.
fn rows() -> Vec<(&'static str, String, &'static str, Peer)> {
    let target = target_dir();
    let script = |name: &str| source(name).display().to_string();
    let mut rows = Vec::new();
    let blocking = Peer::Series(vec!["python3".into(), script("blocking.py")], "/libcrypto.so.3");
    rows.push(("OpenSSL", "3.0".into(), "shared (python3)", blocking));
    for version in ["16.20.2", "18.20.8", "22.23.3", "24.21.0", "26.10.0"] {
        let program = node(&target, version).display().to_string();
        let peer = Peer::Series(vec![program, script("node.js")], "/node");
        let openssl = openssl_of_node(version);
        rows.push(("OpenSSL", format!("{openssl} (Node.js {version})"), "executable", peer));
    }
    for (openssl, version) in [("3.3", "43.0.3"), ("3.5", "46.0.3"), ("4.0", "50.0.2")] {
        for (how, stripped) in [("module, symbols", false), ("module, no symbols", true)] {
            let path = pyopenssl(&target, version, stripped);
            let path = format!("PYTHONPATH={}", path.display());
            let program = vec!["env".into(), path, python(), script("pyopenssl.py")];
            let peer = Peer::Series(program, "/_rust.abi3.so");
            rows.push(("OpenSSL", format!("{openssl} (cryptography {version})"), how, peer));
        }
    }
    rows.push(("BoringSSL", "gRPC 1.85".into(), "module, no symbols", Peer::Grpc));
    rows.push(("BoringSSL", "curl_cffi 0.17".into(), "module, symbols", Peer::Curl));
    rows.push(("BoringSSL", "Envoy 1.40".into(), "executable, no symbols", Peer::Envoy));
    rows.push(("GnuTLS", "3.7".into(), "shared (gnutls-serv, wget)", Peer::GnuTls));
    for cryptography in ["ring", "aws-lc"] {
        let program = rustls(&target, cryptography).display().to_string();
        let peer = Peer::Series(vec![program], "/rustls-peer");
        rows.push(("rustls", format!("0.23, {cryptography}"), "executable, symbols", peer));
    }
    for (how, flags) in [("executable", &[][..]), ("executable, stripped", &["-ldflags=-s -w"])] {
        let program = go_program("matrix", flags);
        rows.push(("Go", "1.27".into(), how, Peer::Series(vec![program], "/matrix")));
    }
    rows
}

fn openssl_of_node(version: &str) -> &'static str {
    match version.split_once('.').map_or(version, |(major, _)| major) {
        "16" => "1.1.1",
        "18" | "20" | "22" => "3.0",
        _ => "3.5 or later",
    }
}

/// One cell: whether everything was decrypted. None where a library has no such side here.
fn is_readable(peer: &Peer, version: &str, side: &str) -> Option<bool> {
    if matches!((peer, side), (Peer::Curl, "server")) {
        return None;
    }
    let done = catch_unwind(AssertUnwindSafe(|| {
        let mut lab = Lab::new();
        match peer {
            Peer::Series(program, library) => {
                let program: Vec<_> = program.iter().map(String::as_str).collect();
                lab.serve(&program, library, PORT, &[]);
                let http2: &[&str] = if *library == "/matrix" { &["h2"] } else { &[] };
                let nginx = if http2.is_empty() { NGINX } else { NGINX_HTTP2 };
                if side == "server" {
                    lab.curl((End::Peer, PORT), version, side, &["--http1.1"]);
                } else {
                    lab.ask(&program, (End::Recorded, nginx), version, side, http2);
                }
            }
            Peer::Grpc => {
                let program = boringssl::serve_grpc(&mut lab);
                if side == "server" {
                    boringssl::call_grpc(&mut lab, version, side);
                } else {
                    boringssl::call_by_grpc(&mut lab, &program, version, side);
                }
            }
            Peer::Curl => {
                let program = boringssl::load_curl(&mut lab);
                let program = program.each_ref().map(String::as_str);
                lab.ask(&program, (End::Recorded, NGINX), version, side, &["h1"]);
            }
            Peer::Envoy => {
                envoy::serve(&mut lab);
                if side == "server" {
                    envoy::ask(&mut lab, version, side);
                } else {
                    envoy::ask_through(&mut lab, version, side);
                }
            }
            Peer::GnuTls => {
                gnutls::serve_text(&mut lab);
                if side == "server" {
                    gnutls::ask_gnutls_serv(&mut lab, version, side);
                } else {
                    gnutls::wget(&mut lab, version, side);
                }
            }
        }
        lab.judge();
    }));
    Some(done.is_ok())
}

#[test]
#[ignore = "takes ten minutes and needs what `cargo xtask tls-matrix` installs"]
fn matrix() {
    let mut failed = 0;
    let mut table = String::from(
        "| library | version | in | 1.2 server | 1.2 client | 1.3 server | 1.3 client |\n",
    );
    table.push_str("|---|---|---|---|---|---|---|\n");
    for (library, version, how, peer) in rows() {
        let mut row = format!("| {library} | {version} | {how} |");
        for tls in VERSIONS {
            for side in SIDES {
                let readable = is_readable(&peer, tls, side);
                failed += u32::from(readable == Some(false));
                row += match readable {
                    Some(true) => " yes |",
                    Some(false) => " NO |",
                    None => " – |",
                };
            }
        }
        println!("{row}");
        table = table + &row + "\n";
    }
    println!("\n{table}");
    assert_eq!(failed, 0, "cells that are not readable");
}
