//! TLS secrets, the flows that they belong to, and what they open.
//!
//! ```text
//! while recording   packets of handshakes --> |
//!                                             | Joiner --> lines of a key log, and whose they are; hellos
//!                   secrets from probes ----> |
//!
//! for an export     key log --> |
//!                               | Decryptor --content--> Twins --> frames
//!                   packets --> |
//! ```
//!
//! Pure: bytes in, values out; no system calls, no clock, no unsafe code. Everything that parses takes
//! bytes from outside and never panics on them.
#![forbid(unsafe_code)]

mod cbc;
mod decrypt;
mod entrance;
mod error;
mod event;
mod flow;
mod frame;
mod half;
mod handshakes;
mod hello;
mod join;
mod keylog;
mod number;
mod object;
mod open;
mod pin;
mod queues;
mod schedule;
mod segment;
mod suite;
mod twin;

pub use decrypt::Content;
pub use decrypt::Conversation;
pub use decrypt::Decryptor;
pub use decrypt::Event;
pub use decrypt::Limits;
pub use decrypt::Outcome;
pub use decrypt::Reason;
pub use decrypt::Report;
pub use entrance::Decision;
pub use entrance::Entrances;
pub use entrance::Lead;
pub use entrance::Way;
pub use error::Error;
pub use event::Derived;
pub use event::KeyLogLabel;
pub use event::Secret;
pub use event::SecretBytes;
pub use event::SecretEvent;
pub use flow::Place;
pub use flow::Sender;
pub use join::JoinCounts;
pub use join::Joined;
pub use join::Joiner;
pub use join::Pinned;
pub use keylog::KeyLog;
pub use keylog::KeyLogLine;
pub use object::Object;
pub use object::ObjectPath;
pub use pin::Pin;
pub use segment::NoSegment;
pub use segment::Segment;
pub use suite::Version;
pub use twin::Moves;
pub use twin::PortsTaken;
pub use twin::TwinCounts;
pub use twin::Twins;
pub use twin::who_says;
