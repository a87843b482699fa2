//! One agent after the other: nothing is missing, nothing is doubled.

use std::collections::{BTreeSet, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use kuberewind_apiserver_double::{Command as Control, Fate};
use kuberewind_packet::Timestamp;
use kuberewind_tests::cluster::{Beside, Cluster, Pod, Seen};
use kuberewind_tests::judges::tshark;
use kuberewind_tests::traffic::{Rate, number_of, numbered, start_sending, write_pcap};
use kuberewind_tests::{CaptureFile, Program, crashes, wait_for, wait_until};
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_mins(1);

/// Packets a second from each pod, which the bridge gives to all others, too.
const RATE: u32 = 1000;

/// A node with three pods that talk, and tcpdump beside each.
struct Shop {
    // In the order in which they end.
    senders: Vec<Program>,
    dumps: Vec<Beside>,
    pods: Vec<Pod>,
    cluster: Cluster,
    upgrades: u32,
}

impl Shop {
    fn open() -> Self {
        let cluster = Cluster::start(1);
        let pods: Vec<_> = ["cart-1", "cart-2", "till-1"]
            .iter()
            .map(|name| cluster.pod("n1", "shop", name))
            .collect();
        cluster.expect(0, &["tap", "--set", "headless=true,pcapdump.maxSize=2GB"]);
        pods.iter().for_each(Pod::wait_to_carry);
        Self { senders: Vec::new(), dumps: Vec::new(), pods, cluster, upgrades: 0 }
    }

    /// All pods send until the shop closes.
    fn trade(&mut self) {
        self.dumps = self.pods.iter().map(Beside::start).collect();
        for (place, pod) in self.pods.iter().enumerate() {
            let pcap = self.cluster.dir().join(format!("{place}.pcap"));
            let first = u32::try_from(place).unwrap() * 10_000_000;
            write_pcap(&pcap, (first..first + RATE * 120).map(|number| numbered(number, 200)));
            let rate = Rate::PerSecond(RATE);
            self.senders.push(start_sending(pod.netns(), "eth0", &pcap, rate));
        }
        let steady = |cluster: &Cluster| {
            kuberewind_tests::status(&cluster.data("n1"))
                .is_some_and(|status| status.packets > 9000)
        };
        wait_until("some trade", WITHIN, || steady(&self.cluster));
    }

    /// Begins new agents, and waits until they are ready and the old ones are gone.
    fn upgrade(&mut self) {
        let before = self.cluster.agent("n1");
        self.begin_upgrade(0);
        self.wait_for_another(before.as_ref());
    }

    /// `tap` with a change for which agents are replaced.
    fn begin_upgrade(&mut self, code: i32) -> String {
        self.upgrades += 1;
        let set =
            format!("headless=true,pcapdump.maxSize=2GB,tap.annotations.round=r{}", self.upgrades);
        self.cluster.expect(code, &["tap", "--set", &set])
    }

    fn tap_beside(&mut self) -> Program {
        self.upgrades += 1;
        let set =
            format!("headless=true,pcapdump.maxSize=2GB,tap.annotations.round=r{}", self.upgrades);
        Program::start(&mut self.cluster.command(&["tap", "--set", &set]))
    }

    fn wait_for_another(&self, before: Option<&String>) {
        let (mut said, mut resident) = (Vec::new(), 0);
        wait_until("the old agent to go", WITHIN, || {
            let agents = self.cluster.agents_said("n1");
            let gone = agents.len() == 1 && Some(&agents[0].0) != before;
            said.extend(agents.into_iter().map(|(_, said)| said));
            resident = resident.max(self.cluster.resident("n1").iter().sum::<u64>());
            gone
        });
        self.cluster.wait_for_agents(WITHIN);
        let words = ["asking the agent", "giving way", "directory is", "recording into"];
        let told = |line: &&str| words.iter().any(|words| line.contains(words));
        let lines: BTreeSet<_> = said.iter().flat_map(|said| said.lines()).filter(told).collect();
        eprintln!("together {} MiB\n{:#?}", resident >> 20, lines);
    }

    /// Stops the traffic; what tcpdump saw, and what was recorded.
    fn close(&mut self, code: i32) -> (Vec<Seen>, CaptureFile, Value) {
        for mut sender in self.senders.drain(..) {
            sender.assert_running();
            sender.signal(Signal::INT);
            sender.ended(WITHIN);
        }
        let dumps = self.dumps.drain(..).zip(&self.pods);
        let seen = dumps.map(|(dump, pod)| dump.stop(pod)).collect();
        let path = self.cluster.dir().join("all.pcapng");
        let report = self.cluster.dir().join("report.json");
        let _ = (std::fs::remove_file(&path), std::fs::remove_file(&report));
        let dest =
            ["pcapdump", "--vantage", "all", "--dest", "all.pcapng", "--report", "report.json"];
        let said = self.cluster.expect(code, &dest);
        eprintln!("{said}");
        let report = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
        (seen, CaptureFile::read(&path), report)
    }

    /// Stops the traffic, and asserts that all of it was recorded, once and in order.
    fn assert_whole(&mut self) {
        let (seen, ours, report) = self.close(0);
        let counts: Vec<_> = seen.iter().map(|seen| seen.assert_same(&ours)).collect();
        eprintln!("{counts:?} packets, all there, after {} upgrades", self.upgrades);
        assert_in_order(&ours);
        let gaps = &report["nodes"][0]["gaps"];
        let other = |gap: &&Value| gap["cause"] != "notStarted";
        let gaps: Vec<_> = gaps.as_array().expect("gaps").iter().filter(other).collect();
        assert!(gaps.is_empty(), "{gaps:?}");
    }

    /// Waits until an agent has said this, and gives its pod.
    fn wait_to_hear(&self, text: &str, since: &HashSet<String>) -> String {
        wait_for(&format!("an agent to say `{text}`"), WITHIN, || {
            let agents = self.cluster.agents_said("n1");
            let found =
                agents.into_iter().find(|(pod, said)| !since.contains(pod) && said.contains(text));
            found.map(|(pod, _)| pod)
        })
    }

    fn agents(&self) -> HashSet<String> {
        self.cluster.agents_said("n1").into_iter().map(|(pod, _)| pod).collect()
    }
}

fn assert_in_order(file: &CaptureFile) {
    let mut last = Timestamp::MIN;
    for packet in file.packets() {
        assert!(last <= packet.timestamp, "{} after {last}", packet.timestamp);
        last = packet.timestamp;
    }
}

/// Both processors busy.
fn busy() -> Vec<Program> {
    let cpus = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let busy = || Program::start(Command::new("sh").args(["-c", "while :; do :; done"]));
    (0..cpus).map(|_| busy()).collect()
}

#[test]
fn upgrades_in_mid_traffic_miss_nothing_and_double_nothing() {
    let mut shop = Shop::open();
    shop.trade();
    for _ in 0..4 {
        shop.upgrade();
    }
    shop.assert_whole();
}

#[test]
fn upgrades_on_a_busy_machine_miss_nothing_and_double_nothing() {
    let mut shop = Shop::open();
    let _busy = busy();
    shop.trade();
    for _ in 0..4 {
        shop.upgrade();
    }
    shop.assert_whole();
}

/// One who asks for the data directory as the next agent does, and may stop at any point.
struct FakeHeir {
    words: BufReader<UnixStream>,
    session: UnixStream,
    from: Timestamp,
}

impl FakeHeir {
    /// Asks for all packets from a moment on that has not come yet, and hears that this is agreed on.
    fn ask(data: &Path) -> Self {
        let connect = || UnixStream::connect(data.join("agent.sock")).expect("the agent's socket");
        let (mut stream, session) = (connect(), connect());
        stream.set_read_timeout(Some(WITHIN)).unwrap();
        let from = Timestamp::now().saturating_add(Duration::from_millis(300));
        let body = json!({
            "node": "n1", "namespace": "kuberewind", "pod": "agent-of-the-test", "from": from,
        });
        post(&mut stream, "/v1/handover", &body.to_string());
        let mut heir = Self { words: BufReader::new(stream), session, from };
        heir.hears("agreed");
        heir
    }

    fn hears(&mut self, word: &str) {
        loop {
            let mut line = String::new();
            let read = self.words.read_line(&mut line).expect("the owner's words");
            assert!(read > 0, "the owner says no more, and not `{word}`");
            if line.contains(word) {
                return;
            }
        }
    }

    /// Waits until the cut is past, but not for the owner.
    fn outlives_the_cut(&self) {
        wait_until("the cut", WITHIN, || Timestamp::now() > self.from);
    }

    /// Takes the lock, which is free when it is told so.
    fn locks(&mut self, data: &Path) -> std::fs::File {
        self.hears("released");
        let lock = std::fs::File::open(data.join("lock")).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("the lock is free");
        lock
    }

    fn says_taken(&mut self) {
        post(&mut self.session, "/v1/handover/taken", "");
        let mut line = String::new();
        BufReader::new(&self.session).read_line(&mut line).unwrap();
        assert!(line.contains("200"), "{line}");
    }
}

fn post(stream: &mut UnixStream, path: &str, body: &str) {
    let len = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: kuberewind\r\nContent-Type: application/json\r\nContent-Length: {len}\r\n\r\n{body}"
    )
    .expect("write to the owner");
}

/// What tcpdump has between the first and the last frame and the recording has not, and how many packets
/// the recording has twice.
fn compare(seen: &[Seen], ours: &CaptureFile) -> (Vec<Timestamp>, usize) {
    let key = |name: &str, data: &[u8]| number_of(data).map(|number| (name.to_owned(), number));
    let mut recorded = HashSet::new();
    let mut doubled = 0;
    for packet in ours.packets() {
        if let Some(key) = packet.interface.and_then(|name| key(name, packet.data)) {
            doubled += usize::from(!recorded.insert(key));
        }
    }
    let missing = seen.iter().flat_map(|seen| {
        let is_missing = |packet: &kuberewind_tests::Packet<'_>| {
            key(&seen.if_name, packet.data).is_some_and(|key| !recorded.contains(&key))
        };
        seen.theirs.packets().filter(is_missing).map(|packet| packet.timestamp).collect::<Vec<_>>()
    });
    (missing.collect(), doubled)
}

/// Asserts that nothing is doubled, and that whatever is missing lies in a stretch that the report names as
/// a crash; gives how long those are.
fn assert_missing_is_named(seen: &[Seen], ours: &CaptureFile, report: &Value) -> Duration {
    let (missing, doubled) = compare(seen, ours);
    assert_eq!(doubled, 0, "packets came twice");
    let gaps = crashes(report);
    let named = |time: &&Timestamp| gaps.iter().any(|gap| gap.contains(time));
    let unnamed: Vec<_> = missing.iter().filter(|time| !named(time)).collect();
    eprintln!("{} packets are missing, within {gaps:?}", missing.len());
    assert!(unnamed.is_empty(), "{} of {}: {:?}", unnamed.len(), missing.len(), &unnamed[..1]);
    gaps.iter().map(|gap| gap.end.since(gap.start)).sum()
}

#[test]
fn an_heir_that_vanishes_before_it_took_over_costs_nothing() {
    let mut shop = Shop::open();
    shop.trade();
    let data = shop.cluster.data("n1");
    let owner = shop.agents();
    for stage in 0..4 {
        let mut heir = FakeHeir::ask(&data);
        let mut lock = None;
        match stage {
            0 => {}
            1 => heir.outlives_the_cut(),
            2 => heir.hears("released"),
            _ => lock = Some(heir.locks(&data)),
        }
        drop((heir, lock));
        let back = "goes on, nothing is missing";
        wait_until(&format!("the owner to go on after stage {stage}"), WITHIN, || {
            let said = shop.cluster.agent_said("n1");
            said.matches(back).count() > stage && kuberewind_tests::status(&data).is_some()
        });
    }
    assert_eq!(shop.agents(), owner);
    // And it still gives way to a real one.
    shop.upgrade();
    shop.assert_whole();
}

#[test]
fn an_heir_that_dies_with_what_it_took_leaves_a_stretch_that_is_named() {
    let mut shop = Shop::open();
    shop.trade();
    let data = shop.cluster.data("n1");
    let mut heir = FakeHeir::ask(&data);
    let lock = heir.locks(&data);
    heir.says_taken();
    drop((heir, lock));
    wait_until("the owner to record again", WITHIN, || {
        shop.cluster.agent_said("n1").contains("the agent that took over is gone")
            && kuberewind_tests::status(&data).is_some_and(|status| status.packets > 1000)
    });
    let (seen, ours, report) = shop.close(3);
    let gap = assert_missing_is_named(&seen, &ours, &report);
    assert!(gap < Duration::from_secs(5), "{gap:?}");
}

#[test]
fn a_new_agent_that_is_killed_as_it_asks_costs_nothing() {
    let mut shop = Shop::open();
    shop.trade();
    let before = shop.cluster.agent("n1");
    let old = shop.agents();
    let mut tap = shop.tap_beside();
    for _ in 0..3 {
        let asked = |said: &str| said.matches("asking the agent that records").count() > 0;
        let new = wait_for("the new agent to ask", WITHIN, || {
            let agents = shop.cluster.agents_said("n1");
            let found = agents.into_iter().find(|(pod, said)| !old.contains(pod) && asked(said));
            found.map(|(pod, _)| pod)
        });
        shop.cluster.signal_agent_in(&new, Signal::KILL);
        wait_until("the new agent to be dead", WITHIN, || {
            !shop.cluster.agents_said("n1").iter().any(|(pod, said)| *pod == new && asked(said))
        });
    }
    assert!(tap.ended(WITHIN * 2).success(), "{}", tap.said());
    shop.wait_for_another(before.as_ref());
    shop.assert_whole();
}

#[test]
fn an_old_agent_that_is_killed_as_it_gives_way_leaves_a_stretch_that_is_named() {
    let mut shop = Shop::open();
    shop.trade();
    let before = shop.cluster.agent("n1");
    let mut tap = shop.tap_beside();
    let old = shop.wait_to_hear("giving way to", &HashSet::new());
    shop.cluster.signal_agent_in(&old, Signal::KILL);
    assert!(tap.ended(WITHIN).success(), "{}", tap.said());
    shop.wait_for_another(before.as_ref());
    let (seen, ours, report) = shop.close(3);
    let gap = assert_missing_is_named(&seen, &ours, &report);
    assert!(gap < Duration::from_secs(3), "{gap:?}");
}

/// An agent of an older version on either side: it lets go at once, or takes the directory at once.
#[test]
fn with_an_agent_that_knows_no_cut_the_gap_is_short_and_named() {
    let mut shop = Shop::open();
    let data = shop.cluster.data("n1");
    shop.trade();
    let mut older = UnixStream::connect(data.join("agent.sock")).unwrap();
    let body = json!({"node": "n1", "namespace": "kuberewind", "pod": "older"});
    post(&mut older, "/v1/handover", &body.to_string());
    let mut words = BufReader::new(older);
    let mut said = String::new();
    while !said.ends_with("\r\n\r\nnull") {
        let mut byte = [0];
        words.read_exact(&mut byte).expect("the owner's answer");
        said.push(char::from(byte[0]));
    }
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");

    // The heir is now an owner that knows nothing but to let go.
    let lock = std::fs::File::open(data.join("lock")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("the lock is free");
    let socket = UnixListener::bind(data.join("agent.sock")).unwrap();
    let before = shop.cluster.agent("n1");
    let mut tap = shop.tap_beside();
    let mut silent = Vec::new();
    let mut asked = loop {
        let (stream, _) = socket.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        match stream.read_line(&mut line) {
            Ok(_) if line.starts_with("POST /v1/handover ") => break stream,
            Ok(_) => {}
            Err(_) => silent.push(stream),
        }
    };
    std::fs::remove_file(data.join("agent.sock")).unwrap();
    drop(lock);
    let answer =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\nnull";
    asked.get_mut().write_all(answer.as_bytes()).unwrap();
    let new = shop.wait_to_hear("is of an older version", &before.iter().cloned().collect());
    assert!(tap.ended(WITHIN).success(), "{}", tap.said());
    shop.wait_for_another(before.as_ref());
    assert_eq!(shop.agents(), HashSet::from([new]));
    let (seen, ours, report) = shop.close(0);
    let (missing, doubled) = compare(&seen, &ours);
    assert_eq!(doubled, 0);
    let gaps = report["nodes"][0]["gaps"].as_array().unwrap();
    let stopped: Vec<_> = gaps.iter().filter(|gap| gap["cause"] == "stopped").collect();
    eprintln!("{} packets are missing: {stopped:?}", missing.len());
    assert_eq!(stopped.len(), 1, "{gaps:?}");
    let time = |key: &str| stopped[0][key].as_str().unwrap().parse::<Timestamp>().unwrap();
    let (from, to) = (time("from"), time("to"));
    assert!(missing.iter().all(|time| from <= *time && *time < to), "{from} to {to}");
}

#[test]
fn a_bad_image_leaves_the_old_agent_recording() {
    let mut shop = Shop::open();
    shop.trade();
    let agent = shop.agents();
    let message = "no such host".to_owned();
    shop.cluster.control(Control::Fate { node: None, fate: Fate::ImagePull { message } });
    let set = "headless=true,pcapdump.maxSize=2GB,tap.annotations.round=bad";
    let said = shop.cluster.expect(3, &["tap", "--wait", "3s", "-t", "9.9", "--set", set]);
    let told = "node n1 is still recorded by the agent from before: pod kuberewind-agent-";
    assert!(said.contains(told), "{said}");
    assert!(said.contains("cannot be pulled (ImagePullBackOff: no such host)"), "{said}");
    assert_eq!(shop.agents(), agent);
    shop.assert_whole();
}

#[test]
fn whoever_asks_during_an_upgrade_is_answered() {
    let mut shop = Shop::open();
    shop.trade();
    let before = shop.cluster.agent("n1");
    let mut tap = shop.tap_beside();
    let (mut exports, mut statuses) = (0, 0);
    let deadline = Instant::now() + WITHIN;
    while tap.has_ended().is_none() || shop.cluster.agent("n1") == before {
        let _ = std::fs::remove_file(shop.cluster.dir().join("now.pcapng"));
        shop.cluster
            .expect(0, &["pcapdump", "--time", "1s", "--vantage", "all", "--dest", "now.pcapng"]);
        let now = CaptureFile::read(&shop.cluster.dir().join("now.pcapng"));
        // Each of three pods sees what all three send.
        let packets = now.packets().count();
        assert!(packets > 8 * RATE as usize, "{packets} packets of a second");
        exports += 1;
        shop.cluster.expect(0, &["status"]);
        statuses += 1;
        assert!(Instant::now() < deadline, "the upgrade takes too long");
    }
    eprintln!("{exports} exports and {statuses} states while agents were replaced");
    shop.wait_for_another(before.as_ref());
    shop.assert_whole();
}

const TLS_SERVER: &str = "\
import http.server, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Length', '2')
        self.end_headers()
        self.wfile.write(b'ok')
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(('', 443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
";

/// Handshakes that take their time, some of them at any moment, until it may write no more.
const TLS_CLIENTS: &str = "\
import socket, ssl, sys, threading, time
def work(number):
    for turn in range(10000):
        into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl._create_unverified_context()
        tls = context.wrap_bio(into, out, server_hostname='localhost')
        sock = socket.create_connection((sys.argv[1], 443))
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(out.read())
                time.sleep(0.15)
                into.write(sock.recv(65536))
        sock.sendall(out.read())
        time.sleep(0.15)
        path = '/%d-%d' % (number, turn)
        tls.write(b'GET %b HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' % path.encode())
        sock.sendall(out.read())
        while sock.recv(65536):
            pass
        print(path + '\\n', end='', flush=True)
for number in range(8):
    threading.Thread(target=work, args=(number,)).start()
";

#[test]
fn tls_handshakes_that_go_over_an_upgrade_are_opened() {
    let mut shop = Shop::open();
    let (key, certificate) = shop.cluster.certificate();
    let mut serve = Command::new("python3");
    let server = shop.pods[2].start(serve.args(["-c", TLS_SERVER]).arg(certificate).arg(key));
    let address = shop.pods[2].addresses()[0].to_owned();
    let data = shop.cluster.data("n1");
    let known =
        || kuberewind_tests::status(&data).is_some_and(|s| s.has_probes_in("libcrypto.so.3"));
    wait_until("OpenSSL to be known", WITHIN, known);
    let mut ask = Command::new("python3");
    let clients = shop.pods[0].start(ask.args(["-c", TLS_CLIENTS, &address]));
    let asked = |clients: &Program| clients.said().lines().count();
    wait_until("some requests", WITHIN, || asked(&clients) > 40);
    for _ in 0..3 {
        shop.upgrade();
    }
    let enough = asked(&clients) + 40;
    wait_until("some more requests", WITHIN, || asked(&clients) > enough);
    clients.signal(Signal::STOP);
    let asked: BTreeSet<String> = clients.said().lines().map(str::to_owned).collect();
    let path = shop.cluster.dir().join("tls.pcapng");
    let opened = || -> BTreeSet<String> {
        let _ = std::fs::remove_file(&path);
        shop.cluster.expect(0, &["pcapdump", "--dest", "tls.pcapng"]);
        let fields = ["-Y", "http.request", "-T", "fields", "-e", "http.request.uri"];
        tshark(&path, &fields).into_iter().collect()
    };
    // Secrets are written a moment after their handshake.
    let mut missing = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        let opened = opened();
        missing = asked.difference(&opened).cloned().collect();
        if missing.is_empty() {
            break;
        }
    }
    eprintln!("{} requests over TLS during {} upgrades", asked.len(), shop.upgrades);
    assert!(missing.is_empty(), "{} of {}: {missing:?}", missing.len(), asked.len());
    drop((clients, server));
}
