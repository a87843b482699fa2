//! Why TLS secrets cannot be seen.

use std::io;

/// Recording goes on without TLS secrets.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Rights are missing.
    #[error("see TLS secrets: missing {} (or set tap.tls to false)", .missing.join("; "))]
    Rights {
        /// Which, each with what it is for.
        missing: Vec<String>,
    },
    /// The kernel does not describe itself.
    #[error(
        "see TLS secrets: {path} is not there: the kernel needs CONFIG_DEBUG_INFO_BTF (in a \
         container: mount the node's /sys), or set tap.tls to false"
    )]
    NoBtf {
        /// Where the description should be.
        path: &'static str,
    },
    /// The kernel refuses the programs.
    #[error(
        "see TLS secrets: load the BPF programs: {source} (needs Linux 5.8 or later, and that neither \
         seccomp nor lockdown denies bpf()), or set tap.tls to false"
    )]
    Load {
        /// Why.
        source: libbpf_rs::Error,
    },
    /// The programs lack a part; they were built from other sources.
    #[error("see TLS secrets: the BPF programs have no {name}")]
    Missing {
        /// Its name.
        name: &'static str,
    },
    /// What the kernel sends cannot be read.
    #[error("see TLS secrets: read the ring of BPF events: {source}")]
    Ring {
        /// Why.
        source: libbpf_rs::Error,
    },
    /// Processes cannot be listed.
    #[error("see TLS secrets: list processes in {path}: {source}")]
    Processes {
        /// Where.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A thread cannot be made.
    #[error("see TLS secrets: start a thread: {source}")]
    Thread {
        /// Why.
        source: io::Error,
    },
}
