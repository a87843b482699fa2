//! What can go wrong with the recording.

use std::io;
use std::path::{Path, PathBuf};

use kuberewind_packet::ByteSize;

use crate::limits::Limits;

/// Why the recording cannot be opened, written or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another recorder writes there.
    #[error(
        "the data directory {} is in use by {}: stop that one, or set another with `--data-dir`",
        dir.display(),
        pid.map_or_else(|| "another recorder".to_owned(), |pid| format!("the recorder with pid {pid}"))
    )]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// Who holds it, where it says so.
        pid: Option<u32>,
    },
    /// `pcapdump.maxSize` is below [`Limits::MIN_SIZE`].
    #[error(
        "`pcapdump.maxSize` is {asked}, too small to record: set it to at least {}",
        Limits::MIN_SIZE
    )]
    TooSmall {
        /// What was set.
        asked: ByteSize,
    },
    /// `pcapdump.minFree` is not a part of a whole.
    #[error("`pcapdump.minFree` is {asked}%: set it to 0% to 99%, or to a size")]
    NotAPercentage {
        /// What was set.
        asked: u8,
    },
    /// The file system refused.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was being done: `read segment`, …
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A note that is too long.
    #[error("a note of {len} bytes is too long")]
    LongNote {
        /// Its length.
        len: usize,
    },
    /// What keeps packets from being written keeps this from it, too.
    #[error("there is no room in {}: see `pcapdump.maxSize` and `pcapdump.minFree`", dir.display())]
    NoRoom {
        /// The directory.
        dir: PathBuf,
    },
    /// The store's writer has ended; why is in the log.
    #[error("the recording in {} is closed", dir.display())]
    Closed {
        /// Its directory.
        dir: PathBuf,
    },
}

impl StoreError {
    /// Whether the settings are wrong, rather than the state of the disk.
    pub const fn is_usage(&self) -> bool {
        matches!(self, Self::TooSmall { .. } | Self::NotAPercentage { .. })
    }

    /// For `map_err`.
    pub(crate) fn io<E: Into<io::Error>>(
        doing: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self + use<E> {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source: source.into() }
    }

    /// Whether the file is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether the disk is full.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}
