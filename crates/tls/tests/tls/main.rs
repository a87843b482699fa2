//! Secrets, decryption and twins, on what tcpdump recorded of real peers.

mod decrypt;
mod faults;
mod hostile;
mod join;
mod live;
mod recorded;
mod twins;
