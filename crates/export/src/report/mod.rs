//! What is in the file and what is not, said so that it is understood at three in the morning.

mod node;
mod tls;
mod vantage;

pub use node::ClockOffset;
pub use node::Fetch;
pub use node::NodeReport;
pub(crate) use node::sum_losses;
pub use tls::OlderReport;
pub use tls::PlaintextReport;
pub use tls::TlsReport;
pub use vantage::DifferingFlow;
pub use vantage::LeftOut;
pub use vantage::Sight;
pub use vantage::VantageReport;

use std::error::Error;
use std::fmt::{self, Write};
use std::path::PathBuf;

use kuberewind_packet::{Span, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Format, figures};

/// So many lines of one kind per node are shown; all are in the JSON.
const SHOWN: usize = 20;

/// An export's completeness report. As JSON it is `--report FILE`; as text it is shown on the screen
/// and kept in pcapng files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The file; none for standard output.
    pub file: Option<PathBuf>,
    /// Its format.
    pub format: Format,
    /// The window asked for.
    pub window: Span,
    /// Packets in the file.
    pub packets: u64,
    /// Their captured bytes.
    pub bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Whether nothing is missing that was, or should have been, recorded.
    pub complete: bool,
    /// Each node's word.
    pub nodes: Vec<NodeReport>,
    /// What of TLS is in the file; none where nothing was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsReport>,
    /// What was seen at more than one place; none where every view is in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vantage: Option<VantageReport>,
    /// What else the user should know.
    pub notes: Vec<String>,
}

impl Report {
    /// The report of a file that is not written yet.
    pub(crate) fn new(
        format: Format,
        window: Span,
        nodes: Vec<NodeReport>,
        remarks: &[String],
    ) -> Self {
        // A stream that is followed goes on after the window that was asked for.
        let to = nodes.iter().map(|node| node.account.asked.to).fold(window.to, Timestamp::max);
        Self {
            file: None,
            format,
            window: Span::new(window.from, to),
            packets: nodes.iter().map(|node| node.account.packets).sum(),
            bytes: nodes.iter().map(|node| node.account.bytes).sum(),
            file_bytes: 0,
            complete: nodes.iter().all(NodeReport::is_complete),
            nodes,
            tls: None,
            vantage: None,
            notes: remarks.to_vec(),
        }
    }

    /// Whether nothing is missing that was, or should have been, recorded.
    pub fn is_complete(&self) -> bool {
        self.nodes.iter().all(NodeReport::is_complete)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            writeln!(f, "file     {} ({})", file.display(), figures::bytes(self.file_bytes))?;
        }
        writeln!(f, "window   {}", figures::span(self.window))?;
        writeln!(f, "packets  {} ({})", figures::count(self.packets), figures::bytes(self.bytes))?;
        if let Some(VantageReport { left_out, .. }) = self.vantage.as_ref()
            && !left_out.is_nothing()
        {
            let (packets, bytes) =
                (figures::count(left_out.packets), figures::bytes(left_out.bytes));
            writeln!(f, "left out {packets} ({bytes}): the same packets seen at the other end")?;
        }
        if let Some(tls) = self.tls.as_ref().filter(|tls| tls.says_something()) {
            writeln!(f, "tls      {tls}")?;
        }
        writeln!(f)?;
        f.write_str(&node::table(&self.nodes))?;
        let mut details: Vec<_> = self.nodes.iter().flat_map(NodeReport::details).collect();
        details.extend(self.vantage.iter().flat_map(VantageReport::lines));
        if !details.is_empty() || !self.notes.is_empty() {
            writeln!(f)?;
        }
        for line in &details {
            writeln!(f, "{}", printable(line))?;
        }
        for note in &self.notes {
            writeln!(f, "note: {}", printable(note))?;
        }
        writeln!(f)?;
        if self.is_complete() {
            return f.write_str("complete");
        }
        let missing: Vec<_> = self.nodes.iter().flat_map(NodeReport::missing).collect();
        let more = match missing.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        let shown = &missing[..missing.len().min(SHOWN)];
        write!(f, "incomplete: {}{more}", printable(&shown.join("; ")))
    }
}

/// Names and reasons come from other machines: they shall not steer the terminal or forge a line.
pub(crate) fn printable(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// The first lines of many, and how many more there are.
fn push_shown(out: &mut Vec<String>, lines: Vec<String>) {
    let more = lines.len().saturating_sub(SHOWN);
    out.extend(lines.into_iter().take(SHOWN));
    if more > 0 {
        out.push(format!("… and {more} more like these"));
    }
}

/// An error and what it comes from, on one line.
pub(crate) fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            let _ = write!(text, ": {cause}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
