//! This machine's recording, with its recorder or without.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek as _, Write as _};
use std::ops::ControlFlow;
use std::os::unix::fs::{OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use kuberewind_export::wire::{Received, WireError};
use kuberewind_export::{
    Destination, DestinationError, Export, ExportError, FileOwner, Input, Liveness, Place,
    Progress, Report, Survey, SurveyLimits, TlsParts, write_stream,
};
use kuberewind_packet::pcapng::PacketBlock;
use kuberewind_packet::{Interface, PacketStream, Timestamp, WindowAccount};
use kuberewind_store::{Recording, StoreError, Window};

use crate::agent::{Wanted, WindowQuery, left_behind, may_leave};
use crate::cli::{ExportArgs, VantageArg};
use crate::client::{Client, NotRunning, Outdated};
use crate::exit::Exit;

use super::super::{advice, coverage, shutdown};
use super::deliver::{deliver, finish, job, spool_dir, user, views_note};
use super::window::Asked;

/// Everything that can be wrong with the call is found before the recorder is asked.
pub(super) fn export(args: &ExportArgs, dir: &Path) -> anyhow::Result<Exit> {
    let asked = Asked::parse(args)?;
    let destination = Destination::find(args.dest.as_deref(), args.format.map(Into::into))?;
    let tls = args.tls.parts(destination.format)?;
    args.vantage()?;
    let query = WindowQuery {
        filter: args.filter.clone(),
        tls: tls != TlsParts::default(),
        user: user(),
        ..WindowQuery::default()
    };
    let wanted = Wanted::compile(&query)?;
    let report = match Client::connect(dir) {
        Ok(client) => from_recorder(args, asked, query, client, dir, &destination, tls)?,
        Err(error) if error.is::<NotRunning>() && args.follow => return Err(error),
        Err(error) if error.is::<NotRunning>() => {
            from_disk(args, asked, &wanted, dir, &destination, tls)?
        }
        Err(error) => return Err(error),
    };
    finish(args, &destination, &report)
}

/// Asks the recorder, whose clock says when now is.
fn from_recorder(
    args: &ExportArgs,
    asked: Asked,
    query: WindowQuery,
    mut client: Client,
    dir: &Path,
    destination: &Destination,
    tls: TlsParts,
) -> anyhow::Result<Report> {
    let bounds = asked.at(client.clock()?.now)?;
    let status = client.status()?;
    let span = bounds.span(status.held());
    let query = WindowQuery { from: bounds.from, to: Some(bounds.to), ..query };
    let mut export = job(&status.node, span, tls);
    export.notes.extend(views_note(args, destination));
    if query.tls {
        export.notes.extend(coverage::notes(&status.tls, |_| true));
    }
    if args.follow {
        return follow(&export, query, client, dir, destination);
    }
    let body = client.window(&query).map_err(outdated)?;
    let node = &status.node;
    let one_view = args.vantage()? == VantageArg::One;
    let mut report = if one_view || destination.place == Place::Stdout {
        let (spool, survey) = spooled(body, node, destination, one_view)?;
        deliver_one(&export, spool, node, survey, destination)?
    } else {
        deliver_one(&export, Received::open(body)?, node, None, destination)?
    };
    report.notes.extend(advice::window(&status, span));
    Ok(report)
}

/// A recorder that has been running since before this program was replaced.
fn outdated(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<Outdated>() {
        Ok(outdated) => anyhow!("the recorder is not of this version: {outdated}; start it again"),
        Err(error) => error,
    }
}

/// Reads what is on disk: nobody records now.
fn from_disk(
    args: &ExportArgs,
    asked: Asked,
    wanted: &Wanted,
    dir: &Path,
    destination: &Destination,
    tls: TlsParts,
) -> anyhow::Result<Report> {
    let nothing =
        || format!("nothing is recorded in {}; `kuberewind tap --local` records", dir.display());
    if !dir.try_exists().unwrap_or(true) {
        bail!(nothing());
    }
    let recording = Recording::open(dir)?;
    if recording.held().is_none() {
        bail!(nothing());
    }
    let span = asked.at(Timestamp::now())?.span(recording.held());
    // Without a word that it may leave, it stays.
    let plaintext = tls != TlsParts::default() && may_leave(dir).unwrap_or(false);
    let open = || recording.window(span, wanted.choice(plaintext));
    let window = open();
    let node = window.account().node.clone();
    let mut export = job(&node, span, tls);
    export.notes.extend(views_note(args, destination));
    let mut survey = None;
    if args.vantage()? == VantageArg::One {
        // What cannot be read is told when it is read again.
        survey = Survey::of(&mut open(), SurveyLimits::default(), spool_dir(destination)).ok();
    }
    let mut key_log = Vec::new();
    if tls != TlsParts::default() {
        let why;
        (key_log, why) = left_behind(dir, &recording, span, |owner| wanted.takes_owner(owner))?;
        export.notes.extend(why);
    }
    deliver_one(&export, WithSecrets { window, key_log }, &node, survey, destination)
}

/// A window, and the secrets of its connections.
struct WithSecrets {
    window: Window,
    key_log: Vec<u8>,
}

impl PacketStream for WithSecrets {
    type Error = StoreError;

    fn advance(&mut self) -> Result<bool, StoreError> {
        self.window.advance()
    }

    fn packet(&self) -> PacketBlock<'_> {
        self.window.packet()
    }

    fn has_next_at_hand(&self) -> bool {
        self.window.has_next_at_hand()
    }

    fn interfaces(&self) -> &[Interface] {
        self.window.interfaces()
    }

    fn take_key_log(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.key_log)
    }

    fn account(&self) -> &WindowAccount {
        self.window.account()
    }
}

fn deliver_one<S: PacketStream>(
    export: &Export,
    stream: S,
    node: &str,
    survey: Option<Survey>,
    destination: &Destination,
) -> anyhow::Result<Report> {
    let stop = shutdown::requests()?;
    let input = Input { survey, ..input(node, stream) };
    deliver(export, [input], destination, || !stop.is_empty())
}

fn input<S>(node: &str, stream: S) -> Input<S> {
    Input { node: node.to_owned(), stream, fetch: None, survey: None }
}

/// Keeps a window in a nameless file until its end mark has come: bytes on standard output cannot be
/// taken back, and which view of a connection is shown is known once all of them were seen.
fn spooled(
    body: impl Read,
    node: &str,
    destination: &Destination,
    surveyed: bool,
) -> anyhow::Result<(Received<BufReader<File>>, Option<Survey>)> {
    let dir = spool_dir(destination);
    let file = tempfile::tempfile_in(&dir).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ExportError::NoDirectory(dir.clone()),
        _ => ExportError::Create { dir: dir.clone(), source },
    })?;
    let mut copying = Copying { body, file, failed: None };
    let checked = check(&mut copying, surveyed.then_some(&dir));
    let Copying { mut file, failed, .. } = copying;
    if let Some(source) = failed {
        return Err(ExportError::Write { dir, source }.into());
    }
    let survey = checked.map_err(|error| {
        let failures = vec![format!("{node}: {error}")];
        ExportError::NoNode { failures }
    })?;
    file.rewind().map_err(|source| ExportError::Write { dir, source })?;
    Ok((Received::open(BufReader::new(file))?, survey))
}

/// Reads a stream to its end mark; looks at its packets where there is a directory for what it notes.
fn check(body: impl Read, surveyed_in: Option<&PathBuf>) -> Result<Option<Survey>, WireError> {
    let mut stream = Received::open(body)?;
    if let Some(dir) = surveyed_in {
        return Survey::of(&mut stream, SurveyLimits::default(), dir).map(Some);
    }
    while stream.advance()? {}
    Ok(None)
}

/// Reads, and keeps what was read.
struct Copying<R> {
    body: R,
    file: File,
    /// Why it could not be kept.
    failed: Option<io::Error>,
}

impl<R: Read> Read for Copying<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = self.body.read(out)?;
        if let Err(error) = self.file.write_all(&out[..len]) {
            let text = error.to_string();
            self.failed = Some(error);
            return Err(io::Error::other(text));
        }
        Ok(len)
    }
}

/// Goes on with packets as they come. The recorder is asked to end the stream, so that even then it
/// has its end mark and its account.
fn follow(
    export: &Export,
    mut query: WindowQuery,
    client: Client,
    dir: &Path,
    destination: &Destination,
) -> anyhow::Result<Report> {
    let ticket = u64::from(std::process::id()) << 32 | u64::from(Timestamp::now().subsec_nanos());
    query.follow = Some(ticket);
    let stop = shutdown::requests()?;
    let stopper = dir.to_owned();
    std::thread::spawn(move || {
        if stop.recv().is_ok() {
            let ended = Client::connect(&stopper).and_then(|mut client| client.end_follow(ticket));
            if let Err(error) = ended {
                anstream::eprintln!("kuberewind: end the stream: {error:#}");
                std::process::exit(Exit::Failed as i32);
            }
        }
    });
    let stream = Received::open(client.window(&query).map_err(outdated)?)?;
    let input = [input(&export.id, stream)];
    let on = |_: Progress| ControlFlow::Continue(());
    let format = destination.format;
    match following_file(export, destination)? {
        None => Ok(write_stream(export, input, format, Liveness::Live, io::stdout().lock(), on)?),
        Some((path, file)) => {
            let mut report = write_stream(export, input, format, Liveness::Live, file, on)?;
            report.file = Some(path);
            Ok(report)
        }
    }
}

/// The file that `--follow` writes, under its name from the start, as `tcpdump -w` does: what was
/// followed for hours must survive whatever ends it.
fn following_file(
    export: &Export,
    destination: &Destination,
) -> anyhow::Result<Option<(std::path::PathBuf, File)>> {
    for path in export.paths(destination) {
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => {
                if let Some(FileOwner { uid, gid }) = export.owner {
                    fchown(&file, Some(uid), Some(gid))
                        .with_context(|| format!("change the owner of {}", path.display()))?;
                }
                anstream::eprintln!("writing {} until Ctrl-C", path.display());
                return Ok(Some((path, file)));
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("create {}", path.display())),
        }
    }
    match &destination.place {
        Place::File(path) => Err(DestinationError::Exists(path.clone()).into()),
        _ => Ok(None),
    }
}
