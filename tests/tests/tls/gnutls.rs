//! `GnuTLS`: its own server, and wget.

use std::fs;

use kuberewind_tests::{Program, succeed};

use crate::judge::Exchange;
use crate::lab::{End, Lab, NGINX, VERSIONS, WITHIN, curl_arguments, other_end, text};
use crate::openssl::take_up_again;

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

/// What it answers with.
const LEN: usize = 100_000;

/// `gnutls-serv`, which answers with so many bytes.
pub(crate) fn serve_text(lab: &mut Lab) {
    serve(lab, PORT, &format!("text/{LEN}"));
}

/// curl asks the server.
pub(crate) fn ask_gnutls_serv(lab: &mut Lab, version: &str, tag: &str) {
    let uri = format!("/anything?{tag}");
    let mut curl = lab.exec(End::Peer, "curl");
    let url = format!("https://{}:{PORT}{uri}", other_end(End::Peer));
    succeed(curl.args(curl_arguments(version)).arg(url));
    lab.expect(tag, vec![Exchange { answered: text(LEN).into(), ..Exchange::new("GET", &uri) }]);
}

/// wget asks nginx.
pub(crate) fn wget(lab: &mut Lab, version: &str, tag: &str) {
    let uris = [10, 100_000, 1].map(|len| (len, format!("/text/{len}?{tag}")));
    let mut wget = lab.exec(End::Recorded, "wget");
    wget.args(["--quiet", "--no-check-certificate", "--output-document", "/dev/null"]);
    wget.arg(format!("--secure-protocol=TLSv{}", version.replace('.', "_")));
    for (_, uri) in &uris {
        wget.arg(format!("https://{}:{NGINX}{uri}", other_end(End::Recorded)));
    }
    succeed(&mut wget);
    let exchanges = uris
        .into_iter()
        .map(|(len, uri)| Exchange { answered: text(len).into(), ..Exchange::new("GET", &uri) });
    lab.expect(tag, exchanges.collect());
}

#[test]
fn gnutls_serv_and_wget_are_readable() {
    let mut lab = Lab::new();
    serve_text(&mut lab);
    for round in 0..3 {
        for version in VERSIONS {
            ask_gnutls_serv(&mut lab, version, &format!("server-{version}-{round}"));
        }
    }
    // From now on it is known where the library keeps what.
    lab.wait_for_secrets();
    for version in VERSIONS {
        wget(&mut lab, version, &format!("client-{version}"));
    }
    // In TLS 1.2 it writes no key log for them.
    take_up_again(&mut lab, PORT, "1.3", &text(LEN));
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
