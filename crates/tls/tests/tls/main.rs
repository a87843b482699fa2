//! Secrets, decryption and twins, on what tcpdump recorded of real peers.
#![expect(clippy::cast_possible_truncation, reason = "small numbers written as bytes")]

mod decrypt;
mod faults;
mod hostile;
mod join;
mod joiner;
mod live;
mod midstream;
mod recorded;
mod twins;
