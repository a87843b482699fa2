//! What is recorded, what was lost, and what is wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use kuberewind_packet::{LossCause, NetnsId, Owner, Timestamp};
use serde::{Deserialize, Serialize};

/// The state of a [`crate::Capture`].
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct CaptureStatus {
    /// The network namespaces that are recorded.
    pub namespaces: Vec<NamespaceStatus>,
    /// Those of which nobody has decided yet.
    #[serde(default)]
    pub undecided: UndecidedStatus,
    /// Bytes that all rings take.
    pub ring_bytes: u64,
    /// Bytes that they may take (`tap.ringMemory`).
    pub ring_budget: u64,
    /// Frames that were longer than is kept, [`kuberewind_packet::MAX_CAPTURED`], or than a block of
    /// their ring.
    pub cut: u64,
    /// What is not recorded and why, each a line.
    pub problems: Vec<String>,
    /// Whether the capture threads do their work.
    #[serde(default)]
    pub threads: ThreadState,
}

/// Network namespaces of which it is not known yet whether they are to be recorded. Their packets are in
/// memory only.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct UndecidedStatus {
    /// How many there are.
    pub namespaces: u64,
    /// Packets that wait.
    pub packets: u64,
    /// Bytes of memory that these take.
    pub bytes: u64,
}

impl UndecidedStatus {
    pub(crate) fn count(&mut self, (packets, bytes): (u64, u64)) {
        self.namespaces += 1;
        self.packets += packets;
        self.bytes += bytes;
    }
}

/// Whether the capture threads do their work; of several, the one that does worst.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct ThreadState {
    /// One is gone: it panicked.
    pub ended: bool,
    /// Since when one has not gone round, as each does once a second at least.
    pub silent_for: Duration,
    /// For how long a ring has held packets, by the kernel's count, of which none was read.
    pub stuck_for: Duration,
}

/// One network namespace.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceStatus {
    /// Whose it is.
    pub owner: Owner,
    /// Which it is.
    pub netns: NetnsId,
    /// Since when it is recorded.
    pub since: Timestamp,
    /// Bytes that its rings take.
    pub ring_bytes: u64,
    /// Packets lost before they were read, by cause.
    pub lost: BTreeMap<LossCause, u64>,
    /// The interfaces of which packets were recorded, by name.
    pub interfaces: Vec<InterfaceStatus>,
}

/// One interface.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceStatus {
    /// The kernel's name for it.
    pub name: String,
    /// Packets recorded.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the newest came.
    pub newest: Option<Timestamp>,
}
