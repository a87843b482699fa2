//! The command line on a cluster: an API server's double, and agents that only answer.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up has failed")]

mod check;
mod clean;
#[allow(dead_code, reason = "the chart's own tests look at more of what Helm says")]
#[path = "../../../cluster/tests/chart/helm.rs"]
mod helm;
mod lab;
mod preview;
mod release;
mod status;
mod switch;
mod tap;
