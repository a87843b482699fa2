//! What can go wrong with a filter.

use std::num::ParseIntError;

/// Why a filter expression did not become a filter.
///
/// The texts hold libpcap's own message, so the sources are not repeated in the error chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// The expression is not one, or can match nothing.
    #[error("filter `{expression}`: {}", libpcap_says(.reason))]
    Expression {
        /// What the user wrote.
        expression: String,
        /// libpcap's message.
        reason: pcap::Error,
    },
    /// Joined for all kinds of devices the program is longer than the kernel takes.
    #[error(
        "filter `{expression}` needs {instructions} instructions for Ethernet and raw IP together, \
         and the kernel takes {max}: write it shorter, e.g. `net` or `portrange` for lists"
    )]
    TooLong {
        /// What the user wrote.
        expression: String,
        /// The joined program's length.
        instructions: usize,
        /// The kernel's `BPF_MAXINSNS`.
        max: usize,
    },
    /// libpcap would take minutes or gigabytes to compile it.
    #[error(
        "filter `{}…` is too long, libpcap would compile it for minutes: write it shorter, e.g. \
         `net` or `portrange` for lists",
        expression.chars().take(60).collect::<String>()
    )]
    TooMuch {
        /// What the user wrote.
        expression: String,
    },
    /// The program walks a chain of headers in a loop, which the kernel does not do for classic BPF.
    #[error(
        "filter `{expression}`: `protochain` cannot be used while capturing, the kernel takes no \
         loops: record more and use it when exporting"
    )]
    Loop {
        /// What the user wrote.
        expression: String,
    },
    /// A capture filter is compiled on an open capture handle, which needs a right.
    #[error("open a capture handle to compile a filter: {reason} (needs CAP_NET_RAW)")]
    NotPermitted {
        /// The kernel's answer.
        reason: rustix::io::Errno,
    },
    /// There is no interface on which libpcap compiles for Ethernet.
    #[error(
        "open a capture handle on `lo` to compile a filter: {} (no other Ethernet interface is up \
         either; `ip link set lo up` mends it)",
        libpcap_says(.reason)
    )]
    NoHandle {
        /// libpcap's message for `lo`.
        reason: pcap::Error,
    },
    /// The empty savefile that says "Ethernet, from a file" to libpcap cannot be made.
    #[error("make an empty capture file in memory to compile a filter: {0}")]
    Savefile(std::io::Error),
    /// libpcap makes no handle to compile on, for want of memory or of `/proc`.
    #[error("make a handle to compile a filter: {}", libpcap_says(.0))]
    OpenHandle(pcap::Error),
    /// libpcap compiled to something that is not classic BPF.
    #[error("filter `{expression}`: {defect}")]
    Program {
        /// What the user wrote.
        expression: String,
        /// What is wrong.
        #[source]
        defect: Defect,
    },
}

/// What makes a list of instructions no program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// Not four numbers.
    #[error("libpcap compiled an instruction `{text}` that is not four numbers")]
    Text {
        /// What libpcap wrote.
        text: String,
        /// Which number is none.
        #[source]
        source: Option<ParseIntError>,
    },
    /// An operation that classic BPF does not have.
    #[error("libpcap compiled an unknown instruction {code:#06x} at {at}")]
    Unknown {
        /// Its code.
        code: u16,
        /// Its index.
        at: usize,
    },
    /// The program can leave its instructions.
    #[error("libpcap compiled a program that runs past its end at instruction {at}")]
    Endless {
        /// The index of the instruction that leads there.
        at: usize,
    },
}

fn libpcap_says(error: &pcap::Error) -> String {
    match error {
        pcap::Error::PcapError(message) => message.clone(),
        pcap::Error::InvalidInputString => "it holds a NUL byte".to_owned(),
        other => other.to_string(),
    }
}
