//! Where a value came from.

use std::fmt;
use std::path::PathBuf;

use super::error::one_line;

/// Where a value came from; later ones win, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody set it.
    Default,
    /// What an earlier `tap` left in the cluster.
    Earlier,
    /// A values file.
    File {
        /// As given, or where it was found.
        path: PathBuf,
        /// 1 is the first.
        line: u64,
    },
    /// `--set`
    Set,
    /// A flag of its own, like `--data-dir`.
    Flag(&'static str),
    /// [`super::Effective::with_changes`]
    Change,
}

/// Fits after "in"; one line, whatever a file is called.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Earlier => f.write_str("an earlier tap"),
            Self::File { path, line } => write!(f, "{}:{line}", one_line(&path.to_string_lossy())),
            Self::Set => f.write_str("--set"),
            Self::Flag(name) => f.write_str(name),
            Self::Change => f.write_str("a live change"),
        }
    }
}
