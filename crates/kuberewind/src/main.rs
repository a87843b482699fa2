//! A flight recorder for Kubernetes network traffic.

fn main() {}
