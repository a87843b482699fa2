//! A whole cluster's recording.

use super::super::cluster::Cluster;
use crate::cli::PcapdumpArgs;
use crate::exit::Exit;

pub(super) fn export(args: &PcapdumpArgs) -> anyhow::Result<Exit> {
    let cluster = Cluster::open(&args.cluster, "export this machine's recording")?;
    anyhow::bail!("{}", cluster.namespace)
}
