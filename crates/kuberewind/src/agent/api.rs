//! The agent's API: HTTP over its Unix socket, and in a pod over its loopback. On the pod's address only
//! the probes and the metrics are served.

use std::collections::HashSet;
use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, Method, Request as HttpRequest, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use kuberewind_packet::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::duty::{Answer, Duty, Orders, Wish};
use super::handover::Request;
use super::query::QueryError;
use super::recorder::{Recorder, RecorderError};
use super::{Health, SOCKET_NAME, Status, Wanted, WindowQuery, metrics};
use crate::client::Session;

/// Windows that may leave at the same time; each holds a few chunks in memory.
const MAX_WINDOWS: usize = 4;

/// Blocks of a window between the reader's thread and the socket; when full the reader waits.
const BODY_QUEUE: usize = 4;

/// A header by which an asker whose stream broke says how many bytes of the same answer he has, and the
/// answer, that these are left out of it. Which bytes they were the stream's own hashes prove.
pub(crate) const SKIP: &str = "kuberewind-skip";

/// What is handed to the socket at once.
const BLOCK: usize = 256 << 10;

/// How long an agent that has given its directory away looks for the one that has it, and how often.
const ELSEWHERE_BY: Duration = Duration::from_secs(8);
const ELSEWHERE_AGAIN: Duration = Duration::from_millis(20);

/// The agent's clock: the end of a window is taken from it, never from the asking machine.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Clock {
    pub(crate) now: Timestamp,
}

/// What `PUT /v1/recording` takes and answers.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Recording {
    pub(crate) recording: bool,
}

/// Why a request was not served, in words for the user.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ApiFailure {
    pub(crate) error: String,
    /// Set where the question was of another version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unknown: Option<Unknown>,
}

/// What an agent was asked for and does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unknown {
    /// The agent's version.
    pub(crate) version: String,
    /// By the names of the request.
    pub(crate) parameters: Vec<String>,
}

#[derive(Clone)]
struct Agent {
    duty: Arc<Duty>,
    windows: Arc<Semaphore>,
    follows: Follows,
}

/// The streams that go on until they are told to end, by the number that the asker chose.
#[derive(Clone, Default)]
struct Follows(Arc<Mutex<HashSet<u64>>>);

impl Follows {
    fn lock(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Agent {
    fn new(duty: Arc<Duty>) -> Self {
        Self { duty, windows: Arc::new(Semaphore::new(MAX_WINDOWS)), follows: Follows::default() }
    }

    fn recorder(&self) -> Result<Arc<Recorder>, Failure> {
        self.duty.recorder().map_err(Failure::unavailable)
    }

    /// The recorder, for who wants to tell it what to do.
    fn recorder_to_order(&self) -> Result<Arc<Recorder>, Failure> {
        match self.duty.orders() {
            Orders::Api => self.recorder(),
            Orders::ConfigMap { .. } => Err(Failure::not_here()),
        }
    }
}

/// What every listener serves: nothing in it names a pod or an address.
fn public() -> Router<Agent> {
    Router::new()
        .route("/metrics", get(metrics_text))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
}

/// The routes of a pod's own address.
pub(crate) fn public_router(duty: Arc<Duty>) -> Router {
    public().with_state(Agent::new(duty))
}

/// The routes of the data directory's socket.
pub(crate) fn socket_router(duty: Arc<Duty>) -> Router {
    routes()
        .route("/v1/handover", post(hand_over))
        .route("/v1/handover/taken", post(taken))
        .with_state(Agent::new(duty))
}

/// The routes of the API. What is asked of an agent whose directory another one of its node has is asked
/// of that one.
pub(crate) fn router(duty: Arc<Duty>) -> Router {
    let agent = Agent::new(duty);
    let elsewhere = from_fn_with_state(agent.clone(), elsewhere);
    routes().layer(elsewhere).with_state(agent)
}

fn routes() -> Router<Agent> {
    public()
        .route("/v1/clock", get(clock))
        .route("/v1/status", get(status))
        .route("/v1/recording", put(set_recording))
        .route("/v1/erase", post(erase))
        .route("/v1/settings", get(settings).patch(change_settings))
        .route("/v1/window", get(window))
        .route("/v1/follow/{ticket}", delete(end_follow))
}

async fn clock() -> Json<Clock> {
    Json(Clock { now: Timestamp::now() })
}

async fn status(State(agent): State<Agent>) -> Result<Json<Status>, Failure> {
    let recorder = agent.recorder()?;
    Ok(Json(blocking(move || recorder.status()).await?))
}

async fn set_recording(
    State(agent): State<Agent>,
    Json(Recording { recording }): Json<Recording>,
) -> Result<Json<()>, Failure> {
    let recorder = agent.recorder_to_order()?;
    blocking(move || recorder.switch(recording)).await?;
    Ok(Json(()))
}

/// `clean` asks for it, once recording is switched off: nothing of it stays on the node.
async fn erase(State(agent): State<Agent>) -> Result<Json<()>, Failure> {
    match agent.duty.orders() {
        Orders::Api => {
            let recorder = agent.recorder()?;
            blocking(move || recorder.erase()).await?;
        }
        Orders::ConfigMap { wishes, .. } => pass_on(wishes, Wish::Erase).await?,
    }
    Ok(Json(()))
}

async fn settings(State(agent): State<Agent>) -> Result<Json<serde_json::Value>, Failure> {
    Ok(Json(agent.recorder()?.settings()))
}

async fn change_settings(
    State(agent): State<Agent>,
    Json(changes): Json<serde_json::Value>,
) -> Result<Json<serde_json::Value>, Failure> {
    let recorder = agent.recorder_to_order()?;
    Ok(Json(blocking(move || recorder.change_settings(&changes)).await?))
}

/// Whatever it does, it answers: this is also how the kubelet sees that the process lives.
async fn metrics_text(State(agent): State<Agent>) -> Result<Response, Failure> {
    let status = match agent.recorder() {
        Ok(recorder) => blocking(move || recorder.status()).await.ok(),
        Err(_) => None,
    };
    let text = metrics::encode(status.as_ref());
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn healthz(State(agent): State<Agent>) -> Result<Response, Failure> {
    let recorder = agent.recorder()?;
    Ok(probe(&blocking(move || recorder.status()).await?.health()))
}

/// Who stands by is ready, so that nobody removes it before the other one is.
async fn readyz(State(agent): State<Agent>) -> Result<Response, Failure> {
    if let Some(why) = agent.duty.stands_by() {
        return Ok(format!("ok: {why}\n").into_response());
    }
    let recorder = agent.recorder()?;
    Ok(probe(&blocking(move || recorder.readiness()).await?))
}

fn probe(health: &Health) -> Response {
    match health {
        Health::Ok => "ok\n".into_response(),
        Health::Failing(reason) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
        }
    }
}

/// Gives the data directory to the next agent of this node. The answer goes on until that one has it: while
/// it is being read, the next agent is alive.
async fn hand_over(
    State(agent): State<Agent>,
    Json(request): Json<Request>,
) -> Result<Response, Failure> {
    let Orders::ConfigMap { wishes, .. } = agent.duty.orders() else {
        return Err(Failure::refused(
            "`kuberewind tap --local` records here, and is not taken over: stop it first".into(),
        ));
    };
    let is_older = request.from.is_none();
    // agent --words--> the next one; each finds room.
    let (words, said) = mpsc::channel(4);
    pass_on(wishes, Wish::HandOver(request, words)).await?;
    if is_older {
        return Ok(Json(()).into_response());
    }
    Ok(Body::from_stream(Blocks { first: None, rest: said }).into_response())
}

/// The next agent has the data directory.
async fn taken(State(agent): State<Agent>) -> Result<Json<()>, Failure> {
    if let Orders::ConfigMap { wishes, .. } = agent.duty.orders() {
        pass_on(wishes, Wish::Taken).await?;
    }
    Ok(Json(()))
}

/// Whether a question is for whoever has the data directory.
fn is_of_the_recording(request: &HttpRequest<Body>) -> bool {
    let paths = ["/v1/status", "/v1/window", "/v1/settings"];
    request.method() == Method::GET && paths.contains(&request.uri().path())
}

async fn elsewhere(State(agent): State<Agent>, request: HttpRequest<Body>, next: Next) -> Response {
    let Orders::ConfigMap { dir, .. } = agent.duty.orders() else { return next.run(request).await };
    if !is_of_the_recording(&request) {
        return next.run(request).await;
    }
    let uri = request.uri().to_string();
    let failed = if agent.duty.is_elsewhere() {
        None
    } else {
        let response = next.run(request).await;
        if response.extensions().get::<AskElsewhere>().is_none() {
            return response;
        }
        Some(response)
    };
    match ask_elsewhere(dir, &uri).await {
        Ok(response) => response,
        Err(error) => failed.unwrap_or_else(|| {
            let why = agent.duty.recorder().err().unwrap_or_default();
            Failure::unavailable(format!("{why}: {error:#}")).into_response()
        }),
    }
}

/// Marks an answer of who has given its directory away.
#[derive(Clone, Copy)]
struct AskElsewhere;

/// Between two who have a directory nobody has it, for a moment.
async fn ask_elsewhere(dir: &std::path::Path, uri: &str) -> anyhow::Result<Response> {
    let deadline = Instant::now() + ELSEWHERE_BY;
    loop {
        let asked = async {
            let stream = UnixStream::connect(dir.join(SOCKET_NAME)).await?;
            Session::over(stream).await?.pass_on(uri).await
        };
        let error = match asked.await {
            Ok(answer) if answer.status() != StatusCode::SERVICE_UNAVAILABLE => {
                return Ok(answer.map(Body::new));
            }
            Ok(answer) => {
                anyhow::anyhow!("the agent that has the directory says {}", answer.status())
            }
            Err(error) => error,
        };
        if Instant::now() > deadline {
            return Err(error);
        }
        tokio::time::sleep(ELSEWHERE_AGAIN).await;
    }
}

/// Tells the agent what is wanted, and waits until it is done.
async fn pass_on(wishes: &mpsc::Sender<(Wish, Answer)>, wish: Wish) -> Result<(), Failure> {
    let (answer, answered) = oneshot::channel();
    let _ = wishes.send((wish, answer)).await;
    match answered.await {
        Ok(done) => done.map_err(Failure::refused),
        Err(_) => Err(Failure::stopping()),
    }
}

/// Sends the window once it is settled. What goes wrong before the first byte is an answer in words;
/// what goes wrong after it ends the stream without its end mark, which the other side takes for what
/// it is.
async fn window(
    State(agent): State<Agent>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let query = WindowQuery::parse(&query.unwrap_or_default())?;
    let skip = if query.follow.is_none() { skip(&headers) } else { 0 };
    let wanted = Wanted::compile(&query).map_err(RecorderError::from)?;
    let recorder = agent.recorder()?;
    let Ok(permit) = agent.windows.clone().acquire_owned().await else {
        return Err(Failure::stopping());
    };
    let (blocks, mut body) = mpsc::channel(BODY_QUEUE);
    let sending = tokio::task::spawn_blocking(move || {
        let sent_bytes = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&sent_bytes);
        let out = BufWriter::with_capacity(BLOCK, BodyWriter { blocks, counted, skip });
        let ticket = query.follow;
        agent.follows.lock().extend(ticket);
        let goes_on = || ticket.is_some_and(|ticket| agent.follows.lock().contains(&ticket));
        let sent = recorder.send(&query, &wanted, goes_on, out);
        ticket.map(|ticket| agent.follows.lock().remove(&ticket));
        drop(permit);
        audit(&query, sent_bytes.load(Ordering::Relaxed), sent.is_ok());
        sent
    });
    let Some(first) = body.recv().await else {
        return Err(match sending.await {
            Ok(Err(error)) => error.into(),
            _ => Failure::stopping(),
        });
    };
    tokio::spawn(async {
        if let Ok(Err(error)) = sending.await {
            tracing::debug!("window not sent to its end: {error}");
        }
    });
    let body = Body::from_stream(Blocks { first: Some(first), rest: body });
    Ok(([(SKIP, skip.to_string())], body).into_response())
}

fn skip(headers: &HeaderMap) -> u64 {
    let value = headers.get(SKIP).and_then(|value| value.to_str().ok());
    value.and_then(|value| value.parse().ok()).unwrap_or_default()
}

/// One line for each export: what left, for whom, without what was not asked for. What the asker wrote
/// is quoted.
fn audit(query: &WindowQuery, bytes: u64, whole: bool) {
    let WindowQuery { from, to, filter, pods, namespaces, tls, user, .. } = query;
    let time = |at: &Option<Timestamp>| at.map(|at| at.to_string());
    tracing::info!(
        from = time(from).as_deref(),
        to = time(to).as_deref(),
        filter = filter.as_deref(),
        pods = pods.as_deref(),
        namespaces = namespaces.as_deref(),
        tls,
        bytes,
        whole,
        claimed_user = user.as_deref(),
        "exported"
    );
}

/// Lets a stream that goes on end in good order.
async fn end_follow(State(agent): State<Agent>, Path(ticket): Path<u64>) -> Json<()> {
    agent.follows.lock().remove(&ticket);
    Json(())
}

/// reader's thread --blocks--> socket; when full the reader waits: the disk is patient.
struct BodyWriter {
    blocks: mpsc::Sender<Bytes>,
    counted: Arc<AtomicU64>,
    /// Bytes that the asker has.
    skip: u64,
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.skip > 0 {
            let known = bytes.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            self.skip -= known as u64;
            return self.flush().map(|()| known);
        }
        self.blocks.blocking_send(Bytes::copy_from_slice(bytes)).map_err(|_| hung_up())?;
        self.counted.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes.len())
    }

    /// Nothing is kept back here; but who follows a quiet network is to be let go when he hangs up.
    fn flush(&mut self) -> io::Result<()> {
        if self.blocks.is_closed() { Err(hung_up()) } else { Ok(()) }
    }
}

fn hung_up() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the other side hung up")
}

/// The blocks as axum wants them.
struct Blocks {
    first: Option<Bytes>,
    rest: mpsc::Receiver<Bytes>,
}

impl futures_core::Stream for Blocks {
    type Item = io::Result<Bytes>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        match self.first.take() {
            Some(first) => std::task::Poll::Ready(Some(Ok(first))),
            None => self.rest.poll_recv(context).map(|block| block.map(Ok)),
        }
    }
}

/// Runs what waits for threads or the disk away from the socket's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RecorderError> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Failure::from),
        Err(_) => Err(Failure::stopping()),
    }
}

/// An answer that is not a success.
struct Failure {
    status: StatusCode,
    message: String,
    unknown: Option<Unknown>,
    /// Another agent of the node may know better.
    elsewhere: bool,
}

impl Failure {
    fn stopping() -> Self {
        Self::unavailable("the recorder is stopping".to_owned())
    }

    fn of(status: StatusCode, message: String) -> Self {
        Self { status, message, unknown: None, elsewhere: false }
    }

    fn unavailable(message: String) -> Self {
        Self::of(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    fn refused(message: String) -> Self {
        Self::of(StatusCode::CONFLICT, message)
    }

    fn not_here() -> Self {
        Self::refused(
            "a cluster's agent does as its ConfigMap says: `kuberewind tap --set` and `kuberewind \
             pcapdump stop|start` change that"
                .to_owned(),
        )
    }
}

impl From<RecorderError> for Failure {
    fn from(error: RecorderError) -> Self {
        let status = match error {
            _ if error.is_usage() => StatusCode::BAD_REQUEST,
            RecorderError::Empty(_) => StatusCode::NOT_FOUND,
            RecorderError::HandedOver | RecorderError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let elsewhere = matches!(error, RecorderError::HandedOver | RecorderError::Stopping);
        Self { elsewhere, ..Self::of(status, error.to_string()) }
    }
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        let failure = Self::of(StatusCode::BAD_REQUEST, error.to_string());
        match error {
            QueryError::Unknown(unknown) => Self { unknown: Some(unknown), ..failure },
            QueryError::Malformed(_) => failure,
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self { status, message, unknown, elsewhere } = self;
        let mut response = (status, Json(ApiFailure { error: message, unknown })).into_response();
        if elsewhere {
            response.extensions_mut().insert(AskElsewhere);
        }
        response
    }
}
