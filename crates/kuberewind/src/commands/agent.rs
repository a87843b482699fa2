//! `kuberewind agent`: records one node's pods. The DaemonSet runs it.

use crate::cli::AgentArgs;
use crate::exit::Exit;

pub(crate) fn agent(args: &AgentArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("{args:?}")
}
