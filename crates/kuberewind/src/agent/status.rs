//! What the agent says of itself: the shape of `kuberewind status --json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kuberewind_capture::{CaptureStatus, NamespaceStatus, ThreadState, UndecidedStatus};
use kuberewind_filter::CaptureFilter;
use kuberewind_packet::{LossCause, Pod, Span, Timestamp};
use kuberewind_store::{StoreStatus, WriterState};
use serde::{Deserialize, Serialize};

use super::tls::TlsReport;
use crate::config::{Config, MinFree, format_duration};

/// What stands still for so long is stuck.
const STALL: Duration = Duration::from_secs(10);

/// The whole of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    /// The machine.
    pub(crate) node: String,
    /// kuberewind's version.
    pub(crate) version: String,
    /// Whether packets are being recorded; false after `pcapdump stop`.
    pub(crate) recording: bool,
    /// When this recorder started.
    pub(crate) since: Timestamp,
    /// The agent's clock.
    pub(crate) now: Timestamp,
    /// Where the recording lies.
    pub(crate) data_dir: PathBuf,
    /// Packets recorded since the start.
    pub(crate) packets: u64,
    /// Their captured bytes.
    pub(crate) bytes: u64,
    /// Packets longer than any reader takes, cut to what readers take.
    pub(crate) cut: u64,
    /// Packets lost since the start, by cause; every cause is named.
    pub(crate) losses: BTreeMap<LossCause, u64>,
    /// Oldest packet held.
    pub(crate) oldest: Option<Timestamp>,
    /// Newest packet held.
    pub(crate) newest: Option<Timestamp>,
    /// Bytes that the data directory takes, all told.
    pub(crate) bytes_held: u64,
    /// The bounds that hold.
    pub(crate) bounds: Bounds,
    /// The data directory's disk; none if it cannot be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) disk: Option<Room>,
    /// What the filter is and where it cannot apply.
    pub(crate) filter: FilterStatus,
    /// Memory set aside.
    pub(crate) memory: Memory,
    /// What is recorded, by network namespace.
    pub(crate) namespaces: Vec<NamespaceStatus>,
    /// Network namespaces of which it is not known yet whether they are to be recorded.
    #[serde(default)]
    pub(crate) undecided: UndecidedStatus,
    /// What cannot be recorded, and why.
    pub(crate) problems: Vec<String>,
    /// Whether the capture threads do their work.
    #[serde(default)]
    pub(crate) threads: ThreadState,
    /// The segments.
    pub(crate) store: StoreStatus,
    /// TLS; none where it is not looked into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<TlsReport>,
    /// The node's pods; none on a machine without Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pods: Option<PodsStatus>,
}

/// A node's pods, as its agent sees them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodsStatus {
    /// Those that are recorded.
    pub(crate) recorded: Vec<Pod>,
    /// Those that are not, and why.
    pub(crate) not_recorded: Vec<PodNotRecorded>,
    /// How many are to be recorded and have no network namespace yet.
    pub(crate) waiting: usize,
    /// `metadata.resourceVersion` of the `ConfigMap` whose settings hold; none while rings are still
    /// being opened and closed.
    pub(crate) settings_version: Option<String>,
}

/// A pod that is not recorded.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodNotRecorded {
    /// Which.
    pub(crate) pod: Pod,
    /// Why, in words.
    pub(crate) why: String,
}

/// The limits of the recording.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Bounds {
    /// As `pcapdump.maxTime`.
    pub(crate) max_time: String,
    /// `pcapdump.maxSize` in bytes.
    pub(crate) max_size: u64,
    /// As `pcapdump.minFree`.
    pub(crate) min_free: String,
    /// As `pcapdump.timeInterval`.
    pub(crate) time_interval: String,
}

impl Bounds {
    /// Those of the settings.
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            max_time: format_duration(config.pcapdump.max_time),
            max_size: config.pcapdump.max_size.bytes(),
            min_free: config.pcapdump.min_free.to_string(),
            time_interval: format_duration(config.pcapdump.time_interval),
        }
    }
}

/// A disk, as one who is not root may use it, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Room {
    /// All of it.
    pub(crate) size: u64,
    /// What is free now.
    pub(crate) free: u64,
    /// What `pcapdump.minFree` leaves free.
    pub(crate) min_free: u64,
}

impl Room {
    /// Of the disk that a directory is on.
    pub(crate) fn of(dir: &Path, min_free: MinFree) -> std::io::Result<Self> {
        let disk = rustix::fs::statvfs(dir)?;
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        let size = bytes(disk.f_blocks);
        let min_free = match min_free {
            MinFree::Bytes(bytes) => bytes.bytes(),
            // By its hundredth first: a disk of exabytes must not overflow.
            MinFree::Percent(percent) => size / 100 * u64::from(percent),
        };
        Ok(Self { size, free: bytes(disk.f_bavail), min_free })
    }

    /// How much the recording may still grow, whatever `pcapdump.maxSize` says.
    pub(crate) fn left(&self) -> u64 {
        self.free.saturating_sub(self.min_free)
    }
}

/// The filter in force.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FilterStatus {
    /// In libpcap's language; none = everything that runs on IP.
    pub(crate) expression: Option<String>,
    /// Where it does not apply.
    pub(crate) notes: Vec<String>,
}

impl FilterStatus {
    /// What a filter says of itself.
    pub(crate) fn of(filter: &CaptureFilter) -> Self {
        Self { expression: filter.expression().map(str::to_owned), notes: filter.notes().to_vec() }
    }
}

/// Memory that the recorder holds, in bytes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Memory {
    /// The kernel's capture rings. They count as resident, but not against a container's limit.
    pub(crate) rings: u64,
    /// What the rings may grow to.
    pub(crate) ring_budget: u64,
    /// Buffers between capture and disk.
    pub(crate) buffers: u64,
    /// All that is resident now.
    pub(crate) resident: u64,
}

impl Memory {
    /// As it is now.
    pub(crate) fn now(capture: &CaptureStatus, store: &StoreStatus) -> Self {
        Self {
            rings: capture.ring_bytes,
            ring_budget: capture.ring_budget,
            buffers: store.buffer_bytes,
            resident: resident().unwrap_or(0),
        }
    }
}

/// Resident memory of this process in bytes (proc(5), `/proc/self/statm`, second field, in pages).
fn resident() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Whether the recorder does its work.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// It does, or was told not to.
    Ok,
    /// It does not.
    Failing(String),
}

impl Status {
    /// The stretch of time that is held.
    pub(crate) fn held(&self) -> Option<Span> {
        Some(Span::new(self.oldest?, self.newest?))
    }

    /// All packets lost, whatever the cause.
    pub(crate) fn lost(&self) -> u64 {
        self.losses.values().sum()
    }

    /// Interfaces with packets.
    pub(crate) fn interfaces(&self) -> u64 {
        self.namespaces.iter().map(|namespace| namespace.interfaces.len() as u64).sum()
    }

    /// Whether packets that arrive also get to the disk.
    pub(crate) fn health(&self) -> Health {
        if !self.recording {
            return Health::Ok;
        }
        if self.namespaces.is_empty() && self.pods.is_none() {
            return Health::Failing("no network namespace is recorded".to_owned());
        }
        if self.store.held_back_by_min_free {
            return Health::Failing(format!(
                "writing is held back: less than pcapdump.minFree ({}) of the disk is free",
                self.bounds.min_free
            ));
        }
        self.stuck().map_or(Health::Ok, Health::Failing)
    }

    /// What keeps packets that arrive from getting to the disk.
    fn stuck(&self) -> Option<String> {
        let WriterState { ended, silent_for, losing_for } = &self.store.writer;
        let seconds = |time: Duration| format_duration(Duration::from_secs(time.as_secs()));
        if *ended || self.threads.ended {
            let which = if *ended { "the thread that writes" } else { "a capture thread" };
            return Some(format!("{which} has ended: start the recorder again"));
        }
        if *silent_for > STALL {
            return Some(format!("a write to the disk has not ended for {}", seconds(*silent_for)));
        }
        if let Some(losing_for) = losing_for.filter(|losing_for| *losing_for > STALL) {
            let why = self.store.last_error.as_deref().unwrap_or("there is no room");
            let losing_for = seconds(losing_for);
            return Some(format!("nothing could be written for {losing_for}: {why}"));
        }
        let ThreadState { silent_for, stuck_for, .. } = self.threads;
        if silent_for > STALL {
            return Some(format!("a capture thread has stood still for {}", seconds(silent_for)));
        }
        (stuck_for > STALL)
            .then(|| format!("packets arrive, and none was read for {}", seconds(stuck_for)))
    }
}
