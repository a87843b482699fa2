//! The two file formats.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How packets are written down.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "camelCase")]
pub enum Format {
    /// Classic pcap with nanoseconds: every tool reads it; no interface names, no report inside.
    #[default]
    Pcap,
    /// pcapng: with interfaces, losses and the completeness report.
    Pcapng,
}

impl Format {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Pcap, Self::Pcapng];

    /// The ending of its files, without a dot; also its name on the command line.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Pcap => "pcap",
            Self::Pcapng => "pcapng",
        }
    }
}

/// Not a format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a format: pcap or pcapng")]
pub struct ParseFormatError(String);

impl FromStr for Format {
    type Err = ParseFormatError;

    fn from_str(text: &str) -> Result<Self, ParseFormatError> {
        Self::ALL
            .into_iter()
            .find(|format| text.eq_ignore_ascii_case(format.extension()))
            .ok_or_else(|| ParseFormatError(text.to_owned()))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.extension())
    }
}
