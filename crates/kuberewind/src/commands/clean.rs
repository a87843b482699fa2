//! `kuberewind clean`: takes kuberewind off a cluster.

use crate::cli::CleanArgs;
use crate::exit::Exit;

pub(crate) fn clean(args: &CleanArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("{args:?}")
}
