//! What a packet is and how it is written down: timestamps, interfaces, losses, pcap and pcapng.
//!
//! Pure: no system calls, no clocks but [`Timestamp::now`], no unsafe code. Everything that parses
//! takes bytes from outside and answers with a value or an error, never with a panic.
#![forbid(unsafe_code)]

mod account;
mod byte_size;
mod frame;
mod interface;
mod loss;
pub mod pcap;
pub mod pcapng;
mod sink;
mod stream;
mod time;

pub use account::ClockStep;
pub use account::Damage;
pub use account::Gap;
pub use account::GapCause;
pub use account::LossAt;
pub use account::WindowAccount;
pub use byte_size::ByteSize;
pub use byte_size::ParseByteSizeError;
pub use frame::Frame;
pub use frame::MAX_CAPTURED;
pub use interface::Interface;
pub use interface::InterfaceError;
pub use interface::NetnsId;
pub use interface::Owner;
pub use interface::Pod;
pub use loss::Loss;
pub use loss::LossCause;
pub use sink::PacketSink;
pub use sink::Slot;
pub use stream::PacketStream;
pub use time::ParseTimestampError;
pub use time::Span;
pub use time::Timestamp;
