//! Numbers as people read them.

use std::fmt::Write as _;
use std::time::Duration;

use kuberewind_packet::{Span, Timestamp};

const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];

/// `1.2GB`: decimal units, at most three digits.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 99.95);
    let value = format!("{value:.digits$}");
    format!("{}{}", value.strip_suffix(".0").unwrap_or(&value), UNITS[unit])
}

/// `12,345,678`.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `12 packets`, `1 packet`.
pub fn packets(packets: u64) -> String {
    format!("{} packet{}", count(packets), if packets == 1 { "" } else { "s" })
}

/// `1h5m`, `4m12s`, `4.256s`, `12ms`: milliseconds below a minute, whole seconds above.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    match (hours, minutes) {
        (0, 0) if duration.subsec_millis() == 0 && seconds > 0 => format!("{seconds}s"),
        (0, 0) if seconds > 0 => format!("{seconds}.{:03}s", duration.subsec_millis()),
        (0, 0) => format!("{}ms", duration.as_nanos().div_ceil(1_000_000)),
        _ => {
            let parts = [(hours, 'h'), (minutes, 'm'), (seconds % 60, 's')];
            let parts = parts.into_iter().filter(|(count, _)| *count > 0);
            parts.fold(String::new(), |mut out, (count, unit)| {
                let _ = write!(out, "{count}{unit}");
                out
            })
        }
    }
}

/// `2026-11-22 20:30:00.000 to 21:30:05.000 UTC (1h5s)`.
pub fn span(span: Span) -> String {
    let Span { from, to } = span;
    match (from == Timestamp::MIN, to == Timestamp::MAX) {
        (true, true) => "all that is held".to_owned(),
        (true, false) => format!("all up to {} UTC", instant(to)),
        (false, true) => format!("all from {} UTC", instant(from)),
        (false, false) => {
            let (first, last) = (instant(from), instant(to));
            let last = match (first.split_once(' '), last.split_once(' ')) {
                (Some((day, _)), Some((same, time))) if day == same => time,
                _ => &last,
            };
            format!("{first} to {last} UTC ({})", duration(span.duration()))
        }
    }
}

/// `2026-11-22 21:30:05.120`.
fn instant(time: Timestamp) -> String {
    let millis = time.subsec_nanos() / 1_000_000;
    let whole = Timestamp::from_nanos(time.as_nanos() - u64::from(time.subsec_nanos()));
    format!("{}.{millis:03}", whole.to_string().trim_end_matches('Z').replace('T', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!(
            [bytes(0), bytes(999), bytes(1_234), bytes(50_000_000)],
            ["0B", "999B", "1.2kB", "50MB"]
        );
        assert_eq!([bytes(9_960), bytes(999_600), bytes(u64::MAX)], ["10kB", "1MB", "18446744TB"]);
        assert_eq!([count(7), count(1_000), count(12_345_678)], ["7", "1,000", "12,345,678"]);
        assert_eq!([packets(1), packets(1_200)], ["1 packet", "1,200 packets"]);
        assert_eq!(duration(Duration::from_millis(4_256)), "4.256s");
        assert_eq!(duration(Duration::from_millis(252_900)), "4m12s");
        assert_eq!(duration(Duration::from_hours(1)), "1h");
        assert_eq!(duration(Duration::from_nanos(1)), "1ms");
        assert_eq!(span(Span::ALL), "all that is held");
    }
}
