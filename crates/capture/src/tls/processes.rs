//! Which processes live in a network namespace, and which files they run code from.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use kuberewind_packet::NetnsId;

use crate::namespaces::processes;
use crate::opener::Opener;

/// Of one process's list of mappings, in bytes: a process can have 65,530 of them.
const MAX_MAPS: u64 = 16 << 20;
/// A line is a path and a few numbers.
const MAX_LINE: u64 = 8 << 10;
/// Files that one process runs code from; Chromium has some 200.
const MAX_FILES: usize = 1024;
/// `OVERLAYFS_SUPER_MAGIC`
const OVERLAY: i64 = 0x794c_7630;

/// The processes that are shown.
#[derive(Clone, Debug)]
pub(crate) struct Processes {
    opener: Opener,
}

/// A stretch of memory whose code comes from a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Mapping {
    /// From where to where.
    pub(crate) range: (u64, u64),
    pub(crate) inode: u64,
    /// As the process sees it; ends with ` (deleted)` when it has no name any more.
    pub(crate) path: String,
}

/// Which file: two mounts of an overlay show one file with two devices, but with the same number and
/// times; elsewhere two devices are two files, even if one is a snapshot of the other. The time is that
/// of the content: a file that loses its name, or gets another, stays the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileId {
    device: Option<u64>,
    inode: u64,
    len: u64,
    modified: (i64, i64),
}

impl FileId {
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let overlay = rustix::fs::fstatfs(file)?.f_type as i64 == OVERLAY;
        Ok(Self {
            device: (!overlay).then(|| metadata.dev()),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }

    /// A container's file: whoever has it open keeps the container's file system mounted.
    pub(crate) fn on_overlay(&self) -> bool {
        self.device.is_none()
    }
}

impl Processes {
    pub(crate) fn new(opener: Opener) -> Self {
        Self { opener }
    }

    /// All processes.
    pub(crate) fn all(&self) -> io::Result<Vec<u32>> {
        processes(self.opener.proc())
    }

    /// The network namespaces of processes, of each its first thread's; none when it has ended.
    pub(crate) fn netns(&self, pids: &[u32]) -> Vec<Option<NetnsId>> {
        self.opener.netns_of(pids).into_iter().map(Result::ok).collect()
    }

    /// The files that a process runs code from, each once.
    pub(crate) fn mappings(&self, pid: u32) -> io::Result<Vec<Mapping>> {
        mappings(self.opener.maps(pid)?)
    }

    /// Opens what is mapped there.
    pub(crate) fn open(&self, pid: u32, mapping: &Mapping) -> io::Result<File> {
        self.opener.mapped(pid, mapping.range)
    }
}

/// The path by which this process reaches an open file.
pub(crate) fn own(file: &impl AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

fn mappings(maps: impl Read) -> io::Result<Vec<Mapping>> {
    let mut lines = BufReader::new(maps.take(MAX_MAPS));
    let mut found: Vec<Mapping> = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        if lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(found);
        }
        let Some(mapping) = parse(&String::from_utf8_lossy(&line)) else { continue };
        let known =
            found.iter().any(|other| (other.inode, &other.path) == (mapping.inode, &mapping.path));
        if !known && found.len() < MAX_FILES {
            found.push(mapping);
        }
    }
}

/// Reads `7f12a000-7f13b000 r-xp 00026000 fe:00 173521 /usr/lib/libc.so.6`; none unless it is code
/// from a file.
fn parse(line: &str) -> Option<Mapping> {
    let mut fields = line.trim_end_matches('\n').splitn(6, ' ');
    let range = fields.next()?;
    let rights = fields.next()?;
    let (_offset, _device) = (fields.next()?, fields.next()?);
    let inode = fields.next()?.parse().ok().filter(|inode| *inode != 0)?;
    let path = fields.next()?.trim_start();
    let (start, end) = range.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    let range = (address(start)?, address(end)?);
    (rights.as_bytes().get(2) == Some(&b'x') && path.starts_with('/')).then(|| Mapping {
        range,
        inode,
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn only_code_from_files_is_listed_and_each_file_once() {
        let maps = "\
            55d0c0000000-55d0c0001000 r--p 00000000 fe:00 17    /usr/bin/a b\n\
            55d0c0001000-55d0c0002000 r-xp 00001000 fe:00 17                         /usr/bin/a b\n\
            55d0c0003000-55d0c0004000 r-xp 00003000 fe:00 17                         /usr/bin/a b\n\
            7f0000000000-7f0000001000 rwxp 00000000 00:00 0 \n\
            7f0000001000-7f0000002000 r-xp 00000000 fe:00 18   /lib/x.so (deleted)\n\
            7ffd00000000-7ffd00001000 r-xp 00000000 00:00 0                          [vdso]\n\
            ../../../etc/passwd r-xp 00000000 fe:00 18 /lib/y.so\n\
            broken\n";
        let found = mappings(maps.as_bytes()).unwrap();
        let paths: Vec<_> =
            found.iter().map(|mapping| (mapping.inode, &mapping.path[..])).collect();
        assert_eq!(paths, [(17, "/usr/bin/a b"), (18, "/lib/x.so (deleted)")]);
        assert_eq!(found[0].range, (0x55d0_c000_1000, 0x55d0_c000_2000));
    }

    #[test]
    fn the_own_program_is_found_and_opened() {
        let processes = Processes::new(Opener::default());
        let pid = std::process::id();
        assert!(processes.all().unwrap().contains(&pid));
        assert!(processes.netns(&[pid])[0].is_some());
        let mappings = processes.mappings(pid).unwrap();
        let exe = fs::canonicalize("/proc/self/exe").unwrap();
        let own = mappings.iter().find(|mapping| Path::new(&mapping.path) == exe).unwrap();
        let file = processes.open(pid, own).unwrap();
        let id = FileId::of(&file).unwrap();
        assert_eq!(id, FileId::of(&File::open(&exe).unwrap()).unwrap());
    }

    #[test]
    fn a_file_that_loses_its_name_stays_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("library");
        fs::write(&path, "code").unwrap();
        let file = File::open(&path).unwrap();
        let named = FileId::of(&file).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(FileId::of(&file).unwrap(), named);
    }
}
