//! Filters that run on what is stored.

use crate::error::FilterError;
use crate::libpcap;
use crate::machine::Machine;

/// A filter for packets as stored: Ethernet, VLAN tags in the bytes.
///
/// What it takes is what `tcpdump -r` takes of the same packets in a file. Needs no rights.
#[derive(Clone, Debug)]
pub struct StoredFilter {
    expression: String,
    machine: Machine,
}

impl StoredFilter {
    /// Compiles an expression of `pcap-filter(7)`. Names in it are looked up on this machine.
    ///
    /// # Errors
    /// [`FilterError::Expression`] with libpcap's message.
    pub fn compile(expression: &str) -> Result<Self, FilterError> {
        let program = libpcap::stored_ethernet(expression)?;
        let machine = Machine::load(&program)
            .map_err(|defect| FilterError::Program { expression: expression.to_owned(), defect })?;
        Ok(Self { expression: expression.to_owned(), machine })
    }

    /// Whether the packet is one of those asked for. `original_len` is its length on the wire,
    /// `data` what was captured of it: a test of bytes that were not captured does not hold.
    pub fn matches(&self, original_len: u32, data: &[u8]) -> bool {
        self.machine.run(original_len, data) > 0
    }

    /// What it was compiled from.
    pub fn expression(&self) -> &str {
        &self.expression
    }
}
