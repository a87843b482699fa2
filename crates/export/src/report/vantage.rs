//! What became of connections that were recorded at more than one place.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::push_shown;
use crate::figures;

/// Packets that are not in the file, because the file has what they say as somebody else saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// How many.
    pub packets: u64,
    /// Their captured bytes.
    pub bytes: u64,
}

impl LeftOut {
    /// Whether there are none.
    pub const fn is_nothing(&self) -> bool {
        self.packets == 0
    }
}
/// What became of connections that were recorded at more than one place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VantageReport {
    /// How many such connections there are.
    pub connections: u64,
    /// The same packets seen at the other end: recorded, and not in the file a second time.
    pub left_out: LeftOut,
    /// Connections that were not seen the same everywhere.
    pub differing: u64,
    /// Those that differ most.
    pub flows: Vec<DifferingFlow>,
    /// Packets of connections beyond those that there was room for; all of them are in the file.
    pub not_compared: u64,
}

/// A connection that was not seen the same everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DifferingFlow {
    /// `10.0.0.1:40000 > 10.0.0.2:80 TCP`, from the client.
    pub flow: String,
    /// The view that is in the file.
    pub shown: Sight,
    /// The others.
    pub others: Vec<Sight>,
    /// Why they could not be compared, so that all of them are in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// One connection as one interface saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sight {
    /// The node.
    pub node: String,
    /// The interface, as pcapng names it.
    pub interface: String,
    /// Packets that it saw.
    pub packets: u64,
    /// Bytes that they carried.
    pub bytes: u64,
    /// Those of the packets that are in the file.
    pub in_file: u64,
}

/// `n1 shop/cart-7/eth0: 812 packets with 1.2MB`
impl fmt::Display for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, interface, packets, bytes, .. } = self;
        let (packets, bytes) = (figures::packets(*packets), figures::bytes(*bytes));
        write!(f, "{node} {interface}: {packets} with {bytes}")
    }
}

impl fmt::Display for DifferingFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: shown as seen by {}", self.flow, self.shown)?;
        for other in &self.others {
            write!(f, "; seen by {other}")?;
            match other.in_file {
                0 => {}
                all if all == other.packets => f.write_str(", which are in the file, too")?,
                some => write!(f, ", of which {} that nobody else saw", figures::count(some))?,
            }
        }
        self.why.iter().try_for_each(|why| write!(f, " ({why})"))
    }
}

impl VantageReport {
    /// What a reader of the report should know.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.differing > 0 {
            let count = figures::count(self.differing);
            let were = if self.differing == 1 { "connection was" } else { "connections were" };
            lines.push(format!("note: {count} {were} not seen the same everywhere:"));
            let flows = self.flows.iter().map(|flow| format!("  {flow}"));
            push_shown(&mut lines, flows.collect());
        }
        if self.not_compared > 0 {
            lines.push(format!(
                "note: {} of connections beyond the first were not compared: they are in the file as \
                 often as they were seen",
                figures::packets(self.not_compared)
            ));
        }
        lines
    }
}
