//! One node's window on its way: into a nameless file, checked as it comes.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use kuberewind_export::Survey;
use kuberewind_export::wire::{Received, WireError};
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
    /// Bytes of the stream in it.
    bytes: u64,
    /// Whether they are right as far as they go, so that the rest may follow.
    can_go_on: bool,
    /// Packets that were found whole.
    pub(super) packets: u64,
    /// What was found in them, where that is wanted.
    survey: Option<Survey>,
}

/// Where a window is put, and what came of it before.
pub(super) struct Into {
    file: File,
    /// What is in the file already.
    known: u64,
}

impl Into {
    /// An empty file in `dir`.
    pub(super) fn new(dir: &Path) -> Result<Self, SpoolError> {
        let file = tempfile::tempfile_in(dir).map_err(SpoolError::File)?;
        Ok(Self { file, known: 0 })
    }
}

impl Spool {
    /// How many bytes need not be sent again.
    pub(super) const fn known(&self) -> u64 {
        if self.can_go_on { self.bytes } else { 0 }
    }

    /// Goes on where the stream broke.
    pub(super) fn go_on(self) -> Into {
        Into { file: self.file, known: self.bytes }
    }
}

/// Takes in what comes, whole or not; waits for it, so it wants a thread of its own. What is in the file
/// already is read once more: the hash of what follows holds it, too.
pub(super) fn take_in(
    body: Incoming,
    runtime: Handle,
    Into { file, known }: Into,
    arrived: Arc<Arrived>,
    stop: watch::Receiver<bool>,
    mut survey: Option<Survey>,
) -> (Option<Spool>, Result<(), SpoolError>) {
    arrived.bytes.store(known, Ordering::Relaxed);
    let again = file.try_clone().and_then(|mut again| again.rewind().map(|()| again));
    let again = match again {
        Ok(again) => BufReader::new(again).take(known),
        Err(error) => return (None, Err(SpoolError::File(error))),
    };
    let (chunk, bytes) = (Bytes::new(), known);
    let mut tee = Tee { body, runtime, stop, arrived, chunk, file, bytes, failed: None };
    let newest = Arc::clone(&tee.arrived);
    let mut packets = 0;
    let checked = check(again.chain(&mut tee), &newest.newest, &mut packets, survey.as_mut());
    let Tee { file, bytes, failed, .. } = tee;
    let can_go_on =
        matches!(checked, Err(WireError::Io(_) | WireError::Cut { .. })) && failed.is_none();
    let spool = Spool { file, bytes, can_go_on, packets, survey };
    (Some(spool), failed.map_or(checked.map_err(SpoolError::Stream), Err))
}

/// Reads a stream to its end mark.
fn check(
    input: impl Read,
    newest: &AtomicU64,
    packets: &mut u64,
    mut survey: Option<&mut Survey>,
) -> Result<(), WireError> {
    let mut stream = Received::open(input)?;
    let ended = loop {
        match stream.advance() {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
        *packets += 1;
        let packet = stream.packet();
        newest.store(packet.timestamp.as_nanos(), Ordering::Relaxed);
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
    /// How many are in it.
    bytes: u64,
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
            // Not at the file's position: it belongs to whoever reads the first part again.
            if let Err(error) = self.file.write_all_at(&self.chunk, self.bytes) {
                return Err(self.fail(SpoolError::File(error)));
            }
            self.bytes += self.chunk.len() as u64;
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
