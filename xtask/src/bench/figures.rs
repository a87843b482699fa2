//! Numbers for people.

use std::time::Duration;

/// The middle one; of an even number the larger of the two.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// As a number to reckon with.
#[expect(clippy::cast_precision_loss, reason = "counts are far less than 2^52")]
pub(super) fn number(count: u64) -> f64 {
    count as f64
}

/// Nanoseconds for each of `count`.
pub(super) fn nanos_each(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e9 / number(count.max(1))
}

/// A line of a Markdown table.
pub(super) fn row(cells: &[String]) {
    println!("| {} |", cells.join(" | "));
}

/// The head of a Markdown table: the first columns are words, the others numbers.
pub(super) fn head(words: &[&str], numbers: &[&str]) {
    println!("\n| {} |", [words, numbers].concat().join(" | "));
    println!("|{}{}", "---|".repeat(words.len()), "---:|".repeat(numbers.len()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median([4.0, 1.0, 2.0, 3.0]) - 3.0).abs() < 1e-9);
    }
}
