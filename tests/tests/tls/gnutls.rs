//! `GnuTLS`: its own server, and wget.

use std::fs;

use kuberewind_tests::{Program, succeed};

use crate::judge::Exchange;
use crate::lab::{End, Lab, NGINX, VERSIONS, WITHIN, curl_arguments, other_end, text};

const PORT: u16 = 10443;

/// `gnutls-serv` at the recorded end; it answers everything with the same file.
fn serve(lab: &mut Lab, port: u16, answer: &str) {
    let mut command = lab.exec(End::Recorded, "gnutls-serv");
    command.args(["--http", "--port", &port.to_string(), "--httpdata"]).arg(lab.files.path(answer));
    command.args(["--x509certfile", &lab.files.certificate("server")]);
    command.args(["--x509keyfile", &lab.files.key("server")]);
    let mut server = Program::start(&mut command);
    server.wait_to_say("done", WITHIN);
    lab.keep(server);
    lab.wait_for_probes("/libgnutls.so.30");
}

#[test]
fn gnutls_serv_and_wget_are_readable() {
    const LEN: usize = 100_000;
    let mut lab = Lab::new();
    serve(&mut lab, PORT, &format!("text/{LEN}"));
    for round in 0..3 {
        for version in VERSIONS {
            let tag = format!("server-{version}-{round}");
            let uri = format!("/anything?{tag}");
            let mut curl = lab.exec(End::Peer, "curl");
            let url = format!("https://{}:{PORT}{uri}", other_end(End::Peer));
            succeed(curl.args(curl_arguments(version)).arg(url));
            let answered = text(LEN).into();
            lab.expect(&tag, vec![Exchange { answered, ..Exchange::new("GET", &uri) }]);
        }
    }
    for (version, protocol) in [("1.2", "TLSv1_2"), ("1.3", "TLSv1_3")] {
        let tag = format!("client-{version}");
        let uris = [10, 100_000, 1].map(|len| (len, format!("/text/{len}?{tag}")));
        let mut wget = lab.exec(End::Recorded, "wget");
        wget.args(["--quiet", "--no-check-certificate", "--output-document", "/dev/null"]);
        wget.arg(format!("--secure-protocol={protocol}"));
        for (_, uri) in &uris {
            wget.arg(format!("https://{}:{NGINX}{uri}", other_end(End::Recorded)));
        }
        succeed(&mut wget);
        let exchanges = uris.into_iter().map(|(len, uri)| Exchange {
            answered: text(len).into(),
            ..Exchange::new("GET", &uri)
        });
        lab.expect(&tag, exchanges.collect());
    }
    let posted = lab.files.path("body");
    let mut wget = lab.exec(End::Recorded, "wget");
    wget.args(["--quiet", "--no-check-certificate", "--output-document", "/dev/null"]);
    wget.args(["--header", "Content-Type: text/plain", "--post-file"]).arg(&posted);
    succeed(wget.arg(format!("https://{}:{NGINX}/post?posts", other_end(End::Recorded))));
    let asked = fs::read(posted).expect("a file").into();
    let answered = b"posted".to_vec().into();
    lab.expect("posts", vec![Exchange { asked, answered, ..Exchange::new("POST", "/post?posts") }]);
    lab.judge();
}
