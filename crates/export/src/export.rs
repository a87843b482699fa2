//! A window of one or many nodes, into one file.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use kuberewind_packet::{PacketStream, Span};

use crate::contents::Contents;
use crate::destination::names;
use crate::encode::{Encoder, Room};
use crate::moves::move_twins;
use crate::output::Output;
use crate::report::printable;
use crate::stream::{Liveness, write_stream};
use crate::{
    Destination, ExportError, FileOwner, Format, Input, LeftOut, NodeReport, Place, Report,
    VantageReport,
};

/// So much is gathered before it is written.
pub(crate) const CHUNK: usize = 1 << 20;

/// What is exported, and for whom.
#[derive(Clone, Debug)]
pub struct Export {
    /// The window asked for; its end is part of the file's name.
    pub window: Span,
    /// Whose packets: the start of the file's name.
    pub id: String,
    /// The writing program with its version, as pcapng names it.
    pub program: String,
    /// To whom the file is given.
    pub owner: Option<FileOwner>,
    /// What of TLS goes into the file.
    pub tls: TlsParts,
    /// Nodes that gave no stream at all, and why.
    pub unreachable: Vec<NodeReport>,
    /// What else the report should say.
    pub notes: Vec<String>,
}

/// What of TLS goes into a file beside the packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsParts {
    /// The secrets, with which Wireshark decrypts; only pcapng has a place for them.
    pub secrets: bool,
    /// What they decrypt, as conversations of their own.
    pub plaintext: bool,
}

/// How far an export is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Packets so far.
    pub packets: u64,
    /// Bytes of the file so far.
    pub bytes: u64,
}

impl Export {
    /// The report of what is in the file.
    pub(crate) fn report<S: PacketStream>(&self, contents: Contents<S>, format: Format) -> Report {
        let (nodes, tls, vantage) = contents.finish();
        let sum = |of: fn(&LeftOut) -> u64| nodes.iter().map(|node| of(&node.left_out)).sum();
        let left_out = LeftOut { packets: sum(|left| left.packets), bytes: sum(|left| left.bytes) };
        let vantage = vantage.map(|vantage| VantageReport { left_out, ..vantage });
        let nodes = nodes.into_iter().chain(self.unreachable.iter().cloned()).collect();
        let report = Report::new(format, self.window, nodes, &self.notes);
        Report { tls, vantage, ..report }
    }

    /// The paths that the file may get, the first that is free first; none for standard output.
    pub fn paths(&self, destination: &Destination) -> Box<dyn Iterator<Item = PathBuf>> {
        let Destination { place, format } = destination;
        match place {
            Place::Directory(dir) => {
                let dir = dir.clone();
                Box::new(names(&self.id, self.window.to, *format).map(move |name| dir.join(name)))
            }
            Place::File(path) => Box::new(std::iter::once(path.clone())),
            Place::Stdout => Box::new(std::iter::empty()),
        }
    }
}

/// Merges `inputs` into one file at `destination` and says what is in it. There is a file if and only
/// if there is a report; of standard output the same is true of its last blocks.
///
/// `progress` is called for every MiB or so; when it breaks, the export stops and nothing is left of
/// it. Without a node that gave its window to the end, or when every node's window is wholly within
/// gaps, there is no file but an error.
pub fn write<S: PacketStream>(
    export: &Export,
    inputs: impl IntoIterator<Item = Input<S>>,
    destination: &Destination,
    progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Report, ExportError> {
    match &destination.place {
        Place::Stdout => {
            let out = std::io::stdout().lock();
            write_stream(export, inputs, destination.format, Liveness::Whole, out, progress)
        }
        Place::Directory(_) | Place::File(_) => write_file(export, inputs, destination, progress),
    }
}

fn write_file<S: PacketStream>(
    export: &Export,
    inputs: impl IntoIterator<Item = Input<S>>,
    destination: &Destination,
    mut progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Report, ExportError> {
    let Destination { place, format } = destination;
    let inputs: Vec<_> = inputs.into_iter().collect();
    let room = Room::for_nodes(inputs.len() + export.unreachable.len());
    let mut output = Output::create(place.directory().unwrap_or(Path::new(".")))?;
    let mut encoder = Encoder::new(*format, &export.program);
    let mut contents = Contents::new(export.window, inputs, export.tls, Liveness::Whole);
    let mut chunk = Vec::with_capacity(CHUNK + (1 << 19));
    let mut done = Progress::default();

    encoder.begin(&mut chunk, room);
    while contents.advance() {
        encoder.secrets(&contents.take_key_log());
        encoder.packet(&mut chunk, contents.interfaces(), &contents.packet());
        done.packets += u64::from(contents.is_real());
        if chunk.len() >= CHUNK {
            output.append(&chunk)?;
            chunk.clear();
            done.bytes = output.len();
            if progress(done).is_break() {
                return Err(ExportError::Stopped);
            }
        }
    }

    let interfaces = contents.interfaces().to_vec();
    let moves = contents.moves();
    let mut report = export.report(contents, *format);
    check_worth(&report)?;
    encoder.end(&mut chunk, &interfaces, &report, room);
    output.append(&chunk)?;
    if !moves.is_empty() {
        output.mend(|file| move_twins(file, *format, &moves))?;
    }
    if let Some(Err(error)) = export.owner.map(|owner| output.give_to(owner)) {
        report.notes.push(format!("the file stays root's: change its owner: {error}"));
    }
    output.rewrite_start(&encoder.head(&report.to_string(), room))?;
    report.file_bytes = output.len();
    report.file = Some(output.publish(export.paths(destination))?);
    Ok(report)
}

/// Whether some node answered for some of the window, be it that no packet passed.
pub(crate) fn check_worth(report: &Report) -> Result<(), ExportError> {
    let failure = |node: &NodeReport| {
        let of = |failure| printable(&format!("{}: {failure}", node.account.node));
        node.failure.as_ref().map(of)
    };
    let failures: Vec<_> = report.nodes.iter().filter_map(failure).collect();
    if failures.len() == report.nodes.len() {
        return Err(ExportError::NoNode { failures });
    }
    if report.nodes.iter().all(|node| node.failure.is_some() || node.holds_nothing())
        && report.packets == 0
    {
        let answered = report.nodes.iter().filter(|node| node.failure.is_none());
        let nodes = answered.map(|node| printable(&node.instead())).chain(failures).collect();
        return Err(ExportError::NothingHeld { window: report.window, nodes });
    }
    Ok(())
}
