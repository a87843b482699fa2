//! Sizes as people write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// So many bytes, written `50MB` (50,000,000) or `50Mi` (52,428,800).
///
/// `MiB` is `Mi`, and Kubernetes' `k`, `M`, `G` … are `KB`, `MB`, `GB` …. Fractions are welcome where
/// they come to whole bytes: `1.5GB`. A number without a unit is an error, and so is `500m`, which
/// Kubernetes reads as half a byte.
///
/// Displayed in the shortest form that reads back to the same number; serialised as that text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// A text that is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a size: {reason}")]
pub struct ParseByteSizeError {
    text: String,
    reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Reason {
    #[error("write a number and a unit, like 50MB or 50Mi")]
    NoNumber,
    #[error("it has no unit; write {number}MB or {number}Mi (or {number}B for bytes)")]
    NoUnit { number: String },
    #[error("write {nearest}")]
    Misspelt { nearest: String },
    #[error("there is no unit `{unit}`; there are B, KB, MB, GB, TB and Ki, Mi, Gi, Ti")]
    UnknownUnit { unit: String },
    #[error("that is no whole number of bytes; write {nearest}")]
    Fraction { nearest: ByteSize },
    #[error("the largest is {}", ByteSize::MAX)]
    TooLarge,
}

/// What is displayed, large units first: of two equally short forms the first is taken.
const UNITS: [(&str, u64); 13] = [
    ("Ei", 1 << 60),
    ("EB", 1_000_000_000_000_000_000),
    ("Pi", 1 << 50),
    ("PB", 1_000_000_000_000_000),
    ("Ti", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("Gi", 1 << 30),
    ("GB", 1_000_000_000),
    ("Mi", 1 << 20),
    ("MB", 1_000_000),
    ("Ki", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

impl ByteSize {
    /// The largest size.
    pub const MAX: Self = Self(u64::MAX);

    /// So many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// How many bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let forms = UNITS.iter().filter_map(|&(name, unit)| written_in(self.0, name, unit));
        f.pad(&forms.min_by_key(String::len).unwrap_or_else(|| format!("{}B", self.0)))
    }
}

/// The size in one unit, if it is at least one of it and exact in at most 18 decimals.
fn written_in(bytes: u64, name: &str, unit: u64) -> Option<String> {
    let whole = (bytes / unit > 0).then_some(bytes / unit)?;
    let rest = u128::from(bytes % unit);
    let unit = u128::from(unit);
    let decimals = (0..=18_u32).find(|n| (rest * 10_u128.pow(*n)).is_multiple_of(unit))?;
    if decimals == 0 {
        return Some(format!("{whole}{name}"));
    }
    let fraction = rest * 10_u128.pow(decimals) / unit;
    let width = usize::try_from(decimals).ok()?;
    Some(format!("{whole}.{fraction:0width$}{name}"))
}

impl FromStr for ByteSize {
    type Err = ParseByteSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|reason| ParseByteSizeError { text: text.to_owned(), reason })
    }
}

fn parse(text: &str) -> Result<ByteSize, Reason> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return Err(Reason::NoNumber);
    }
    multiply(whole, fraction, bytes_in(number, unit)?)
}

/// How many bytes a unit has, in all its right spellings.
fn bytes_in(number: &str, unit: &str) -> Result<u64, Reason> {
    let name = match unit {
        "" => return Err(Reason::NoUnit { number: number.to_owned() }),
        "k" | "kB" => "KB",
        "M" => "MB",
        "G" => "GB",
        "T" => "TB",
        "P" => "PB",
        "E" => "EB",
        other => other.strip_suffix('B').filter(|name| name.ends_with('i')).unwrap_or(other),
    };
    let known = UNITS.iter().find(|known| known.0 == name);
    known.map(|known| known.1).ok_or_else(|| misspelt(number, unit))
}

/// `500m`: 500MB or 500Mi.
fn misspelt(number: &str, unit: &str) -> Reason {
    let word = unit.trim().to_ascii_uppercase();
    let nearest = |(name, _): &&(&str, u64)| {
        let name = name.to_ascii_uppercase();
        word == name
            || word.strip_suffix('B') == Some(&name)
            || name.strip_suffix(['B', 'I']) == Some(&word)
    };
    let forms: Vec<_> =
        UNITS.iter().rev().filter(nearest).map(|(name, _)| format!("{number}{name}")).collect();
    if word.is_empty() || forms.is_empty() {
        return Reason::UnknownUnit { unit: unit.to_owned() };
    }
    Reason::Misspelt { nearest: forms.join(" or ") }
}

fn multiply(whole: &str, fraction: &str, unit: u64) -> Result<ByteSize, Reason> {
    // What is exact only beyond these (2⁻⁶⁰ Ei is one byte) nobody writes.
    const DECIMALS: usize = 20;
    let whole: u64 = whole.parse().map_err(|_| Reason::TooLarge)?;
    let fraction = fraction.trim_end_matches('0');
    let (kept, cut) = fraction.split_at(fraction.len().min(DECIMALS));
    let scale = 10_u128.pow(u32::try_from(kept.len()).map_err(|_| Reason::TooLarge)?);
    let kept: u128 = format!("0{kept}").parse().map_err(|_| Reason::TooLarge)?;
    let parts = kept * u128::from(unit);
    let bytes = u128::from(whole) * u128::from(unit) + (parts + scale / 2) / scale;
    let size = ByteSize(u64::try_from(bytes).map_err(|_| Reason::TooLarge)?);
    if parts.is_multiple_of(scale) && cut.is_empty() {
        return Ok(size);
    }
    Err(Reason::Fraction { nearest: size })
}

impl Serialize for ByteSize {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn bytes(text: &str) -> u64 {
        text.parse::<ByteSize>().unwrap().bytes()
    }

    #[track_caller]
    fn message(text: &str) -> String {
        text.parse::<ByteSize>().unwrap_err().to_string()
    }

    #[test]
    fn units_are_thousands_or_kibi() {
        let thousand =
            [("5B", 5), ("50MB", 50_000_000), ("2KB", 2_000), ("2kB", 2_000), ("2k", 2_000)];
        let kubernetes = [("1M", 1_000_000), ("5G", 5_000_000_000), ("3T", 3_000_000_000_000)];
        let kibi = [("50Mi", 52_428_800), ("50MiB", 52_428_800), ("1Ki", 1024), ("1TiB", 1 << 40)];
        for (text, expected) in thousand.into_iter().chain(kubernetes).chain(kibi) {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn fractions_must_come_to_whole_bytes() {
        assert_eq!(bytes("1.5GB"), 1_500_000_000);
        assert_eq!(bytes("0.5Ki"), 512);
        assert_eq!(bytes("1.000B"), 1);
        assert_eq!(bytes("1.00000000000000000000000000MB"), 1_000_000);
        assert_eq!(
            message("0.1Ki"),
            "`0.1Ki` is not a size: that is no whole number of bytes; write 102B"
        );
        assert_eq!(
            message("1.0005KB"),
            "`1.0005KB` is not a size: that is no whole number of bytes; write 1001B"
        );
        assert!(message("0.9B").ends_with("write 1B"));
        assert!(message("1.000000000000000000000000000001MB").ends_with("write 1MB"));
    }

    #[test]
    fn errors_name_the_nearest_right_spelling() {
        for (text, hint) in [
            ("5", "it has no unit; write 5MB or 5Mi (or 5B for bytes)"),
            ("1.5", "it has no unit; write 1.5MB or 1.5Mi (or 1.5B for bytes)"),
            ("500m", "write 500MB or 500Mi"),
            ("5g", "write 5GB or 5Gi"),
            ("5K", "write 5KB or 5Ki"),
            ("5mb", "write 5MB"),
            ("5MIB", "write 5Mi"),
            ("5 GB", "write 5GB"),
            ("5b", "write 5B"),
            ("5XB", "there is no unit `XB`; there are B, KB, MB, GB, TB and Ki, Mi, Gi, Ti"),
            ("5e3", "there is no unit `e3`; there are B, KB, MB, GB, TB and Ki, Mi, Gi, Ti"),
            ("5 ", "there is no unit ` `; there are B, KB, MB, GB, TB and Ki, Mi, Gi, Ti"),
            ("", "write a number and a unit, like 50MB or 50Mi"),
            ("MB", "write a number and a unit, like 50MB or 50Mi"),
            ("-5MB", "write a number and a unit, like 50MB or 50Mi"),
            (".5MB", "write a number and a unit, like 50MB or 50Mi"),
            ("5.MB", "write a number and a unit, like 50MB or 50Mi"),
            ("1.2.3MB", "write a number and a unit, like 50MB or 50Mi"),
            ("19EB", "the largest is 18446744073709551615B"),
            ("99999999999999999999B", "the largest is 18446744073709551615B"),
        ] {
            assert_eq!(message(text), format!("`{text}` is not a size: {hint}"));
        }
    }

    #[test]
    fn sizes_are_displayed_in_the_shortest_exact_form() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1_000, "1KB"),
            (1_024, "1Ki"),
            (1_500, "1.5KB"),
            (12_345, "12345B"),
            (500_000, "500KB"),
            (50_000_000, "50MB"),
            (52_428_800, "50Mi"),
            (3_700_000_000, "3.7GB"),
            (1 << 60, "1Ei"),
            (u64::MAX, "18446744073709551615B"),
        ] {
            assert_eq!(ByteSize::new(bytes).to_string(), text);
        }
        assert_eq!(
            format!("{:>6}|{:<6}|", ByteSize::new(1_000), ByteSize::new(1_024)),
            "   1KB|1Ki   |"
        );
    }

    fn sizes() -> impl Strategy<Value = u64> {
        let unit = prop::sample::select(UNITS.map(|unit| unit.1).to_vec());
        let round = (0..5_000_u64, unit).prop_map(|(n, unit)| n.saturating_mul(unit));
        prop_oneof![any::<u64>(), round, (0..64_u32).prop_map(|n| 1 << n), 0..100_000_u64]
    }

    proptest! {
        #[test]
        fn sizes_are_read_back_as_they_were_displayed(bytes in sizes()) {
            let size = ByteSize::new(bytes);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9. ]{0,45}[kKmMgGtTpPeEiIbB ü-]{0,4}") {
            if let Ok(size) = text.parse::<ByteSize>() {
                prop_assert_eq!(size.to_string().parse(), Ok(size));
            }
        }
    }
}
