//! The state of the recording, for `status`, the metrics and the log.

use std::collections::BTreeMap;
use std::time::Duration;

use kuberewind_packet::{ClockStep, LossCause, Timestamp};
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
    /// Packets lost since the store was opened: what capture told, and what was lost here.
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
    /// How the clock that stamps packets was set, the latest last.
    #[serde(default)]
    pub clock_steps: Vec<ClockStep>,
    /// Whether the writer does its work.
    #[serde(default)]
    pub writer: WriterState,
}

/// Whether the one thread that writes does its work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WriterState {
    /// It is gone: it panicked.
    pub ended: bool,
    /// Since when it has said nothing, which it does ten times a second: the disk does not let go of
    /// it.
    pub silent_for: Duration,
    /// For how long nothing that it was given could be written.
    pub losing_for: Option<Duration>,
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
