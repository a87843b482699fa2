//! The commands, one a module.

mod advice;
mod agent;
mod check;
mod clean;
mod cluster;
mod completion;
mod config;
mod coverage;
mod extcap;
mod fleet;
mod opener;
mod pcapdump;
mod settings;
mod shutdown;
mod status;
mod switch;
mod tap;

pub(crate) use agent::agent;
pub(crate) use check::check;
pub(crate) use clean::clean;
pub(crate) use completion::completion;
pub(crate) use completion::man;
pub(crate) use config::configuration;
pub(crate) use extcap::extcap;
pub(crate) use opener::opener;
pub(crate) use pcapdump::pcapdump;
pub(crate) use status::status;
pub(crate) use tap::tap;
