//! Network namespaces as users name them, and whether they are there.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use kuberewind_packet::{NetnsId, Owner};

use crate::opener::Opener;

/// Where `ip netns` and container runtimes put names.
pub(crate) const NAMED: &str = "/run/netns";
/// The recorder's own namespace: the machine's, unless it was started in another.
pub(crate) const OWN: &str = "/proc/self/ns/net";

/// A network namespace to record, and through which file it can be entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whose it is.
    pub owner: Owner,
    /// Which it is: one namespace that goes by two names is recorded once.
    pub netns: NetnsId,
    /// A file of it: `/run/netns/NAME`, `/proc/PID/ns/net`.
    pub path: PathBuf,
}

/// What the user wrote for a network namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NetnsSpec {
    /// `host`: the machine's own, that is, the one that the recorder was started in.
    Host,
    /// A name in `/run/netns`.
    Name(String),
    /// A file, written with a `/`.
    Path(PathBuf),
    /// That of a process, for as long as the process lives.
    Pid(u32),
}

impl FromStr for NetnsSpec {
    type Err = Infallible;

    /// Every text means something; whether it is there shows later, and may change.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(if text == "host" {
            Self::Host
        } else if text.contains('/') {
            Self::Path(text.into())
        } else if let Ok(pid) = text.parse() {
            Self::Pid(pid)
        } else {
            Self::Name(text.to_owned())
        })
    }
}

impl fmt::Display for NetnsSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Name(name) => f.write_str(name),
            Self::Path(path) => path.display().fmt(f),
            Self::Pid(pid) => pid.fmt(f),
        }
    }
}

impl NetnsSpec {
    /// The file through which it is entered.
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Self::Host => OWN.into(),
            Self::Name(name) => Path::new(NAMED).join(name),
            Self::Path(path) => path.clone(),
            Self::Pid(pid) => namespace_of(*pid),
        }
    }

    pub(crate) fn owner(&self) -> Owner {
        match self {
            Self::Host => Owner::Host,
            named => Owner::Netns(named.to_string()),
        }
    }

    /// The namespace as it is there now.
    pub(crate) fn find(&self, opener: &Opener) -> Result<Target, NotThere> {
        let path = self.path();
        match opener.which(&path) {
            Ok(Some(netns)) => Ok(Target { owner: self.owner(), netns, path }),
            Ok(None) => Err(NotThere { spec: self.clone(), path, source: None }),
            Err(source) => Err(NotThere { spec: self.clone(), path, source: Some(source) }),
        }
    }
}

/// A namespace that is not there, or not yet.
#[derive(Debug)]
pub(crate) struct NotThere {
    spec: NetnsSpec,
    path: PathBuf,
    source: Option<io::Error>,
}

impl fmt::Display for NotThere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { spec, path, source } = self;
        write!(f, "network namespace {spec}: {} ", path.display())?;
        match source {
            Some(source) => write!(f, "cannot be read: {source}"),
            None => f.write_str("is not a network namespace"),
        }
    }
}

fn namespace_of(pid: u32) -> PathBuf {
    format!("/proc/{pid}/ns/net").into()
}

/// For each network namespace in which a process lives, one such process. Looks at every process of
/// the machine: about 5 µs for each.
pub(crate) fn inhabited(opener: &Opener) -> BTreeMap<NetnsId, PathBuf> {
    let mut inhabited = BTreeMap::new();
    let Ok(pids) = processes(Path::new("/proc")) else { return inhabited };
    for (pid, netns) in pids.iter().zip(opener.netns_of(&pids)) {
        // Processes end while we look, and kernel threads have no namespaces.
        if let Ok(netns) = netns {
            inhabited.entry(netns).or_insert_with(|| namespace_of(*pid));
        }
    }
    inhabited
}

/// The numbers of all processes; about 1 µs each.
pub(crate) fn processes(proc: &Path) -> io::Result<Vec<u32>> {
    let entries = fs::read_dir(proc)?;
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(numbers.collect())
}

/// Reads `net:[4026531840]`.
pub(crate) fn parse_link(link: &str) -> Option<NetnsId> {
    link.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok().map(NetnsId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_host_a_path_a_pid_or_a_name() {
        let cases = [
            ("host", NetnsSpec::Host),
            ("blue", NetnsSpec::Name("blue".into())),
            ("/proc/7/ns/net", NetnsSpec::Path("/proc/7/ns/net".into())),
            ("4711", NetnsSpec::Pid(4711)),
            ("cni-4711", NetnsSpec::Name("cni-4711".into())),
        ];
        for (text, spec) in cases {
            assert_eq!(text.parse(), Ok(spec.clone()));
            assert_eq!(spec.to_string(), text);
        }
    }

    #[test]
    fn an_ordinary_file_is_no_namespace() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let opener = Opener::default();
        assert_eq!(opener.which(file.path()).unwrap(), None);
        assert!(opener.which(Path::new(OWN)).unwrap().is_some());
        let error = NetnsSpec::Path(file.path().into()).find(&opener).unwrap_err();
        assert!(error.to_string().ends_with("is not a network namespace"), "{error}");
    }

    #[test]
    fn the_own_namespace_is_inhabited() {
        let opener = Opener::default();
        let own = NetnsSpec::Host.find(&opener).unwrap();
        assert!(inhabited(&opener).contains_key(&own.netns));
        assert_eq!(parse_link("net:[4026531840]"), Some(NetnsId(4_026_531_840)));
        assert_eq!(parse_link("mnt:[1]"), None);
    }
}
