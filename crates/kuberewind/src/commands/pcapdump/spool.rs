//! One node's window on its way: into a nameless file, checked as it comes.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use kuberewind_export::wire::{Received, WireError};
use kuberewind_export::{Survey, SurveyLimits};
use kuberewind_packet::pcapng::PacketBlock;
use kuberewind_packet::{Interface, PacketStream, Span, Timestamp, WindowAccount};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Why a window did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpoolError {
    /// The stream broke, or is not what a node sends.
    #[error(transparent)]
    Stream(#[from] WireError),
    /// The file cannot be written.
    #[error("{0}")]
    File(#[source] io::Error),
    /// The user does not want it any more.
    #[error("stopped on request")]
    Stopped,
}

/// How far a window has come, for who watches.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    /// Bytes of the stream.
    pub(super) bytes: AtomicU64,
    /// The newest packet's time in nanoseconds.
    pub(super) newest: AtomicU64,
    /// Nothing more will come, for better or worse.
    pub(super) done: AtomicBool,
}

/// A window, or the first part of one, in a file that nobody else sees.
#[derive(Debug)]
pub(super) struct Spool {
    file: File,
    /// Packets that were found whole.
    pub(super) packets: u64,
    /// What was found in them, where that is wanted.
    survey: Option<Survey>,
}

/// Takes in what comes, whole or not; waits for it, so it wants a thread of its own.
pub(super) fn take_in(
    body: Incoming,
    runtime: Handle,
    dir: &Path,
    arrived: Arc<Arrived>,
    stop: watch::Receiver<bool>,
    survey: Option<SurveyLimits>,
) -> (Option<Spool>, Result<(), SpoolError>) {
    let file = match tempfile::tempfile_in(dir) {
        Ok(file) => file,
        Err(error) => return (None, Err(SpoolError::File(error))),
    };
    let mut tee = Tee { body, runtime, stop, arrived, chunk: Bytes::new(), file, failed: None };
    let mut packets = 0;
    let mut survey = survey.map(|limits| Survey::new(limits, dir));
    let checked = check(&mut tee, &mut packets, survey.as_mut());
    let Tee { file, failed, .. } = tee;
    let spool = Spool { file, packets, survey };
    (Some(spool), failed.map_or(checked.map_err(SpoolError::Stream), Err))
}

/// Reads a stream to its end mark.
fn check(
    tee: &mut Tee,
    packets: &mut u64,
    mut survey: Option<&mut Survey>,
) -> Result<(), WireError> {
    let arrived = Arc::clone(&tee.arrived);
    let mut stream = Received::open(tee)?;
    let ended = loop {
        match stream.advance() {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
        *packets += 1;
        let packet = stream.packet();
        arrived.newest.store(packet.timestamp.as_nanos(), Ordering::Relaxed);
        if let Some(survey) = &mut survey {
            survey.see(&packet);
        }
    };
    if let Some(survey) = survey {
        survey.end(stream.interfaces(), ended.is_ok().then(|| stream.account()));
    }
    ended
}

/// network --frames--> whoever checks them, and the file. Not read when the disk is slow: the node
/// waits.
struct Tee {
    body: Incoming,
    runtime: Handle,
    stop: watch::Receiver<bool>,
    arrived: Arc<Arrived>,
    chunk: Bytes,
    file: File,
    /// What went wrong on this side.
    failed: Option<SpoolError>,
}

impl Tee {
    fn fail(&mut self, error: SpoolError) -> io::Error {
        let text = error.to_string();
        self.failed = Some(error);
        io::Error::other(text)
    }

    /// The next bytes; none at the end.
    fn next(&mut self) -> io::Result<Bytes> {
        let (body, stop) = (&mut self.body, &mut self.stop);
        let frame = self.runtime.block_on(async {
            tokio::select! {
                frame = body.frame() => Some(frame),
                _ = stop.wait_for(|stopped| *stopped) => None,
            }
        });
        match frame {
            None => Err(self.fail(SpoolError::Stopped)),
            Some(None) => Ok(Bytes::new()),
            Some(Some(Err(error))) => Err(broken(error)),
            Some(Some(Ok(frame))) => Ok(frame.into_data().unwrap_or_default()),
        }
    }
}

/// What broke, rather than that something did: the reason is at the end of the chain.
fn broken(error: hyper::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, error)
}

impl Read for Tee {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.chunk.is_empty() {
            self.chunk = self.next()?;
            self.arrived.bytes.fetch_add(self.chunk.len() as u64, Ordering::Relaxed);
            if let Err(error) = self.file.write_all(&self.chunk) {
                return Err(self.fail(SpoolError::File(error)));
            }
        }
        let len = out.len().min(self.chunk.len());
        out[..len].copy_from_slice(&self.chunk.split_to(len));
        Ok(len)
    }
}

/// What came of a node's window.
pub(super) struct Fetched {
    stream: Option<Received<BufReader<File>>>,
    account: WindowAccount,
    /// Why it is not whole.
    failure: Option<Broken>,
    survey: Option<Survey>,
}

/// Why a node's packets are not all there.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Broken(pub(super) String);

impl Fetched {
    /// A spool, read from its start; `failure` tells why it is only the first part of the window.
    pub(super) fn from_spool(mut spool: Spool, failure: Option<String>) -> Result<Self, WireError> {
        spool.file.seek(SeekFrom::Start(0))?;
        let stream = Received::open(BufReader::with_capacity(8 << 10, spool.file))?;
        let account = WindowAccount::new(String::new(), Span::ALL);
        let (stream, failure) = (Some(stream), failure.map(Broken));
        Ok(Self { stream, account, failure, survey: spool.survey })
    }

    /// What was found in it.
    pub(super) fn take_survey(&mut self) -> Option<Survey> {
        self.survey.take()
    }

    /// Why it is not whole.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_ref().map(|broken| broken.0.as_str())
    }

    /// Of a node that holds nothing at all.
    pub(super) fn nothing(node: String, to: Timestamp) -> Self {
        let account = WindowAccount::new(node, Span::new(to, to));
        Self { stream: None, account, failure: None, survey: None }
    }
}

impl PacketStream for Fetched {
    type Error = Broken;

    fn advance(&mut self) -> Result<bool, Broken> {
        let Some(stream) = &mut self.stream else { return Ok(false) };
        match stream.advance() {
            Ok(more) => Ok(more),
            Err(error) => Err(self.failure.take().unwrap_or_else(|| Broken(error.to_string()))),
        }
    }

    fn packet(&self) -> PacketBlock<'_> {
        match &self.stream {
            Some(stream) => stream.packet(),
            None => {
                PacketBlock { interface: 0, timestamp: Timestamp::MIN, original_len: 0, data: &[] }
            }
        }
    }

    fn interfaces(&self) -> &[Interface] {
        self.stream.as_ref().map_or(&[], |stream| stream.interfaces())
    }

    fn take_key_log(&mut self) -> Vec<u8> {
        self.stream.as_mut().map(PacketStream::take_key_log).unwrap_or_default()
    }

    fn account(&self) -> &WindowAccount {
        self.stream.as_ref().map_or(&self.account, |stream| stream.account())
    }
}
