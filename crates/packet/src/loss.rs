//! Packets that were on the wire and are not in the recording, by cause.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// Why packets are missing. The names are what users see in `status`, reports and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossCause {
    /// The kernel's capture ring was full: packets came faster than they were read.
    Ring,
    /// As `Ring`, but the ring wanted to grow and `tap.ringMemory` was used up.
    RingMemory,
    /// Nobody had said in time whether these packets were to be recorded: they waited in memory, and no
    /// pod was told of that they could belong to, or more came than may wait.
    Undecided,
    /// The disk was slower than the packets: every buffer was waiting to be written.
    Buffer,
    /// The disk refused the write: full, failing or read-only.
    Disk,
}

impl LossCause {
    /// Every cause, in the order in which reports list them.
    pub const ALL: [Self; 5] =
        [Self::Ring, Self::RingMemory, Self::Undecided, Self::Buffer, Self::Disk];

    /// The name that users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::RingMemory => "ring-memory",
            Self::Undecided => "undecided",
            Self::Buffer => "buffer",
            Self::Disk => "disk",
        }
    }
}

impl fmt::Display for LossCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LossCause {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|cause| cause.name() == name).ok_or(())
    }
}

/// So many packets lost for one cause within a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Why.
    pub cause: LossCause,
    /// How many packets.
    pub packets: u64,
    /// They were lost no earlier than this,
    pub from: Timestamp,
    /// and no later than this.
    pub to: Timestamp,
}
