//! Whether TLS is looked into, and what is kept of it.

use std::sync::{Arc, PoisonError};
use std::thread;

use kuberewind_packet::{Span, Timestamp};
use kuberewind_store::{SegmentNumber, Store};

use super::{Recorder, RecorderError};
use crate::agent::tls::{PlaintextReport, SecondNet, Shelf, Taps, Tls, TlsReport};
use crate::config::Config;

/// Whether TLS is looked into.
pub(super) enum TlsState {
    Off,
    On(Tls),
    /// It is to be, and cannot.
    Failed(String),
}

impl Recorder {
    /// TLS that cannot be looked into keeps nobody from recording.
    pub(super) fn start_tls(self: &Arc<Self>, taps: Taps) {
        let Some(source) = self.identity.tls.clone() else { return };
        let (writer, reader) = (Arc::downgrade(self), Arc::downgrade(self));
        let notes = Shelf {
            write: Box::new(move |sealed| writer.upgrade()?.note(sealed).ok()),
            reach: Box::new(move || reader.upgrade()?.with_store(Store::reach).ok()),
        };
        let state = match Tls::start(source, taps, self.second_net.as_ref(), notes) {
            Ok(tls) => {
                self.config(|config| follow_settings(&tls, config));
                TlsState::On(tls)
            }
            Err(error) => {
                tracing::warn!("TLS stays encrypted: {error}");
                TlsState::Failed(error.to_string())
            }
        };
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Knows the connections that an earlier recorder knew; reads its notes meanwhile.
    pub(super) fn recall_tls(&self) -> Result<(), RecorderError> {
        let Some(recall) = self.with_tls(Tls::recall) else {
            self.second_net.iter().for_each(SecondNet::no_secrets);
            return Ok(());
        };
        let all = Span::new(Timestamp::MIN, Timestamp::MAX);
        let notes = self.with_store(|store| store.read_notes(all))?;
        let read = move || {
            if let Err(error) = recall.read(&notes) {
                tracing::error!("read which TLS connections went on: {error}");
            }
        };
        if let Err(error) = thread::Builder::new().name("tls-recall".into()).spawn(read) {
            tracing::error!("start the thread that reads which TLS connections went on: {error}");
        }
        Ok(())
    }

    fn note(&self, bytes: Vec<u8>) -> Result<SegmentNumber, RecorderError> {
        self.with_store(|store| store.note(Timestamp::now(), bytes))?.map_err(Into::into)
    }

    /// The secrets that are not written yet.
    pub(super) fn stop_tls(&self) -> Vec<Vec<u8>> {
        let mut state = self.tls.write().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, TlsState::Off) {
            TlsState::On(tls) => tls.stop(),
            TlsState::Off | TlsState::Failed(_) => Vec::new(),
        }
    }

    /// Whether whatever ran when the targets last changed was looked at for TLS.
    pub(crate) fn has_looked(&self) -> bool {
        self.with_tls(Tls::has_looked).unwrap_or(true)
            && self.second_net.as_ref().is_none_or(SecondNet::has_looked)
    }

    pub(super) fn tls_report(&self) -> Option<TlsReport> {
        match &*self.tls.read().unwrap_or_else(PoisonError::into_inner) {
            TlsState::Off => None,
            TlsState::On(tls) => Some(self.with_plaintext(tls.report())),
            TlsState::Failed(why) => Some(self.with_plaintext(TlsReport::failed(why))),
        }
    }

    fn with_plaintext(&self, report: TlsReport) -> TlsReport {
        let plaintext = self.second_net.as_ref().map(SecondNet::report);
        TlsReport { plaintext: plaintext.filter(PlaintextReport::is_used), ..report }
    }

    pub(super) fn with_tls<T>(&self, work: impl FnOnce(&Tls) -> T) -> Option<T> {
        match &*self.tls.read().unwrap_or_else(PoisonError::into_inner) {
            TlsState::On(tls) => Some(work(tls)),
            TlsState::Off | TlsState::Failed(_) => None,
        }
    }
}

pub(super) fn follow_settings(tls: &Tls, config: &Config) {
    tls.keep_control_plane(config.tap.tls_control_plane);
    tls.set_max_size(config.pcapdump.max_size);
}
