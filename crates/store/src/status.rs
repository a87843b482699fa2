//! The state of the recording, for `status`, the metrics and the log.

use std::collections::BTreeMap;

use kuberewind_packet::{LossCause, Timestamp};
use serde::{Deserialize, Serialize};

/// What is held, written and lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// Time of the oldest packet held.
    pub oldest: Option<Timestamp>,
    /// Time of the newest packet held.
    pub newest: Option<Timestamp>,
    /// Bytes that segments, and files that others put there, take of `pcapdump.maxSize`.
    pub bytes_held: u64,
    /// Segments held, the open one included.
    pub segments: u64,
    /// Packets held.
    pub packets_held: u64,
    /// Packets written since the store was opened.
    pub packets: u64,
    /// Their captured bytes.
    pub bytes: u64,
    /// Packets lost here since the store was opened: `buffer` and `disk`.
    pub lost: BTreeMap<LossCause, u64>,
    /// The same by interface; those without a loss are left out.
    pub interfaces: Vec<InterfaceLoss>,
    /// Writes that failed since the store was opened.
    pub write_errors: u64,
    /// Why the last one failed; `None` once writing goes well again.
    pub last_error: Option<String>,
    /// Memory in buffers.
    pub buffer_bytes: u64,
    /// Whether nothing is written because `pcapdump.minFree` would be broken.
    pub held_back_by_min_free: bool,
    /// When packets were last written.
    pub last_written: Option<Timestamp>,
    /// Whether recording is on.
    pub recording: bool,
}

/// What was lost of one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceLoss {
    /// `namespace/pod/eth0`, `netns/eth0` or `eth0`.
    pub interface: String,
    /// Packets by cause.
    pub lost: BTreeMap<LossCause, u64>,
}
