//! The files that an opener opens, and no others.

use std::path::{Path, PathBuf};

use super::message::{Door, Name};
use crate::namespaces::{NAMED, NetnsSpec, OWN};

/// Where doors to network namespaces are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doors {
    proc: PathBuf,
    files: Vec<PathBuf>,
}

impl Doors {
    /// Those of processes in `proc`, and those that were named: `/run/netns/NAME` is one always.
    pub fn new(proc: impl Into<PathBuf>, specs: &[NetnsSpec]) -> Self {
        let files = specs.iter().filter_map(|spec| match spec {
            NetnsSpec::Path(path) => Some(path.clone()),
            NetnsSpec::Host | NetnsSpec::Name(_) | NetnsSpec::Pid(_) => None,
        });
        Self::of(proc.into(), files.collect())
    }

    /// As [`Self::new`], with those that were named by their paths.
    pub fn of(proc: PathBuf, files: Vec<PathBuf>) -> Self {
        Self { proc, files }
    }

    /// Where processes are shown.
    pub fn proc(&self) -> &Path {
        &self.proc
    }

    /// The files that were named.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The door that a path is; none when it is none of these.
    pub(crate) fn door(&self, path: &Path) -> Option<Door> {
        if path == Path::new(OWN) {
            return Some(Door::File(0));
        }
        if let Ok(below) = path.strip_prefix(&self.proc)
            && let Some(pid) = below.to_str().and_then(|below| below.strip_suffix("/ns/net"))
            && let Ok(pid) = pid.parse()
        {
            return Some(Door::Process(pid));
        }
        if path.parent() == Some(Path::new(NAMED))
            && let Some(name) = path.file_name().and_then(|n| Name::new(n.as_encoded_bytes()))
        {
            return Some(Door::Named(name));
        }
        let index = self.files.iter().position(|file| file == path)?;
        u16::try_from(index + 1).ok().map(Door::File)
    }

    /// The path of a door.
    pub(crate) fn path(&self, door: &Door) -> Option<PathBuf> {
        match door {
            Door::Process(pid) => Some(self.process(*pid).join("ns/net")),
            Door::Named(name) => Some(Path::new(NAMED).join(name.as_os_str())),
            Door::File(0) => Some(OWN.into()),
            Door::File(index) => self.files.get(usize::from(*index) - 1).cloned(),
        }
    }

    pub(crate) fn process(&self, pid: u32) -> PathBuf {
        self.proc.join(pid.to_string())
    }
}

impl Default for Doors {
    fn default() -> Self {
        Self::of("/proc".into(), Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_leads_to_the_path_that_it_is_of() {
        let specs = [NetnsSpec::Host, NetnsSpec::Path("/srv/ns/blue".into())];
        let doors = Doors::new("/host/proc", &specs);
        for path in ["/proc/self/ns/net", "/host/proc/7/ns/net", "/run/netns/a", "/srv/ns/blue"] {
            let door = doors.door(Path::new(path)).unwrap();
            assert_eq!(doors.path(&door).as_deref(), Some(Path::new(path)));
        }
    }

    #[test]
    fn nothing_else_is_a_door() {
        let doors = Doors::new("/host/proc", &[]);
        for path in ["/etc/shadow", "/run/netns/../../etc", "/host/proc/7/mem", "/proc/7/ns/net"] {
            assert_eq!(doors.door(Path::new(path)), None, "{path}");
        }
        assert_eq!(doors.path(&Door::File(1)), None);
    }
}
