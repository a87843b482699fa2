//! On a cluster.

use super::super::cluster::Cluster;
use crate::cli::StatusArgs;
use crate::exit::Exit;

pub(super) fn status(args: &StatusArgs) -> anyhow::Result<Exit> {
    let cluster = Cluster::open(&args.cluster, "see this machine's recorder")?;
    anyhow::bail!("{}", cluster.namespace)
}
