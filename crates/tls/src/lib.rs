//! TLS secrets, the flows that they belong to, and what they open.
//!
//! ```text
//! packets of handshakes --\
//!                          Joiner --> lines of a key log, and whose they are
//! secrets from probes ----/
//! ```

mod event;
mod handshakes;
mod hello;
mod join;
mod key_log;
mod schedule;
mod segment;

pub use event::Derived;
pub use event::KeyLogLabel;
pub use event::Secret;
pub use event::SecretBytes;
pub use event::SecretEvent;
pub use join::JoinCounts;
pub use join::Joined;
pub use join::Joiner;
pub use key_log::KeyLogError;
pub use key_log::KeyLogLine;
pub use segment::Segment;
