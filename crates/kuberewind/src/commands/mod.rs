//! The commands, one a module.

mod advice;
mod agent;
mod clean;
mod cluster;
mod completion;
mod config;
mod fleet;
mod pcapdump;
mod settings;
mod shutdown;
mod status;
mod switch;
mod tap;

pub(crate) use agent::agent;
pub(crate) use clean::clean;
pub(crate) use completion::completion;
pub(crate) use completion::man;
pub(crate) use config::configuration;
pub(crate) use pcapdump::pcapdump;
pub(crate) use status::status;
pub(crate) use tap::tap;

use crate::exit::Usage;

/// What every command says that was not told where to look.
fn needs_local(what: &str) -> anyhow::Error {
    Usage(format!("no kubeconfig; to {what} add --local")).into()
}
