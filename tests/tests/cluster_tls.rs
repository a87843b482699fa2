//! TLS on a cluster: secrets of one node open packets of all, and the cluster's own stay closed.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kuberewind_apiserver_double::{Command as Control, User};
use kuberewind_tests::cluster::{Cluster, Pod};
use kuberewind_tests::judges::tshark;
use kuberewind_tests::peers::rustls;
use kuberewind_tests::{Program, succeed, target_dir, wait_until};
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(30);
const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.of-a-service-account.that-nobody-may-read";

/// A client on one node whose library gives secrets, and a server on another whose library does not.
struct Shop {
    // In the order in which they end.
    _server: Program,
    _library: Program,
    cart: Pod,
    till: Pod,
    cluster: Cluster,
}

impl Shop {
    /// Records.
    fn open() -> Self {
        let cluster = Cluster::start(3);
        let mut cart = cluster.pod("n1", "shop", "cart-1");
        let mut till = cluster.pod("n2", "pay", "till-1");
        cluster.expect(0, &["tap", "--set", "headless=true,pcapdump.minFree=0B"]);
        let (key, certificate) = cluster.certificate();
        let program = cluster.dir().join("server");
        let mut strip = Command::new("strip");
        succeed(strip.arg("-o").arg(&program).arg(rustls(&target_dir(), "ring")));
        let mut serve = Command::new(&program);
        serve.args(["server", "0.0.0.0", "443"]).arg(certificate).arg(key);
        let server = till.start(&serve);
        // Keeps OpenSSL mapped, so that it is known before curl is there.
        let library = cart
            .start(Command::new("python3").args(["-c", "import ssl, time\ntime.sleep(100000)"]));
        [&cart, &till].into_iter().for_each(Pod::wait_to_carry);
        let shop = Self { _server: server, _library: library, cart, till, cluster };
        let known = |node: &str, kind: &str, library: &str| {
            shop.tls(node)[kind].as_array().is_some_and(|found| {
                found.iter().any(|found| found["library"] == library && found["processes"] != 0)
            })
        };
        wait_until("both libraries to be known", WITHIN, || {
            known("n1", "libraries", "OpenSSL") && known("n2", "unsupported", "rustls")
        });
        shop
    }

    /// What a node's agent says of TLS.
    fn tls(&self, node: &str) -> Value {
        let done = self.cluster.kuberewind(&["status", "--json"]);
        let nodes: Value = serde_json::from_slice(&done.stdout).expect("the status of all");
        let nodes = nodes.as_array().expect("a list");
        nodes.iter().find(|of| of["node"] == node).expect("the node")["status"]["tls"].clone()
    }

    /// `https://ADDRESS/PATH` as the client gets it.
    fn get(&mut self, address: &str, path: &str, more: &[&str]) -> String {
        let url = format!("https://{address}/{path}");
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--insecure", "--max-time", "10"]);
        curl.args(["--retry", "20", "--retry-connrefused", "--retry-delay", "1"]);
        let mut curl = self.cart.start(curl.args(more).arg(url));
        assert!(curl.ended(WITHIN).success(), "{}", curl.said());
        curl.said()
    }

    /// Exports everything; the file's path is among the cluster's.
    fn export(&self, name: &str) -> String {
        self.export_with(name, &[])
    }

    fn export_with(&self, name: &str, more: &[&str]) -> String {
        let _ = fs::remove_file(self.cluster.dir().join(name));
        self.cluster.expect(0, &[&["pcapdump", "--dest", name], more].concat())
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.cluster.dir().join(name)
    }
}

/// A field of every packet that has it, each value once.
fn fields(path: &Path, filter: &str, field: &str) -> Vec<String> {
    let mut all = tshark(path, &["-Y", filter, "-T", "fields", "-e", field]);
    all.sort();
    all.dedup();
    all
}

fn has(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

#[test]
fn a_secret_that_one_node_knows_opens_the_conversation_in_the_one_file() {
    let mut shop = Shop::open();
    let till = shop.till.addresses()[0].to_owned();
    let expected: Vec<_> = (0..5).map(|number| format!("/request-{number}")).collect();
    for path in &expected {
        let page = shop.get(&till, &path[1..], &[]);
        assert_eq!(page, "0000000.00");
    }
    // Secrets are written a moment after their handshake.
    wait_until("every request in the export", WITHIN, || {
        shop.export("both.pcapng");
        fields(&shop.file("both.pcapng"), "http.request", "http.request.uri") == expected
    });
    let said = shop.export("both.pcap");
    shop.export_with("all.pcapng", &["--vantage", "all"]);
    let names = |file: &str| fields(&shop.file(file), "tls", "frame.interface_name");
    assert_eq!(names("both.pcapng").len(), 1, "one view of each connection is enough");
    assert_eq!(names("all.pcapng"), ["pay/till-1/eth0", "shop/cart-1/eth0"]);
    for (name, conversation) in [("both.pcapng", "tls"), ("both.pcap", "tcp")] {
        let path = shop.file(name);
        assert_eq!(fields(&path, "http.request", "http.request.uri"), expected, "{name}: {said}");
        let streams = fields(&path, "http.request", "tcp.stream");
        assert_eq!(streams.len(), expected.len(), "{name}");
        for stream in streams {
            let follow = format!("follow,{conversation},ascii,{stream}");
            let text = tshark(&path, &["-q", "-z", &follow]).join("\n");
            let whole = ["HTTP/1.1 200 OK", "0000000.00"];
            assert!(whole.iter().all(|part| text.contains(part)), "{name}: {text}");
        }
    }

    // What is said of it.
    let (known, unknown) = (shop.tls("n1"), shop.tls("n2"));
    let of = |tls: &Value| (tls["handshakes"].as_u64(), tls["covered"].as_u64());
    assert_eq!((of(&known), of(&unknown)), ((Some(5), Some(5)), (Some(5), Some(0))));
    let status = shop.cluster.expect(0, &["status"]);
    let lines = [
        "10 TLS connections, 5 with secrets",
        "pay/till-1: 0 of 5 TLS connections with secrets; rustls in a program without symbols: \
         not supported",
    ];
    assert!(lines.iter().all(|line| status.contains(line)), "{status}");
    assert!(!status.contains("shop/cart-1: "), "nothing is missing there: {status}");
    let note =
        "pay/till-1 gives no TLS secrets (rustls in a program without symbols: not supported)";
    assert!(said.contains(" (eth.src 02:54:4c:53"), "{said}");
    assert!(!said.contains(" not: "), "{said}");
    assert!(said.contains(note), "{said}");
}

#[test]
fn the_token_of_a_pod_leaves_its_node_only_if_that_is_asked_for() {
    let mut shop = Shop::open();
    let _api = shop.cluster.serve_api_over_tls();
    shop.cluster.control(Control::User { token: TOKEN.into(), user: User::admin() });
    let (till, api) = (shop.till.addresses()[0].to_owned(), shop.cluster.api_service());
    let bearer = format!("Authorization: Bearer {TOKEN}");
    let mut ask = |path: &str| {
        let answer = shop.get(&api.to_string(), path, &["--header", &bearer]);
        assert!(answer.contains("\"PodList\""), "{answer}");
        shop.get(&till, "beside", &["--header", "Authorization: Bearer of-a-shop"]);
    };
    ask("api/v1/namespaces/shop/pods?first");
    let tokens = |path: &Path| fields(path, "http.authorization", "http.authorization");
    wait_until("what is no secret of the cluster's in the export", WITHIN, || {
        shop.export("default.pcapng");
        tokens(&shop.file("default.pcapng")) == ["Bearer of-a-shop"]
    });
    shop.export("default.pcap");
    for name in ["default.pcapng", "default.pcap"] {
        let path = shop.file(name);
        assert_eq!(tokens(&path), ["Bearer of-a-shop"], "{name}");
        assert!(!has(&fs::read(&path).unwrap(), TOKEN), "{name}");
    }
    // Nor is it what opens it: a line of the key log begins with its connection's random number.
    let hello = format!("tls.handshake.type == 1 && ip.dst == {}", api.ip());
    let hellos = fields(&shop.file("default.pcapng"), &hello, "tls.handshake.random");
    let file = fs::read(shop.file("default.pcapng")).unwrap();
    assert_eq!(hellos.len(), 1);
    assert!(hellos.iter().all(|random| !has(&file, random)), "the secret is in the export");
    let kept = fields(
        &shop.file("default.pcapng"),
        &format!("tls.handshake.type == 1 && ip.dst == {till}"),
        "tls.handshake.random",
    );
    assert!(kept.iter().any(|random| has(&file, random)), "the other's is not where it should be");
    assert_ne!(shop.tls("n1")["discarded"], 0);

    // What was thrown away stays so; from now on it is kept.
    shop.cluster
        .expect(0, &["tap", "--set", "headless=true,pcapdump.minFree=0B,tap.tlsControlPlane=true"]);
    let answer =
        shop.get(&api.to_string(), "api/v1/namespaces/shop/pods?second", &["--header", &bearer]);
    assert!(answer.contains("\"PodList\""), "{answer}");
    let paths = |path: &Path| {
        fields(path, &format!("http.request && ip.dst == {}", api.ip()), "http.request.uri")
    };
    wait_until("the token in the export", WITHIN, || {
        shop.export("all.pcapng");
        tokens(&shop.file("all.pcapng")).contains(&format!("Bearer {TOKEN}"))
    });
    shop.export("all.pcap");
    assert!(has(&fs::read(shop.file("all.pcap")).unwrap(), TOKEN));
    for name in ["all.pcapng", "all.pcap"] {
        assert_eq!(paths(&shop.file(name)), ["/api/v1/namespaces/shop/pods?second"], "{name}");
    }
}

/// A server of HTTP over TLS and its client, which keeps its connection: request after request, numbered, until the
/// file STOP is there. `KEY CERTIFICATE STOP`
const TALK: &str = "\
import http.client, http.server, os, ssl, sys, threading, time
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        body = self.path.encode() * 300
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
key, certificate, stop = sys.argv[1:]
server = http.server.ThreadingHTTPServer(('127.0.0.1', 8443), Answer)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = http.client.HTTPSConnection('127.0.0.1', 8443, context=ssl._create_unverified_context())
number = 0
while not os.path.exists(stop):
    number += 1
    path = '/%d' % number
    client.request('GET', path)
    assert client.getresponse().read() == path.encode() * 300
    if number == 1: print('ready', flush=True)
    time.sleep(0.01)
print('last %d.' % number, flush=True)
";

#[test]
fn over_upgrades_plaintext_of_older_connections_is_whole_and_not_doubled() {
    let cluster = Cluster::start(1);
    let mut pod = cluster.pod("n1", "shop", "older-1");
    let (key, certificate) = cluster.certificate();
    let stop = cluster.dir().join("stop");
    let mut talk = Command::new("python3");
    let mut talk = pod.start(talk.args(["-c", TALK]).args([key, certificate]).arg(&stop));
    talk.wait_to_say("ready", WITHIN);
    let set = |round: u32| {
        let set = "headless=true,pcapdump.minFree=0B,tap.tlsPlaintext[0].regex=older";
        cluster.expect(0, &["tap", "--set", &format!("{set},tap.annotations.round=r{round}")]);
    };
    set(0);
    pod.wait_to_carry();
    let plaintext = || {
        let status = kuberewind_tests::status(&cluster.data("n1"))?;
        status.tls?.plaintext.filter(|plaintext| !plaintext.files.is_empty())
    };
    let requests = || {
        let _ = fs::remove_file(cluster.dir().join("talk.pcap"));
        cluster.expect(0, &["pcapdump", "--dest", "talk.pcap"]);
        let shown = ["-Y", "http.request", "-T", "fields", "-e", "http.request.uri"];
        tshark(&cluster.dir().join("talk.pcap"), &shown)
    };
    for round in 1..4 {
        wait_until("probes of plaintext", WITHIN, || plaintext().is_some());
        let before = (cluster.agent("n1"), requests().len());
        wait_until("some talk", WITHIN, || requests().len() > before.1 + 20);
        set(round);
        wait_until("another agent", WITHIN, || cluster.agent("n1") != before.0);
        cluster.wait_for_agents(WITHIN);
    }
    let before = requests().len();
    wait_until("some talk", WITHIN, || requests().len() > before + 20);
    fs::write(&stop, "").unwrap();
    assert!(talk.ended(WITHIN).success(), "{}", talk.said());
    let said = talk.said();
    let last = said.split("last ").nth(1).and_then(|rest| rest.split('.').next());
    let last: u32 = last.and_then(|last| last.parse().ok()).expect("the last request's number");
    let numbers: Vec<u32> = requests().iter().map(|path| path[1..].parse().unwrap()).collect();
    assert_eq!(numbers, (numbers[0]..=last).collect::<Vec<_>>(), "not each request once");
}
