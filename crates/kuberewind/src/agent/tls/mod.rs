//! TLS: secrets found, tied to the flows that were recorded, and kept.

mod tap;
mod vault;
