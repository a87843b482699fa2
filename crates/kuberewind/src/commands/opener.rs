//! `kuberewind opener`: what a recorder starts beside itself, to open what takes rights.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use kuberewind_capture::{Doors, serve_opener};
use rustix::process::{Signal, set_parent_process_death_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::agent::become_opener;
use crate::cli::OpenerArgs;
use crate::exit::Exit;

/// Opens until the recorder is gone.
pub(crate) fn opener(args: &OpenerArgs) -> anyhow::Result<Exit> {
    // Should it not listen just then.
    set_parent_process_death_signal(Some(Signal::KILL)).context("follow the recorder's end")?;
    // Words for the recorder, which still opens rings while it seals.
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::<AtomicBool>::default())
            .context("pass over signals")?;
    }
    let OpenerArgs { proc, netns_file } = args;
    let doors = Doors::of(proc.clone(), netns_file.clone());
    let line = std::io::stdin().as_fd().try_clone_to_owned().context("find the recorder")?;
    let confine = become_opener()?;
    serve_opener(doors, line, confine).context("answer the recorder")?;
    Ok(Exit::Complete)
}
