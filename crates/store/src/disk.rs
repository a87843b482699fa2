//! The disk that segments are written to, and what a test lets go wrong with it.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::io::{Errno, pwrite};

/// The real disk, unless a test makes it worse.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Trouble>);

#[derive(Debug, Default)]
struct Trouble {
    /// The error that writes end with; 0 is none.
    error: AtomicI32,
    /// Bytes that are still written before.
    left: AtomicU64,
    /// Writes find no room, though deletions go well.
    full: AtomicBool,
    /// Nanoseconds that each write takes longer.
    slower: AtomicU64,
}

impl Disk {
    /// From now on writes and deletions fail with this error (errno(3)) once so many more bytes were written; 0
    /// mends it. For tests.
    pub fn fail(&self, error: i32, after: u64) {
        self.0.left.store(after, Ordering::Relaxed);
        self.0.error.store(error, Ordering::Relaxed);
    }

    /// Writes find no room (a quota), whatever is deleted, while this is so. For tests.
    pub fn full(&self, full: bool) {
        self.0.full.store(full, Ordering::Relaxed);
    }

    /// Each write takes so much longer. For tests.
    pub fn slow_down(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.0.slower.store(nanos, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        self.check()?;
        fs::remove_file(path)
    }

    /// Whether anything can be written at all.
    pub(crate) fn check(&self) -> Result<(), Errno> {
        match self.0.error.load(Ordering::Relaxed) {
            0 => Ok(()),
            _ if self.0.left.load(Ordering::Relaxed) > 0 => Ok(()),
            error => Err(Errno::from_raw_os_error(error)),
        }
    }

    /// Writes all of it.
    pub(crate) fn write_all(
        &self,
        file: &File,
        mut bytes: &[u8],
        mut offset: u64,
    ) -> Result<(), Errno> {
        while !bytes.is_empty() {
            match self.write(file, bytes, offset) {
                Ok(0) => return Err(Errno::IO),
                Ok(written) => {
                    bytes = &bytes[written..];
                    offset += written as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> Result<usize, Errno> {
        let slower = self.0.slower.load(Ordering::Relaxed);
        if slower > 0 {
            thread::sleep(Duration::from_nanos(slower));
        }
        self.check()?;
        if self.0.full.load(Ordering::Relaxed) {
            return Err(Errno::DQUOT);
        }
        if self.0.error.load(Ordering::Relaxed) == 0 {
            return pwrite(file, bytes, offset);
        }
        let left = self.0.left.load(Ordering::Relaxed);
        let some = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let written = pwrite(file, &bytes[..some], offset)?;
        self.0.left.fetch_sub(written as u64, Ordering::Relaxed);
        Ok(written)
    }
}
