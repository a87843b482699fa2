//! What records: the stages joined, and the API through which everybody else reaches them.

mod api;
mod duty;
mod handover;
mod metrics;
mod node;
mod recorder;
mod serve;
mod status;
mod switch;
mod tls;
mod wanted;

pub(crate) use api::ApiFailure;
pub(crate) use api::Clock;
pub(crate) use duty::Duty;
pub(crate) use handover::Request as HandoverRequest;
pub(crate) use node::Node;
pub(crate) use node::NodeConfig;
pub(crate) use node::target_settings;
pub(crate) use recorder::Identity;
pub(crate) use recorder::Recorder;
pub(crate) use recorder::RecorderError;
pub(crate) use serve::Server;
pub(crate) use status::Health;
pub(crate) use status::PodNotRecorded;
pub(crate) use status::PodsStatus;
pub(crate) use status::Room;
pub(crate) use status::Status;
pub(crate) use switch::Switch;
pub(crate) use tls::ControlPlane;
pub(crate) use tls::TlsReport;
pub(crate) use tls::TlsSource;
pub(crate) use wanted::Wanted;
pub(crate) use wanted::WantedError;

use kuberewind_packet::{Span, Timestamp};
use serde::{Deserialize, Serialize};

/// The agent's socket, inside its data directory: who may enter the directory may ask.
pub(crate) const SOCKET_NAME: &str = "agent.sock";

/// What `GET /v1/window` takes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WindowQuery {
    /// First instant of the window; none = the oldest that is held.
    pub(crate) from: Option<Timestamp>,
    /// First instant after it; none = the agent's now.
    pub(crate) to: Option<Timestamp>,
    /// A filter in libpcap's language.
    pub(crate) filter: Option<String>,
    /// Whether to compress: pays on a network, not on a Unix socket.
    #[serde(default)]
    pub(crate) compress: bool,
    /// Whether TLS secrets are wanted, of connections that began in the window.
    #[serde(default)]
    pub(crate) tls: bool,
    /// To go on after `to`: a number of the asker's choice, under which `DELETE /v1/follow/N` ends
    /// the stream in good order.
    pub(crate) follow: Option<u64>,
    /// Only packets of pods whose name matches this regular expression, unanchored.
    pub(crate) pods: Option<String>,
    /// Only packets of pods of these namespaces, with commas between them.
    pub(crate) namespaces: Option<String>,
    /// Who asks, as he says himself: for the log.
    pub(crate) user: Option<String>,
}

impl WindowQuery {
    /// The window that is asked for, with `now` on the agent's clock.
    pub(crate) fn span(&self, now: Timestamp) -> Span {
        Span::new(self.from.unwrap_or(Timestamp::MIN), self.to.unwrap_or(now))
    }
}
