//! Bytes out of the kernel: network namespaces, capture rings, TLS probes, replay of a file.
//!
//! Linux 4.12 or later. One packet socket with a ring for each network namespace; a few threads read
//! them all and give each packet, as a borrowed Ethernet frame, to a
//! [`PacketSink`](kuberewind_packet::PacketSink).

mod capture;
mod ends;
mod error;
mod forerunner;
mod growth;
mod hold;
mod interfaces;
mod lane;
mod link;
mod links;
mod named;
mod namespaces;
mod opener;
mod opening;
mod plan;
mod recorded;
mod replay;
mod rights;
mod ring;
mod seam;
mod status;
mod supervisor;
mod sys;
mod tls;
mod watch;

pub use capture::Capture;
pub use capture::CaptureConfig;
pub use error::CaptureError;
pub use named::Named;
pub use named::NamedWatch;
pub use namespaces::NetnsSpec;
pub use namespaces::Target;
pub use opener::Doors;
pub use opener::Opener;
pub use opener::OpenerProcess;
pub use opener::serve_opener;
pub use plan::Desired;
pub use replay::replay;
pub use rights::missing_rights;
pub use rights::try_ring;
pub use status::CaptureStatus;
pub use status::InterfaceStatus;
pub use status::NamespaceStatus;
pub use status::ThreadState;
pub use status::UndecidedStatus;
pub use tls::LibraryStatus;
pub use tls::Plaintext;
pub use tls::PlaintextEvent;
pub use tls::PlaintextProbes;
pub use tls::PlaintextStatus;
pub use tls::PlaintextTold;
pub use tls::TlsConfig;
pub use tls::TlsError;
pub use tls::TlsNamespaceStatus;
pub use tls::TlsProbes;
pub use tls::TlsStatus;
pub use tls::UnsupportedStatus;
pub use tls::try_tls;
pub use watch::NetnsWatch;

/// What only the fuzzer needs.
#[doc(hidden)]
pub mod fuzz {
    pub use crate::opener::look_at_message;
    pub use crate::opener::messages as opener_messages;
    pub use crate::tls::look_into;
    pub use crate::tls::plaintext_event;
    pub use crate::tls::read_plaintext;
}
