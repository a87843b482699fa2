//! The configuration: one tree of values, the same for the command line, the agent and the chart.
//!
//! Text becomes typed values once, here: files, `--set` and flags are layered over the defaults
//! ([`Effective::load`]), every key knows where its value came from ([`Origin`]), and an unknown key or
//! a bad value is a [`ConfigError`] that names both. A new key is one row in `keys.rs` and one field
//! below.

mod duration;
mod effective;
mod error;
mod file;
mod keys;
mod listing;
mod origin;
mod set;
mod setting;
#[cfg(test)]
mod tests;
mod values;

use std::path::PathBuf;
use std::time::Duration;

use kuberewind_packet::ByteSize;

pub(crate) use duration::format_duration;
pub(crate) use duration::parse_duration;
pub(crate) use effective::Effective;
pub(crate) use effective::Sources;
pub(crate) use effective::listing;
pub(crate) use error::ConfigError;
pub(crate) use keys::KEYS;
pub(crate) use keys::Key;
pub(crate) use origin::Origin;
pub(crate) use values::LogLevel;
pub(crate) use values::MinFree;
pub(crate) use values::Namespaces;
pub(crate) use values::Snaplen;

/// Every setting, read and checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    /// What is recorded and where to.
    pub(crate) tap: TapConfig,
    /// How long and how much is held.
    pub(crate) pcapdump: PcapdumpConfig,
    /// `tap` returns once everything records.
    pub(crate) headless: bool,
    /// How much is logged.
    pub(crate) log_level: LogLevel,
}

/// `tap.*`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TapConfig {
    /// Which packets, in libpcap's language.
    pub(crate) bpf_override: Option<String>,
    /// Bytes kept of each packet.
    pub(crate) snaplen: Snaplen,
    /// All capture rings together; `None` is the automatic budget.
    pub(crate) ring_memory: Option<ByteSize>,
    /// Where the recording lies.
    pub(crate) data_dir: PathBuf,
    /// Which pods, by name. On a cluster.
    pub(crate) regex: Option<String>,
    /// Only these namespaces; empty is all. On a cluster.
    pub(crate) namespaces: Namespaces,
    /// Never these. On a cluster.
    pub(crate) excluded_namespaces: Namespaces,
}

/// `pcapdump.*`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PcapdumpConfig {
    /// Whether a new recording begins switched on.
    pub(crate) enabled: bool,
    /// How much time one segment covers.
    pub(crate) time_interval: Duration,
    /// How far back the recording reaches.
    pub(crate) max_time: Duration,
    /// All bytes in the data directory of one machine.
    pub(crate) max_size: ByteSize,
    /// What stays free on the data directory's disk.
    pub(crate) min_free: MinFree,
}
