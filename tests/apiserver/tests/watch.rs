//! Watches: what comes, in what order, and how they end.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up has failed")]

use std::time::Duration;

use kuberewind_apiserver_double::{Command, Double};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

struct Watch(BufReader<TcpStream>);

/// How a watch ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// With the last chunk.
    Clean,
    /// Without.
    Abrupt,
}

impl Watch {
    async fn start(double: &Double, query: &str) -> Self {
        let mut stream = TcpStream::connect(double.address()).await.unwrap();
        let request = format!("GET /api/v1/pods?watch=1&{query} HTTP/1.1\r\nHost: double\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut stream = BufReader::new(stream);
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            if line == "\r\n" {
                return Self(stream);
            }
        }
    }

    /// The next event's type and object.
    async fn next(&mut self) -> Result<(String, Value), End> {
        let reading = async {
            loop {
                let mut line = String::new();
                // A reset and a bare EOF are the same to a watcher.
                if self.0.read_line(&mut line).await.unwrap_or(0) == 0 {
                    return Err(End::Abrupt);
                }
                if line == "0\r\n" {
                    return Err(End::Clean);
                }
                if line.starts_with('{') {
                    let event: Value = serde_json::from_str(&line).unwrap();
                    return Ok((
                        event["type"].as_str().unwrap().to_owned(),
                        event["object"].clone(),
                    ));
                }
            }
        };
        timeout(Duration::from_secs(5), reading).await.unwrap()
    }

    /// The next event's type and the object's name.
    async fn told(&mut self) -> (String, String) {
        let (kind, object) = self.next().await.unwrap();
        (kind, object["metadata"]["name"].as_str().unwrap_or_default().to_owned())
    }
}

fn pod(double: &Double, name: &str, node: &str) {
    let object = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": node, "containers": []},
    });
    double.control(Command::Put { object }).unwrap();
}

fn told(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

fn version(double: &Double) -> String {
    let all = double.objects("v1", "Pod", "");
    let newest = all
        .iter()
        .map(|pod| pod["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap());
    newest.max().unwrap().to_string()
}

#[tokio::test]
async fn a_nodes_watch_sees_only_its_pods_come_change_and_go() {
    let double = Double::start().await.unwrap();
    pod(&double, "a", "n1");
    pod(&double, "other", "n2");
    let mut watch = Watch::start(&double, "fieldSelector=spec.nodeName%3Dn1").await;
    assert_eq!(watch.told().await, told("ADDED", "a"));
    pod(&double, "other", "n3");
    pod(&double, "b", "n1");
    assert_eq!(watch.told().await, told("ADDED", "b"));
    pod(&double, "b", "n2");
    assert_eq!(watch.told().await, told("DELETED", "b"));
    let gone = json!({"do": "remove", "apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": "a"});
    double.control(serde_json::from_value(gone).unwrap()).unwrap();
    assert_eq!(watch.told().await, told("DELETED", "a"));
}

#[tokio::test]
async fn a_watch_goes_on_from_a_version_until_it_expires() {
    let double = Double::start().await.unwrap();
    pod(&double, "a", "n1");
    let seen = version(&double);
    pod(&double, "b", "n1");
    let query = format!("resourceVersion={seen}");
    assert_eq!(Watch::start(&double, &query).await.told().await, told("ADDED", "b"));
    double.control(Command::Expire).unwrap();
    let mut watch = Watch::start(&double, &query).await;
    let (kind, status) = watch.next().await.unwrap();
    assert_eq!(
        (kind.as_str(), &status["code"], &status["reason"]),
        ("ERROR", &json!(410), &json!("Expired"))
    );
    assert_eq!(watch.next().await.unwrap_err(), End::Clean);
}

#[tokio::test]
async fn bookmarks_have_the_recorded_shape() {
    let double = Double::start().await.unwrap();
    pod(&double, "a", "n1");
    double.control(Command::Bookmarks { every_ms: 10 }).unwrap();
    let query = "allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    let mut watch = Watch::start(&double, query).await;
    assert_eq!(watch.told().await, told("ADDED", "a"));
    let bookmark = |annotations: Value| {
        let mut metadata = json!({"resourceVersion": version(&double)});
        if !annotations.is_null() {
            metadata["annotations"] = annotations;
        }
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": {"containers": null}, "status": {}})
    };
    let first = watch.next().await.unwrap();
    assert_eq!(first, ("BOOKMARK".into(), bookmark(json!({"k8s.io/initial-events-end": "true"}))));
    assert_eq!(watch.next().await.unwrap(), ("BOOKMARK".into(), bookmark(Value::Null)));
}

#[tokio::test]
async fn watches_end_as_they_are_told_to() {
    let double = Double::start().await.unwrap();
    pod(&double, "a", "n1");
    for (abruptly, end) in [(false, End::Clean), (true, End::Abrupt)] {
        let mut watch = Watch::start(&double, "").await;
        watch.told().await;
        double.control(Command::CutWatches { abruptly }).unwrap();
        assert_eq!(watch.next().await.unwrap_err(), end);
    }
    let mut watch = Watch::start(&double, "timeoutSeconds=1").await;
    watch.told().await;
    assert_eq!(watch.next().await.unwrap_err(), End::Clean);
}
