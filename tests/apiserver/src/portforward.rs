//! Port-forwards over WebSocket, `v4.channel.k8s.io`.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream as StdStream},
    os::fd::AsFd,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{SinkExt, StreamExt, stream::SplitSink};
use hyper::{
    HeaderMap, Request,
    body::{Bytes, Incoming},
    header::{
        ACCEPT, CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_PROTOCOL, UPGRADE,
    },
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, tcp::OwnedReadHalf},
    sync::{Mutex, mpsc},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};

use crate::{
    Shared,
    body::{self, Answer},
    catalog,
    control::{End, Reach},
    rights::{Ask, User},
    status::{Failure, Target},
};

/// The largest data frame of the real server, without the channel byte.
const LARGEST: usize = 32 * 1024;

/// The real server closes this long after the pod's last byte.
const LINGER: Duration = Duration::from_secs(1);

/// Answers an upgrade request for `namespace/pod` and serves the session.
pub(crate) fn upgrade(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    user: &User,
    namespace: &str,
    pod: &str,
    query: &[(String, String)],
) -> Result<Answer, Failure> {
    let headers = request.headers().clone();
    let word = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !word(UPGRADE).eq_ignore_ascii_case("websocket") {
        return Err(Failure::bad_request("Upgrade request required"));
    }
    may_create(user, namespace, pod)?;
    let node = running_on(shared, namespace, pod)?;
    if !accepts_anything(&headers) {
        return Err(Failure::text(406, "406: Not Acceptable\n\nAvailable representations: "));
    }
    let ports = ports(query)?;
    let Some(protocol) = choose(word(SEC_WEBSOCKET_PROTOCOL)) else {
        let mut answer = body::empty(403);
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return Ok(answer);
    };

    let reach = shared.settings().reach(namespace, pod);
    let session = Session {
        pod: format!("{namespace}_{pod}"),
        reach,
        forwarded: shared.forwarded(namespace, pod),
        sent: AtomicU64::new(0),
        began: Instant::now(),
    };
    let task = tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            session.serve(upgraded, ports).await;
        }
    });
    shared.sessions().push((node, task.abort_handle()));

    let mut answer = body::empty(101);
    let accept = derive_accept_key(word(SEC_WEBSOCKET_KEY).as_bytes());
    for (name, value) in [
        (UPGRADE, "websocket"),
        (CONNECTION, "Upgrade"),
        (SEC_WEBSOCKET_ACCEPT, accept.as_str()),
        (SEC_WEBSOCKET_PROTOCOL, protocol),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            answer.headers_mut().insert(name, value);
        }
    }
    Ok(answer)
}

/// `get` was checked with the path; the upgrade also needs `create`, and says nothing when it lacks.
fn may_create(user: &User, namespace: &str, pod: &str) -> Result<(), Failure> {
    let ask = Ask { verb: "create", group: "", resource: "pods/portforward".into(), namespace };
    if user.may(&ask) {
        return Ok(());
    }
    let target = Target { group: "", resource: "pods", name: pod };
    Err(Failure::forbidden(&target, ""))
}

fn running_on(shared: &Shared, namespace: &str, pod: &str) -> Result<String, Failure> {
    let dead = shared.settings().dead_nodes.clone();
    let resource = catalog::find("", "v1", "pods")
        .ok_or_else(|| Failure::text(404, "404 page not found\n"))?;
    let found = shared.state().get(resource, namespace, pod)?;
    let node = found["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
    let phase = found["status"]["phase"].as_str().unwrap_or_default();
    let finished = matches!(phase, "Succeeded" | "Failed");
    let started = found["status"]["containerStatuses"]
        .as_array()
        .is_some_and(|all| all.iter().any(|c: &Value| !c["state"]["running"].is_null()));
    if node.is_empty() {
        let message = format!("pod {pod} does not have a host assigned");
        Err(Failure::bad_request(&message))
    } else if dead.contains(&node) {
        // HAND-MADE: no recording of a node without power.
        Err(Failure::text(
            500,
            &format!("error dialing backend: dial tcp {node}:10250: connect: no route to host"),
        ))
    } else if finished || (phase == "Pending" && !started) {
        Err(Failure::text(500, &format!("pod not found (\"{pod}_{namespace}\")")))
    } else {
        Ok(node)
    }
}

fn accepts_anything(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|v| v.to_str().ok());
    accept.is_none_or(|accept| accept.contains("*/*"))
}

fn ports(query: &[(String, String)]) -> Result<Vec<u16>, Failure> {
    let texts: Vec<&str> = query
        .iter()
        .filter(|(name, _)| name == "ports")
        .flat_map(|(_, value)| value.split(','))
        .collect();
    if texts.is_empty() {
        return Err(Failure::text(400, "query parameter \"port\" is required"));
    }
    let parse = |text: &&str| match text.parse::<u16>() {
        Ok(0) => Err(Failure::text(400, &format!("port \"{text}\" must be > 0"))),
        Ok(port) => Ok(port),
        Err(_) => Err(Failure::text(400, &format!("unable to parse \"{text}\" as a port"))),
    };
    texts.iter().map(parse).collect()
}

/// None offered works, with an empty answer; otherwise the first that is known.
fn choose(offered: &str) -> Option<&'static str> {
    if offered.trim().is_empty() {
        return Some("");
    }
    let mut offers = offered.split(',').map(str::trim);
    offers.any(|offer| offer == "v4.channel.k8s.io").then_some("v4.channel.k8s.io")
}

type Out = Arc<Mutex<SplitSink<WebSocketStream<TokioIo<Upgraded>>, Message>>>;

struct Session {
    pod: String,
    reach: Reach,
    /// Bytes of payload towards clients, all sessions to this pod together.
    forwarded: Arc<AtomicU64>,
    /// Those of this session, all ports together.
    sent: AtomicU64,
    began: Instant,
}

/// Why a direction ended.
enum Ended {
    /// The pod's side closed.
    Pod,
    /// As `Reach` says.
    Early(End),
    /// Nobody reads any more.
    Client,
}

impl Session {
    async fn serve(self, upgraded: Upgraded, ports: Vec<u16>) {
        let socket =
            WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        let (out, mut input) = socket.split();
        let out: Out = Arc::new(Mutex::new(out));
        let session = Arc::new(self);
        let mut to_pod: Vec<Option<mpsc::Sender<Bytes>>> = Vec::new();
        // port tasks --how they ended--> session; unbounded in effect: one each
        let (endings, mut ended) = mpsc::channel(ports.len());
        // They end with the session, also when it is broken off.
        let mut tasks = JoinSet::new();
        for (index, port) in (0_u8..).zip(ports.iter().copied()) {
            // client frames --data--> pod connection; when full: the WebSocket is not read
            let (sender, data) = mpsc::channel(4);
            to_pod.push(Some(sender));
            let (session, out, endings) = (session.clone(), out.clone(), endings.clone());
            tasks.spawn(async move {
                let how = session.forward(2 * index, port, &out, data).await;
                // Nobody waits any more: the session is over.
                let _ = endings.send(how).await;
            });
        }
        drop(endings);

        let mut open = ports.len();
        loop {
            tokio::select! {
                message = input.next() => match message {
                    Some(Ok(Message::Binary(data))) if data.len() > 1 => {
                        let channel = usize::from(data[0]);
                        if let Some(Some(pod)) = to_pod.get(channel / 2).filter(|_| channel % 2 == 0) {
                            // The pod has closed: the real server drops such data, too.
                            let _ = pod.send(data.slice(1..)).await;
                        }
                    }
                    Some(Ok(Message::Close(_))) => {
                        let _ = out.lock().await.close().await;
                        return;
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return,
                },
                how = ended.recv() => match how {
                    Some(Ended::Early(End::Stall)) => {
                        std::future::pending::<()>().await;
                    }
                    Some(Ended::Early(End::Drop) | Ended::Client) | None => return,
                    Some(Ended::Early(End::Close)) => break,
                    Some(Ended::Pod) => {
                        open -= 1;
                        if open == 0 {
                            break;
                        }
                    }
                },
            }
        }
        let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        // The client may be gone already.
        let _ = out.lock().await.send(Message::Close(Some(normal))).await;
        let _ = timeout(LINGER, async { while let Some(Ok(_)) = input.next().await {} }).await;
    }

    /// One port: greets on both channels, dials, and copies both ways.
    async fn forward(
        &self,
        channel: u8,
        port: u16,
        out: &Out,
        mut data: mpsc::Receiver<Bytes>,
    ) -> Ended {
        let [low, high] = port.to_le_bytes();
        for channel in [channel, channel + 1] {
            if send(out, vec![channel, low, high]).await.is_err() {
                return Ended::Client;
            }
        }
        let connection = match dial(self.reach.netns.clone(), self.reach.port.unwrap_or(port)).await
        {
            Ok(connection) => connection,
            Err(error) => {
                let mut text = vec![channel + 1];
                text.extend(self.refused(port, &error).into_bytes());
                return send(out, text).await.map_or(Ended::Client, |()| Ended::Pod);
            }
        };
        let (reader, mut writer) = connection.into_split();
        let upwards = async {
            while let Some(bytes) = data.recv().await {
                if writer.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = upwards => Ended::Pod,
            how = self.downwards(channel, reader, out) => how,
        }
    }

    fn refused(&self, port: u16, error: &io::Error) -> String {
        let why = match error.kind() {
            io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            _ => error.to_string(),
        };
        let pod = &self.pod;
        format!(
            "error forwarding port {port} to pod {pod}, uid : failed to execute portforward in network namespace \"/var/run/netns/cni-{pod}\": failed to connect to localhost:{port} inside namespace \"{pod}\", IPv4: dial tcp4 127.0.0.1:{port}: connect: {why} IPv6 dial tcp6: address localhost: no suitable address found "
        )
    }

    async fn downwards(&self, channel: u8, mut reader: OwnedReadHalf, out: &Out) -> Ended {
        let mut buffer = vec![0; LARGEST];
        loop {
            let room = self.room();
            if room == 0 {
                return Ended::Early(self.reach.end);
            }
            let Ok(length @ 1..) = reader.read(&mut buffer[..room]).await else {
                sleep(LINGER).await;
                return Ended::Pod;
            };
            self.pace(length).await;
            let mut frame = Vec::with_capacity(length + 1);
            frame.push(channel);
            frame.extend_from_slice(&buffer[..length]);
            if send(out, frame).await.is_err() {
                return Ended::Client;
            }
            self.forwarded.fetch_add(length as u64, Ordering::Relaxed);
        }
    }

    /// How much may be sent before the session ends as it was told to.
    fn room(&self) -> usize {
        let left =
            self.reach.end_after.map(|end| end.saturating_sub(self.sent.load(Ordering::Relaxed)));
        left.map_or(LARGEST, |left| usize::try_from(left).unwrap_or(LARGEST).min(LARGEST))
    }

    async fn pace(&self, length: usize) {
        let sent = self.sent.fetch_add(length as u64, Ordering::Relaxed) + length as u64;
        if let Some(rate) = self.reach.bytes_per_second {
            let due = Duration::from_millis(sent * 1000 / rate.max(1));
            sleep_until(self.began + due).await;
        }
    }
}

async fn send(out: &Out, frame: Vec<u8>) -> Result<(), ()> {
    out.lock().await.send(Message::binary(frame)).await.map_err(|_| ())
}

/// Connects to 127.0.0.1 in a network namespace, on a thread of its own that enters it.
async fn dial(netns: Option<PathBuf>, port: u16) -> io::Result<TcpStream> {
    let (result, connected) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Nobody waits any more if the session ended meanwhile.
        let _ = result.send(dial_here(netns, port));
    });
    let stream = connected.await.map_err(io::Error::other)??;
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

fn dial_here(netns: Option<PathBuf>, port: u16) -> io::Result<StdStream> {
    if let Some(path) = netns {
        let file = File::open(path)?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
    }
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    StdStream::connect_timeout(&address, Duration::from_secs(5))
}
