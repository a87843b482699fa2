//! What an agent knows, kept on disk for the next one, as JSON.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Far more than is ever kept; a longer file is not ours.
const LONGEST: u64 = 16 * 1024 * 1024;

/// A file that somebody may want to be gone for good.
#[derive(Clone, Debug)]
pub(crate) struct Keeper(Arc<Mutex<Option<PathBuf>>>);

impl Keeper {
    /// None: nothing is kept.
    pub(crate) fn new(path: Option<PathBuf>) -> Self {
        Self(Arc::new(Mutex::new(path)))
    }

    /// Does something with the file, unless there is none.
    pub(crate) fn with(&self, work: impl FnOnce(&Path) -> io::Result<()>) {
        if let Some(path) = &*self.lock()
            && let Err(error) = work(path)
        {
            tracing::warn!("{}: {error}", path.display());
        }
    }

    /// Removes the file, and writes no more.
    pub(crate) fn erase(&self) {
        if let Some(path) = self.lock().take() {
            let _ = fs::remove_file(&path);
            let _ = fs::remove_file(fresh(&path));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fresh(path: &Path) -> PathBuf {
    path.with_extension("json.new")
}

/// Replaces the file in one step.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(value)?;
    let fresh = fresh(path);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&fresh)?;
    file.write_all(&text)?;
    file.sync_data()?;
    fs::rename(&fresh, path)
}

/// None when there is no file.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text)?;
    Ok(Some(serde_json::from_slice(&text)?))
}
