//! Every network namespace that has a name in `/run/netns`, as container runtimes give one to each pod's
//! before anything is in it: told the moment that the name is there.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use kuberewind_packet::NetnsId;
use rustix::event::EventfdFlags;

use crate::error::CaptureError;
use crate::namespaces::{NAMED, parse_link};
use crate::watch::Mounts;

/// A network namespace by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Which.
    pub netns: NetnsId,
    /// `/run/netns/NAME`
    pub path: PathBuf,
}

impl Named {
    /// Its name.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Whether the name leads there: another mount may hide it.
    fn is_there(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|file| file.ino() == self.netns.0)
    }

    /// How long ago it was made. The kernel dates the file when a namespace is first looked at, which
    /// its first name is.
    pub fn age(&self) -> Duration {
        let Ok(file) = fs::metadata(&self.path) else { return Duration::ZERO };
        let made = Duration::from_secs(u64::try_from(file.ctime()).unwrap_or(0));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(made)
    }
}

/// Follows names as they come and go, on a thread of its own.
#[derive(Debug)]
pub struct NamedWatch {
    wake: Arc<OwnedFd>,
    thread: JoinHandle<()>,
}

impl NamedWatch {
    /// Calls back with all of them: once at the start, and then whenever one came or went.
    pub fn start(
        mut on_change: impl FnMut(&[Named]) + Send + 'static,
    ) -> Result<Self, CaptureError> {
        let failed = |source| CaptureError::Start {
            what: "the watch over names of network namespaces",
            source,
        };
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| failed(error.into()))?;
        let wake = Arc::new(wake);
        let stop = Arc::clone(&wake);
        let mounts = Mounts::open().map_err(failed)?;
        let watch = move || {
            let mut told: Option<Vec<Named>> = None;
            loop {
                match mounts.reread() {
                    Ok(table) => {
                        let before = told.as_deref().unwrap_or_default();
                        let mut named = parse(&table);
                        named.retain(|named| before.contains(named) || named.is_there());
                        if told.as_ref() != Some(&named) {
                            on_change(&named);
                            told = Some(named);
                        }
                    }
                    Err(error) => tracing::warn!("cannot read /proc/self/mountinfo: {error}"),
                }
                if !mounts.wait(&stop) {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("netns-names".to_owned());
        let thread = thread.spawn(watch).map_err(failed)?;
        Ok(Self { wake, thread })
    }

    /// Ends the thread. The callback is not called again.
    pub fn stop(self) {
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        if self.thread.join().is_err() {
            tracing::error!("the watch over names of network namespaces panicked");
        }
    }
}

/// Reads a table of mounts (`proc(5)`): `63 43 0:4 net:[4026532178] /run/netns/blue rw - nsfs nsfs rw`.
/// One namespace under several names is there once, by the first.
fn parse(table: &str) -> Vec<Named> {
    let mut all: Vec<Named> = Vec::new();
    for line in table.lines() {
        let mut fields = line.split(' ').skip(3);
        let (Some(root), Some(point)) = (fields.next(), fields.next()) else { continue };
        let Some(netns) = parse_link(root) else { continue };
        let path = Path::new(point);
        let known = all.iter().any(|named| named.netns == netns);
        if !known && path.parent() == Some(Path::new(NAMED)) {
            all.push(Named { netns, path: path.to_owned() });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_the_table_of_mounts() {
        let table = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
            61 27 0:24 /netns /run/netns rw shared:7 - tmpfs tmpfs rw\n\
            63 61 0:4 net:[4026532178] /run/netns/blue rw shared:8 - nsfs nsfs rw\n\
            64 61 0:4 net:[4026532178] /run/netns/blue rw - nsfs nsfs rw\n\
            65 61 0:4 net:[4026532179] /tmp/elsewhere rw - nsfs nsfs rw\n\
            66 61 0:4 mnt:[4026532180] /run/netns/mnt rw - nsfs nsfs rw\n\
            67 61 0:4 net:[4026532181] /run/netns/cni-7 rw - nsfs nsfs rw\n\
            broken";
        let named = |netns, path: &str| Named { netns: NetnsId(netns), path: path.into() };
        let expected =
            [named(4_026_532_178, "/run/netns/blue"), named(4_026_532_181, "/run/netns/cni-7")];
        assert_eq!(parse(table), expected);
        assert_eq!(expected[1].name(), "cni-7");
    }
}
