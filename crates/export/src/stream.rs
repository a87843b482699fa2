//! Packets into a pipe, as they come.

use std::io::{ErrorKind, Write};
use std::ops::ControlFlow;

use kuberewind_packet::PacketStream;

use crate::contents::Contents;
use crate::encode::{Encoder, Room};
use crate::export::{CHUNK, check_worth};
use crate::{Export, ExportError, Format, Input, Progress, Report};

/// When a reader is shown what has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// Before more is waited for, so that `… --follow --dest - | tshark -r -` shows packets at once.
    Live,
    /// In large pieces; the window is an end in itself.
    Whole,
}

/// Merges `inputs` into `out`, packet by packet.
///
/// A reader who goes away, and `progress` when it breaks (it is called after each write), end it
/// quietly: the report says so in a note. In pcapng the report stands in the last blocks.
pub fn write_stream<S: PacketStream, W: Write>(
    export: &Export,
    inputs: impl IntoIterator<Item = Input<S>>,
    format: Format,
    liveness: Liveness,
    out: W,
    progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Report, ExportError> {
    let mut pipe = Pipe { out, progress, chunk: Vec::new(), done: Progress::default() };
    let mut encoder = Encoder::new(format, &export.program);
    let mut contents = Contents::new(export.window, inputs, export.tls, liveness);
    encoder.begin(&mut pipe.chunk, Room::None);
    let copied = copy(&mut contents, &mut encoder, &mut pipe, liveness);

    let interfaces = contents.interfaces().to_vec();
    let mut report = export.report(contents, format);
    let ended = copied.and_then(|()| {
        encoder.end(&mut pipe.chunk, &interfaces, &report, Room::None);
        pipe.push()
    });
    report.file_bytes = pipe.done.bytes;
    match ended {
        Ok(()) if liveness == Liveness::Whole => check_worth(&report)?,
        Ok(()) => {}
        Err(Stop::Asked) => report.notes.push("stopped on request".to_owned()),
        Err(Stop::ReaderGone) => report.notes.push("the reader closed the pipe".to_owned()),
        Err(Stop::Failed(error)) => return Err(error),
    }
    Ok(report)
}

/// Why no more is written.
enum Stop {
    Asked,
    ReaderGone,
    Failed(ExportError),
}

fn copy<S: PacketStream, W: Write, P: FnMut(Progress) -> ControlFlow<()>>(
    contents: &mut Contents<S>,
    encoder: &mut Encoder,
    pipe: &mut Pipe<W, P>,
    liveness: Liveness,
) -> Result<(), Stop> {
    let live = liveness == Liveness::Live;
    if live {
        pipe.push()?;
    }
    while contents.advance() {
        encoder.secrets(&contents.take_key_log());
        encoder.packet(&mut pipe.chunk, contents.interfaces(), &contents.packet());
        pipe.done.packets += u64::from(contents.is_real());
        if pipe.chunk.len() >= CHUNK || (live && !contents.has_next_at_hand()) {
            pipe.push()?;
        }
    }
    Ok(())
}

struct Pipe<W, P> {
    out: W,
    progress: P,
    chunk: Vec<u8>,
    done: Progress,
}

impl<W: Write, P: FnMut(Progress) -> ControlFlow<()>> Pipe<W, P> {
    fn push(&mut self) -> Result<(), Stop> {
        self.out.write_all(&self.chunk).and_then(|()| self.out.flush()).map_err(
            |error| match error.kind() {
                ErrorKind::BrokenPipe => Stop::ReaderGone,
                _ => Stop::Failed(ExportError::Stdout(error)),
            },
        )?;
        self.done.bytes += self.chunk.len() as u64;
        self.chunk.clear();
        match (self.progress)(self.done) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Stop::Asked),
        }
    }
}
