//! Port-forwards, and the ways in which they end.

use std::{
    io::ErrorKind,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use kuberewind_apiserver_double::{Command, Double, End, Reach, Rule};
use kuberewind_cluster::{
    Access, ClusterError,
    portforward::{self, Forward, Patience},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use crate::{NS, access_as, cluster, put, user};

/// A pod's server: after one byte from the client it sends `bytes` of a known pattern and closes.
/// Its port, and how much it has written.
async fn server(bytes: u64) -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let written = Arc::new(AtomicU64::new(0));
    let count = written.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, bytes, count.clone()));
        }
    });
    (port, written)
}

async fn answer(mut stream: TcpStream, bytes: u64, count: Arc<AtomicU64>) {
    let mut first = [0];
    if stream.read_exact(&mut first).await.is_err() {
        return;
    }
    let mut sent = 0;
    while sent < bytes {
        let chunk: Vec<u8> = (sent..bytes.min(sent + 50_000)).map(pattern).collect();
        if stream.write_all(&chunk).await.is_err() {
            return;
        }
        sent += chunk.len() as u64;
        count.store(sent, Ordering::Relaxed);
    }
}

fn pattern(at: u64) -> u8 {
    (at % 251).to_le_bytes()[0]
}

/// A running pod `agent` whose port-forwards reach `port` of this machine.
fn pod(double: &Double, port: u16, change: impl FnOnce(&mut Reach)) {
    put(double, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NS}}));
    put(
        double,
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "agent", "namespace": NS},
            "spec": {"nodeName": "n1", "containers": [{"name": "agent", "image": "i"}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "agent", "state": {"running": {}}}]},
        }),
    );
    let mut reach =
        Reach { namespace: NS.into(), pod: "agent".into(), port: Some(port), ..Reach::default() };
    change(&mut reach);
    double.control(Command::Reach(reach)).unwrap();
}

async fn forward(access: &Access) -> Forward {
    let patience =
        Patience { connect: Duration::from_secs(5), silence: Duration::from_millis(1500) };
    portforward::connect(access, NS, "agent", 8899, patience).await.unwrap()
}

async fn asked(access: &Access) -> Forward {
    let mut stream = forward(access).await;
    stream.write_all(b"?").await.unwrap();
    stream.flush().await.unwrap();
    stream
}

/// Reads all; how much came, intact, and the error that ended it, if one did.
async fn drain(mut stream: Forward) -> (u64, Option<std::io::Error>) {
    let mut buffer = vec![0; 64 * 1024];
    let mut at = 0;
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => return (at, None),
            Ok(length) => {
                let intact =
                    buffer[..length].iter().zip(at..).all(|(byte, at)| *byte == pattern(at));
                assert!(intact, "after byte {at}");
                at += length as u64;
            }
            Err(error) => return (at, Some(error)),
        }
    }
}

async fn fetch(access: &Access) -> (u64, Option<ErrorKind>) {
    let (came, error) = drain(asked(access).await).await;
    (came, error.map(|error| error.kind()))
}

#[tokio::test]
async fn a_stream_arrives_whole() {
    let (double, access) = cluster(&[]).await;
    let (port, _) = server(5_000_000).await;
    pod(&double, port, |_| ());
    assert_eq!(fetch(&access).await, (5_000_000, None));
    let request = double.requests().into_iter().find(|request| request.contains("portforward"));
    let wanted = format!("GET /api/v1/namespaces/{NS}/pods/agent/portforward?ports=8899");
    assert_eq!(request, Some(wanted));
}

#[tokio::test]
async fn much_is_sent_to_the_pod_whole_and_in_order() {
    let (double, access) = cluster(&[]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    pod(&double, listener.local_addr().unwrap().port(), |_| ());
    let reading = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = vec![0; 1_000_000];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(b"thanks").await.unwrap();
        bytes
    });
    let sent: Vec<u8> = (0..1_000_000).map(pattern).collect();
    let mut stream = forward(&access).await;
    stream.write_all(&sent).await.unwrap();
    stream.flush().await.unwrap();
    let mut thanks = String::new();
    stream.read_to_string(&mut thanks).await.unwrap();
    assert_eq!(thanks, "thanks");
    assert!(reading.await.unwrap() == sent);
}

#[tokio::test]
async fn a_slow_connection_delivers_everything_in_its_time() {
    let (double, access) = cluster(&[]).await;
    let (port, _) = server(2_000_000).await;
    pod(&double, port, |reach| reach.bytes_per_second = Some(1_000_000));
    let began = Instant::now();
    assert_eq!(fetch(&access).await, (2_000_000, None));
    assert!(began.elapsed() >= Duration::from_millis(1900));
}

/// The reader's pace holds the pod's server up; it costs no byte, and is no silence of the peer.
#[tokio::test]
async fn a_reader_that_stops_holds_the_sender_up_and_loses_nothing() {
    let (double, access) = cluster(&[]).await;
    let (port, written) = server(40_000_000).await;
    pod(&double, port, |_| ());
    let stream = asked(&access).await;
    assert!(stands_still(&written).await < 40_000_000, "nothing held the sender up");
    let (came, error) = drain(stream).await;
    assert_eq!((came, error.is_none()), (40_000_000, true));
}

/// Where a counter is once it has not moved for longer than the reader's patience.
async fn stands_still(counter: &AtomicU64) -> u64 {
    let (mut last, mut since) = (0, Instant::now());
    while last == 0 || since.elapsed() < Duration::from_secs(2) {
        sleep(Duration::from_millis(20)).await;
        let now = counter.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    last
}

/// The end looks like a normal one: that is why what is sent has an end mark of its own.
#[tokio::test]
async fn an_agent_that_dies_mid_stream_is_an_early_eof() {
    let (double, access) = cluster(&[]).await;
    let (port, _) = server(5_000_000).await;
    pod(&double, port, |reach| {
        reach.end_after = Some(1_000_000);
        reach.end = End::Close;
        reach.times = Some(1);
    });
    assert_eq!(fetch(&access).await, (1_000_000, None));
    assert_eq!(fetch(&access).await, (5_000_000, None), "a second try has all of it");
}

#[tokio::test]
async fn an_api_server_that_dies_mid_stream_is_an_error() {
    let (double, access) = cluster(&[]).await;
    let (port, _) = server(5_000_000).await;
    pod(&double, port, |reach| {
        reach.end_after = Some(1_000_000);
        reach.end = End::Drop;
    });
    assert_eq!(fetch(&access).await, (1_000_000, Some(ErrorKind::UnexpectedEof)));
}

#[tokio::test]
async fn a_peer_that_vanishes_is_an_error_after_the_silence() {
    let (double, access) = cluster(&[]).await;
    let (port, _) = server(5_000_000).await;
    pod(&double, port, |reach| {
        reach.end_after = Some(1_000_000);
        reach.end = End::Stall;
    });
    let (came, error) = drain(asked(&access).await).await;
    assert_eq!(came, 1_000_000);
    assert_eq!(error.unwrap().to_string(), "nothing came for 1.5 s");
}

#[tokio::test]
async fn a_node_without_power_breaks_its_streams_and_refuses_new_ones() {
    let (double, access) = cluster(&["n1"]).await;
    let (port, _) = server(40_000_000).await;
    pod(&double, port, |_| ());
    let mut stream = asked(&access).await;
    let mut buffer = vec![0; 1000];
    stream.read_exact(&mut buffer).await.unwrap();
    double.control(Command::KillNode { name: "n1".into() }).unwrap();
    let mut rest = Vec::new();
    assert!(stream.read_to_end(&mut rest).await.is_err());
    let error =
        portforward::connect(&access, NS, "agent", 8899, Patience::default()).await.unwrap_err();
    assert!(error.to_string().contains("error dialing backend"), "{error}");
}

#[tokio::test]
async fn nothing_listening_is_an_error_in_the_kubelets_words() {
    let (double, access) = cluster(&[]).await;
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    pod(&double, unused, |_| ());
    let error = forward(&access).await.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(error.to_string().starts_with("error forwarding port 8899 to pod"), "{error}");
}

#[tokio::test]
async fn a_missing_port_forward_right_is_named_whichever_it_is() {
    let (double, _) = cluster(&[]).await;
    pod(&double, 1, |_| ());
    let exporter = |verbs: &[&str]| {
        user(&double, "exporter", vec![Rule::core(verbs, &["pods/portforward"], Some(NS))]);
    };
    let access = access_as(&double, Some("exporter")).await;
    for (has, lacks) in [(&["get"][..], "create"), (&["create"], "get"), (&[], "get")] {
        exporter(has);
        let wanted = format!("`{lacks}` on pods/portforward in namespace {NS}");
        let error = portforward::review(&access, NS).await.unwrap_err();
        let text =
            format!("reach the agents in namespace {NS}: not allowed: needs the right {wanted}");
        assert_eq!(error.to_string(), text);
        // Also when nobody asked beforehand.
        let error = portforward::connect(&access, NS, "agent", 8899, Patience::default())
            .await
            .unwrap_err();
        assert!(error.to_string().contains(&wanted), "{error}");
    }
    exporter(&["get", "create"]);
    portforward::review(&access, NS).await.unwrap();
}

#[tokio::test]
async fn pods_that_cannot_be_reached_say_why() {
    let (double, access) = cluster(&[]).await;
    pod(&double, 1, |_| ());
    let error =
        portforward::connect(&access, NS, "absent", 1, Patience::default()).await.unwrap_err();
    assert!(matches!(error, ClusterError::NotFound { .. }), "{error:?}");
    put(
        &double,
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "new", "namespace": NS}, "spec": {"containers": []}}),
    );
    let error = portforward::connect(&access, NS, "new", 1, Patience::default()).await.unwrap_err();
    assert!(error.to_string().contains("does not have a host assigned"), "{error}");
}

/// The double enters the pod's network namespace to dial, as the container runtime does.
#[tokio::test]
async fn a_pod_is_reached_on_its_own_loopback() {
    use std::process::Command as Process;

    struct Netns(String);
    impl Drop for Netns {
        fn drop(&mut self) {
            // A test that failed has said why; this is only tidying.
            let _ = Process::new("ip").args(["netns", "del", &self.0]).status();
        }
    }
    let run = |words: &str| {
        assert!(
            Process::new("ip").args(words.split(' ')).status().unwrap().success(),
            "ip {words}"
        );
    };
    let netns = Netns(format!("client-fwd-{}", std::process::id()));
    run(&format!("netns add {}", netns.0));
    run(&format!("-n {} link set lo up", netns.0));
    let script = "import socket; s=socket.create_server(('127.0.0.1',8899)); print('up',flush=True); c,_=s.accept(); c.sendall(c.recv(9)[::-1])";
    let mut server = Process::new("ip")
        .args(["netns", "exec", &netns.0, "python3", "-c", script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut up = [0; 3];
    std::io::Read::read_exact(server.stdout.as_mut().unwrap(), &mut up).unwrap();

    let (double, access) = cluster(&[]).await;
    pod(&double, 0, |reach| {
        reach.port = None;
        reach.netns = Some(format!("/run/netns/{}", netns.0).into());
    });
    let mut stream = forward(&access).await;
    stream.write_all(b"rewind").await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "dniwer");
    server.wait().unwrap();
}
