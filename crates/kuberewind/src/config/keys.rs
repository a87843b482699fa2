//! Every key, once: its name, what it means, its place in [`Config`]; and the defaults.

use std::path::PathBuf;
use std::time::Duration;

use kuberewind_packet::ByteSize;
use serde_json::Value;

use super::setting::Setting;
use super::{Config, LogLevel, MinFree, Namespaces, PcapdumpConfig, Snaplen, TapConfig};

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
        live: false,
        place: |config| &mut config.tap.regex,
    },
    Key {
        name: "tap.namespaces",
        form: "list of names",
        about: "Only pods of these namespaces are recorded; an empty list is all. On a cluster only.",
        live: false,
        place: |config| &mut config.tap.namespaces,
    },
    Key {
        name: "tap.excludedNamespaces",
        form: "list of names",
        about: "Pods of these namespaces are never recorded, whatever else is set. On a cluster only.",
        live: false,
        place: |config| &mut config.tap.excluded_namespaces,
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

    /// Its names, outermost first.
    pub(super) fn fields(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.name.split('.')
    }
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
        }
    }
}
