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

use crate::agent::{ApiFailure, Clock, HandoverRequest, SOCKET_NAME, Status, WindowQuery};
use crate::exit::Usage;

/// How long an agent may take to answer anything but a window.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to an agent, over whatever carries bytes.
pub(crate) struct Session {
    requests: SendRequest<Full<Bytes>>,
}

impl Session {
    /// Greets the agent at the other end.
    pub(crate) async fn over<S>(stream: S) -> anyhow::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let greeted = http1::handshake(TokioIo::new(stream)).await;
        let (requests, connection) = greeted.context("greet the recorder")?;
        // The connection ends with the stream; whoever waits for an answer is told then.
        tokio::spawn(connection);
        Ok(Self { requests })
    }

    /// The agent's clock.
    pub(crate) async fn clock(&mut self) -> anyhow::Result<Clock> {
        self.get("/v1/clock").await
    }

    /// What the agent says of itself.
    pub(crate) async fn status(&mut self) -> anyhow::Result<Status> {
        self.get("/v1/status").await
    }

    /// Asks the agent for its data directory. Returns once it has let go.
    pub(crate) async fn hand_over(&mut self, request: &HandoverRequest) -> anyhow::Result<()> {
        self.send(Method::POST, "/v1/handover", request).await
    }

    /// Ends the agent's recording and deletes it from its node.
    pub(crate) async fn erase(&mut self) -> anyhow::Result<()> {
        self.exchange(Method::POST, "/v1/erase", Bytes::new()).await
    }

    /// The window as the agent sends it (see `kuberewind_export::wire`). The session carries nothing
    /// else from then on.
    pub(crate) async fn window(mut self, query: &WindowQuery) -> anyhow::Result<Incoming> {
        let query = serde_urlencoded::to_string(query).context("write the window query")?;
        let response =
            self.request(Method::GET, &format!("/v1/window?{query}"), Bytes::new()).await?;
        Ok(response.into_body())
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
        let response = self.request(method, path, body).await?;
        let bytes = collect(response).await?;
        serde_json::from_slice(&bytes)
            .with_context(|| format!("the recorder's answer to {path} is not one of this version"))
    }

    /// Sends a request; an answer that is not a success is an error with the agent's own words.
    async fn request(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "kuberewind")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .context("write the request")?;
        let answer = async {
            // The connection is not free for the next request the moment the last answer was read.
            self.requests.ready().await?;
            self.requests.send_request(request).await
        };
        let response = answer.await.context("the recorder did not answer")?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = collect(response).await?;
        match serde_json::from_slice::<ApiFailure>(&bytes) {
            Ok(ApiFailure { error }) if status == StatusCode::BAD_REQUEST => bail!(Usage(error)),
            Ok(ApiFailure { error }) if status == StatusCode::NOT_FOUND => {
                bail!(NothingRecorded(error))
            }
            Ok(ApiFailure { error }) => bail!(error),
            Err(_) => bail!("the recorder answered {status} to {path}"),
        }
    }
}

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
    let body = tokio::time::timeout(ANSWER_TIMEOUT, response.into_body().collect()).await;
    let body = body.context("the recorder stopped in mid-answer")?;
    Ok(body.context("read the recorder's answer")?.to_bytes())
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
