//! What can go wrong between the kernel and a sink.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use kuberewind_packet::{NetnsId, Owner, Timestamp};

/// Why packets cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// A namespace's file cannot be opened.
    #[error("open the network namespace of {owner} at {}: {source}{}", path.display(), hint(source))]
    OpenNamespace {
        /// Whose.
        owner: Owner,
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file leads to another namespace than when it was found.
    #[error("enter the network namespace of {owner}: {} is {found} now, no longer {wanted}", path.display())]
    AnotherNamespace {
        /// Whose.
        owner: Owner,
        /// Its file.
        path: PathBuf,
        /// The namespace that was there.
        wanted: NetnsId,
        /// The namespace that is there.
        found: NetnsId,
    },
    /// A namespace cannot be entered.
    #[error("enter the network namespace of {owner} at {}: {source}{}", path.display(), hint(source))]
    EnterNamespace {
        /// Whose.
        owner: Owner,
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A namespace gives no packet socket.
    #[error("open a capture ring's socket for {owner}: {source}{}", hint(source))]
    OpenSocket {
        /// Whose.
        owner: Owner,
        /// Why.
        source: io::Error,
    },
    /// A capture ring cannot be opened.
    #[error("open a capture ring of {bytes} bytes for {owner}: {source}{}", hint(source))]
    OpenRing {
        /// Whose.
        owner: Owner,
        /// Its size.
        bytes: usize,
        /// Why.
        source: io::Error,
    },
    /// The interfaces of a namespace cannot be listed.
    #[error("list the interfaces of {owner}: {source}")]
    ListInterfaces {
        /// Whose.
        owner: Owner,
        /// Why.
        source: io::Error,
    },
    /// The kernel would take this filter program on no ring.
    #[error(
        "try a filter of {instructions} instructions: {source} (at most 4096, and within the sysctl \
         net.core.optmem_max; shorten tap.bpfOverride)"
    )]
    FilterRefused {
        /// The program's length.
        instructions: usize,
        /// Why.
        source: io::Error,
    },
    /// One ring refuses a filter program.
    #[error(
        "attach a filter of {instructions} instructions to the capture ring of {owner}: {source} \
         (at most 4096, and within the sysctl net.core.optmem_max; shorten tap.bpfOverride)"
    )]
    Filter {
        /// Whose ring.
        owner: Owner,
        /// The program's length.
        instructions: usize,
        /// Why.
        source: io::Error,
    },
    /// A thread, or what it waits on, cannot be made.
    #[error("start {what}: {source}")]
    Start {
        /// What was to start.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The rings could not be read up to a time.
    #[error(
        "read every capture ring up to {to}: not done after {waited:?}; the disk does not keep up"
    )]
    Unsettled {
        /// The time.
        to: Timestamp,
        /// How long we waited.
        waited: Duration,
    },
    /// The capture ended meanwhile.
    #[error("the capture has ended")]
    Ended,
    /// A capture file cannot be opened.
    #[error("open the capture file {}: {source}", path.display())]
    OpenFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A pcap file cannot be read to its end.
    #[error("read the pcap file {}: {source}", path.display())]
    ReadPcap {
        /// The file.
        path: PathBuf,
        /// Why.
        source: pcap_file::pcap::PcapReadError,
    },
    /// A pcapng file cannot be read to its end.
    #[error("read the pcapng file {}: {source}", path.display())]
    ReadPcapng {
        /// The file.
        path: PathBuf,
        /// Why.
        source: pcap_file::pcapng::PcapNgReadError,
    },
    /// A file holds packets of a kind that cannot be made Ethernet frames.
    #[error(
        "read the capture file {}: link type {link_type} is neither Ethernet, raw IP nor Linux cooked",
        path.display()
    )]
    LinkType {
        /// The file.
        path: PathBuf,
        /// Its link type, as in pcap's registry.
        link_type: u32,
    },
    /// Replay found no room in the sink.
    #[error("replay {}: the disk took nothing for {waited:?}", path.display())]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// How long we waited.
        waited: Duration,
    },
}

/// What to do about a system call's refusal.
fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => " (needs CAP_NET_RAW and, for other namespaces, CAP_SYS_ADMIN)",
        Some(libc::EACCES) => " (needs CAP_SYS_PTRACE or the rights of the namespace's owner)",
        Some(libc::ENOMEM) => " (lower tap.ringMemory or free memory)",
        Some(libc::EMFILE) => " (raise the limit of open files)",
        Some(libc::EINVAL) => " (is it a network namespace?)",
        _ => "",
    }
}
