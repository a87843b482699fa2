//! Whether to record: the user's last word, kept in the data directory.

use std::io;
use std::path::{Path, PathBuf};

/// The file that `pcapdump stop` and `pcapdump start` leave behind.
const NAME: &str = "recording";

/// The user's last word on whether to record. It survives restarts and upgrades, and overrides
/// `pcapdump.enabled`.
pub(crate) struct Switch;

/// The last word could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SwitchError {
    #[error("read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} says `{text}`, neither `started` nor `stopped`: remove it", path.display())]
    Unknown { path: PathBuf, text: String },
}

impl Switch {
    /// `None` where nobody has said anything yet.
    pub(crate) fn read(dir: &Path) -> Result<Option<bool>, SwitchError> {
        let path = dir.join(NAME);
        match std::fs::read_to_string(&path) {
            Ok(text) => match text.trim() {
                "started" => Ok(Some(true)),
                "stopped" => Ok(Some(false)),
                other => Err(SwitchError::Unknown { text: other.to_owned(), path }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SwitchError::Read { path, source }),
        }
    }

    /// Keeps the word for recorders to come.
    pub(crate) fn write(dir: &Path, on: bool) -> Result<(), SwitchError> {
        let path = dir.join(NAME);
        let text = if on { "started\n" } else { "stopped\n" };
        std::fs::write(&path, text).map_err(|source| SwitchError::Write { path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Switch::read(dir.path()).unwrap(), None);
        Switch::write(dir.path(), false).unwrap();
        assert_eq!(Switch::read(dir.path()).unwrap(), Some(false));
        Switch::write(dir.path(), true).unwrap();
        assert_eq!(Switch::read(dir.path()).unwrap(), Some(true));
    }

    #[test]
    fn an_odd_word_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(NAME), "maybe").unwrap();
        let error = Switch::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("recording says `maybe`"), "{error}");
    }
}
