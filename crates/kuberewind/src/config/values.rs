//! Values with a meaning of their own.

use std::fmt;

use kuberewind_packet::ByteSize;

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
