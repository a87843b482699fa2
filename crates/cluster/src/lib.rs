//! Kubernetes in and out.
//!
//! The node's side: its pods ([`pods`]), the network namespaces that they are in ([`netns`]), what is
//! to be recorded of them ([`plan`]), and the loop that keeps that up to date ([`supervise`]).

pub mod netns;
pub mod plan;
pub mod pods;
mod supervise;

pub use supervise::supervise;
