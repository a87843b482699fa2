//! One stream to a port of a pod's loopback, through the API server.
//!
//! The upgraded WebSocket is used raw: kube's own port-forward copies through two channels and a
//! duplex pipe, and ends them alike whether the peer said goodbye or the connection broke.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{Sink, Stream};
use http::{Request, header::ACCEPT};
use kube::client::Client;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Bytes, Message, protocol::frame::coding::CloseCode},
};

use crate::{
    Access,
    access::right,
    error::{ClusterError, Right},
};

/// `v4.channel.k8s.io`: the first port's data.
const DATA: u8 = 0;

/// Its errors.
const ERROR: u8 = 1;

/// Largest data frame that we send: the API server reads whole frames.
const LARGEST: usize = 32 * 1024;

/// How patient a [`Forward`] is.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the session to be opened.
    pub connect: Duration,
    /// For the next bytes, once somebody reads. A peer that vanished sends no end.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { connect: Duration::from_secs(30), silence: Duration::from_mins(1) }
    }
}

/// The rights that port-forwards take: over WebSocket the server asks for both verbs, and does not
/// say which one is missing.
pub fn rights(namespace: &str) -> [Right; 2] {
    ["get", "create"].map(|verb| right(verb, "", "pods/portforward", Some(namespace)))
}

/// Asks beforehand whether we may port-forward in a namespace.
///
/// # Errors
/// [`ClusterError::Forbidden`] names the first right that is missing.
pub async fn review(access: &Access, namespace: &str) -> Result<(), ClusterError> {
    match access.missing(&rights(namespace)).await?.into_iter().next() {
        None => Ok(()),
        Some(right) => Err(ClusterError::Forbidden {
            doing: format!("reach the agents in namespace {namespace}"),
            right: Box::new(right),
            message: String::new(),
        }),
    }
}

/// Opens a session to a port of a pod.
///
/// A session carries one connection. It ends with EOF both when the pod's process closed and when it
/// died: what is sent must have an end mark of its own.
///
/// # Errors
/// [`ClusterError`] when the session is refused; that nothing listens on the port is an error of the
/// first read.
pub async fn connect(
    access: &Access,
    namespace: &str,
    pod: &str,
    port: u16,
    patience: Patience,
) -> Result<Forward, ClusterError> {
    let doing = format!("forward port {port} of pod {namespace}/{pod}");
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/portforward?ports={port}");
    // Any other Accept is answered 406.
    let request = Request::get(path).header(ACCEPT, "*/*").body(Vec::new());
    let request = request.map_err(|error| ClusterError::Answer {
        doing: doing.clone(),
        source: Box::new(kube::Error::HttpError(error)),
    })?;
    let opened = timeout(patience.connect, open(access.client(), request)).await;
    match opened {
        Err(_) => Err(ClusterError::Slow { doing, seconds: patience.connect.as_secs() }),
        Ok(Err(error)) => {
            let [_, create] = rights(namespace);
            let needed = match &error {
                kube::Error::Api(status) if status.message.contains("cannot get") => {
                    right("get", "", "pods/portforward", Some(namespace))
                }
                _ => create,
            };
            Err(access.explain(&doing, needed, error))
        }
        Ok(Ok(socket)) => Ok(Forward::new(socket, port, patience.silence)),
    }
}

type Socket = Box<dyn Duplex>;

/// A WebSocket, whatever it runs on.
trait Duplex:
    Stream<Item = Result<Message, tungstenite::Error>>
    + Sink<Message, Error = tungstenite::Error>
    + Send
    + Unpin
{
}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for WebSocketStream<T> {}

async fn open(client: &Client, request: Request<Vec<u8>>) -> Result<Socket, kube::Error> {
    let connection = client.connect(request).await?;
    Ok(Box::new(connection.into_stream()))
}

/// What the session is like from reading's point of view.
#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// Each channel first sends the port's number.
    Greeting {
        data: bool,
        error: bool,
    },
    Open,
    /// Close 1000.
    Ended,
}

/// A stream to a port of a pod.
///
/// There is no half-close: shutting it down ends the whole session.
pub struct Forward {
    socket: Socket,
    port: u16,
    phase: Phase,
    unread: Bytes,
    silence: Duration,
    alarm: Pin<Box<Sleep>>,
    waiting: bool,
}

impl std::fmt::Debug for Forward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forward")
            .field("port", &self.port)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

impl Forward {
    fn new(socket: Socket, port: u16, silence: Duration) -> Self {
        Self {
            socket,
            port,
            phase: Phase::Greeting { data: false, error: false },
            unread: Bytes::new(),
            silence,
            alarm: Box::pin(sleep(silence)),
            waiting: false,
        }
    }

    /// Takes one message in. An error on the error channel is the reader's.
    fn take(&mut self, message: Message) -> io::Result<()> {
        match message {
            Message::Binary(frame) => self.take_frame(&frame),
            Message::Close(close) => match close {
                Some(close) if close.code != CloseCode::Normal => Err(io::Error::new(
                    io::ErrorKind::ConnectionAborted,
                    format!("the API server closed the session: {} {}", close.code, close.reason),
                )),
                _ => {
                    self.phase = Phase::Ended;
                    Ok(())
                }
            },
            // Pings are answered by tungstenite; texts belong to another protocol.
            _ => Ok(()),
        }
    }

    fn take_frame(&mut self, frame: &Bytes) -> io::Result<()> {
        let Some(&channel) = frame.first() else {
            return Ok(());
        };
        let rest = frame.slice(1..);
        let greeted = match (&mut self.phase, channel) {
            (Phase::Greeting { data, .. }, DATA) => std::mem::replace(data, true),
            (Phase::Greeting { error, .. }, ERROR) => std::mem::replace(error, true),
            _ => true,
        };
        if self.phase == (Phase::Greeting { data: true, error: true }) {
            self.phase = Phase::Open;
        }
        match channel {
            DATA | ERROR if !greeted => self.check_greeting(&rest),
            DATA => {
                self.unread = rest;
                Ok(())
            }
            ERROR => Err(io::Error::new(
                io::ErrorKind::ConnectionRefused,
                String::from_utf8_lossy(&rest).trim().to_owned(),
            )),
            other => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the API server sent data on channel {other}"),
            )),
        }
    }

    fn check_greeting(&self, greeting: &[u8]) -> io::Result<()> {
        if greeting == self.port.to_le_bytes() {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the API server greets with {greeting:02x?} instead of port {}", self.port),
        ))
    }

    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if !self.waiting {
            self.waiting = true;
            self.alarm.as_mut().reset(Instant::now() + self.silence);
        }
        ready!(self.alarm.as_mut().poll(cx));
        let seconds = self.silence.as_secs_f32();
        Poll::Ready(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("nothing came for {seconds} s"),
        ))
    }
}

fn broken(error: tungstenite::Error) -> io::Error {
    use tungstenite::error::{Error, ProtocolError};
    match error {
        Error::Io(error) => error,
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)
        | Error::ConnectionClosed
        | Error::AlreadyClosed => cut_off(),
        error => io::Error::other(error),
    }
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection to the API server broke off")
}

impl AsyncRead for Forward {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.unread.is_empty() {
                this.waiting = false;
                let length = this.unread.len().min(buffer.remaining());
                buffer.put_slice(&this.unread.split_to(length));
                return Poll::Ready(Ok(()));
            }
            if this.phase == Phase::Ended {
                return Poll::Ready(Ok(()));
            }
            match Pin::new(&mut this.socket).poll_next(cx) {
                Poll::Ready(Some(Ok(message))) => this.take(message)?,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(broken(error))),
                Poll::Ready(None) => return Poll::Ready(Err(cut_off())),
                Poll::Pending => return this.poll_alarm(cx).map(Err),
            }
        }
    }
}

impl AsyncWrite for Forward {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(broken)?;
        let length = bytes.len().min(LARGEST);
        let mut frame = Vec::with_capacity(length + 1);
        frame.push(DATA);
        frame.extend_from_slice(&bytes[..length]);
        Pin::new(&mut self.socket).start_send(Message::binary(frame)).map_err(broken)?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(broken)
    }
}
