//! Settings and the switch, while packets come.

use std::sync::Arc;

use kuberewind_filter::{CaptureFilter, FilterError};
use kuberewind_packet::Timestamp;
use kuberewind_store::{Limits, MinFree};

use super::{Plan, Recorder, RecorderError, lock, tls_state};
use crate::agent::switch::Switch;
use crate::agent::tls;
use crate::config::{self, Config, Effective, PcapdumpConfig};

impl Recorder {
    /// The settings in force and where each came from.
    pub(crate) fn settings(&self) -> serde_json::Value {
        lock(&self.plan).settings.to_json()
    }

    /// Lays a value tree over the settings. All of it is checked before any of it holds.
    pub(crate) fn change_settings(
        &self,
        changes: &serde_json::Value,
    ) -> Result<serde_json::Value, RecorderError> {
        let mut plan = lock(&self.plan);
        let settings = plan.settings.with_changes(changes)?;
        self.put_in_force(&mut plan, settings)?;
        Ok(plan.settings.to_json())
    }

    /// Takes over these settings, but for the keys that are fixed while recording: the names of those
    /// that differ. All of it is checked before any of it holds.
    pub(crate) fn replace_settings(
        &self,
        newer: &Effective,
    ) -> Result<Vec<&'static str>, RecorderError> {
        let mut plan = lock(&self.plan);
        let (settings, fixed) = plan.settings.replaced_by(newer)?;
        self.put_in_force(&mut plan, settings)?;
        Ok(fixed)
    }

    fn put_in_force(&self, plan: &mut Plan, settings: Effective) -> Result<(), RecorderError> {
        let config = settings.config();
        let filter = Arc::new(compile(config)?);
        let limits = limits(config);
        limits.check()?;
        self.with(|stages| -> Result<(), RecorderError> {
            if filter != plan.filter {
                stages.capture.set_filter(Arc::clone(&filter))?;
            }
            Ok(())
        })??;
        match self.with_store(|store| store.set_limits(limits, config.pcapdump.time_interval)) {
            Err(RecorderError::HandedOver) => {} // it will be opened with them
            set => set??,
        }
        self.with_tls(|tls| tls_state::follow_settings(tls, config));
        if self.with_sides(|sides| sides.store.is_some())? {
            allow_tls_to_leave(config)?;
        }
        plan.filter = filter;
        plan.settings = settings;
        self.with(|stages| self.pursue(stages, plan))
    }

    /// Switches recording on or off, also for recorders to come on this machine.
    pub(crate) fn switch(&self, on: bool) -> Result<(), RecorderError> {
        Switch::write(&self.data_dir(), on)?;
        self.set_recording(on)
    }

    /// Switches recording on or off.
    pub(crate) fn set_recording(&self, on: bool) -> Result<(), RecorderError> {
        let mut plan = lock(&self.plan);
        if plan.recording == on {
            return Ok(());
        }
        let before = std::mem::replace(&mut plan.recording, on);
        let switched = self.begin_or_end(&mut plan);
        if switched.is_err() {
            plan.recording = before;
        }
        switched
    }

    /// Records from now on, or no more, as is planned.
    fn begin_or_end(&self, plan: &mut Plan) -> Result<(), RecorderError> {
        if plan.recording {
            self.with(|stages| {
                self.pursue(stages, plan);
                stages.capture.settled_targets();
            })?;
            // Only now nothing is missing any more.
            self.with_store(|store| store.set_recording(true))??;
        } else {
            self.with(|stages| {
                self.pursue(stages, plan);
                stages.capture.settled_targets();
                stages.capture.settle(Timestamp::now())
            })??;
            self.with_store(|store| store.set_recording(false))??;
        }
        Ok(())
    }
}

pub(super) fn limits(config: &Config) -> Limits {
    let PcapdumpConfig { max_time, max_size, min_free, .. } = config.pcapdump;
    let min_free = match min_free {
        config::MinFree::Bytes(bytes) => MinFree::Bytes(bytes),
        config::MinFree::Percent(percent) => MinFree::Percent(percent),
    };
    Limits { max_time, max_size, min_free }
}

/// The filter that the settings ask for, checked by libpcap before anything else hears of it.
pub(super) fn compile(config: &Config) -> Result<CaptureFilter, FilterError> {
    let snaplen = config.tap.snaplen.bytes();
    match &config.tap.bpf_override {
        Some(expression) => CaptureFilter::compile(expression, snaplen),
        None => Ok(CaptureFilter::everything_on_ip(snaplen)),
    }
}

/// For those who read the directory without a recorder.
pub(super) fn allow_tls_to_leave(config: &Config) -> Result<(), RecorderError> {
    let dir = &config.tap.data_dir;
    tls::leave::allow(dir, config.tap.tls_export)
        .map_err(|source| RecorderError::Leave { dir: dir.clone(), source })
}
