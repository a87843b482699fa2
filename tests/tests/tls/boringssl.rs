//! `BoringSSL` inside of programs: gRPC, and curl as it is built for Python.

use std::fs;

use kuberewind_tests::{python, succeed};

use crate::judge::Exchange;
use crate::lab::{End, Lab, NGINX, NGINX_HTTP2, NGINX_OLD, VERSIONS, curl_arguments, other_end};
use crate::lab::{source, text};

/// The one that gRPC's examples use.
pub(crate) const PORT: u16 = 50051;

/// A message as gRPC sends it: not compressed, with its length.
pub(crate) fn message(content: &[u8]) -> Vec<u8> {
    let len = u32::try_from(content.len()).expect("a short message");
    [&[0][..], &len.to_be_bytes(), content].concat()
}

/// A gRPC server at the recorded end; how it is run.
pub(crate) fn serve_grpc(lab: &mut Lab) -> [String; 2] {
    let program = [python(), source("grpc_bytes.py").display().to_string()];
    lab.serve(&program.each_ref().map(String::as_str), "-x86_64-linux-gnu.so", PORT, &[]);
    fs::write(lab.files.path("message"), message(&text(3000))).expect("a file");
    program
}

/// curl calls the server.
pub(crate) fn call_grpc(lab: &mut Lab, version: &str, tag: &str) {
    let uri = format!("/text/1000?{tag}");
    let mut curl = lab.exec(End::Peer, "curl");
    curl.args(curl_arguments(version)).args(["--http2", "-H", "TE: trailers"]);
    curl.args(["-H", "Content-Type: application/grpc", "--data-binary"]);
    curl.arg(format!("@{}", lab.files.path("message").display()));
    succeed(curl.arg(format!("https://{}:{PORT}{uri}", other_end(End::Peer))));
    let exchange = Exchange {
        asked: message(&text(3000)).into(),
        answered: message(&text(1000)).into(),
        ..Exchange::new("POST", &uri)
    };
    lab.expect(tag, vec![exchange]);
}

/// gRPC calls nginx.
pub(crate) fn call_by_grpc(lab: &mut Lab, program: &[String; 2], version: &str, tag: &str) {
    let port = if version == "1.2" { NGINX_OLD } else { NGINX_HTTP2 };
    let uri = format!("/post?{tag}");
    let mut client = lab.exec(End::Recorded, &program[0]);
    client.args([&program[1], "client", other_end(End::Recorded), &port.to_string()]);
    succeed(client.args([&lab.files.certificate("server"), &uri, "2000"]));
    let exchange = Exchange {
        asked: message(&text(2000)).into(),
        answered: b"posted".to_vec().into(),
        ..Exchange::new("POST", &uri)
    };
    lab.expect(tag, vec![exchange]);
}

#[test]
fn grpc_is_readable() {
    let mut lab = Lab::new();
    let program = serve_grpc(&mut lab);
    for round in 0..3 {
        for version in VERSIONS {
            call_grpc(&mut lab, version, &format!("server-{version}-{round}"));
        }
    }
    // From now on it is known where the library keeps what.
    lab.wait_for_secrets();
    for version in VERSIONS {
        call_by_grpc(&mut lab, &program, version, &format!("client-{version}"));
    }
    lab.judge();
}

/// A process at the recorded end that has curl with `BoringSSL` loaded; how it is run.
pub(crate) fn load_curl(lab: &mut Lab) -> [String; 2] {
    let program = [python(), source("curl_cffi_series.py").display().to_string()];
    lab.load(&[&program[0], &program[1], "load"], "/_wrapper.abi3.so");
    program
}

#[test]
fn curl_with_boringssl_is_readable() {
    let mut lab = Lab::new();
    let program = load_curl(&mut lab);
    let program = program.each_ref().map(String::as_str);
    for version in VERSIONS {
        for (protocol, port) in [("h1", NGINX), ("h2", NGINX_HTTP2)] {
            let tag = format!("{protocol}-{version}");
            lab.ask(&program, (End::Recorded, port), version, &tag, &[protocol]);
        }
    }
    lab.judge();
}
