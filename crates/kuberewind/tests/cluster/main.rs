//! The command line on a cluster: an API server's double, and agents that only answer.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up has failed")]

mod clean;
#[path = "../../../cluster/tests/chart/helm.rs"]
mod helm;
mod lab;
mod preview;
mod status;
mod switch;
mod tap;
