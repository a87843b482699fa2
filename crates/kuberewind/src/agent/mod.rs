//! What records: the stages joined, and the API through which everybody else reaches them.

mod api;
mod confined;
mod cut;
mod duty;
mod handover;
mod metrics;
mod node;
mod query;
mod recorder;
mod rights;
mod serve;
mod status;
mod switch;
mod tls;
mod undecided;
mod wanted;

pub(crate) use api::ApiFailure;
pub(crate) use api::Clock;
pub(crate) use api::SKIP;
pub(crate) use api::Unknown;
pub(crate) use duty::Duty;
pub(crate) use handover::Request as HandoverRequest;
pub(crate) use node::Node;
pub(crate) use node::NodeConfig;
pub(crate) use node::target_settings;
pub(crate) use query::WindowQuery;
pub(crate) use recorder::Identity;
pub(crate) use recorder::Recorder;
pub(crate) use recorder::RecorderError;
pub(crate) use rights::become_opener;
pub(crate) use rights::part_with_rights;
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
#[cfg(test)]
pub(crate) use tls::feed_plaintext;
pub(crate) use tls::leave::is_allowed as may_leave;
pub(crate) use tls::left_behind;
pub(crate) use undecided::Shared;
pub(crate) use wanted::Wanted;
pub(crate) use wanted::WantedError;

/// The agent's socket, inside its data directory: who may enter the directory may ask.
pub(crate) const SOCKET_NAME: &str = "agent.sock";
