//! A flight recorder for Kubernetes network traffic.

#[expect(dead_code, unused_imports, reason = "the commands come next")]
mod config;

fn main() {}
