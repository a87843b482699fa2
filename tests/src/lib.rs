//! The laboratory in which the whole system is tried: network namespaces, traffic, tcpdump beside
//! the recorder, and the judges that read what it wrote.
//!
//! Everything here panics when it cannot do its work: its users are tests, and `xtask`, for which a
//! missing tool or right is a failure with a message, never a reason to pass.
#![expect(clippy::missing_panics_doc, reason = "all of it panics, see above")]

mod capture_file;
mod certificate;
mod churn;
pub mod cluster;
mod compare;
mod disk;
mod flow;
pub mod judges;
mod netns;
pub mod peers;
mod program;
mod recorder;
mod side_by_side;
mod tcpdump;
pub mod toolchain;
pub mod traffic;
mod wait;

pub use capture_file::CaptureFile;
pub use capture_file::Packet;
pub use certificate::self_signed;
pub use churn::Churn;
pub use churn::Holdings;
pub use compare::Between;
pub use compare::assert_same;
pub use disk::DirUsage;
pub use disk::LoopDisk;
pub use disk::SmallDisk;
pub use disk::StallingDisk;
pub use disk::segments;
pub use disk::usage;
pub use disk::watch;
pub use netns::Netns;
pub use netns::VethPair;
pub use program::Program;
pub use program::kuberewind;
pub use program::output;
pub use program::python;
pub use program::succeed;
pub use program::target_dir;
pub use program::use_build;
pub use recorder::Interface;
pub use recorder::Namespace;
pub use recorder::Plaintext;
pub use recorder::Recorder;
pub use recorder::Status;
pub use recorder::Tls;
pub use recorder::Undecided;
pub use recorder::crashes;
pub use recorder::data_dir;
pub use recorder::pcapdump;
pub use recorder::status;
pub use recorder::window;
pub use side_by_side::SideBySide;
pub use tcpdump::Tcpdump;
pub use wait::wait_for;
pub use wait::wait_until;
