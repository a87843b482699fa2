//! `kuberewind pcapdump`: a window of the recording, as one file.

mod cluster;
mod local;
mod progress;
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
