//! Work done inside other namespaces, on threads that enter them.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Namespaces to enter.
#[derive(Clone, Debug, Default)]
pub(super) struct Inside {
    files: Vec<(PathBuf, LinkNameSpaceType)>,
}

impl Inside {
    /// A network namespace.
    pub(super) fn network(path: &Path) -> Self {
        Self { files: vec![(path.to_owned(), LinkNameSpaceType::Network)] }
    }

    /// And a process namespace: what is started from there is in it.
    pub(super) fn and_processes(mut self, path: &Path) -> Self {
        self.files.push((path.to_owned(), LinkNameSpaceType::ProcessID));
        self
    }

    /// Enters with the calling thread, for good.
    pub(super) fn enter(&self) {
        for (path, kind) in &self.files {
            let entered = File::open(path).and_then(|file| {
                move_into_link_name_space(file.as_fd(), Some(*kind)).map_err(Into::into)
            });
            entered.unwrap_or_else(|error| panic!("enter {}: {error}", path.display()));
        }
    }

    /// Works on a thread that has entered.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let entered = || {
            self.enter();
            work()
        };
        thread::scope(|scope| match scope.spawn(entered).join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}
