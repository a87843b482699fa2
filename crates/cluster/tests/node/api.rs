//! The watch against an API server that follows a script, made of what a real one was recorded to say.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::{Client, Config};
use kuberewind_cluster::pods::{Origin, PodSnapshot, PodWatch, Timing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const LIST: &str = include_str!("../data/pods-of-node.json");
const EMPTY: &str = include_str!("../data/pods-empty.json");
const RUNNING: &str = include_str!("../data/watch-create-to-running.jsonl");
const FORCED: &str = include_str!("../data/watch-delete-forced.jsonl");
const BOOKMARKS: &str = include_str!("../data/watch-with-bookmarks.jsonl");
const EXPIRED: &str = include_str!("../data/watch-410.jsonl");

/// What the server does with one request.
enum Reply {
    /// A whole answer.
    Body(u16, &'static str),
    /// Lines of a watch, and how it ends.
    Watch(Vec<&'static str>, End),
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    /// As at its timeout.
    Clean,
    /// As when the server is killed.
    Cut,
    /// It says nothing more.
    Silent,
}

/// Answers the requests one after the other by its script; then it is silent.
struct Server {
    address: std::net::SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(script: Vec<Reply>) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    fn on(listener: TcpListener, script: Vec<Reply>) -> Self {
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = asked.clone();
        let script = Arc::new(Mutex::new(VecDeque::from(script)));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, script.clone(), heard.clone()));
            }
        });
        Self { address, asked, task }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    async fn wait_asked(&self, count: usize) -> Vec<String> {
        let enough = async {
            while self.asked().len() < count {
                tokio::task::yield_now().await;
            }
        };
        let waited = timeout(Duration::from_secs(10), enough).await;
        waited.unwrap_or_else(|_| panic!("asked only {:?}", self.asked()));
        self.asked()
    }
}

async fn serve(
    mut stream: TcpStream,
    script: Arc<Mutex<VecDeque<Reply>>>,
    asked: Arc<Mutex<Vec<String>>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let line = String::from_utf8(head).unwrap().lines().next().unwrap().to_owned();
    asked.lock().unwrap().push(line.replace(" HTTP/1.1", ""));
    let reply = script.lock().unwrap().pop_front();
    let _ = answer(&mut stream, reply).await;
}

async fn answer(stream: &mut TcpStream, reply: Option<Reply>) -> std::io::Result<()> {
    let end = match reply {
        Some(Reply::Body(status, body)) => {
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status} Some\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await?;
            return stream.write_all(body.as_bytes()).await;
        }
        Some(Reply::Watch(lines, end)) => {
            let head =
                b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(head).await?;
            for line in lines {
                let chunk = format!("{:x}\r\n{line}\n\r\n", line.len() + 1);
                stream.write_all(chunk.as_bytes()).await?;
            }
            end
        }
        None => End::Silent,
    };
    match end {
        End::Clean => stream.write_all(b"0\r\n\r\n").await,
        End::Cut => Ok(()),
        End::Silent => stream.read_u8().await.map(|_| ()),
    }
}

fn recorded(recording: &'static str) -> Vec<&'static str> {
    let raw = |line: &'static str| line.split_once("\"event\":")?.1.strip_suffix('}');
    recording.lines().filter_map(raw).collect()
}

fn timing() -> Timing {
    Timing {
        answer: Duration::from_secs(5),
        silence: Duration::from_secs(20),
        least_wait: Duration::from_millis(10),
        most_wait: Duration::from_millis(40),
        linger: Duration::from_mins(1),
    }
}

fn follow(address: std::net::SocketAddr, file: Option<PathBuf>, timing: Timing) -> PodWatch {
    let mut config = Config::new(format!("http://{address}").parse().unwrap());
    config.default_retry = false;
    PodWatch::start(Client::try_from(config).unwrap(), "kt-n1", file, timing)
}

async fn until(watch: &PodWatch, mut holds: impl FnMut(&PodSnapshot) -> bool) -> Arc<PodSnapshot> {
    let mut snapshots = watch.snapshots();
    let waited = timeout(Duration::from_secs(10), snapshots.wait_for(|told| holds(told))).await;
    let told = waited.unwrap_or_else(|_| panic!("still {:?}", watch.snapshots().borrow()));
    told.unwrap().clone()
}

fn names(snapshot: &PodSnapshot) -> Vec<&str> {
    let mut names: Vec<_> =
        snapshot.pods.iter().filter(|pod| !pod.deleted).map(|pod| pod.name.as_str()).collect();
    names.sort_unstable();
    names
}

fn listed() -> usize {
    LIST.matches("\"hostIP\"").count()
}

#[tokio::test]
async fn a_list_then_a_watch_that_goes_on_where_the_last_bookmark_was() {
    let lines = recorded(BOOKMARKS);
    let server = Server::start(vec![
        Reply::Body(200, EMPTY),
        Reply::Watch(lines, End::Clean),
        Reply::Watch(recorded(RUNNING), End::Silent),
    ])
    .await;
    let watch = follow(server.address, None, timing());
    let asked = server.wait_asked(3).await;
    assert!(asked[0].starts_with("GET /api/v1/pods?"), "{asked:?}");
    assert!(asked[0].contains("fieldSelector=spec.nodeName%3Dkt-n1"), "{asked:?}");
    assert!(asked[0].contains("resourceVersion=0"), "{asked:?}");
    assert!(
        asked[1].contains("watch=true") && asked[1].contains("allowWatchBookmarks=true"),
        "{asked:?}"
    );
    assert!(asked[2].ends_with("resourceVersion=1024"), "{asked:?}");

    let told = until(&watch, |told| {
        told.pods.iter().any(|pod| pod.container_ids.len() > 1 && !pod.pod_ips.is_empty())
    })
    .await;
    assert_eq!((told.origin, &told.problem), (Origin::ApiServer, &None));
}

#[tokio::test]
async fn a_deleted_pod_lingers_and_is_then_forgotten() {
    let server =
        Server::start(vec![Reply::Body(200, EMPTY), Reply::Watch(recorded(FORCED), End::Silent)])
            .await;
    let watch =
        follow(server.address, None, Timing { linger: Duration::from_millis(300), ..timing() });
    until(&watch, |told| told.pods.iter().any(|pod| pod.deleted)).await;
    until(&watch, |told| told.pods.is_empty()).await;
}

#[tokio::test]
async fn an_expired_watch_leads_to_a_list_in_both_its_forms() {
    let gone = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version: 1 (942)","reason":"Expired","code":410}"#;
    let server = Server::start(vec![
        Reply::Body(200, LIST),
        Reply::Watch(recorded(EXPIRED), End::Clean),
        Reply::Body(200, EMPTY),
        Reply::Body(410, gone),
        Reply::Body(200, LIST),
    ])
    .await;
    let watch = follow(server.address, None, timing());
    let asked = server.wait_asked(6).await;
    let kinds: Vec<_> = asked.iter().map(|line| line.contains("watch=true")).collect();
    assert_eq!(kinds, [false, true, false, true, false, true]);
    let told = until(&watch, |told| names(told).len() == listed()).await;
    assert_eq!(told.problem, None);
}

#[tokio::test]
async fn a_cache_that_has_no_answer_is_passed_by() {
    let large = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Timeout: Too large resource version: 99999999, current: 952","reason":"Timeout","code":504}"#;
    let server = Server::start(vec![Reply::Body(504, large), Reply::Body(200, LIST)]).await;
    let watch = follow(server.address, None, timing());
    until(&watch, |told| names(told).len() == listed()).await;
    assert!(!server.asked()[1].contains("resourceVersion"), "{:?}", server.asked());
}

#[tokio::test]
async fn a_silent_watch_is_opened_anew_from_a_list() {
    let server = Server::start(vec![
        Reply::Body(200, EMPTY),
        Reply::Watch(vec![], End::Silent),
        Reply::Body(200, LIST),
    ])
    .await;
    let watch =
        follow(server.address, None, Timing { silence: Duration::from_millis(100), ..timing() });
    until(&watch, |told| names(told).len() == listed()).await;
    assert!(!server.asked()[2].contains("watch=true"));
}

#[tokio::test]
async fn a_lost_connection_keeps_the_known_pods_and_the_watch_goes_on_from_there() {
    let server = Server::start(vec![
        Reply::Body(200, LIST),
        Reply::Watch(vec![], End::Cut),
        Reply::Watch(recorded(RUNNING), End::Silent),
    ])
    .await;
    let watch =
        follow(server.address, None, Timing { least_wait: Duration::from_millis(300), ..timing() });
    let told = until(&watch, |told| told.problem.is_some()).await;
    assert_eq!(names(&told).len(), listed());
    let problem = told.problem.clone().unwrap();
    assert!(problem.starts_with("watch the pods of node kt-n1: connection lost"), "{problem}");
    until(&watch, |told| told.problem.is_none() && names(told).len() > listed()).await;
    let asked = server.asked();
    assert_eq!(asked[1].split("resourceVersion").nth(1), asked[2].split("resourceVersion").nth(1));
}

#[tokio::test]
async fn an_odd_line_does_not_end_the_watch() {
    let mut lines =
        vec!["{", r#"{"type":"ADDED","object":{"metadata":{"name":"odd"}}}"#, "", "\u{feff}é"];
    lines.extend(recorded(RUNNING));
    let server =
        Server::start(vec![Reply::Body(200, EMPTY), Reply::Watch(lines, End::Silent)]).await;
    let watch = follow(server.address, None, timing());
    until(&watch, |told| told.pods.iter().any(|pod| pod.phase == "Running")).await;
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn missing_rights_are_named() {
    let forbidden = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"pods is forbidden: User \"system:serviceaccount:kuberewind:agent\" cannot list resource \"pods\"","reason":"Forbidden","details":{"kind":"pods"},"code":403}"#;
    let server = Server::start(vec![Reply::Body(403, forbidden)]).await;
    let watch = follow(server.address, None, timing());
    let told = until(&watch, |told| told.problem.is_some()).await;
    let problem = told.problem.clone().unwrap();
    assert!(problem.contains("cannot list resource"), "{problem}");
    assert!(problem.contains("needs `list` and `watch` on pods"), "{problem}");
    assert_eq!(told.origin, Origin::Nobody);
}

#[tokio::test]
async fn an_agent_that_starts_while_the_api_server_is_away_knows_the_pods_of_before() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pods.json");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::on(listener, vec![Reply::Body(200, LIST)]);
    let watch = follow(address, Some(file.clone()), timing());
    let before = until(&watch, |told| told.origin == Origin::ApiServer).await;
    let written = async {
        while !file.exists() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), written).await.unwrap();
    drop((watch, server));

    let watch = follow(address, Some(file), timing());
    let after = until(&watch, |told| told.problem.is_some()).await;
    assert_eq!((after.origin, &after.pods), (Origin::File, &before.pods));
    let problem = after.problem.clone().unwrap();
    assert!(problem.ends_with("known before the restart"), "{problem}");

    let listener = TcpListener::bind(address).await.unwrap();
    let _server = Server::on(listener, vec![Reply::Body(200, EMPTY)]);
    let now = until(&watch, |told| told.origin == Origin::ApiServer).await;
    assert!(names(&now).is_empty());
}
