//! Set-up, demo, tests, benches: what a Makefile would be.

fn main() {}
