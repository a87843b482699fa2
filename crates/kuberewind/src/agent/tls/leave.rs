//! Whether secrets may leave this machine: what the recorder was told last (`tap.tlsExport`), kept in
//! the data directory for whoever reads it without a recorder.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// While this file is there, secrets stay. It is empty: it needs no room, on a full disk neither.
const NAME: &str = "tls-stays";

/// Keeps the word.
pub(crate) fn allow(dir: &Path, allowed: bool) -> io::Result<()> {
    if allowed {
        match fs::remove_file(dir.join(NAME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    } else {
        File::create(dir.join(NAME)).map(drop)
    }
}

/// The last word.
pub(crate) fn is_allowed(dir: &Path) -> io::Result<bool> {
    dir.join(NAME).try_exists().map(|stays| !stays)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_holds() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_allowed(dir.path()).unwrap());
        for allowed in [false, false, true, true] {
            allow(dir.path(), allowed).unwrap();
            assert_eq!(is_allowed(dir.path()).unwrap(), allowed);
        }
    }
}
