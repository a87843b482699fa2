//! This machine's recording, with its recorder or without.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek as _};
use std::ops::ControlFlow;
use std::os::unix::fs::{OpenOptionsExt as _, fchown};
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use kuberewind_export::wire::Received;
use kuberewind_export::{
    Destination, DestinationError, Export, FileOwner, Input, Liveness, Place, Progress, Report,
    TlsParts, write_stream,
};
use kuberewind_packet::pcapng::PacketBlock;
use kuberewind_packet::{Interface, PacketStream, Timestamp, WindowAccount};
use kuberewind_store::{Recording, StoreError, Window};

use crate::agent::{Wanted, WindowQuery, left_behind, noted};
use crate::cli::ExportArgs;
use crate::client::{Client, NotRunning, Outdated};
use crate::exit::Exit;

use super::super::{advice, coverage, shutdown};
use super::deliver::{deliver, finish, job, user};
use super::window::Asked;

/// Everything that can be wrong with the call is found before the recorder is asked.
pub(super) fn export(args: &ExportArgs, dir: &Path) -> anyhow::Result<Exit> {
    let asked = Asked::parse(args)?;
    let destination = Destination::find(args.dest.as_deref(), args.format.map(Into::into))?;
    let tls = args.tls.parts(destination.format)?;
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
            from_disk(asked, &wanted, dir, &destination, tls)?
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
    if query.tls {
        export.notes.extend(coverage::notes(&status.tls, |_| true));
    }
    if args.follow {
        return follow(&export, query, client, dir, destination);
    }
    let body = client.window(&query).map_err(outdated)?;
    let mut report = match destination.place {
        Place::Stdout => deliver_one(&export, spooled(body)?, &status.node, destination)?,
        _ => deliver_one(&export, Received::open(body)?, &status.node, destination)?,
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
    let window = recording.window(span, wanted.choice());
    let node = window.account().node.clone();
    let mut export = job(&node, span, tls);
    let mut key_log = Vec::new();
    if tls != TlsParts::default() {
        let notes = recording.notes(noted(span))?;
        let why;
        (key_log, why) = left_behind(dir, &notes, span, |owner| wanted.takes_owner(owner));
        export.notes.extend(why.filter(|_| !notes.is_empty()));
    }
    deliver_one(&export, WithSecrets { window, key_log }, &node, destination)
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
    destination: &Destination,
) -> anyhow::Result<Report> {
    let stop = shutdown::requests()?;
    deliver(export, [input(node, stream)], destination, || !stop.is_empty())
}

fn input<S>(node: &str, stream: S) -> Input<S> {
    Input { node: node.to_owned(), stream, fetch: None }
}

/// Keeps a window in a nameless file until its end mark has come: bytes on standard output cannot be
/// taken back.
fn spooled(mut body: impl Read) -> anyhow::Result<Received<File>> {
    let doing = || format!("spool the window in {}", std::env::temp_dir().display());
    let mut spool = tempfile::tempfile().with_context(doing)?;
    io::copy(&mut body, &mut spool).with_context(doing)?;
    spool.rewind().with_context(doing)?;
    let mut check = Received::open(spool.try_clone().with_context(doing)?)?;
    while check.advance()? {}
    spool.rewind().with_context(doing)?;
    Ok(Received::open(spool)?)
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
