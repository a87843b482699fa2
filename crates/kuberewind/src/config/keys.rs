//! Every key, once: its name, what it means, its place in [`Config`]; and the defaults.

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use kuberewind_packet::ByteSize;
use serde_json::{Value, json};

use super::setting::Setting;
use super::{
    Amounts, CaptureConfig, Chosen, Config, DockerConfig, LogFormat, LogLevel, MetricsConfig,
    MinFree, Names, Namespaces, Objects, PcapdumpConfig, PullPolicy, Quantity, Registry,
    ResourcesConfig, Snaplen, TapConfig, Texts,
};

/// One key of the tree.
pub(crate) struct Key {
    /// As in `--set`: `pcapdump.maxTime`.
    pub(crate) name: &'static str,
    /// How a value is written.
    pub(crate) form: &'static str,
    /// What it means, in one sentence for the documentation.
    pub(crate) about: &'static str,
    /// Whether it can change while recording.
    pub(crate) live: bool,
    pub(super) place: fn(&mut Config) -> &mut dyn Setting,
}

/// In the order in which they are listed.
pub(crate) const KEYS: &[Key] = &[
    Key {
        name: "tap.bpfOverride",
        form: "libpcap filter",
        about: "Which packets are recorded; none is all of IP and IPv6, tagged or not. On a cluster it replaces `tap.regex` and `tap.namespaces`.",
        live: true,
        place: |config| &mut config.tap.bpf_override,
    },
    Key {
        name: "tap.snaplen",
        form: "bytes",
        about: "How much of each packet is kept, at most 262144; 0 is 262144, as in tcpdump.",
        live: false,
        place: |config| &mut config.tap.snaplen,
    },
    Key {
        name: "tap.ringMemory",
        form: "size",
        about: "Memory for all capture rings together; none is 64MiB and 256KiB for each network namespace.",
        live: false,
        place: |config| &mut config.tap.ring_memory,
    },
    Key {
        name: "tap.dataDir",
        form: "path",
        about: "Where the recording lies; the agent's socket is in it. Same as `--data-dir`.",
        live: false,
        place: |config| &mut config.tap.data_dir,
    },
    Key {
        name: "tap.regex",
        form: "regular expression",
        about: "Which pods are recorded, by name, unanchored; none is all. On a cluster only.",
        live: true,
        place: |config| &mut config.tap.regex,
    },
    Key {
        name: "tap.namespaces",
        form: "list of names",
        about: "Only pods of these namespaces are recorded; an empty list is all. On a cluster only.",
        live: true,
        place: |config| &mut config.tap.namespaces,
    },
    Key {
        name: "tap.excludedNamespaces",
        form: "list of names",
        about: "Pods of these namespaces are never recorded, whatever else is set. On a cluster only.",
        live: true,
        place: |config| &mut config.tap.excluded_namespaces,
    },
    Key {
        name: "tap.capture.captureSelf",
        form: "true or false",
        about: "kuberewind's own pods, and its exports, are recorded too. On a cluster only.",
        live: true,
        place: |config| &mut config.tap.capture.capture_self,
    },
    Key {
        name: "tap.capture.hostNetwork",
        form: "true or false",
        about: "The nodes' own network is recorded, so also pods that use it (`hostNetwork`). On a cluster only.",
        live: true,
        place: |config| &mut config.tap.capture.host_network,
    },
    Key {
        name: "tap.tls",
        form: "true or false",
        about: "TLS secrets of recorded pods are read, so that exports can be decrypted. On a single machine off unless set.",
        live: false,
        place: |config| &mut config.tap.tls,
    },
    Key {
        name: "tap.tlsExport",
        form: "true or false",
        about: "Exports may carry TLS secrets and what they decrypt; false keeps them where they are.",
        live: true,
        place: |config| &mut config.tap.tls_export,
    },
    Key {
        name: "tap.tlsControlPlane",
        form: "true or false",
        about: "Secrets of connections to the Kubernetes API and to kubelets are kept, too: their tokens are the cluster's keys.",
        live: true,
        place: |config| &mut config.tap.tls_control_plane,
    },
    Key {
        name: "tap.tlsPlaintext",
        form: "list of entries with `namespace`, `regex` or both",
        about: "Of these recorded pods TLS that began before the recorder is read, too: probes at each call of OpenSSL and GnuTLS. An empty list is none. Needs `tap.tls`.",
        live: true,
        place: |config| &mut config.tap.tls_plaintext,
    },
    Key {
        name: "tap.docker.registry",
        form: "name",
        about: "The image is `REGISTRY/kuberewind:TAG`. On a cluster only.",
        live: false,
        place: |config| &mut config.tap.docker.registry,
    },
    Key {
        name: "tap.docker.tag",
        form: "name",
        about: "The image's tag; none is this version. On a cluster only.",
        live: false,
        place: |config| &mut config.tap.docker.tag,
    },
    Key {
        name: "tap.docker.imagePullPolicy",
        form: "Always, IfNotPresent or Never",
        about: "When nodes pull the image. On a cluster only.",
        live: false,
        place: |config| &mut config.tap.docker.image_pull_policy,
    },
    Key {
        name: "tap.docker.imagePullSecrets",
        form: "list of names",
        about: "Secrets for the registry. On a cluster only.",
        live: false,
        place: |config| &mut config.tap.docker.image_pull_secrets,
    },
    Key {
        name: "tap.resources.requests.cpu",
        form: "amount",
        about: "What is set aside for an agent. On a cluster only.",
        live: false,
        place: |config| &mut config.tap.resources.requests.cpu,
    },
    Key {
        name: "tap.resources.requests.memory",
        form: "amount",
        about: "What is set aside for an agent. On a cluster only.",
        live: false,
        place: |config| &mut config.tap.resources.requests.memory,
    },
    Key {
        name: "tap.resources.limits.cpu",
        form: "amount",
        about: "An agent that is held back loses packets; none is no limit. On a cluster only.",
        live: false,
        place: |config| &mut config.tap.resources.limits.cpu,
    },
    Key {
        name: "tap.resources.limits.memory",
        form: "amount",
        about: "An agent that exceeds it is killed; the rings do not count. None is no limit. On a cluster only.",
        live: false,
        place: |config| &mut config.tap.resources.limits.memory,
    },
    Key {
        name: "tap.nodeSelectorTerms",
        form: "list of objects",
        about: "Which nodes have an agent, as in `nodeSelectorTerms` of a pod; none is all. On a cluster only.",
        live: false,
        place: |config| &mut config.tap.node_selector_terms,
    },
    Key {
        name: "tap.tolerations",
        form: "list of objects",
        about: "Which taints do not keep agents away, as in `tolerations` of a pod. On a cluster only.",
        live: false,
        place: |config| &mut config.tap.tolerations,
    },
    Key {
        name: "tap.priorityClass",
        form: "name",
        about: "The agents' PriorityClass; none is the cluster's default. On a cluster only.",
        live: false,
        place: |config| &mut config.tap.priority_class,
    },
    Key {
        name: "tap.labels",
        form: "names and texts",
        about: "Further labels of everything that is installed. On a cluster only.",
        live: false,
        place: |config| &mut config.tap.labels,
    },
    Key {
        name: "tap.annotations",
        form: "names and texts",
        about: "Further annotations of everything that is installed. On a cluster only.",
        live: false,
        place: |config| &mut config.tap.annotations,
    },
    Key {
        name: "tap.metrics.port",
        form: "port",
        about: "Where an agent's pod answers `/metrics`, `/healthz` and `/readyz`. On a cluster only.",
        live: false,
        place: |config| &mut config.tap.metrics.port,
    },
    Key {
        name: "tap.metrics.podMonitor",
        form: "true or false",
        about: "A PodMonitor is installed, by which the Prometheus operator asks the agents. On a cluster only.",
        live: true,
        place: |config| &mut config.tap.metrics.pod_monitor,
    },
    Key {
        name: "tap.metrics.alerts",
        form: "true or false",
        about: "A PrometheusRule is installed, with alerts: not recording, losses, a window shorter than asked, a full disk. On a cluster only.",
        live: true,
        place: |config| &mut config.tap.metrics.alerts,
    },
    Key {
        name: "tap.metrics.dashboard",
        form: "true or false",
        about: "A ConfigMap with a Grafana dashboard is installed. On a cluster only.",
        live: true,
        place: |config| &mut config.tap.metrics.dashboard,
    },
    Key {
        name: "tap.networkPolicy",
        form: "true or false",
        about: "A NetworkPolicy is installed: agents reach the API server, are asked for metrics, and no more. On a cluster only.",
        live: true,
        place: |config| &mut config.tap.network_policy,
    },
    Key {
        name: "tap.openShift",
        form: "true or false",
        about: "A SecurityContextConstraints for the agents is installed; OpenShift needs it. On a cluster only.",
        live: true,
        place: |config| &mut config.tap.open_shift,
    },
    Key {
        name: "pcapdump.enabled",
        form: "true or false",
        about: "Whether a recording begins switched on; `pcapdump start` and `stop` override it.",
        live: true,
        place: |config| &mut config.pcapdump.enabled,
    },
    Key {
        name: "pcapdump.timeInterval",
        form: "duration",
        about: "How much time one file of the recording covers; no more than `pcapdump.maxTime`.",
        live: true,
        place: |config| &mut config.pcapdump.time_interval,
    },
    Key {
        name: "pcapdump.maxTime",
        form: "duration",
        about: "How far back the recording reaches; what is older is deleted.",
        live: true,
        place: |config| &mut config.pcapdump.max_time,
    },
    Key {
        name: "pcapdump.maxSize",
        form: "size",
        about: "All bytes in the data directory of one machine, never exceeded; the oldest packets make room.",
        live: true,
        place: |config| &mut config.pcapdump.max_size,
    },
    Key {
        name: "pcapdump.minFree",
        form: "size or percent",
        about: "What stays free on the data directory's disk, at most 90%; below it the oldest packets make room. Kubelets evict pods at 10 %.",
        live: true,
        place: |config| &mut config.pcapdump.min_free,
    },
    Key {
        name: "headless",
        form: "true or false",
        about: "`tap` returns once everything records, instead of showing a live line.",
        live: false,
        place: |config| &mut config.headless,
    },
    Key {
        name: "logLevel",
        form: "error, warn, info, debug or trace",
        about: "How much is logged.",
        live: false,
        place: |config| &mut config.log_level,
    },
    Key {
        name: "logFormat",
        form: "text or json",
        about: "How it is logged; json is an object a line.",
        live: false,
        place: |config| &mut config.log_format,
    },
];

impl Key {
    /// The key of this name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The default, as in a values file; null is none.
    pub(crate) fn default(&self) -> Value {
        (self.place)(&mut Config::default()).show()
    }

    /// Whether the user names its parts.
    pub(super) fn is_map(&self) -> bool {
        (self.place)(&mut Config::default()).is_map()
    }

    /// Its names, outermost first.
    pub(super) fn fields(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.name.split('.')
    }
}

/// Kubeshark's.
const METRICS_PORT: NonZeroU16 = NonZeroU16::new(49_100).expect("it is not 0");

/// No registry holds the image yet: it is loaded into the nodes.
impl Default for DockerConfig {
    fn default() -> Self {
        Self {
            registry: Registry::localhost(),
            tag: None,
            image_pull_policy: PullPolicy::IfNotPresent,
            image_pull_secrets: Names::default(),
        }
    }
}

impl Default for ResourcesConfig {
    fn default() -> Self {
        let quantity = Quantity::new;
        Self {
            requests: Amounts { cpu: quantity("100m"), memory: quantity("128Mi") },
            limits: Amounts { cpu: None, memory: quantity("512Mi") },
        }
    }
}

fn linux_nodes() -> Objects {
    let linux = json!({ "key": "kubernetes.io/os", "operator": "In", "values": ["linux"] });
    Objects(vec![json!({ "matchExpressions": [linux] })])
}

fn every_taint() -> Objects {
    Objects(vec![json!({ "operator": "Exists" })])
}

/// The defaults.
impl Default for Config {
    fn default() -> Self {
        Self {
            tap: TapConfig {
                bpf_override: None,
                snaplen: Snaplen::UNCUT,
                ring_memory: None,
                data_dir: PathBuf::from("/var/lib/kuberewind"),
                regex: None,
                namespaces: Namespaces::default(),
                excluded_namespaces: Namespaces::default(),
                capture: CaptureConfig { capture_self: false, host_network: false },
                tls: true,
                tls_export: true,
                tls_control_plane: false,
                tls_plaintext: Chosen::default(),
                docker: DockerConfig::default(),
                resources: ResourcesConfig::default(),
                node_selector_terms: linux_nodes(),
                tolerations: every_taint(),
                priority_class: None,
                labels: Texts::default(),
                annotations: Texts::default(),
                metrics: MetricsConfig {
                    port: METRICS_PORT,
                    pod_monitor: false,
                    alerts: false,
                    dashboard: false,
                },
                network_policy: false,
                open_shift: false,
            },
            pcapdump: PcapdumpConfig {
                enabled: true,
                time_interval: Duration::from_mins(1),
                max_time: Duration::from_hours(1),
                max_size: ByteSize::new(500_000_000),
                min_free: MinFree::Percent(12),
            },
            headless: false,
            log_level: LogLevel::Info,
            log_format: LogFormat::Text,
        }
    }
}
