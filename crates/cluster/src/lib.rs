//! Kubernetes in and out.
//!
//! The command line's side: the cluster found ([`Access`]), what is installed there ([`release`]), the
//! chart rendered ([`chart`]) and its objects applied ([`apply`]), a rollout waited for and diagnosed ([`rollout`]), agents listed
//! ([`agents`]) and reached ([`portforward`]), recording switched off and on ([`control`]), and all of
//! it taken away again ([`clean`]); and what would hinder any of that ([`preflight`]).
//!
//! The node's side: its settings ([`settings`]), its pods ([`pods`]), the network namespaces that they are in ([`netns`]), what is
//! to be recorded of them ([`plan`]), and the loop that keeps that up to date ([`supervise`]).

pub mod access;
pub mod agents;
pub mod apply;
pub mod chart;
pub mod clean;
pub mod control;
mod error;
mod follow;
mod kept;
pub mod names;
pub mod netns;
pub mod plan;
pub mod pods;
pub mod portforward;
pub mod preflight;
pub mod release;
pub mod rollout;
pub mod settings;
mod supervise;

pub use access::{Access, AccessOptions};
pub use error::{ClusterError, FieldConflict, Right};
pub use supervise::Planned;
pub use supervise::supervise;
