//! Which packets: filter expressions in libpcap's language.

mod targets;

pub use targets::Candidate;
pub use targets::OwnPods;
pub use targets::Reason;
pub use targets::TargetError;
pub use targets::TargetRules;
pub use targets::TargetSettings;
pub use targets::Verdict;
