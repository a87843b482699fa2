//! Numbers as people read them.

use std::time::Duration;

use crate::config::format_duration;

const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];

/// `1.2GB`: decimal units, at most three digits.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 9.95);
    format!("{value:.digits$}{}", UNITS[unit])
}

/// `12,345,678`.
pub(super) fn count(count: u64) -> String {
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

/// `4m12s`: whole seconds; below ten, tenths.
pub(super) fn duration(duration: Duration) -> String {
    let step = if duration < Duration::from_secs(10) { 100 } else { 1000 };
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    format_duration(Duration::from_millis(millis / step * step))
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
        assert_eq!(
            [bytes(9_960), bytes(999_600), bytes(u64::MAX)],
            ["10kB", "1.0MB", "18446744TB"]
        );
        assert_eq!([count(7), count(1_000), count(12_345_678)], ["7", "1,000", "12,345,678"]);
        assert_eq!(duration(Duration::from_millis(4_256)), "4.2s");
        assert_eq!(duration(Duration::from_millis(252_900)), "4m12s");
    }
}
