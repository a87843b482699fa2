//! What a directory takes of the disk, and disks that are soon full.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::{output, succeed};

const SECTOR: u64 = 512;

/// Bytes of a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirUsage {
    /// The sum of the files' lengths.
    pub length: u64,
    /// The sum of what the file system set aside for them.
    pub allocated: u64,
    /// The sum of the larger of the two, file by file.
    pub larger: u64,
}

impl DirUsage {
    /// The larger of two, by each measure.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            length: self.length.max(other.length),
            allocated: self.allocated.max(other.allocated),
            larger: self.larger.max(other.larger),
        }
    }
}

/// What all files below `dir` took at one moment, those included that process `pid` has unlinked but
/// still holds open. Never more than was true: files come and go while they are counted, so they are
/// counted twice, and only what was there both times, with the smaller size, is added up. Between the
/// two counts all of it existed at once.
pub fn usage(dir: &Path, pid: Option<u32>) -> DirUsage {
    let (first, second) = (files(dir, pid), files(dir, pid));
    let mut usage = DirUsage::default();
    for (inode, first) in first {
        let Some(second) = second.get(&inode) else { continue };
        let (length, allocated) = (first.0.min(second.0), first.1.min(second.1));
        usage.length += length;
        usage.allocated += allocated;
        usage.larger += length.max(allocated);
    }
    usage
}

/// Length and allocated bytes by inode: a file that is renamed meanwhile counts once.
type Files = HashMap<u64, (u64, u64)>;

fn files(dir: &Path, pid: Option<u32>) -> Files {
    let mut files = Files::new();
    add_below(dir, &mut files);
    if let Some(pid) = pid {
        add_unlinked(dir, pid, &mut files);
    }
    files
}

fn add_below(dir: &Path, files: &mut Files) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        // A file that is gone by now takes nothing.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            add_below(&entry.path(), files);
        } else {
            add(&metadata, files);
        }
    }
}

fn add_unlinked(dir: &Path, pid: u32, files: &mut Files) {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let Ok(target) = fs::read_link(&path) else { continue };
        let unlinked = target.starts_with(dir) && target.to_string_lossy().ends_with(" (deleted)");
        if let (true, Ok(metadata)) = (unlinked, fs::metadata(&path)) {
            add(&metadata, files);
        }
    }
}

fn add(metadata: &Metadata, files: &mut Files) {
    files.insert(metadata.ino(), (metadata.len(), metadata.blocks() * SECTOR));
}

/// The most that `dir` took, by each measure, while `action` ran: looked at every few milliseconds.
pub fn watch(dir: &Path, pid: u32, action: impl FnOnce()) -> DirUsage {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = DirUsage::default();
            while !done.load(Ordering::Relaxed) {
                most = most.max(usage(dir, Some(pid)));
                thread::park_timeout(Duration::from_millis(3));
            }
            most
        });
        let _stop = StopOnDrop(&done);
        action();
        done.store(true, Ordering::Relaxed);
        watcher.join().expect("the watcher")
    })
}

/// Ends the watcher also when the action panics, so that the panic comes out.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The sealed segments of a data directory, in the order of their names.
pub fn segments(data_dir: &Path) -> Vec<PathBuf> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(data_dir).expect("the data directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            segments.append(&mut self::segments(&path));
        } else if path.extension().is_some_and(|extension| extension == "pcapng") {
            segments.push(path);
        }
    }
    segments.sort();
    segments
}

/// A file system of so many bytes, unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    /// Mounts it.
    pub fn new(bytes: u64) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let options = format!("size={bytes}");
        let mut command = Command::new("mount");
        succeed(command.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path()));
        Self { dir }
    }

    /// Lets nobody write to it any more.
    pub fn make_read_only(&self) {
        succeed(Command::new("mount").args(["-o", "remount,ro"]).arg(self.path()));
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The names on it.
    pub fn names(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path()).expect("the small disk");
        entries.flatten().map(|entry| entry.file_name().into()).collect()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a loop device lets go of its file only a moment after it was unmounted.
        output(Command::new("umount").arg("-l").arg(self.dir.path()));
    }
}

/// A file system on a block device of its own, which in turn is a file on a disk that may be too small
/// for it: writes then find no room though the file system has some, as on a thinly provisioned volume.
#[derive(Debug)]
pub struct LoopDisk {
    below: SmallDisk,
    dir: TempDir,
}

impl LoopDisk {
    /// A file system that believes in `bytes`, on `really` of them.
    pub fn new(bytes: u64, really: u64) -> Self {
        let below = SmallDisk::new(really);
        let dir = mount_image(&below.path().join("image"), bytes);
        Self { below, dir }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Lets the device have so many bytes.
    pub fn really(&self, bytes: u64) {
        let options = format!("remount,size={bytes}");
        succeed(Command::new("mount").args(["-o", &options]).arg(self.below.path()));
    }

    /// Whoever writes now waits until [`Self::thaw`].
    pub fn freeze(&self) {
        succeed(Command::new("fsfreeze").arg("--freeze").arg(self.path()));
    }

    /// Lets writers go on.
    pub fn thaw(&self) {
        succeed(Command::new("fsfreeze").arg("--unfreeze").arg(self.path()));
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        output(Command::new("fsfreeze").arg("--unfreeze").arg(self.path()));
        output(Command::new("umount").arg("-l").arg(self.path()));
    }
}

/// A new file system of so many bytes on a loop device, and where it is mounted.
fn mount_image(image: &Path, bytes: u64) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let file = fs::File::create(image).expect("the image");
    file.set_len(bytes).expect("the image's length");
    // No journal: an error of the device is then an error of the write, not of the file system.
    let mut make = Command::new("mkfs.ext4");
    make.args(["-q", "-F", "-m", "0", "-O", "^has_journal,^resize_inode"]);
    make.args(["-E", "lazy_itable_init=1,nodiscard"]);
    succeed(make.arg(image));
    let mut mount = Command::new("mount");
    mount.args(["-t", "ext4", "-o", "loop,errors=continue,noatime"]).arg(image);
    succeed(mount.arg(dir.path()));
    dir
}

/// A file system on a device that stands still nearly all the time, as one does that others keep busy.
#[derive(Debug)]
pub struct StallingDisk {
    device: Arc<LoopDisk>,
    dir: TempDir,
    goes: Arc<AtomicBool>,
    stalls: Option<thread::JoinHandle<()>>,
}

impl StallingDisk {
    /// A file system of so many bytes.
    pub fn new(bytes: u64) -> Self {
        let device = Arc::new(LoopDisk::new(bytes + bytes / 4, bytes + bytes / 2));
        let dir = mount_image(&device.path().join("image"), bytes);
        Self { device, dir, goes: Arc::new(AtomicBool::new(true)), stalls: None }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// From now on the device stands still for so long, over and over, and goes on for so long in between.
    pub fn stall(&mut self, stands: Duration, goes_on: Duration) {
        self.goes.store(false, Ordering::Relaxed);
        let (device, goes) = (Arc::clone(&self.device), Arc::clone(&self.goes));
        self.stalls = Some(thread::spawn(move || {
            while !goes.load(Ordering::Relaxed) {
                device.freeze();
                thread::park_timeout(stands);
                device.thaw();
                thread::park_timeout(goes_on);
            }
        }));
    }

    /// The device goes on for good.
    pub fn go(&mut self) {
        self.goes.store(true, Ordering::Relaxed);
        if let Some(stalls) = self.stalls.take() {
            stalls.join().expect("the device to go on");
        }
    }
}

impl Drop for StallingDisk {
    fn drop(&mut self) {
        self.go();
        output(Command::new("umount").arg("-l").arg(self.path()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unlinked_file_counts_while_it_is_open() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let below = dir.path().join("below");
        fs::create_dir(&below).expect("a directory");
        fs::write(below.join("kept"), [1; 1000]).expect("a file");
        fs::write(dir.path().join("gone"), [1; 5000]).expect("a file");
        let open = fs::File::open(dir.path().join("gone")).expect("the file");
        fs::remove_file(dir.path().join("gone")).expect("unlink it");
        let own = Some(std::process::id());
        assert_eq!(usage(dir.path(), own).length, 6000);
        assert_eq!(usage(dir.path(), None).length, 1000);
        assert!(usage(dir.path(), own).allocated >= 2 * 4096);
        drop(open);
        assert_eq!(usage(dir.path(), own).length, 1000);
    }
}
