//! Kubernetes in and out.
