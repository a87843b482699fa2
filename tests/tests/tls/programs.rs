//! Python, Node.js, Go and Rust, each as server and as client, with the libraries that they bring. The other side is not recorded, so that all
//! secrets come from the program that is named.

use kuberewind_tests::peers::{node, pyopenssl, rustls};
use kuberewind_tests::{python, target_dir};

use crate::lab::{End, Lab, NGINX, NGINX_HTTP2, VERSIONS, go_program, source};
use crate::openssl::take_up_again;

pub(crate) const PORT: u16 = 10443;

/// Curl asks the program, and the program asks nginx.
fn speaks(lab: &mut Lab, program: &[&str], library: &str) {
    lab.serve(program, library, PORT, &[]);
    asks_and_answers(lab, program, "first");
}

fn asks_and_answers(lab: &mut Lab, program: &[&str], time: &str) {
    for version in VERSIONS {
        let tag = |side: &str| format!("{side}-{version}-{time}");
        lab.curl((End::Peer, PORT), version, &tag("server"), &["--http1.1"]);
        lab.ask(program, (End::Recorded, NGINX), version, &tag("client"), &[]);
    }
}

/// The same, and again once it is known where the library keeps what.
fn speaks_twice(lab: &mut Lab, program: &[&str], library: &str) {
    speaks(lab, program, library);
    lab.wait_for_secrets();
    asks_and_answers(lab, program, "again");
}

#[test]
fn python_is_readable_on_blocking_sockets() {
    let mut lab = Lab::new();
    let source = source("blocking.py").display().to_string();
    speaks(&mut lab, &["python3", &source], "/libcrypto.so.3");
    lab.judge();
}

#[test]
fn python_is_readable_in_asyncio() {
    let mut lab = Lab::new();
    let source = source("memory.py").display().to_string();
    speaks(&mut lab, &["python3", &source], "/libcrypto.so.3");
    lab.judge();
}

#[test]
fn node_js_is_readable() {
    let mut lab = Lab::new();
    let source = source("node.js").display().to_string();
    speaks(&mut lab, &["node", &source], "/node");
    lab.judge();
}

#[test]
fn node_js_with_openssl_1_1_1_is_readable() {
    let mut lab = Lab::new();
    let source = source("node.js").display().to_string();
    let node = node(&target_dir(), "16.20.2").display().to_string();
    speaks_twice(&mut lab, &[&node, &source], "/node");
    for version in VERSIONS {
        take_up_again(&mut lab, PORT, version, b"");
    }
    lab.judge();
}

#[test]
fn openssl_without_symbols_in_a_python_module_is_readable() {
    let mut lab = Lab::new();
    let source = source("pyopenssl.py").display().to_string();
    let path = pyopenssl(&target_dir(), "50.0.2", true);
    let path = format!("PYTHONPATH={}", path.display());
    speaks_twice(&mut lab, &["env", &path, &python(), &source], "/_rust.abi3.so");
    lab.judge();
}

#[test]
fn go_is_readable_plain_stripped_and_position_independent() {
    let builds: [(&str, &[&str]); 3] = [
        ("plain", &[]),
        ("stripped", &["-ldflags=-s -w"]),
        ("pie", &["-buildmode=pie", "-ldflags=-s -w"]),
    ];
    let programs = builds.map(|(name, flags)| (name, go_program(name, flags)));
    let mut lab = Lab::new();
    for ((name, program), port) in programs.iter().zip(PORT..) {
        lab.serve(&[program], &format!("/{name}"), port, &[]);
        for version in VERSIONS {
            for (protocol, http, nginx) in
                [("h1", "--http1.1", NGINX), ("h2", "--http2", NGINX_HTTP2)]
            {
                let tag = |side: &str| format!("{name}-{side}-{protocol}-{version}");
                lab.curl((End::Peer, port), version, &tag("server"), &[http]);
                lab.ask(&[program], (End::Recorded, nginx), version, &tag("client"), &[protocol]);
            }
        }
    }
    lab.judge();
}

#[test]
fn rustls_is_readable() {
    let mut lab = Lab::new();
    let program = rustls(&target_dir(), "ring").display().to_string();
    speaks_twice(&mut lab, &[&program], "/rustls-peer");
    lab.judge();
}
