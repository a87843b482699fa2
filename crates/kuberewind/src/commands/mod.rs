//! The commands, one a module.

mod advice;
mod completion;
mod config;
mod pcapdump;
mod progress;
mod settings;
mod shutdown;
mod status;
mod switch;
mod tap;
mod window;

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
