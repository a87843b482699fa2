//! Talks to an agent over any byte stream: its Unix socket here, a port-forward in a cluster.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::VERSION;
use crate::agent::{
    ApiFailure, Clock, HandoverRequest, SKIP, SOCKET_NAME, Status, Unknown, WindowQuery,
};
use crate::exit::Usage;

/// How long an agent may take to answer anything but a window.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection that is gone may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A connection to an agent, over whatever carries bytes.
pub(crate) struct Session {
    requests: SendRequest<Full<Bytes>>,
    /// Ends with the stream, and knows why. None once it was asked.
    connection: Option<JoinHandle<hyper::Result<()>>>,
}

impl Session {
    /// Greets the agent at the other end.
    pub(crate) async fn over<S>(stream: S) -> anyhow::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let greeted = http1::handshake(TokioIo::new(stream)).await;
        let (requests, connection) = greeted.context("greet the recorder")?;
        Ok(Self { requests, connection: Some(tokio::spawn(connection)) })
    }

    /// The agent's clock.
    pub(crate) async fn clock(&mut self) -> anyhow::Result<Clock> {
        self.get("/v1/clock").await
    }

    /// What the agent says of itself.
    pub(crate) async fn status(&mut self) -> anyhow::Result<Status> {
        self.get("/v1/status").await
    }

    /// Asks the agent for its data directory; what it says to that. The session carries nothing else from
    /// then on.
    pub(crate) async fn hand_over(mut self, request: &HandoverRequest) -> anyhow::Result<Words> {
        let body = serde_json::to_vec(request).context("write the request")?;
        let response = self.request(Method::POST, "/v1/handover", &[], body.into()).await?;
        Ok(Words { body: response.into_body(), read: Vec::new(), _session: self })
    }

    /// Tells an agent that its data directory has been taken over.
    pub(crate) async fn taken(&mut self) -> anyhow::Result<()> {
        self.exchange(Method::POST, "/v1/handover/taken", Bytes::new()).await
    }

    /// What the agent answers to a request for something, whatever that is.
    pub(crate) async fn pass_on(mut self, path: &str) -> anyhow::Result<Response<Incoming>> {
        let request = hyper::Request::builder()
            .uri(path)
            .header("host", "kuberewind")
            .body(Full::new(Bytes::new()))
            .context("write the request")?;
        let answer = async {
            self.requests.ready().await?;
            self.requests.send_request(request).await
        };
        answer.await.context("the recorder did not answer")
    }

    /// Ends the agent's recording and deletes it from its node.
    pub(crate) async fn erase(&mut self) -> anyhow::Result<()> {
        self.exchange(Method::POST, "/v1/erase", Bytes::new()).await
    }

    /// The window as the agent sends it (see `kuberewind_export::wire`). The session carries nothing
    /// else from then on.
    pub(crate) async fn window(self, query: &WindowQuery) -> anyhow::Result<Incoming> {
        Ok(self.rest_of_window(query, 0).await?.1)
    }

    /// As [`Self::window`], without its first `known` bytes where the agent can leave them out; how many
    /// are.
    pub(crate) async fn rest_of_window(
        mut self,
        query: &WindowQuery,
        known: u64,
    ) -> anyhow::Result<(u64, Incoming)> {
        let query = query.encode().context("write the window query")?;
        let path = format!("/v1/window?{query}");
        let headers = [(SKIP, known.to_string())];
        let response = self.request(Method::GET, &path, &headers, Bytes::new()).await?;
        let skipped = response.headers().get(SKIP).and_then(|value| value.to_str().ok());
        let skipped = skipped.and_then(|value| value.parse().ok()).unwrap_or_default();
        Ok((skipped, response.into_body()))
    }

    async fn get<T: DeserializeOwned>(&mut self, path: &str) -> anyhow::Result<T> {
        self.exchange(Method::GET, path, Bytes::new()).await
    }

    async fn send<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let body = serde_json::to_vec(body).context("write the request")?;
        self.exchange(method, path, body.into()).await
    }

    async fn exchange<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<T> {
        let response = self.request(method, path, &[], body).await?;
        let bytes = collect(response).await?;
        serde_json::from_slice(&bytes).with_context(|| match version(&bytes) {
            Some(theirs) if theirs != VERSION => {
                format!("it runs kuberewind {theirs}, whose answer to {path} {VERSION} cannot read")
            }
            _ => format!("the recorder's answer to {path} is not one of this version"),
        })
    }

    /// Sends a request; an answer that is not a success is an error with the agent's own words.
    async fn request(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let mut request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "kuberewind")
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(body)).context("write the request")?;
        let answer = async {
            // The connection is not free for the next request the moment the last answer was read.
            self.requests.ready().await?;
            self.requests.send_request(request).await
        };
        let response = match answer.await {
            Ok(response) => response,
            Err(error) => {
                return Err(self.cause_of(error).await).context("the recorder did not answer");
            }
        };
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = collect(response).await?;
        match serde_json::from_slice::<ApiFailure>(&bytes) {
            Ok(ApiFailure { unknown: Some(unknown), .. }) => bail!(Outdated(unknown)),
            Ok(ApiFailure { error, .. }) => match status {
                StatusCode::BAD_REQUEST => bail!(Usage(error)),
                StatusCode::NOT_FOUND => bail!(NothingRecorded(error)),
                StatusCode::CONFLICT => bail!(Refused(error)),
                _ => bail!(error),
            },
            Err(_) => {
                let words = String::from_utf8_lossy(&bytes);
                bail!("the recorder answered {status} to {path}: {}", words.trim())
            }
        }
    }

    /// Whoever asks is only told that the connection is gone; why, the connection knows.
    async fn cause_of(&mut self, error: hyper::Error) -> anyhow::Error {
        let is_gone = error.is_canceled() || error.is_closed();
        let Some(connection) = self.connection.take().filter(|_| is_gone) else {
            return error.into();
        };
        match timeout(LAST_WORDS, connection).await {
            Ok(Ok(Err(cause))) => cause.into(),
            Ok(Ok(Ok(()))) => {
                let kind = io::ErrorKind::UnexpectedEof;
                io::Error::new(kind, "it closed the connection").into()
            }
            Ok(Err(_)) | Err(_) => error.into(),
        }
    }
}

/// An answer that comes a line at a time.
pub(crate) struct Words {
    body: Incoming,
    read: Vec<u8>,
    _session: Session,
}

impl Words {
    /// The next line; none at the end.
    pub(crate) async fn line(&mut self) -> anyhow::Result<Option<String>> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            match self.body.frame().await {
                Some(frame) => {
                    let frame = frame.context("the recorder's answer broke off")?;
                    self.read.extend(frame.into_data().unwrap_or_default());
                }
                None if self.read.is_empty() => return Ok(None),
                None => self.read.push(b'\n'),
            }
        }
    }
}

/// What an answer says of who wrote it.
fn version(answer: &[u8]) -> Option<String> {
    let answer: serde_json::Value = serde_json::from_slice(answer).ok()?;
    answer["version"].as_str().map(str::to_owned)
}

/// An agent of another version, which does not know what it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("it runs kuberewind {}, which does not know {}", .0.version, options(&.0.parameters))]
pub(crate) struct Outdated(Unknown);

/// As the user gave them.
fn options(parameters: &[String]) -> String {
    let option = |parameter: &String| match parameter.as_str() {
        "pods" => "`--pod`".to_owned(),
        "from" => "`--time` and `--since`".to_owned(),
        "to" => "`--until`".to_owned(),
        option @ ("namespaces" | "filter" | "tls" | "follow") => format!("`--{option}`"),
        other => format!("`{other}`"),
    };
    parameters.iter().map(option).collect::<Vec<_>>().join(" and ")
}

/// An agent does not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(String);

/// All that an agent holds was asked for, and it holds nothing yet.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NothingRecorded(String);

/// One agent, reached over its Unix socket. Blocking: the command line has nothing else to do.
pub(crate) struct Client {
    runtime: Runtime,
    session: Session,
}

/// An agent is not there: nothing listens, or nothing ever did.
#[derive(Debug, thiserror::Error)]
#[error("no recorder is running on {}", dir.display())]
pub(crate) struct NotRunning {
    dir: PathBuf,
}

impl Client {
    /// Connects to the agent that records into `dir`; [`NotRunning`] where there is none.
    pub(crate) fn connect(dir: &Path) -> anyhow::Result<Self> {
        let socket = dir.join(SOCKET_NAME);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("start the client's runtime")?;
        let stream = match runtime.block_on(UnixStream::connect(&socket)) {
            Ok(stream) => stream,
            Err(error) if is_absent(&error) => bail!(NotRunning { dir: dir.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                bail!("connect to {}: permission denied; run it with sudo", socket.display())
            }
            Err(error) => {
                return Err(error).with_context(|| format!("connect to {}", socket.display()));
            }
        };
        let session = runtime.block_on(Session::over(stream))?;
        Ok(Self { runtime, session })
    }

    /// The agent's clock.
    pub(crate) fn clock(&mut self) -> anyhow::Result<Clock> {
        self.runtime.block_on(self.session.clock())
    }

    /// What the agent says of itself.
    pub(crate) fn status(&mut self) -> anyhow::Result<Status> {
        self.runtime.block_on(self.session.status())
    }

    /// Switches recording on or off, for good.
    pub(crate) fn set_recording(&mut self, recording: bool) -> anyhow::Result<()> {
        let body = serde_json::json!({ "recording": recording });
        self.runtime.block_on(self.session.send(Method::PUT, "/v1/recording", &body))
    }

    /// The agent's settings and where each came from (`Effective::to_json`).
    pub(crate) fn settings(&mut self) -> anyhow::Result<serde_json::Value> {
        self.runtime.block_on(self.session.get("/v1/settings"))
    }

    /// Lays a value tree over the agent's settings; what it answers is what now holds.
    pub(crate) fn change_settings(
        &mut self,
        changes: &serde_json::Value,
    ) -> anyhow::Result<serde_json::Value> {
        self.runtime.block_on(self.session.send(Method::PATCH, "/v1/settings", changes))
    }

    /// The window as the agent sends it (see `kuberewind_export::wire`).
    pub(crate) fn window(self, query: &WindowQuery) -> anyhow::Result<Body> {
        let incoming = self.runtime.block_on(self.session.window(query))?;
        Ok(Body { chunk: Bytes::new(), incoming, runtime: self.runtime })
    }

    /// Ends a stream that goes on.
    pub(crate) fn end_follow(&mut self, ticket: u64) -> anyhow::Result<()> {
        let path = format!("/v1/follow/{ticket}");
        self.runtime.block_on(self.session.exchange(Method::DELETE, &path, Bytes::new()))
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

async fn collect(response: Response<Incoming>) -> anyhow::Result<Bytes> {
    let body = timeout(ANSWER_TIMEOUT, response.into_body().collect()).await;
    let body = body.context("the recorder stopped in mid-answer")?;
    Ok(body.context("the recorder's answer broke off")?.to_bytes())
}

/// The bytes of a long answer, as a blocking reader.
pub(crate) struct Body {
    chunk: Bytes,
    incoming: Incoming,
    runtime: Runtime,
}

impl Read for Body {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.runtime.block_on(self.incoming.frame()) {
                None => return Ok(0),
                Some(Err(error)) => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, error));
                }
                Some(Ok(frame)) => self.chunk = frame.into_data().unwrap_or_default(),
            }
        }
        let len = out.len().min(self.chunk.len());
        out[..len].copy_from_slice(&self.chunk.split_to(len));
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadBuf, duplex};

    use crate::exit::one_line;

    use super::*;

    /// Takes whatever is written, and answers with an error.
    struct Burning;

    impl AsyncRead for Burning {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::Error::other("the cable burns")))
        }
    }

    impl AsyncWrite for Burning {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// A session whose agent gives this answer to the first request, whatever it is, and goes away.
    async fn answered(status: &str, body: &str) -> Session {
        let (ours, mut theirs) = duplex(4096);
        let len = body.len();
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {len}\r\n\r\n{body}");
        tokio::spawn(async move {
            let _ = theirs.read(&mut [0; 4096]).await;
            let _ = theirs.write_all(answer.as_bytes()).await;
        });
        Session::over(ours).await.unwrap()
    }

    #[tokio::test]
    async fn why_a_connection_broke_is_told() {
        let mut session = Session::over(Burning).await.unwrap();
        // However far the connection has come when it breaks.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        let error = one_line(&session.clock().await.unwrap_err());
        assert!(error.contains("did not answer") && error.contains("the cable burns"), "{error}");
    }

    #[tokio::test]
    async fn an_agent_that_went_away_between_two_requests_is_told_as_that() {
        let mut session = answered("200 OK", r#"{"now":"2026-11-22T21:30:00Z"}"#).await;
        session.clock().await.unwrap();
        let error = one_line(&session.clock().await.unwrap_err());
        assert!(error.contains("did not answer"), "{error}");
        assert!(error.contains("closed"), "{error}");
    }

    #[tokio::test]
    async fn an_older_agent_is_named_with_the_option_that_it_lacks() {
        let lacks = r#"{"error":"no","unknown":{"version":"0.0.9","parameters":["pods","vlan"]}}"#;
        let session = answered("400 Bad Request", lacks).await;
        let query = WindowQuery { pods: Some("a".to_owned()), ..WindowQuery::default() };
        let error = session.window(&query).await.unwrap_err();
        assert!(error.is::<Outdated>());
        let told = "it runs kuberewind 0.0.9, which does not know `--pod` and `vlan`";
        assert_eq!(error.to_string(), told);
    }

    #[tokio::test]
    async fn a_status_of_another_version_says_so() {
        let mut session = answered("200 OK", r#"{"version":"0.0.9"}"#).await;
        let error = one_line(&session.status().await.unwrap_err());
        assert!(error.starts_with("it runs kuberewind 0.0.9, whose answer"), "{error}");
    }
}
