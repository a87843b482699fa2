//! Why there is no file.

use std::io;
use std::path::PathBuf;

use kuberewind_packet::Span;

use crate::figures;

/// Why an export gave nothing. A file under the final name is never there then.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The directory is not there.
    #[error(
        "create a file in {0}: there is no such directory; create it, or choose another --dest"
    )]
    NoDirectory(PathBuf),
    /// No file can be created there.
    #[error("create a file in {dir}: {source}; choose another --dest")]
    Create {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No room, or no quota.
    #[error("disk full: the export takes {} in {dir}, {}", figures::bytes(*.needed), Room(*.free))]
    DiskFull {
        /// The directory.
        dir: PathBuf,
        /// Bytes of the whole file.
        needed: u64,
        /// Bytes that were free there without it; none when a quota set the limit.
        free: Option<u64>,
    },
    /// The disk refused for another reason.
    #[error("write the export in {dir}: {source}")]
    Write {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else created the file meanwhile.
    #[error("{0} exists already, and exports never overwrite: choose another --dest")]
    Exists(PathBuf),
    /// The finished file could not get its name.
    #[error("name the finished export {path}: {source}")]
    Publish {
        /// The name.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The pipe or file on standard output failed.
    #[error("write packets to standard output: {0}")]
    Stdout(io::Error),
    /// Not one node gave its whole window.
    #[error("no node gave its packets: {}", .failures.join("; "))]
    NoNode {
        /// Each node and what went wrong with it.
        failures: Vec<String>,
    },
    /// Nobody recorded then, or it is deleted.
    #[error("nothing is recorded {}: {}", of(*.window), .nodes.join("; "))]
    NothingHeld {
        /// The window.
        window: Span,
        /// Each node, what it holds and why it is not this.
        nodes: Vec<String>,
    },
    /// The caller stopped it.
    #[error("stopped before it was finished; nothing was written")]
    Stopped,
}

/// Where nobody holds anything, all that is held is an empty window.
fn of(window: Span) -> String {
    if window.is_empty() { "yet".to_owned() } else { format!("of {}", figures::span(window)) }
}

struct Room(Option<u64>);

impl std::fmt::Display for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(free) => write!(f, "which has {} free", figures::bytes(free)),
            None => f.write_str("more than the disk quota leaves"),
        }
    }
}
