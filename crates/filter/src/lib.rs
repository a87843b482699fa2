//! Which packets: filter expressions in libpcap's language (`pcap-filter(7)`).
//!
//! - A [`CaptureFilter`] runs in the kernel, on one socket that sees every device of a network
//!   namespace: Ethernet, loopback, and devices without a link header such as tun and `WireGuard`.
//! - A [`StoredFilter`] runs on packets as they are stored: Ethernet, VLAN tags in the bytes.
//!
//! libpcap compiles both. Joining the programs and running the second kind is ours, so nothing here
//! needs `unsafe`.
//!
//! # The same words, two answers for tagged frames
//! The kernel takes a frame's outermost VLAN tag out of its bytes before a filter sees them; what is
//! stored has it back. So a tagged TCP segment matches `tcp` in a [`CaptureFilter`], and in a
//! [`StoredFilter`] it matches `vlan and tcp` but not `tcp`; with two tags, `vlan and tcp` in the
//! first and `vlan and vlan and tcp` in the second. tcpdump answers just so, on an interface and on a
//! file. An export that should find both writes `tcp or (vlan and tcp)`.
//!
//! `greater` and `less` count such a frame without its tag in the kernel, and with it in storage:
//! four bytes more.
//!
//! # Words that know only one interface
//! A program serves every device of a namespace, so there is no netmask: `ip broadcast` means
//! 255.255.255.255 and 0.0.0.0 alone. `inbound`, `outbound` and `ifindex` work in a
//! [`CaptureFilter`] and are refused in a [`StoredFilter`], which has no such knowledge.
#![forbid(unsafe_code)]

mod capture;
mod error;
mod forbidden;
mod instruction;
mod join;
mod libpcap;
mod machine;
mod stored;
mod targets;

pub use capture::CaptureFilter;
pub use error::FilterError;
pub use forbidden::Forbidden;
pub use instruction::Instruction;
pub use stored::StoredFilter;
pub use targets::Candidate;
pub use targets::OwnPods;
pub use targets::Reason;
pub use targets::TargetError;
pub use targets::TargetRules;
pub use targets::TargetSettings;
pub use targets::Verdict;
