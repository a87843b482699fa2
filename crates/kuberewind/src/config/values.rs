//! Values with a meaning of their own.

use std::collections::BTreeMap;
use std::fmt;

use kuberewind_packet::ByteSize;
use serde_json::Value;

/// What stays free on the data directory's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MinFree {
    /// So many bytes.
    Bytes(ByteSize),
    /// So many hundredths of the disk; at most [`MinFree::MOST_PERCENT`].
    Percent(u8),
}

impl MinFree {
    /// Above this a recording would delete itself on any disk in use.
    pub(crate) const MOST_PERCENT: u8 = 90;
}

impl fmt::Display for MinFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(size) => size.fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// Bytes kept of each packet: 1 to [`Snaplen::MOST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Snaplen(u32);

impl Snaplen {
    /// tcpdump's maximum and default; readers refuse longer records.
    pub(crate) const MOST: u32 = 262_144;

    /// The default.
    pub(crate) const UNCUT: Self = Self(Self::MOST);

    /// `None` over the maximum; 0 is the maximum, as in tcpdump.
    pub(crate) fn new(bytes: u32) -> Option<Self> {
        match bytes {
            0 => Some(Self::UNCUT),
            1..=Self::MOST => Some(Self(bytes)),
            _ => None,
        }
    }

    /// How many bytes.
    pub(crate) fn bytes(self) -> u32 {
        self.0
    }
}

/// Names of Kubernetes namespaces, each a valid one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Namespaces(Vec<String>);

impl Namespaces {
    /// `Err` holds the first name that no namespace can have.
    pub(super) fn new(names: Vec<String>) -> Result<Self, String> {
        match names.iter().find(|name| !is_namespace(name)) {
            Some(name) => Err(name.clone()),
            None => Ok(Self(names)),
        }
    }

    /// In the order in which they were written.
    pub(crate) fn names(&self) -> &[String] {
        &self.0
    }
}

/// A DNS label (RFC 1123), as Kubernetes wants it.
fn is_namespace(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogLevel {
    /// What went wrong.
    Error,
    /// And what may go wrong.
    Warn,
    /// And what began and ended.
    Info,
    /// And why.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// `warning`, Kubeshark's word, is `warn`.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "error" => Some(Self::Error),
            "warn" | "warning" => Some(Self::Warn),
            "info" => Some(Self::Info),
            "debug" => Some(Self::Debug),
            "trace" => Some(Self::Trace),
            _ => None,
        }
    }

    /// As it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How it is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// An object a line.
    Json,
}

impl LogFormat {
    /// As it is written.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }

    /// As it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

impl From<LogLevel> for tracing::Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// An amount of CPU or memory as Kubernetes writes it: `100m`, `0.5`, `512Mi`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quantity(String);

impl Quantity {
    /// `None` for what Kubernetes would not take.
    pub(super) fn new(text: &str) -> Option<Self> {
        const UNITS: [&str; 14] =
            ["", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let fits = digits(whole) && digits(fraction) && UNITS.contains(&unit);
        fits.then(|| Self(text.to_owned()))
    }

    /// As written.
    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

/// When the kubelet pulls the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PullPolicy {
    /// At each start.
    Always,
    /// Where the node does not have it.
    IfNotPresent,
    /// It must be there.
    Never,
}

impl PullPolicy {
    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::Always, Self::IfNotPresent, Self::Never].into_iter().find(|it| it.name() == name)
    }

    /// Kubernetes's word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// Objects of Kubernetes's own shape, which the API server checks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Objects(pub(super) Vec<Value>);

/// Whose TLS is read by probes of plaintext: each entry chooses, none chooses nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chosen(pub(super) Vec<Choice>);

/// One entry; at least one of the two is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    /// Exactly this namespace of Kubernetes.
    pub(crate) namespace: Option<String>,
    /// The pod's name, unanchored; without Kubernetes the network namespace's, or `host`.
    pub(crate) regex: Option<String>,
}

impl Chosen {
    /// The entries.
    pub(crate) fn entries(&self) -> &[Choice] {
        &self.0
    }
}

/// Labels or annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Texts(pub(super) BTreeMap<String, String>);

/// Names of objects, none of them empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names(pub(super) Vec<String>);

/// Where images are, up to the last `/`: `registry.example:5000/team`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registry(String);

impl Registry {
    /// Nobody's: where an image that was loaded into a node is looked for, and never pulled from.
    pub(super) fn localhost() -> Self {
        Self("localhost".to_owned())
    }

    /// `None` if an image's name cannot begin with it.
    pub(super) fn new(text: &str) -> Option<Self> {
        let inner = |c: char| c.is_ascii_alphanumeric() || "-._:/".contains(c);
        let begins = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        let ends = text.ends_with(|c: char| c.is_ascii_alphanumeric());
        (begins && ends && text.chars().all(inner)).then(|| Self(text.to_owned()))
    }

    /// As written.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}
