//! On a cluster.

use super::super::cluster::Cluster;
use crate::cli::TapArgs;
use crate::exit::Exit;

pub(super) fn tap(args: &TapArgs) -> anyhow::Result<Exit> {
    let cluster = Cluster::open(&args.cluster, "record this machine")?;
    anyhow::bail!("{}", cluster.namespace)
}
