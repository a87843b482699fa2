//! Packet time.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Nanoseconds since the Unix epoch, as the kernel stamps packets (`CLOCK_REALTIME`).
///
/// Reaches to the year 2554. Written and read as RFC 3339 in UTC with nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

/// A text that is not an RFC 3339 instant after 1970.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a time like 2026-11-22T21:30:05Z: {reason}")]
pub struct ParseTimestampError {
    text: String,
    reason: String,
}

impl Timestamp {
    /// The earliest instant, 1970-01-01T00:00:00Z.
    pub const MIN: Self = Self(0);
    /// The latest instant that can be written down.
    pub const MAX: Self = Self(u64::MAX);

    /// An instant from nanoseconds since the epoch.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// An instant from seconds and nanoseconds, as in the kernel's `tpacket3_hdr` and in pcap.
    pub const fn from_parts(seconds: u32, nanos: u32) -> Self {
        Self(seconds as u64 * NANOS_PER_SECOND + nanos as u64)
    }

    /// This instant on the machine's wall clock.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Nanoseconds since the epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch.
    pub const fn seconds(self) -> u64 {
        self.0 / NANOS_PER_SECOND
    }

    /// The nanoseconds beyond [`Self::seconds`].
    pub const fn subsec_nanos(self) -> u32 {
        (self.0 % NANOS_PER_SECOND) as u32
    }

    /// The time from `earlier` to this instant; zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The instant `duration` later, at most [`Self::MAX`].
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }

    /// The instant `duration` earlier, at least [`Self::MIN`].
    #[must_use]
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(duration)))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        Self(nanos(time.duration_since(UNIX_EPOCH).unwrap_or_default()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_nanosecond(i128::from(self.0)) {
            Ok(time) => time.fmt(f),
            Err(_) => write!(f, "{}.{:09}", self.seconds(), self.subsec_nanos()),
        }
    }
}

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |reason: String| ParseTimestampError { text: text.to_owned(), reason };
        let time: jiff::Timestamp = text.parse().map_err(|e: jiff::Error| error(e.to_string()))?;
        let nanos = u64::try_from(time.as_nanosecond())
            .map_err(|_| error("it lies before 1970 or after 2554".to_owned()))?;
        Ok(Self(nanos))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A stretch of packet time, `[from, to)`: a packet stamped `from` is inside, one stamped `to` is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    /// First instant inside.
    pub from: Timestamp,
    /// First instant after it.
    pub to: Timestamp,
}

impl Span {
    /// All of time.
    pub const ALL: Self = Self { from: Timestamp::MIN, to: Timestamp::MAX };

    /// The span `[from, to)`.
    pub const fn new(from: Timestamp, to: Timestamp) -> Self {
        Self { from, to }
    }

    /// Whether a packet of this time is inside.
    pub fn contains(&self, time: Timestamp) -> bool {
        self.from <= time && time < self.to
    }

    /// Whether a packet may be inside both this span and the stretch from `first` to `last`, both
    /// included.
    pub fn touches(&self, first: Timestamp, last: Timestamp) -> bool {
        first < self.to && self.from <= last
    }

    /// The part that both spans have; empty spans have `from >= to`.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        Self { from: self.from.max(other.from), to: self.to.min(other.to) }
    }

    /// Whether no packet can be inside.
    pub fn is_empty(&self) -> bool {
        self.from >= self.to
    }

    /// How long it is.
    pub fn duration(&self) -> Duration {
        self.to.since(self.from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_and_read_back_to_the_nanosecond() {
        let time = Timestamp::from_parts(1_795_383_005, 120_000_001);
        assert_eq!(time.to_string(), "2026-11-22T21:30:05.120000001Z");
        assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
        assert_eq!("2026-11-22T22:30:05+01:00".parse::<Timestamp>().unwrap().subsec_nanos(), 0);
        assert!("yesterday".parse::<Timestamp>().is_err());
        assert!("1969-12-31T23:59:59Z".parse::<Timestamp>().is_err());
    }

    #[test]
    fn a_span_holds_its_first_instant_and_not_its_last() {
        let span = Span::new(Timestamp::from_nanos(10), Timestamp::from_nanos(20));
        assert!(span.contains(Timestamp::from_nanos(10)));
        assert!(!span.contains(Timestamp::from_nanos(20)));
        assert!(span.touches(Timestamp::from_nanos(0), Timestamp::from_nanos(10)));
        assert!(!span.touches(Timestamp::from_nanos(20), Timestamp::from_nanos(30)));
    }
}
