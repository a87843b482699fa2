//! One recorder per data directory.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::StoreError;

pub(crate) const NAME: &str = "lock";

/// Who only looks whether it is held ([`is_locked`]) holds it for less than this,
const LOOK: Duration = Duration::from_millis(2);
/// and so many may look in a row.
const LOOKS: u32 = 5;

/// A data directory that is ours to write: held for as long as it lives. The kernel lets go of it when
/// the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Makes the directory, for the owner alone, if it is not there; takes the lock and leaves the
    /// process's id in it.
    ///
    /// # Errors
    /// [`StoreError::Locked`]: another recorder holds it.
    pub fn take(dir: &Path) -> Result<Self, StoreError> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(dir).map_err(StoreError::io("create data directory", dir))?;
        loop {
            let lock = Self::take_file(dir)?;
            // Erased between opening and locking: whoever comes next would find another file.
            if lock.is_in(dir) {
                return Ok(lock);
            }
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        let inode =
            |meta: std::io::Result<Metadata>| meta.map(|meta| (meta.dev(), meta.ino())).ok();
        let own = inode(self.file.metadata());
        own.is_some() && own == inode(dir.join(NAME).metadata())
    }

    fn take_file(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(NAME);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(StoreError::io("open lock", &path))?;
        let mut taken = flock(&file, FlockOperation::NonBlockingLockExclusive);
        for _ in 0..LOOKS {
            if taken != Err(Errno::WOULDBLOCK) {
                break;
            }
            thread::sleep(LOOK);
            taken = flock(&file, FlockOperation::NonBlockingLockExclusive);
        }
        match taken {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(StoreError::Locked { dir: dir.to_owned(), pid: read_pid(&mut file) });
            }
            Err(error) => return Err(StoreError::io("lock", &path)(error)),
        }
        // Only a courtesy to those who are refused: on a full disk the lock holds without it.
        let _ = write_pid(&mut file);
        Ok(Self { file })
    }
}

/// Whether a recorder holds this directory.
pub fn is_locked(dir: &Path) -> bool {
    let Ok(file) = File::open(dir.join(NAME)) else { return false };
    // Shared, and given back at once: two who look do not disturb each other.
    flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_pid(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_and_told_the_pid_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::take(dir.path()).unwrap();
        let refused = Lock::take(dir.path()).unwrap_err().to_string();
        assert!(refused.contains(&format!("pid {}", std::process::id())), "{refused}");
        assert!(is_locked(dir.path()));
        drop(first);
        assert!(!is_locked(dir.path()));
        Lock::take(dir.path()).unwrap();
    }
}
