//! Both sides show certificates.

use kuberewind_tests::output;

use crate::lab::{End, Lab, NGINX_MUTUAL, VERSIONS, curl_arguments, go_program};

const PORT: u16 = 10443;

#[test]
fn mutual_tls_is_readable() {
    let program = go_program("mutual", &[]);
    let mut lab = Lab::new();
    let _nginx = lab.nginx();
    let (key, certificate) = (lab.files.key("client"), lab.files.certificate("client"));
    let shown = ["--http1.1", "--cert", &certificate, "--key", &key];
    lab.serve(&[&program], "/mutual", PORT, &[&certificate]);

    // Without a certificate nothing is served.
    let mut nobody = lab.exec(End::Peer, "curl");
    let url = format!("https://127.0.0.1:{NGINX_MUTUAL}/text/1");
    assert!(!output(nobody.args(curl_arguments("1.3")).arg(url)).status.success());

    for version in VERSIONS {
        let tag = |who: &str| format!("{who}-{version}");
        lab.curl((End::Peer, NGINX_MUTUAL), version, &tag("nginx"), &shown);
        lab.curl((End::Recorded, NGINX_MUTUAL), version, &tag("curl"), &shown);
        lab.curl((End::Peer, PORT), version, &tag("go-server"), &shown);
        let more = ["h1", &certificate, &key];
        let nginx = (End::Recorded, NGINX_MUTUAL);
        lab.ask(&[&program], nginx, version, &tag("go-client"), &more);
    }
    lab.judge();
}
