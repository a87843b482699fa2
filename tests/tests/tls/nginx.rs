//! nginx and curl: HTTP/1.1 on a connection that stays open, and HTTP/2 from its start.

use crate::lab::{End, Lab, NGINX, NGINX_HTTP2, VERSIONS};

#[test]
fn nginx_and_curl_are_readable_over_http_1_1_and_http_2() {
    let mut lab = Lab::new();
    let _nginx = lab.nginx();
    for version in VERSIONS {
        for (protocol, port) in [("--http1.1", NGINX), ("--http2", NGINX_HTTP2)] {
            lab.curl(
                (End::Peer, port),
                version,
                &format!("to-nginx{protocol}-{version}"),
                &[protocol],
            );
            let tag = format!("from-curl{protocol}-{version}");
            lab.curl((End::Recorded, port), version, &tag, &[protocol]);
        }
    }
    lab.judge();
}
