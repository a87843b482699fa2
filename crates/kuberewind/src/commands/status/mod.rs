//! `kuberewind status`: what is recorded, held and lost.

mod cluster;
mod local;

use crate::cli::StatusArgs;
use crate::exit::Exit;

/// On this machine, or on a cluster.
pub(crate) fn status(args: &StatusArgs) -> anyhow::Result<Exit> {
    if args.local { local::status(args) } else { cluster::status(args) }
}
