//! Kubernetes in and out.

pub mod chart;
