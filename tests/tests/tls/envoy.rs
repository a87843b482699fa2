//! Envoy, whose TLS is a `BoringSSL` without symbols in an executable of 100 MB: it takes TLS, and it
//! speaks TLS to what is behind it.

use std::fs;

use kuberewind_tests::peers::envoy;
use kuberewind_tests::{Program, VethPair, succeed, target_dir};

use crate::judge::Exchange;
use crate::lab::{End, Lab, NGINX, VERSIONS, WITHIN, curl_arguments, other_end, text};
use crate::openssl::take_up_again;

const TLS: u16 = 10443;
const PLAIN: u16 = 10080;

/// Takes TLS at one port and answers itself; what comes to the other port it asks nginx for, over TLS of
/// the version that the path names.
fn config(lab: &Lab) -> String {
    let (certificate, key) = (lab.files.certificate("server"), lab.files.key("server"));
    let (answer, nginx) = (lab.files.path("text/10").display().to_string(), VethPair::SENDER[0]);
    let listener = |port: u16, routes: &str, tls: &str| {
        format!(
            r#"{{"address": {{"socket_address": {{"address": "0.0.0.0", "port_value": {port}}}}},
            "filter_chains": [{{"filters": [{{
                "name": "envoy.filters.network.http_connection_manager", "typed_config": {{
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "http", "http_filters": [{{"name": "envoy.filters.http.router",
                "typed_config": {{"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}}}],
                "route_config": {{"virtual_hosts": [
                    {{"name": "all", "domains": ["*"], "routes": [{routes}]}}]}}}}}}]{tls}}}]}}"#
        )
    };
    let downstream = format!(
        r#", "transport_socket": {{"name": "envoy.transport_sockets.tls", "typed_config": {{
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {{"tls_certificates": [{{"certificate_chain": {{"filename": "{certificate}"}},
        "private_key": {{"filename": "{key}"}}}}]}}}}}}"#
    );
    let answers = format!(
        r#"{{"match": {{"prefix": "/"}},
        "direct_response": {{"status": 200, "body": {{"filename": "{answer}"}}}}}}"#
    );
    let route = |version: &str| {
        format!(
            r#"{{"match": {{"prefix": "/{version}"}}, "route": {{"cluster": "tls-{version}",
            "regex_rewrite": {{"pattern": {{"regex": ".*"}}, "substitution": "/text/100000"}}}}}}"#
        )
    };
    let cluster = |version: &str| {
        let tls = format!("TLSv{}", version.replace('.', "_"));
        format!(
            r#"{{"name": "tls-{version}", "type": "STATIC", "load_assignment": {{"cluster_name": "nginx",
            "endpoints": [{{"lb_endpoints": [{{"endpoint": {{"address": {{"socket_address":
                {{"address": "{nginx}", "port_value": {NGINX}}}}}}}}}]}}]}},
            "transport_socket": {{"name": "envoy.transport_sockets.tls", "typed_config": {{
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {{"tls_params": {{
                "tls_minimum_protocol_version": "{tls}", "tls_maximum_protocol_version": "{tls}"}}}}}}}}}}"#
        )
    };
    let routes = VERSIONS.map(route).join(",");
    let clusters = VERSIONS.map(cluster).join(",");
    let listeners = [listener(TLS, &answers, &downstream), listener(PLAIN, &routes, "")].join(",");
    format!(r#"{{"static_resources": {{"listeners": [{listeners}], "clusters": [{clusters}]}}}}"#)
}

/// Envoy at the recorded end.
pub(crate) fn serve(lab: &mut Lab) {
    let path = lab.files.path("envoy.json");
    fs::write(&path, config(lab)).expect("a file");
    let mut command = lab.exec(End::Recorded, &envoy(&target_dir()).display().to_string());
    command.args(["--disable-hot-restart", "--concurrency", "1", "--config-path"]).arg(&path);
    let mut envoy = Program::start(&mut command);
    envoy.wait_to_say("starting main dispatch loop", WITHIN);
    lab.keep(envoy);
    lab.wait_for_probes("/envoy");
}

/// curl asks Envoy over TLS.
pub(crate) fn ask(lab: &mut Lab, version: &str, tag: &str) {
    let uri = format!("/anything?{tag}");
    let mut curl = lab.exec(End::Peer, "curl");
    let url = format!("https://{}:{TLS}{uri}", other_end(End::Peer));
    succeed(curl.args(curl_arguments(version)).args(["--http1.1", &url]));
    let answered = text(10).into();
    lab.expect(tag, vec![Exchange { answered, ..Exchange::new("GET", &uri) }]);
}

/// curl asks Envoy over loopback, and Envoy asks nginx over TLS.
pub(crate) fn ask_through(lab: &mut Lab, version: &str, tag: &str) {
    let (asked, passed_on) = (format!("/{version}?{tag}"), format!("/text/100000?{tag}"));
    let mut curl = lab.exec(End::Recorded, "curl");
    succeed(curl.args(["-sSf", "-o", "/dev/null", &format!("http://127.0.0.1:{PLAIN}{asked}")]));
    let answered = || text(100_000).into();
    let exchange = |uri: &str| Exchange { answered: answered(), ..Exchange::new("GET", uri) };
    lab.expect(tag, vec![exchange(&asked), exchange(&passed_on)]);
}

#[test]
fn envoy_is_readable() {
    let mut lab = Lab::new();
    serve(&mut lab);
    for round in 0..3 {
        for version in VERSIONS {
            ask(&mut lab, version, &format!("server-{version}-{round}"));
        }
    }
    // From now on it is known where the library keeps what.
    lab.wait_for_secrets();
    for version in VERSIONS {
        ask_through(&mut lab, version, &format!("client-{version}"));
        take_up_again(&mut lab, TLS, version, &text(10));
    }
    lab.judge();
}
