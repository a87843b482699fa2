//! Where an export goes: `--dest` and `--format` decided, before anything is asked of a recorder.

use std::io::{IsTerminal, stdout};
use std::path::{Path, PathBuf};

use kuberewind_packet::Timestamp;

use crate::Format;

/// Where to, and how written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Where to.
    pub place: Place,
    /// How written down.
    pub format: Format,
}

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file with a name of our choice in this directory.
    Directory(PathBuf),
    /// This file, which must not exist.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

impl Place {
    /// The directory that the file will lie in; none for standard output.
    pub fn directory(&self) -> Option<&Path> {
        let dir = match self {
            Self::Directory(dir) => dir,
            Self::File(path) => path.parent().unwrap_or(Path::new("")),
            Self::Stdout => return None,
        };
        Some(if dir.as_os_str().is_empty() { Path::new(".") } else { dir })
    }
}

/// Why an export cannot go there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// Neither a directory nor a packet file.
    #[error(
        "--dest {0}: neither a directory nor a name that ends in .pcap or .pcapng \
         (for a new directory, create it first)"
    )]
    Unclear(PathBuf),
    /// The name says one format, the flag another.
    #[error("--dest {path} is a .{} file, but --format says {format}", .found.extension())]
    Contradiction {
        /// `--dest`.
        path: PathBuf,
        /// What its ending says.
        found: Format,
        /// What the flag says.
        format: Format,
    },
    /// Packets are not text.
    #[error(
        "--dest - would write packets to the terminal: pipe it, as in `--dest - | tshark -r -`"
    )]
    Terminal,
    /// Files are never overwritten.
    #[error("{0} exists already, and exports never overwrite: choose another --dest")]
    Exists(PathBuf),
}

impl DestinationError {
    /// Whether the command line is wrong (exit code 2), rather than the state of the disk (1).
    pub const fn is_usage(&self) -> bool {
        match self {
            Self::Unclear(_) | Self::Contradiction { .. } | Self::Terminal => true,
            Self::Exists(_) => false,
        }
    }
}

/// What there is at the destination now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Facts {
    is_directory: bool,
    exists: bool,
    stdout_is_terminal: bool,
}

impl Destination {
    /// What `--dest` and `--format` mean here and now; without `--dest`, the current directory.
    pub fn find(dest: Option<&Path>, format: Option<Format>) -> Result<Self, DestinationError> {
        let dest = dest.unwrap_or(Path::new("."));
        let facts = Facts {
            is_directory: dest.is_dir(),
            exists: dest.symlink_metadata().is_ok(),
            stdout_is_terminal: stdout().is_terminal(),
        };
        Self::choose(dest, format, facts)
    }

    fn choose(dest: &Path, format: Option<Format>, facts: Facts) -> Result<Self, DestinationError> {
        if dest == Path::new("-") {
            if facts.stdout_is_terminal {
                return Err(DestinationError::Terminal);
            }
            return Ok(Self { place: Place::Stdout, format: format.unwrap_or_default() });
        }
        if facts.is_directory || dest.as_os_str().as_encoded_bytes().ends_with(b"/") {
            let place = Place::Directory(dest.to_owned());
            return Ok(Self { place, format: format.unwrap_or_default() });
        }
        let found = dest.extension().and_then(|ending| ending.to_str()?.parse().ok());
        let found: Format = found.ok_or_else(|| DestinationError::Unclear(dest.to_owned()))?;
        match format {
            Some(format) if format != found => {
                Err(DestinationError::Contradiction { path: dest.to_owned(), found, format })
            }
            _ if facts.exists => Err(DestinationError::Exists(dest.to_owned())),
            _ => Ok(Self { place: Place::File(dest.to_owned()), format: found }),
        }
    }
}

/// The names for an export, best first: `<id>-20261122T213005Z.pcap`, then `…Z-2.pcap` and so on.
pub(crate) fn names(
    id: &str,
    to: Timestamp,
    format: Format,
) -> impl Iterator<Item = String> + use<> {
    let stem = format!("{}-{}", plain(id), compact(to));
    (1u32..).map(move |nth| match nth {
        1 => format!("{stem}.{format}"),
        _ => format!("{stem}-{nth}.{format}"),
    })
}

/// The second that the instant lies in, without the colons that other systems do not take.
fn compact(time: Timestamp) -> String {
    let whole = Timestamp::from_nanos(time.as_nanos() - u64::from(time.subsec_nanos()));
    whole.to_string().replace(['-', ':'], "")
}

/// Only what every file system takes, and nothing that leads out of the directory or hides the file.
fn plain(id: &str) -> String {
    let keep = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let plain: String = id.trim_start_matches(['.', '-']).chars().take(100).map(keep).collect();
    if plain.is_empty() { "kuberewind".to_owned() } else { plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Facts = Facts { is_directory: false, exists: false, stdout_is_terminal: false };
    const FILE: Facts = Facts { exists: true, ..NEW };
    const DIRECTORY: Facts = Facts { is_directory: true, exists: true, ..NEW };
    const TERMINAL: Facts = Facts { stdout_is_terminal: true, ..NEW };

    fn choose(dest: &str, format: Option<Format>, facts: Facts) -> (Option<Place>, Option<Format>) {
        let chosen = Destination::choose(Path::new(dest), format, facts).ok();
        chosen.map_or((None, None), |chosen| (Some(chosen.place), Some(chosen.format)))
    }

    #[test]
    fn a_destination_is_what_it_looks_like() {
        use Format::{Pcap, Pcapng};
        let directory = |dir: &str| Some(Place::Directory(dir.into()));
        let file = |path: &str| Some(Place::File(path.into()));
        for (dest, format, facts, place, chosen) in [
            ("out", None, DIRECTORY, directory("out"), Pcap),
            ("out", Some(Pcapng), DIRECTORY, directory("out"), Pcapng),
            ("out/", None, NEW, directory("out/"), Pcap),
            ("a.pcap", None, DIRECTORY, directory("a.pcap"), Pcap),
            ("a.pcap", Some(Pcapng), DIRECTORY, directory("a.pcap"), Pcapng),
            ("a.pcap", None, NEW, file("a.pcap"), Pcap),
            ("a.pcapng", None, NEW, file("a.pcapng"), Pcapng),
            ("A.PCAPNG", Some(Pcapng), NEW, file("A.PCAPNG"), Pcapng),
            ("-", None, NEW, Some(Place::Stdout), Pcap),
            ("-", Some(Pcapng), NEW, Some(Place::Stdout), Pcapng),
            (".", None, DIRECTORY, directory("."), Pcap),
        ] {
            assert_eq!(choose(dest, format, facts), (place, Some(chosen)), "{dest} {format:?}");
        }
    }

    #[test]
    fn only_a_file_that_exists_is_no_mistake_of_usage() {
        use Format::{Pcap, Pcapng};
        for (dest, format, facts, usage) in [
            ("out", None, NEW, true),
            ("out.txt", None, NEW, true),
            ("out.txt", None, FILE, true),
            ("", None, NEW, true),
            (".pcap", None, NEW, true),
            ("a.pcap", Some(Pcapng), NEW, true),
            ("a.pcapng", Some(Pcap), FILE, true),
            ("-", None, TERMINAL, true),
            ("a.pcap", None, FILE, false),
            ("a.pcapng", Some(Pcapng), FILE, false),
        ] {
            let error = Destination::choose(Path::new(dest), format, facts).unwrap_err();
            assert_eq!(error.is_usage(), usage, "{error}");
        }
    }

    #[test]
    fn names_hold_the_end_of_the_window_and_no_colons() {
        let to = "2026-11-22T21:30:05.999999999Z".parse().unwrap();
        let names: Vec<_> = names("web-1", to, Format::Pcap).take(3).collect();
        let expected = ["", "-2", "-3"].map(|nth| format!("web-1-20261122T213005Z{nth}.pcap"));
        assert_eq!(names, expected);
    }

    #[test]
    fn no_id_leads_out_of_the_directory() {
        for (id, plain_id) in [("../../etc/x", "-..-etc-x"), ("", "kuberewind"), ("ü b", "--b")] {
            assert_eq!(plain(id), plain_id);
        }
        assert_eq!(plain(&"x".repeat(300)).len(), 100);
    }
}
