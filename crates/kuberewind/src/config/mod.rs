//! The configuration: one tree of values, the same for the command line, the agent and the chart.
//!
//! Text becomes typed values once, here: files, `--set` and flags are layered over the defaults
//! ([`Effective::load`]), every key knows where its value came from ([`Origin`]), and an unknown key or
//! a bad value is a [`ConfigError`] that names both. A new key is one row in `keys.rs` and one field
//! below.

mod changes;
mod duration;
mod earlier;
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

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use kuberewind_packet::ByteSize;

pub(crate) use changes::changes;
pub(crate) use changes::for_helm;
pub(crate) use duration::format_duration;
pub(crate) use duration::parse_duration;
pub(crate) use earlier::Earlier;
pub(crate) use effective::Effective;
pub(crate) use effective::Sources;
pub(crate) use effective::listing;
pub(crate) use error::ConfigError;
pub(crate) use keys::KEYS;
pub(crate) use keys::Key;
pub(crate) use origin::Origin;
pub(crate) use values::Chosen;
pub(crate) use values::LogFormat;
pub(crate) use values::LogLevel;
pub(crate) use values::MinFree;
pub(crate) use values::Names;
pub(crate) use values::Namespaces;
pub(crate) use values::Objects;
pub(crate) use values::PullPolicy;
pub(crate) use values::Quantity;
pub(crate) use values::Registry;
pub(crate) use values::Snaplen;
pub(crate) use values::Texts;

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
    /// How it is logged.
    pub(crate) log_format: LogFormat,
}

/// `tap.*`
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own")]
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
    /// Which namespaces of the network are recorded beside those of pods. On a cluster.
    pub(crate) capture: CaptureConfig,
    /// Whether TLS secrets are read.
    pub(crate) tls: bool,
    /// Whether they may leave the node.
    pub(crate) tls_export: bool,
    /// Whether those of the Kubernetes API's and the kubelets' connections are kept.
    pub(crate) tls_control_plane: bool,
    /// Whose plaintext is read; empty is nobody's.
    pub(crate) tls_plaintext: Chosen,
    /// The agents' image.
    pub(crate) docker: DockerConfig,
    /// What the agents may use.
    pub(crate) resources: ResourcesConfig,
    /// On which nodes there are agents; none is all.
    pub(crate) node_selector_terms: Objects,
    /// In spite of which taints.
    pub(crate) tolerations: Objects,
    /// Which pods go first when a node is full; none is the cluster's default.
    pub(crate) priority_class: Option<String>,
    /// On every object.
    pub(crate) labels: Texts,
    /// On every object.
    pub(crate) annotations: Texts,
    /// How the agents are watched.
    pub(crate) metrics: MetricsConfig,
    /// Whether a `NetworkPolicy` bounds what they reach.
    pub(crate) network_policy: bool,
    /// Whether `OpenShift` is told to let them run.
    pub(crate) open_shift: bool,
}

/// `tap.metrics.*`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MetricsConfig {
    /// On the address of the agent's pod.
    pub(crate) port: NonZeroU16,
    /// Whether the Prometheus operator is told of the agents.
    pub(crate) pod_monitor: bool,
    /// Whether it is given alerts.
    pub(crate) alerts: bool,
    /// Whether Grafana is given a dashboard.
    pub(crate) dashboard: bool,
}

/// `tap.capture.*`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CaptureConfig {
    /// kuberewind's own pods, too.
    pub(crate) capture_self: bool,
    /// The nodes' own network, for pods that have no other.
    pub(crate) host_network: bool,
}

/// `tap.docker.*`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DockerConfig {
    /// Before `/kuberewind`.
    pub(crate) registry: Registry,
    /// None is this version.
    pub(crate) tag: Option<String>,
    /// When it is pulled.
    pub(crate) image_pull_policy: PullPolicy,
    /// With which secrets.
    pub(crate) image_pull_secrets: Names,
}

/// `tap.resources.*`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ResourcesConfig {
    /// What is set aside.
    pub(crate) requests: Amounts,
    /// What is not exceeded.
    pub(crate) limits: Amounts,
}

/// CPU and memory.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Amounts {
    /// Of one processor.
    pub(crate) cpu: Option<Quantity>,
    /// Without the rings, which the kernel does not count.
    pub(crate) memory: Option<Quantity>,
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
