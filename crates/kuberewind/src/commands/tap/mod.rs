//! `kuberewind tap`: record.

mod cluster;
mod live;
mod local;
mod planned;
mod preview;
mod report;

pub(super) use local::losses;
pub(super) use planned::Planned;
pub(super) use report::pod_count;
pub(super) use report::problem;

use crate::cli::TapArgs;
use crate::exit::Exit;

/// On this machine, or on a cluster.
pub(crate) fn tap(args: &TapArgs) -> anyhow::Result<Exit> {
    if args.local { local::tap(args) } else { cluster::tap(args) }
}
