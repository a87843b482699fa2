//! How a window leaves a node and becomes one file: wire format, merge, vantage, completeness report.
#![forbid(unsafe_code)]

mod contents;
mod destination;
mod encode;
mod error;
mod export;
pub mod figures;
mod format;
mod merge;
mod moves;
mod output;
mod report;
mod stream;
mod vantage;
pub mod wire;

pub use destination::Destination;
pub use destination::DestinationError;
pub use destination::Place;
pub use error::ExportError;
pub use export::Export;
pub use export::Progress;
pub use export::TlsParts;
pub use export::write;
pub use format::Format;
pub use format::ParseFormatError;
pub use merge::Input;
pub use merge::Merge;
pub use output::FileOwner;
pub use report::ClockOffset;
pub use report::DifferingFlow;
pub use report::Fetch;
pub use report::LeftOut;
pub use report::NodeReport;
pub use report::OlderReport;
pub use report::PlaintextReport;
pub use report::Report;
pub use report::Sight;
pub use report::TlsReport;
pub use report::VantageReport;
pub use stream::Liveness;
pub use stream::write_stream;
pub use vantage::Survey;
pub use vantage::SurveyLimits;
