//! `BoringSSL` inside of programs: gRPC, and curl as it is built for Python.

use std::fs;

use kuberewind_tests::{python, succeed};

use crate::judge::Exchange;
use crate::lab::{End, Lab, NGINX, NGINX_HTTP2, NGINX_OLD, VERSIONS, curl_arguments, other_end};
use crate::lab::{source, text};

const PORT: u16 = 10443;

/// A message as gRPC sends it: not compressed, with its length.
fn message(content: &[u8]) -> Vec<u8> {
    let len = u32::try_from(content.len()).expect("a short message");
    [&[0][..], &len.to_be_bytes(), content].concat()
}

#[test]
fn grpc_is_readable() {
    let mut lab = Lab::new();
    let program = source("grpc_bytes.py").display().to_string();
    let program = [&python(), &program[..]];
    lab.serve(&program, "-x86_64-linux-gnu.so", PORT, &[]);
    let body = lab.files.path("message");
    fs::write(&body, message(&text(3000))).expect("a file");
    // More than it takes to learn where the library keeps what.
    for round in 0..3 {
        for version in VERSIONS {
            let tag = format!("server-{version}-{round}");
            let uri = format!("/text/1000?{tag}");
            let mut curl = lab.exec(End::Peer, "curl");
            curl.args(curl_arguments(version)).args(["--http2", "-H", "TE: trailers"]);
            curl.args(["-H", "Content-Type: application/grpc", "--data-binary"]);
            curl.arg(format!("@{}", body.display()));
            succeed(curl.arg(format!("https://{}:{PORT}{uri}", other_end(End::Peer))));
            let exchange = Exchange {
                asked: message(&text(3000)).into(),
                answered: message(&text(1000)).into(),
                ..Exchange::new("POST", &uri)
            };
            lab.expect(&tag, vec![exchange]);
        }
    }
    for (version, port) in [("1.2", NGINX_OLD), ("1.3", NGINX_HTTP2)] {
        let (tag, uri) = (format!("client-{version}"), format!("/post?client-{version}"));
        let mut client = lab.exec(End::Recorded, program[0]);
        client.arg(program[1]).args(["client", other_end(End::Recorded), &port.to_string()]);
        succeed(client.args([&lab.files.certificate("server"), &uri, "2000"]));
        let exchange = Exchange {
            asked: message(&text(2000)).into(),
            answered: b"posted".to_vec().into(),
            ..Exchange::new("POST", &uri)
        };
        lab.expect(&tag, vec![exchange]);
    }
    lab.judge();
}

#[test]
fn curl_with_boringssl_is_readable() {
    let mut lab = Lab::new();
    let program = source("curl_cffi_series.py").display().to_string();
    let program = [&python(), &program[..]];
    lab.load(&[program[0], program[1], "load"], "/_wrapper.abi3.so");
    for version in VERSIONS {
        for (protocol, port) in [("h1", NGINX), ("h2", NGINX_HTTP2)] {
            let tag = format!("{protocol}-{version}");
            lab.ask(&program, (End::Recorded, port), version, &tag, &[protocol]);
        }
    }
    lab.judge();
}
