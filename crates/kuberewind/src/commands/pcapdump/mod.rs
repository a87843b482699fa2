//! `kuberewind pcapdump`: a window of the recording, as one file.

mod clocks;
mod cluster;
mod deliver;
mod fetch;
mod local;
mod plan;
mod progress;
mod spool;
mod window;

use crate::cli::PcapdumpArgs;
use crate::exit::Exit;

use super::{settings, switch};

/// Exports a window, or switches recording off or on.
pub(crate) fn pcapdump(args: &PcapdumpArgs) -> anyhow::Result<Exit> {
    match &args.switch {
        Some(command) => switch::switch(command, &args.settings),
        None if args.export.local => {
            local::export(&args.export, &settings::data_dir(&args.settings)?)
        }
        None => cluster::export(args),
    }
}
