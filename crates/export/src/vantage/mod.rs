//! One vantage per connection: a packet between two recorded ends stands in the file once.
//!
//! ```text
//! each stream, as it comes --> Survey --> |
//! each stream, as it comes --> Survey --> | Plan --> which packets of which stream are left out
//! ```
//!
//! One view of each connection is shown. Of the others, a packet is left out only if what it says is
//! proved to be in the file: its range of sequence numbers (however it was cut into segments), or the
//! same datagram. So whatever only one end saw is in the file.

mod agree;
mod cover;
mod headers;
mod plan;
mod ranges;
mod seen;
mod survey;
mod track;

pub(crate) use plan::Plan;
pub use survey::{Survey, SurveyLimits};
