//! Which window the user asks for.

use std::time::Duration;

use kuberewind_packet::{Span, Timestamp};

use crate::cli::ExportArgs;
use crate::config::parse_duration;
use crate::exit::Usage;

/// A window as it was asked for: against a clock that is not known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    from: Option<Edge>,
    to: Option<Edge>,
}

/// One edge of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edge {
    At(Timestamp),
    Ago(Duration),
}

/// The window on the recorder's clock. No `from`: from the oldest packet that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) from: Option<Timestamp>,
    pub(super) to: Timestamp,
}

impl Asked {
    /// From `--time`, `--since` and `--until`.
    pub(super) fn parse(args: &ExportArgs) -> anyhow::Result<Self> {
        let from = match (&args.time, &args.since) {
            (Some(time), _) => Some(Edge::Ago(ago("--time", time)?)),
            (None, Some(since)) => Some(Edge::parse("--since", since)?),
            // Like tcpdump: from now on.
            (None, None) if args.follow => Some(Edge::Ago(Duration::ZERO)),
            (None, None) => None,
        };
        let to = args.until.as_deref().map(|until| Edge::parse("--until", until)).transpose()?;
        Ok(Self { from, to })
    }

    /// The window when the recorder's clock says `now`. Nothing after now has happened yet.
    pub(super) fn at(self, now: Timestamp) -> anyhow::Result<Bounds> {
        let from = self.from.map(|edge| edge.at(now));
        let to = self.to.map_or(now, |edge| edge.at(now)).min(now);
        match from {
            Some(from) if from > to => {
                Err(Usage(format!("the window begins at {from}, after its end at {to}")).into())
            }
            from => Ok(Bounds { from, to }),
        }
    }
}

impl Bounds {
    /// The window in a recording that holds `held`.
    pub(super) fn span(self, held: Option<Span>) -> Span {
        let oldest = held.map_or(self.to, |held| held.from.min(self.to));
        Span::new(self.from.unwrap_or(oldest), self.to)
    }
}

impl Edge {
    fn parse(flag: &str, text: &str) -> Result<Self, Usage> {
        if let Ok(ago) = parse_duration(text) {
            return Ok(Self::Ago(ago));
        }
        text.parse().map(Self::At).map_err(|_| {
            Usage(format!(
                "{flag} {text}: neither a time like 2026-11-22T21:30:05Z nor how long ago, like 5m"
            ))
        })
    }

    fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::Ago(ago) => now.saturating_sub(ago),
        }
    }
}

fn ago(flag: &str, text: &str) -> Result<Duration, Usage> {
    let duration =
        parse_duration(text).map_err(|error| Usage(format!("{flag} {text}: {error}")))?;
    if duration.is_zero() {
        return Err(Usage(format!("{flag} {text}: a window of no length; try 5m")));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn window(flags: &[&str]) -> anyhow::Result<Bounds> {
        let args = ["kuberewind", "pcapdump", "--local"].iter().chain(flags);
        let Command::Pcapdump(args) = Cli::try_parse_from(args)?.command else { panic!() };
        Asked::parse(&args.export)?.at(Timestamp::from_parts(1_000, 0))
    }

    fn seconds(from: Option<u32>, to: u32) -> Bounds {
        let at = |seconds| Timestamp::from_parts(seconds, 0);
        Bounds { from: from.map(at), to: at(to) }
    }

    #[test]
    fn a_window_ends_now_unless_told_otherwise() {
        assert_eq!(window(&[]).unwrap(), seconds(None, 1_000));
        assert_eq!(window(&["--time", "5m"]).unwrap(), seconds(Some(700), 1_000));
        assert_eq!(window(&["--since", "5m", "--until", "1m"]).unwrap(), seconds(Some(700), 940));
        assert_eq!(window(&["--since", "1970-01-01T00:00:10Z"]).unwrap(), seconds(Some(10), 1_000));
        assert_eq!(window(&["--until", "2030-01-01T00:00:00Z"]).unwrap(), seconds(None, 1_000));
        assert_eq!(window(&["--follow"]).unwrap(), seconds(Some(1_000), 1_000));
    }

    #[test]
    fn senseless_windows_are_refused() {
        for flags in [
            ["--since", "1m", "--until", "5m"].as_slice(),
            &["--since", "yesterday"],
            &["--time", "0s"],
            &["--time", "-5m"],
            &["--time", "1d"],
            &["--since", "2030-01-01T00:00:00Z"],
            &["--time", "5m", "--since", "5m"],
        ] {
            assert!(window(flags).is_err(), "{flags:?}");
        }
    }
}
