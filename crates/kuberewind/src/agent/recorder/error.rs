//! Why the recorder did not do what it was asked to.

use std::path::PathBuf;

use kuberewind_capture::CaptureError;
use kuberewind_export::wire::SendError;
use kuberewind_filter::FilterError;
use kuberewind_packet::Timestamp;
use kuberewind_store::StoreError;

use crate::agent::switch::SwitchError;
use crate::agent::wanted::WantedError;
use crate::config::ConfigError;

/// Why the recorder did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecorderError {
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error(transparent)]
    Wanted(#[from] WantedError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Switch(#[from] SwitchError),
    #[error("send the window: {0}")]
    Send(#[from] SendError<StoreError>),
    #[error("keep in {} whether TLS secrets may leave (tap.tlsExport): {source}", dir.display())]
    Leave { dir: PathBuf, source: std::io::Error },
    #[error("nothing is recorded yet in {}", .0.display())]
    Empty(PathBuf),
    #[error("recording is on: stop it first (`kuberewind pcapdump stop`)")]
    Recording,
    #[error("the recorder is stopping")]
    Stopping,
    #[error("another agent records this node from now on")]
    HandedOver,
    #[error("{at} is no moment for a handover: it is past, or too far away")]
    Untimely { at: Timestamp },
}

impl RecorderError {
    /// Whether the asker can mend it by asking differently.
    pub(crate) const fn is_usage(&self) -> bool {
        match self {
            Self::Filter(_) | Self::Wanted(_) | Self::Config(_) => true,
            Self::Store(error) => error.is_usage(),
            _ => false,
        }
    }
}
