//! Durations as Go writes them: `5m`, `1h30m`, `1.5h`, `300ms`.

use std::time::Duration;

const NANOSECOND: u128 = 1;
const MICROSECOND: u128 = 1_000 * NANOSECOND;
const MILLISECOND: u128 = 1_000 * MICROSECOND;
const SECOND: u128 = 1_000 * MILLISECOND;
const MINUTE: u128 = 60 * SECOND;
const HOUR: u128 = 60 * MINUTE;

/// What Go's `time.Duration` holds: an `i64` of nanoseconds, 292 years.
const LONGEST: u128 = i64::MAX as u128;

/// Why a text is not a duration. The texts leave out the duration itself, which whoever asked for it
/// (`--time`, a key) names beside them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DurationError {
    /// Not a row of numbers with units.
    #[error("not a duration: write it like 90s, 5m or 1h30m")]
    Malformed,
    /// A number alone.
    #[error("no unit: write it like 90s, 5m or 1h30m")]
    NoUnit,
    /// A unit that Go does not have; days are not always 24 hours long.
    #[error("no such unit `{unit}`: units are h, m, s, ms, us, ns (a day is 24h, a week 168h)")]
    UnknownUnit {
        /// As written.
        unit: String,
    },
    /// Less than nothing.
    #[error("a duration cannot be negative")]
    Negative,
    /// More than 292 years.
    #[error("longer than 292 years")]
    TooLong,
}

/// Reads Go's grammar: decimal numbers, each with a unit (`h`, `m`, `s`, `ms`, `us`, `ns`); only `0`
/// goes without one. What is finer than a nanosecond is cut off.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let nanoseconds = if unsigned == "0" { 0 } else { sum_of_parts(unsigned)? };
    if negative && nanoseconds > 0 {
        return Err(DurationError::Negative);
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Writes the shortest text that [`parse_duration`] reads back: `1h30m`, `1.5s`, `300ms`, `0s`.
pub(crate) fn format_duration(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    if nanoseconds < SECOND {
        let (scale, unit) = match nanoseconds {
            MILLISECOND.. => (MILLISECOND, "ms"),
            MICROSECOND.. => (MICROSECOND, "µs"),
            _ => (NANOSECOND, "ns"),
        };
        return decimal(nanoseconds, scale) + unit;
    }
    let parts = [
        ("h", nanoseconds / HOUR * HOUR, HOUR),
        ("m", nanoseconds % HOUR / MINUTE * MINUTE, MINUTE),
        ("s", nanoseconds % MINUTE, SECOND),
    ];
    parts
        .into_iter()
        .filter(|(_, amount, _)| *amount > 0)
        .map(|(unit, amount, scale)| decimal(amount, scale) + unit)
        .collect()
}

fn sum_of_parts(text: &str) -> Result<u64, DurationError> {
    let mut rest = text;
    let mut sum: u128 = 0;
    if rest.is_empty() {
        return Err(DurationError::Malformed);
    }
    while !rest.is_empty() {
        let (part, after) = first_part(rest)?;
        sum = sum.saturating_add(part);
        rest = after;
    }
    if sum > LONGEST {
        return Err(DurationError::TooLong);
    }
    u64::try_from(sum).map_err(|_| DurationError::TooLong)
}

/// The nanoseconds of the first number with its unit, and what follows it.
fn first_part(text: &str) -> Result<(u128, &str), DurationError> {
    let (whole, rest) = split_while(text, |c| c.is_ascii_digit());
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => split_while(rest, |c| c.is_ascii_digit()),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(DurationError::Malformed);
    }
    let (unit, rest) = split_while(rest, char::is_alphabetic);
    if unit.is_empty() {
        return Err(if rest.is_empty() { DurationError::NoUnit } else { DurationError::Malformed });
    }
    let scale = nanoseconds_in(unit)?;
    Ok((number(whole).saturating_mul(scale).saturating_add(share(fraction, scale)), rest))
}

fn nanoseconds_in(unit: &str) -> Result<u128, DurationError> {
    match unit {
        "h" => Ok(HOUR),
        "m" => Ok(MINUTE),
        "s" => Ok(SECOND),
        "ms" => Ok(MILLISECOND),
        // U+00B5 (micro sign) and U+03BC (Greek mu) look alike; Go takes both.
        "us" | "µs" | "μs" => Ok(MICROSECOND),
        "ns" => Ok(NANOSECOND),
        _ => Err(DurationError::UnknownUnit { unit: unit.to_owned() }),
    }
}

fn split_while(text: &str, keep: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !keep(c)).unwrap_or(text.len()))
}

/// Decimal digits as a number; too many of them give the largest one.
fn number(digits: &str) -> u128 {
    digits
        .bytes()
        .fold(0u128, |sum, digit| sum.saturating_mul(10).saturating_add(u128::from(digit - b'0')))
}

/// `0.digits × scale`, rounded down. Digits after the eighteenth are below a nanosecond for any unit.
fn share(digits: &str, scale: u128) -> u128 {
    let digits = &digits[..digits.len().min(18)];
    let divisor = digits.bytes().fold(1u128, |power, _| power * 10);
    number(digits) * scale / divisor
}

/// `amount / scale` without trailing zeros. It ends: a minute or an hour, which have fractions that do
/// not, are only given whole multiples.
fn decimal(amount: u128, scale: u128) -> String {
    let (whole, mut remainder) = (amount / scale, amount % scale);
    let mut text = whole.to_string();
    if remainder > 0 {
        text.push('.');
    }
    while remainder > 0 {
        remainder *= 10;
        text += &(remainder / scale).to_string();
        remainder %= scale;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let table = [
            ("0", 0),
            ("-0", 0),
            ("0s", 0),
            ("5m", 5 * MINUTE),
            ("+5m", 5 * MINUTE),
            ("1h30m", 90 * MINUTE),
            ("30m1h", 90 * MINUTE),
            ("1.5h", 90 * MINUTE),
            ("1.h", HOUR),
            (".5s", 500 * MILLISECOND),
            ("300ms", 300 * MILLISECOND),
            ("7us", 7 * MICROSECOND),
            ("7µs", 7 * MICROSECOND),
            ("7μs", 7 * MICROSECOND),
            ("9ns", 9),
            ("0.9ns", 0),
            ("0.333333333333333333333333h", 1_199_999_999_999),
            ("9223372036854775807ns", LONGEST),
        ];
        for (text, nanoseconds) in table {
            assert_eq!(parse_duration(text).map(|d| d.as_nanos()), Ok(nanoseconds), "{text}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        use DurationError::{Malformed, Negative, NoUnit, TooLong};
        let table = [
            ("", Malformed),
            ("-", Malformed),
            (".", Malformed),
            (".s", Malformed),
            ("m", Malformed),
            ("1h-5m", Malformed),
            ("1h 5m", Malformed),
            (" 5m", Malformed),
            ("5m ", Malformed),
            ("1,5h", Malformed),
            ("--5m", Malformed),
            ("5", NoUnit),
            ("1h5", NoUnit),
            ("1.5", NoUnit),
            ("-5m", Negative),
            ("9223372036854775808ns", TooLong),
            ("99999999999999999999999999999999999999999999999h", TooLong),
        ];
        for (text, error) in table {
            assert_eq!(parse_duration(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_day_is_refused_and_24h_is_named() {
        let error = parse_duration("1d").unwrap_err().to_string();
        assert!(error.contains("24h"), "{error}");
        assert_eq!(
            parse_duration("5min"),
            Err(DurationError::UnknownUnit { unit: "min".to_owned() })
        );
    }

    #[test]
    fn durations_are_written_short() {
        let table = [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (300 * MILLISECOND, "300ms"),
            (SECOND, "1s"),
            (SECOND + 500 * MILLISECOND, "1.5s"),
            (MINUTE, "1m"),
            (90 * MINUTE, "1h30m"),
            (HOUR + SECOND, "1h1s"),
            (24 * HOUR, "24h"),
        ];
        for (nanoseconds, text) in table {
            let duration = Duration::from_nanos(u64::try_from(nanoseconds).unwrap());
            assert_eq!(format_duration(duration), text);
        }
    }

    #[test]
    fn the_longest_duration_of_rust_can_be_written() {
        assert!(format_duration(Duration::MAX).starts_with("5124095576030431h"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(nanoseconds in 0..=i64::MAX.unsigned_abs()) {
            let duration = Duration::from_nanos(nanoseconds);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = parse_duration(&text);
        }

        #[test]
        fn nothing_like_a_duration_panics(text in "[-+]?([0-9.]{0,40}(h|m|s|ms|us|µs|ns|d|-)?){0,4}") {
            let _ = parse_duration(&text);
        }
    }
}
