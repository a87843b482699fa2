//! A file that gets its name only when it is whole.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, linkat, renameat_with, statvfs};
use rustix::io::Errno;

use crate::ExportError;

/// To whom a file is given: the user behind `sudo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileOwner {
    /// User id, as in `$SUDO_UID`.
    pub uid: u32,
    /// Group id, as in `$SUDO_GID`.
    pub gid: u32,
}

/// A file in its final directory, for its writer's eyes only, and without its final name. Dropped
/// unpublished, it is gone.
#[derive(Debug)]
pub(crate) struct Output {
    dir: PathBuf,
    file: File,
    link: Link,
    len: u64,
    full: Option<io::Error>,
}

/// How the unfinished file is reached.
#[derive(Debug)]
enum Link {
    /// Not at all (`O_TMPFILE`): it vanishes even when the program is killed.
    Nameless,
    /// By a name of ours, on file systems that have no nameless files (NFS, FAT).
    Named(PathBuf),
    /// By its final name.
    Published,
}

impl Output {
    pub(crate) fn create(dir: &Path) -> Result<Self, ExportError> {
        Self::nameless(dir).map_or_else(|| Self::named(dir), Ok)
    }

    fn nameless(dir: &Path) -> Option<Self> {
        // Its name is given through /proc, so without that it would never get one.
        if !Path::new("/proc/self/fd").is_dir() {
            return None;
        }
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let file = rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR).ok()?;
        Some(Self::new(dir, file.into(), Link::Nameless))
    }

    fn named(dir: &Path) -> Result<Self, ExportError> {
        let mut options = File::options();
        options.read(true).write(true).create_new(true).mode(0o600);
        for nth in 0.. {
            let path = dir.join(format!(".kuberewind-{}-{nth}.partial", std::process::id()));
            match options.open(&path) {
                Ok(file) => return Ok(Self::new(dir, file, Link::Named(path))),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                Err(source) => return Err(ExportError::Create { dir: dir.to_owned(), source }),
            }
        }
        Err(ExportError::NoDirectory(dir.to_owned()))
    }

    fn new(dir: &Path, file: File, link: Link) -> Self {
        Self { dir: dir.to_owned(), file, link, len: 0, full: None }
    }

    /// Bytes written so far, or that would have been written.
    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    /// Appends. Once the disk is full, only counts, so that the error can say how much it takes;
    /// what was written is given back to the disk at once.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        self.len += bytes.len() as u64;
        if self.full.is_some() {
            return Ok(());
        }
        let written = self.file.write_all(bytes);
        self.mind_full(written)
    }

    /// Writes the first bytes anew.
    pub(crate) fn rewrite_start(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        if self.full.is_some() {
            return Ok(());
        }
        let written = self.file.write_all_at(bytes, 0);
        self.mind_full(written)
    }

    /// Lets `mend` change what was written, not its length.
    pub(crate) fn mend(
        &mut self,
        mend: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<(), ExportError> {
        if self.full.is_some() {
            return Ok(());
        }
        mend(&self.file).map_err(|source| self.write_error(source))
    }

    fn mind_full(&mut self, written: io::Result<()>) -> Result<(), ExportError> {
        match written {
            Ok(()) => Ok(()),
            Err(error)
                if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) =>
            {
                self.full = Some(error);
                self.file.set_len(0).map_err(|source| self.write_error(source))
            }
            Err(source) => Err(self.write_error(source)),
        }
    }

    fn write_error(&self, source: io::Error) -> ExportError {
        ExportError::Write { dir: self.dir.clone(), source }
    }

    fn check_full(&self) -> Result<(), ExportError> {
        let Some(error) = &self.full else { return Ok(()) };
        let free = match error.kind() {
            ErrorKind::StorageFull => {
                statvfs(&self.dir).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize))
            }
            _ => None,
        };
        Err(ExportError::DiskFull { dir: self.dir.clone(), needed: self.len, free })
    }

    /// Gives the file to `owner`.
    pub(crate) fn give_to(&self, owner: FileOwner) -> io::Result<()> {
        fchown(&self.file, Some(owner.uid), Some(owner.gid))
    }

    /// Gives the file the first of `names` that is not taken, in its directory. Never overwrites.
    pub(crate) fn publish(
        mut self,
        names: impl IntoIterator<Item = PathBuf>,
    ) -> Result<PathBuf, ExportError> {
        self.check_full()?;
        let mut taken = PathBuf::new();
        for path in names {
            match self.link_as(&path) {
                Ok(()) => {
                    self.link = Link::Published;
                    return Ok(path);
                }
                Err(Errno::EXIST) => taken = path,
                Err(errno) => return Err(ExportError::Publish { path, source: errno.into() }),
            }
        }
        Err(ExportError::Exists(taken))
    }

    fn link_as(&self, path: &Path) -> Result<(), Errno> {
        match &self.link {
            Link::Nameless => {
                let open = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                linkat(CWD, open, CWD, path, AtFlags::SYMLINK_FOLLOW)
            }
            Link::Named(partial) => {
                match renameat_with(CWD, partial, CWD, path, RenameFlags::NOREPLACE) {
                    // Not every file system can (NFS); hard links never replace either.
                    Err(Errno::INVAL | Errno::NOSYS) => {
                        linkat(CWD, partial, CWD, path, AtFlags::empty())?;
                        rustix::fs::unlink(partial)
                    }
                    renamed => renamed,
                }
            }
            Link::Published => Ok(()),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Link::Named(partial) = &self.link {
            let _ = std::fs::remove_file(partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    type Create = fn(&Path) -> Result<Output, ExportError>;

    fn ways() -> [Create; 2] {
        [|dir| Ok(Output::nameless(dir).unwrap()), Output::named]
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_private_and_takes_the_first_free_name() {
        for create in ways() {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("a"), "older").unwrap();
            let mut output = create(dir.path()).unwrap();
            output.append(b"12345").unwrap();
            output.rewrite_start(b"ab").unwrap();
            output.give_to(FileOwner { uid: 1234, gid: 5678 }).unwrap();
            let path = output.publish(["a", "b"].map(|name| dir.path().join(name))).unwrap();
            assert_eq!(path, dir.path().join("b"));
            assert_eq!(std::fs::read(&path).unwrap(), b"ab345");
            assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"older");
            let meta = path.metadata().unwrap();
            assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o600, 1234, 5678));
            assert_eq!(names(dir.path()), ["a", "b"]);
        }
    }

    #[test]
    fn nothing_is_overwritten_and_nothing_left_behind() {
        for create in ways() {
            let dir = tempfile::tempdir().unwrap();
            let taken = dir.path().join("a.pcap");
            std::os::unix::fs::symlink("nowhere", &taken).unwrap();
            let mut output = create(dir.path()).unwrap();
            output.append(b"12345").unwrap();
            let error = output.publish([taken.clone()]).unwrap_err();
            assert!(matches!(error, ExportError::Exists(path) if path == taken));
            assert_eq!(names(dir.path()), ["a.pcap"]);
        }
    }

    #[test]
    fn a_file_dropped_unfinished_is_gone() {
        for create in ways() {
            let dir = tempfile::tempdir().unwrap();
            let mut output = create(dir.path()).unwrap();
            output.append(b"12345").unwrap();
            drop(output);
            assert!(names(dir.path()).is_empty());
        }
    }

    #[test]
    fn a_directory_that_is_missing_or_none_is_said_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let error = Output::create(&dir.path().join("missing")).unwrap_err();
        assert!(matches!(error, ExportError::NoDirectory(_)), "{error}");
        std::fs::write(dir.path().join("file"), "").unwrap();
        let error = Output::create(&dir.path().join("file/")).unwrap_err();
        assert!(matches!(error, ExportError::Create { .. }), "{error}");
    }
}
