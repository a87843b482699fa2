//! The double answers recorded requests as the recorded server did.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up has failed")]

use std::{fs, path::Path};

use kuberewind_apiserver_double::{Command, Double, Fate, Node, Rule, User};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

fn recording(path: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(path);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn names(folder: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(folder);
    let mut names: Vec<String> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with("jsonl"))
        .collect();
    names.sort();
    names
}

/// Sends a recorded request; the head and the body that come back.
async fn replay(double: &Double, request: &Value, token: Option<&str>) -> (String, Vec<u8>) {
    let body = match &request["body"] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let mut text = format!(
        "{} {} HTTP/1.1\r\nHost: double\r\n",
        request["method"].as_str().unwrap(),
        request["path"].as_str().unwrap()
    );
    let upgrade =
        request["headers"].as_array().unwrap().iter().any(|header| header[0] == "Upgrade");
    for header in request["headers"].as_array().unwrap() {
        let (name, value) = (header[0].as_str().unwrap(), header[1].as_str().unwrap());
        if !["Host", "Content-Length", "Authorization"].contains(&name) {
            text.extend([name, ": ", value, "\r\n"]);
        }
    }
    if let Some(token) = token {
        text.extend(["Authorization: Bearer ", token, "\r\n"]);
    }
    if !upgrade {
        text += "Connection: close\r\n";
    }
    text.extend(["Content-Length: ", &body.len().to_string(), "\r\n\r\n", &body]);
    let mut stream = TcpStream::connect(double.address()).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break String::from_utf8(bytes.drain(..at + 4).collect()).unwrap();
        }
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "no answer");
    };
    let length = head
        .to_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let switched = head.starts_with("HTTP/1.1 101");
    loop {
        let enough = length.is_some_and(|length: usize| bytes.len() >= length) && !switched;
        // A session that switched protocols ends with the close frame.
        if enough || (switched && (bytes.ends_with(&[0x88, 2, 3, 0xe8]))) {
            break;
        }
        if stream.read_buf(&mut bytes).await.unwrap() == 0 {
            break;
        }
    }
    (head, bytes)
}

const VOLATILE: [&str; 8] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "time",
    "finalizers",
    "serverAddress",
    "retryAfterSeconds",
];

/// Without what differs from run to run.
fn steady(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .filter(|(name, _)| !VOLATILE.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), steady(value)))
            .collect(),
        Value::Array(items) => items.iter().map(steady).collect(),
        other => other.clone(),
    }
}

/// `HTTP/1.1 200`: HTTP has no say in the words after it.
fn code(status_line: &str) -> &str {
    &status_line[..12]
}

fn namespace(double: &Double, name: &str, labels: &Value) {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    double.control(Command::Put { object }).unwrap();
}

fn user(double: &Double, token: &str, name: &str, rules: Vec<Rule>) {
    let user = User { name: name.to_owned(), rules };
    let token = token.to_owned();
    double.control(Command::User { token, user }).unwrap();
}

async fn cluster() -> Double {
    let double = Double::start().await.unwrap();
    namespace(&double, "rewind", &json!({}));
    let account = |name: &str| format!("system:serviceaccount:rewind:{name}");
    let forward = |verbs: &[&str]| vec![Rule::core(verbs, &["pods/portforward"], Some("rewind"))];
    user(&double, "nobody", &account("nobody"), vec![]);
    user(&double, "pf-get", &account("pf-get"), forward(&["get"]));
    user(&double, "pf-create", &account("pf-create"), forward(&["create"]));
    user(&double, "pf-both", &account("pf-both"), forward(&["get", "create"]));
    double
}

#[tokio::test]
async fn applies_are_answered_as_recorded() {
    let double = cluster().await;
    let restricted = "pod-security.kubernetes.io";
    namespace(&double, "psa-enforce", &json!({format!("{restricted}/enforce"): "restricted"}));
    namespace(&double, "psa-warn", &json!({format!("{restricted}/warn"): "restricted"}));
    for name in names("apply") {
        // Told by other tests: what the controller made of it; a warning about pods already there.
        if name.starts_with("44") || name.starts_with("45") || name.starts_with("46") {
            continue;
        }
        let recorded = recording(&format!("apply/{name}"));
        let token = match &name[..2] {
            "21" | "27" => Some("nobody"),
            "22" => Some("expired"),
            _ => None,
        };
        let (head, body) = replay(&double, &recorded["request"], token).await;
        let expected = &recorded["response"];
        assert_eq!(
            code(&head),
            code(expected["status_line"].as_str().unwrap()),
            "{name}: {}",
            String::from_utf8_lossy(&body)
        );
        let warns = |headers: &Value| {
            let warning = headers.as_array().unwrap().iter().find(|h| h[0] == "Warning");
            warning.map(|h| h[1].as_str().unwrap().to_owned())
        };
        let warning =
            head.lines().find_map(|line| line.strip_prefix("warning: ").map(str::to_owned));
        if name.starts_with("42") || name.starts_with("43") {
            assert_eq!(warning, warns(&expected["headers"]), "{name}");
        }
        if let Value::String(text) = &expected["body"] {
            assert_eq!(String::from_utf8_lossy(&body), *text, "{name}");
            continue;
        }
        let mut body: Value = serde_json::from_slice(&body).unwrap();
        let mut expected = expected["body"].clone();
        // Parsers word their findings as they like.
        for (recordings, said) in [
            ("14 15", "field not declared in schema"),
            ("18", "failed to create typed patch"),
            ("25", "error decoding YAML"),
        ] {
            if recordings.contains(&name[..2]) {
                for body in [&mut body, &mut expected] {
                    let message = body["message"].as_str().unwrap();
                    assert!(message.contains(said), "{name}: {message}");
                    body["message"] = json!(said);
                }
            }
        }
        if name.starts_with("41") {
            // A pod as its author and the admission plugins made it: not the double's business.
            continue;
        }
        if name.starts_with("13") {
            before_the_controller(&mut body);
        }
        assert_eq!(steady(&body), steady(&expected), "{name}");
    }
}

/// The recorded controller had not yet seen the daemonset; the double's is never late.
fn before_the_controller(body: &mut Value) {
    body["status"].as_object_mut().unwrap().remove("observedGeneration");
    let managers = body["metadata"]["managedFields"].as_array_mut().unwrap();
    managers.retain(|manager| manager["manager"] != "kube-controller-manager");
}

#[tokio::test]
async fn a_daemonset_whose_pods_are_refused_is_told_by_counts_and_events() {
    let double = cluster().await;
    let enforce = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    namespace(&double, "psa-enforce", &enforce);
    let node = Node { name: "kt-n1".into(), ready: true, labels: [].into(), taints: vec![] };
    double.control(Command::Node(node)).unwrap();
    let applied = recording("apply/42-psa-enforce-daemonset-accepted.json");
    replay(&double, &applied["request"], None).await;
    let recorded = recording("apply/44-psa-enforce-daemonset-status-later.json");
    let (_, body) = replay(&double, &recorded["request"], None).await;
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(steady(&body), steady(&recorded["response"]["body"]));

    let recorded = recording("apply/45-psa-enforce-daemonset-events.json");
    let expected = &recorded["response"]["body"]["items"][0];
    let event = &double.objects("v1", "Event", "psa-enforce")[0];
    let words = |event: &Value| {
        let message = event["message"].as_str().unwrap();
        let kind = event["involvedObject"]["kind"].clone();
        (event["reason"].clone(), event["type"].clone(), kind, message[28..].to_owned())
    };
    assert_eq!(words(event), words(expected));
}

#[tokio::test]
async fn access_reviews_are_answered_as_recorded() {
    let double = cluster().await;
    for name in names("access") {
        if !name.contains("allowed") && !name.contains("denied") {
            continue;
        }
        let recorded = recording(&format!("access/{name}"));
        let token = match name.as_str() {
            "portforward-create-allowed-admin.json" => None,
            "portforward-create-allowed-role.json"
            | "portforward-get-denied-when-only-create.json" => Some("pf-create"),
            "portforward-create-denied-other-namespace.json" => Some("pf-both"),
            _ => Some("nobody"),
        };
        let (head, body) = replay(&double, &recorded["request"], token).await;
        let body: Value = serde_json::from_slice(&body).unwrap();
        let expected = &recorded["response"];
        assert_eq!(code(&head), code(expected["status_line"].as_str().unwrap()), "{name}");
        assert_eq!(body["spec"], expected["body"]["spec"], "{name}");
        assert_eq!(body["status"]["allowed"], expected["body"]["status"]["allowed"], "{name}");
    }
}

/// A pod of the recordings, on the double's own loopback.
fn pod(double: &Double, name: &str, phase: &str, node: Option<&str>, reach: u16) {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "rewind"},
        "spec": {"containers": [{"name": "main", "image": "i"}]},
        "status": {"phase": phase, "containerStatuses": [{"name": "main", "state": {"running": {}}}]},
    });
    if let Some(node) = node {
        object["spec"]["nodeName"] = json!(node);
    }
    double.control(Command::Put { object }).unwrap();
    if reach > 0 {
        let reach =
            serde_json::from_value(json!({"namespace": "rewind", "pod": name, "port": reach}))
                .unwrap();
        double.control(Command::Reach(reach)).unwrap();
    }
}

#[tokio::test]
async fn upgrades_are_answered_as_recorded() {
    let double = cluster().await;
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    // Accepts and closes at once: sessions end by themselves.
    let accepting = tokio::spawn(async move { while server.accept().await.is_ok() {} });
    pod(&double, "pf", "Running", Some("kt-n2"), port);
    pod(&double, "pf-pending", "Pending", None, 0);
    pod(&double, "done", "Succeeded", Some("kt-n2"), 0);
    for name in names("portforward") {
        let recorded = recording(&format!("portforward/{name}"));
        let token = match name.as_str() {
            "10-rbac-nobody.json" => Some("nobody"),
            "10-rbac-pf-get.json" => Some("pf-get"),
            "10-rbac-pf-create.json" => Some("pf-create"),
            "10-rbac-pf-both.json" => Some("pf-both"),
            _ => None,
        };
        let mut request = recorded["request"].clone();
        let path = request["path"].as_str().unwrap();
        if name.starts_with("12b") {
            request["path"] = json!("/api/v1/namespaces/rewind/pods/done/portforward?ports=8080");
        } else if name.starts_with("12-") {
            request["path"] =
                json!("/api/v1/namespaces/rewind/pods/pf-pending/portforward?ports=8080");
        } else {
            assert!(path.contains("/namespaces/rewind/"), "{name}");
        }
        let (head, body) = replay(&double, &request, token).await;
        let expected = &recorded["response"];
        assert_eq!(code(&head), code(expected["status_line"].as_str().unwrap()), "{name}");
        for wanted in ["Sec-WebSocket-Accept", "Sec-WebSocket-Protocol"] {
            let recorded = expected["headers"].as_array().unwrap().iter().find(|h| h[0] == wanted);
            let sent = head
                .lines()
                .find_map(|l| l.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(wanted)));
            assert_eq!(
                sent.map(|(_, value)| value),
                recorded.map(|h| h[1].as_str().unwrap()),
                "{name}: {wanted}"
            );
        }
        match &expected["body"] {
            Value::Null => greets(&recorded, &body, &name),
            Value::String(text) if name.starts_with("12b") => {
                assert!(text.starts_with("pod not found (\"done"));
            }
            Value::String(text) => assert_eq!(String::from_utf8_lossy(&body), *text, "{name}"),
            status => {
                assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), *status, "{name}");
            }
        }
    }
    accepting.abort();
}

/// Each channel's first frame, byte for byte, in the recorded order.
fn greets(recorded: &Value, body: &[u8], name: &str) {
    let mut at = 0;
    let greetings = recorded["frames"].as_array().unwrap().iter().filter(|frame| {
        frame["dir"] == "server->client" && frame["payload_len"] == 3 && frame["opcode"] == "binary"
    });
    for frame in greetings {
        let hex = format!(
            "{}{}",
            frame["frame_header_hex"].as_str().unwrap(),
            frame["payload_hex"].as_str().unwrap()
        );
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
            .collect();
        let found = body.windows(bytes.len()).position(|w| w == bytes);
        assert!(found.is_some(), "{name}: {hex} is missing in {body:?}");
        at = at.max(found.unwrap());
    }
    assert!(at < 64, "{name}: greetings come first");
}

#[tokio::test]
async fn a_closed_port_is_told_on_the_error_channel_and_then_closed() {
    let double = cluster().await;
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    pod(&double, "pf", "Running", Some("kt-n2"), unused);
    let recorded = recording("portforward/03-port-closed.json");
    let (_, body) = replay(&double, &recorded["request"], None).await;
    assert!(body.starts_with(&[0x82, 3, 0, 0x0f, 0x27, 0x82, 3, 1, 0x0f, 0x27, 0x82, 126]));
    let text = String::from_utf8_lossy(&body);
    assert!(text.contains("error forwarding port 9999 to pod"), "{text}");
    assert!(text.contains("connect: connection refused"), "{text}");
    assert!(body.ends_with(&[0x88, 2, 0x03, 0xe8]));
}

#[tokio::test]
async fn versions_of_the_past_and_future_are_answered_as_recorded() {
    let double = cluster().await;
    double.control(Command::Expire).unwrap();
    for name in [
        "410-list-exact-old-resourceversion",
        "list-future-resourceversion",
        "watch-list-bad-params",
    ] {
        let mut recorded = recording(&format!("watch/{name}.json"));
        if name.starts_with("410") {
            recorded["request"]["path"] =
                json!("/api/v1/pods?resourceVersion=50&resourceVersionMatch=Exact");
        }
        let (head, body) = replay(&double, &recorded["request"], None).await;
        let expected = &recorded["response"];
        assert_eq!(code(&head), code(expected["status_line"].as_str().unwrap()), "{name}");
        let mut body: Value = serde_json::from_slice(&body).unwrap();
        let mut expected = expected["body"].clone();
        for body in [&mut body, &mut expected] {
            let message = body["message"].as_str().unwrap();
            body["message"] = json!(message.split(", current").next());
        }
        assert_eq!(steady(&body), steady(&expected), "{name}");
    }
    for name in ["410-watch-old-resourceversion", "bad-resourceversion", "future-resourceversion"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("data/watch/{name}.jsonl"));
        let lines: Vec<Value> = fs::read_to_string(path)
            .unwrap()
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        let mut request = lines[0]["request"].clone();
        let path =
            request["path"].as_str().unwrap().replace("timeoutSeconds=5", "timeoutSeconds=1");
        request["path"] = json!(path);
        let (head, body) = replay(&double, &request, None).await;
        assert_eq!(
            code(&head),
            code(lines[1]["response"]["status_line"].as_str().unwrap()),
            "{name}"
        );
        let body = String::from_utf8(body).unwrap();
        match name {
            "410-watch-old-resourceversion" => assert!(body.contains("\"code\":410"), "{body}"),
            "bad-resourceversion" => {
                assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), lines[2]["body"]);
            }
            // Silent but for bookmarks until it times out, and a clean end.
            _ => assert!(!body.contains("ADDED"), "{body}"),
        }
    }
}

#[tokio::test]
async fn a_daemonset_rolls_out_node_by_node_and_its_pods_go_with_it() {
    let double = cluster().await;
    for name in ["n1", "n2"] {
        let node = Node { name: name.into(), ready: true, labels: [].into(), taints: vec![] };
        double.control(Command::Node(node)).unwrap();
    }
    let mut request = recording("apply/12-daemonset-created.json")["request"].clone();
    let body = request["body"]
        .as_str()
        .unwrap()
        .replace("      nodeSelector: {kubernetes.io/hostname: kt-n1}\n", "");
    request["body"] = json!(body);
    replay(&double, &request, None).await;
    assert_eq!(double.objects("v1", "Pod", "rewind").len(), 2);

    let fate = Fate::ImagePull { message: "Back-off pulling image \"localhost/tools:2\"".into() };
    double.control(Command::Fate { node: None, fate }).unwrap();
    request["body"] = json!(body.replace("tools:1", "tools:2"));
    replay(&double, &request, None).await;
    // The first node has both, the second waits: a bad image leaves the old pods running.
    assert_eq!(double.objects("v1", "Pod", "rewind").len(), 3);

    let set = json!({"do": "remove", "apiVersion": "apps/v1", "kind": "DaemonSet", "namespace": "rewind", "name": "kuberewind-agent"});
    double.control(serde_json::from_value(set).unwrap()).unwrap();
    assert_eq!(double.objects("v1", "Pod", "rewind").len(), 0);
}
