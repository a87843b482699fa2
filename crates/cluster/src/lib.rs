//! Kubernetes in and out.
//!
//! The node's side: its pods ([`pods`]), the network namespaces that they are in ([`netns`]), and what
//! is to be recorded of them ([`plan`]).

pub mod netns;
pub mod plan;
pub mod pods;
