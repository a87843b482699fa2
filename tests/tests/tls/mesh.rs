//! A service mesh: the client's sidecar and the server's speak mutual TLS with each other, and plainly with
//! their application over loopback. Both ends are recorded.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use kuberewind_tests::judges::tshark;
use kuberewind_tests::peers::envoy;
use kuberewind_tests::{
    Netns, Program, Recorder, VethPair, data_dir, self_signed, succeed, target_dir, wait_until,
};
use serde_json::{Value, json};

use crate::lab::WITHIN;

/// Where the client's sidecar takes what its application asks for, and the server's what comes from others.
const OUTBOUND: u16 = 15001;
const INBOUND: u16 = 15006;
const APPLICATION: u16 = 8080;

fn api(kind: &str) -> String {
    format!("type.googleapis.com/envoy.{kind}")
}

/// Listens at `port` and passes everything on to `to`.
fn sidecar(port: u16, to: (&str, u16), downstream: Value, upstream: Value) -> Value {
    let router = json!({"@type": api("extensions.filters.http.router.v3.Router")});
    let manager = json!({
        "@type": api("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "http",
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": "next"}},
        ]}]},
    });
    let address = |address: &str, port: u16| json!({"socket_address": {"address": address, "port_value": port}});
    let name = "envoy.filters.network.http_connection_manager";
    let mut chain = json!({"filters": [{"name": name, "typed_config": manager}]});
    let next = json!({"endpoint": {"address": address(to.0, to.1)}});
    let mut cluster = json!({"name": "next", "type": "STATIC", "load_assignment": {
        "cluster_name": "next", "endpoints": [{"lb_endpoints": [next]}]}});
    for (object, tls) in [(&mut chain, downstream), (&mut cluster, upstream)] {
        if !tls.is_null() {
            object["transport_socket"] =
                json!({"name": "envoy.transport_sockets.tls", "typed_config": tls});
        }
    }
    json!({"static_resources": {
        "listeners": [{"address": address("0.0.0.0", port), "filter_chains": [chain]}],
        "clusters": [cluster],
    }})
}

/// Shows `own` certificate and believes in that of the `other`.
fn identity(dir: &Path, own: &str, other: &str) -> Value {
    let file = |name: String| json!({"filename": dir.join(name)});
    json!({
        "tls_certificates": [{
            "certificate_chain": file(format!("{own}.pem")), "private_key": file(format!("{own}.key"))}],
        "validation_context": {"trusted_ca": file(format!("{other}.pem"))},
    })
}

fn start(netns: &Netns, dir: &Path, name: &str, config: &Value) -> Program {
    let path = dir.join(format!("{name}.json"));
    fs::write(&path, config.to_string()).expect("a file");
    let mut command = netns.exec(&envoy(&target_dir()).display().to_string());
    command.args(["--disable-hot-restart", "--concurrency", "1", "--config-path"]).arg(&path);
    let mut envoy = Program::start(&mut command);
    envoy.wait_to_say("starting main dispatch loop", WITHIN);
    envoy
}

/// Of each request the interfaces on which tshark sees it, in the order of time.
fn seen(path: &Path) -> BTreeMap<String, Vec<String>> {
    let fields = ["-Y", "http.request", "-T", "fields", "-e", "http.request.uri"];
    let mut seen = BTreeMap::<_, Vec<_>>::new();
    for line in tshark(path, &[&fields[..], &["-e", "frame.interface_name"]].concat()) {
        let (uri, interface) = line.split_once('\t').expect("two fields");
        seen.entry(uri.to_owned()).or_default().push(interface.to_owned());
    }
    seen
}

#[test]
fn a_mesh_shows_each_hop_once_and_says_which_it_is() {
    let (pair, data, dir) = (VethPair::new(1500), data_dir(), tempfile::tempdir().unwrap());
    for name in ["client", "server"] {
        let path = |kind: &str| dir.path().join(format!("{name}.{kind}"));
        self_signed(name, &path("key"), &path("pem"));
    }
    let settings = ["--set", "tap.tls=true,pcapdump.minFree=0B"];
    let recorder = Recorder::start(data.path(), &[&pair.sender, &pair.receiver], &settings);
    fs::write(dir.path().join("page"), "a page").expect("a file");
    let mut application = pair.receiver.exec("python3");
    application.args(["-m", "http.server", &APPLICATION.to_string(), "--bind", "127.0.0.1"]);
    let _application = Program::start(application.current_dir(dir.path()));
    let inbound = json!({
        "@type": api("extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
        "require_client_certificate": true,
        "common_tls_context": identity(dir.path(), "server", "client"),
    });
    let outbound = json!({
        "@type": api("extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
        "common_tls_context": identity(dir.path(), "client", "server"),
    });
    let server = sidecar(INBOUND, ("127.0.0.1", APPLICATION), inbound, Value::Null);
    let client = sidecar(OUTBOUND, (VethPair::RECEIVER[0], INBOUND), Value::Null, outbound);
    let _server = start(&pair.receiver, dir.path(), "inbound", &server);
    let _client = start(&pair.sender, dir.path(), "outbound", &client);
    recorder.wait_status("probes", WITHIN, |status| status.has_probes_in("/envoy"));
    let ask = |uri: &str| {
        let mut curl = pair.sender.exec("curl");
        succeed(
            curl.args(["-sSf", "--retry", "50", "--retry-all-errors", "--retry-delay", "1"])
                .arg(format!("http://127.0.0.1:{OUTBOUND}{uri}")),
        )
    };
    // The application has begun to listen once this is answered.
    assert_eq!(ask("/page?first"), "a page");
    let uris = ["/page?one", "/page?two", "/page?three"];
    for uri in uris {
        assert_eq!(ask(uri), "a page");
    }
    let hops = |interface: &str| {
        let [own, other] = [pair.sender.name(), pair.receiver.name()];
        [format!("{own}/lo"), interface.to_owned(), format!("{other}/lo")]
    };
    let cable = format!("{}/{}", pair.sender.name(), VethPair::INTERFACE);
    for (name, tls, middle) in
        [("secrets.pcapng", "secrets", &cable[..]), ("twins.pcapng", "plaintext", "tls-plaintext")]
    {
        let path = dir.path().join(name);
        let shown = || {
            let _ = fs::remove_file(&path);
            let dest = path.display().to_string();
            let done = recorder.pcapdump(&["--tls", tls, "--dest", &dest]);
            assert!(done.status.success(), "{done:?}");
            let seen = seen(&path);
            uris.map(|uri| seen.get(uri).cloned().unwrap_or_default())
        };
        // Secrets are written a moment after their handshake.
        let expected = uris.map(|_| hops(middle).to_vec());
        let mut last = shown();
        wait_until(&format!("every hop in {name}"), WITHIN, || {
            last = shown();
            last.iter().all(|hops| hops.len() >= 3)
        });
        assert_eq!(last, expected, "{name}");
    }
}
