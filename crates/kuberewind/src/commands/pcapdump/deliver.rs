//! The last steps of every export: the file, and the word about it.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::os::unix::fs::{OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use kuberewind_export::{
    Destination, Export, FileOwner, Format, Input, Place, Report, TlsParts, write,
};
use kuberewind_packet::{PacketStream, Span};

use crate::PROGRAM;
use crate::cli::{ExportArgs, VantageArg};
use crate::exit::Exit;

use super::progress::Bar;

/// An export for the user behind `sudo`. Its file is named after `id`.
pub(super) fn job(id: &str, window: Span, tls: TlsParts) -> Export {
    Export {
        window,
        id: id.to_owned(),
        program: PROGRAM.to_owned(),
        owner: sudo_user(),
        tls,
        unreachable: Vec::new(),
        notes: Vec::new(),
    }
}

/// What all views of a packet in one file mean for its reader, where they were asked for.
pub(super) fn views_note(args: &ExportArgs, destination: &Destination) -> Option<String> {
    let all = args.vantage == Some(VantageArg::All);
    let text = "packets that several interfaces saw are in the file as often, and .pcap does not tell \
                whose views they are: --format pcapng does";
    (all && destination.format == Format::Pcap).then(|| text.to_owned())
}

/// Beside the file, where there must be room for it anyway.
pub(super) fn spool_dir(destination: &Destination) -> PathBuf {
    match destination.place.directory() {
        Some(dir) => dir.to_owned(),
        None => std::env::temp_dir(),
    }
}

/// Who exports, for the recorder's log.
pub(super) fn user() -> Option<String> {
    ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok())
}

fn sudo_user() -> Option<FileOwner> {
    let id = |name| std::env::var(name).ok()?.parse().ok();
    Some(FileOwner { uid: id("SUDO_UID")?, gid: id("SUDO_GID")? })
}

/// Writes the file, unless `stopped` says so meanwhile.
pub(super) fn deliver<S: PacketStream>(
    export: &Export,
    inputs: impl IntoIterator<Item = Input<S>>,
    destination: &Destination,
    stopped: impl Fn() -> bool,
) -> anyhow::Result<Report> {
    let mut bar = Bar::new();
    let report = write(export, inputs, destination, |done| {
        bar.show(done);
        if stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.clear();
    Ok(report?)
}

/// Tells what is in the file and what is not.
pub(super) fn finish(
    args: &ExportArgs,
    destination: &Destination,
    report: &Report,
) -> anyhow::Result<Exit> {
    if let Some(path) = &args.report {
        write_report(path, report).with_context(|| format!("write --report {}", path.display()))?;
    }
    if destination.place == Place::Stdout {
        anstream::eprintln!("{report}");
    } else {
        anstream::println!("{report}");
    }
    Ok(if report.is_complete() || args.allow_partial { Exit::Complete } else { Exit::Incomplete })
}

fn write_report(path: &Path, report: &Report) -> anyhow::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    serde_json::to_writer_pretty(&mut file, report)?;
    file.write_all(b"\n")?;
    if let Some(FileOwner { uid, gid }) = sudo_user() {
        fchown(&file, Some(uid), Some(gid))?;
    }
    Ok(())
}
