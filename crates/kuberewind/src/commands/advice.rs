//! What to set when less is held than was asked for.

use std::time::Duration;

use kuberewind_export::figures;
use kuberewind_packet::Span;

use crate::agent::Status;

/// From here on `pcapdump.maxSize` is what limits the recording.
const FULL: f64 = 0.9;

/// Room for the rate to grow, in the size that is advised.
const MARGIN: f64 = 1.1;

/// `n1 holds 41s of 5m (98 Mbit/s; 5m needs 3.7GB: --set pcapdump.maxSize=4GB)`, if the window
/// begins before what `pcapdump.maxSize` left.
pub(super) fn window(status: &Status, asked: Span) -> Option<String> {
    let held = status.held()?;
    let wanted = asked.duration();
    if asked.from >= held.from || wanted > status.now.since(status.since).max(held.duration()) {
        return None;
    }
    advise(&status.node, held.duration(), wanted, status.bytes_held, status.bounds.max_size)
}

/// The same against `pcapdump.maxTime`.
pub(super) fn recording(status: &Status) -> Option<String> {
    let held = status.held()?.duration();
    let wanted = crate::config::parse_duration(&status.bounds.max_time).ok()?;
    advise(&status.node, held, wanted, status.bytes_held, status.bounds.max_size)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate of two digits"
)]
fn advise(
    node: &str,
    held: Duration,
    wanted: Duration,
    bytes_held: u64,
    max_size: u64,
) -> Option<String> {
    let short = held.as_secs_f64() < 0.95 * wanted.as_secs_f64();
    let full = bytes_held as f64 >= FULL * max_size as f64;
    if !short || !full || held.is_zero() {
        return None;
    }
    let rate = bytes_held as f64 / held.as_secs_f64();
    let needed = rate * wanted.as_secs_f64();
    Some(format!(
        "{node} holds {} of {} ({:.0} Mbit/s; {1} needs {}: --set pcapdump.maxSize={})",
        figures::duration(held),
        figures::duration(wanted),
        rate * 8.0 / 1e6,
        figures::bytes(needed as u64),
        figures::bytes(round_up((needed * MARGIN) as u64)),
    ))
}

/// To one digit, so that the advice is easy to type.
fn round_up(bytes: u64) -> u64 {
    let digit = 10_u64.pow(bytes.max(1).ilog10());
    bytes.div_ceil(digit) * digit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_more_than_fits_is_told_what_to_set() {
        let advice = |held, wanted, bytes| {
            let seconds = Duration::from_secs;
            advise("n1", seconds(held), seconds(wanted), bytes, 500_000_000)
        };
        assert_eq!(
            advice(41, 300, 499_000_000).unwrap(),
            "n1 holds 41s of 5m (97 Mbit/s; 5m needs 3.7GB: --set pcapdump.maxSize=5GB)"
        );
        assert_eq!(advice(41, 300, 40_000_000), None);
        assert_eq!(advice(300, 300, 499_000_000), None);
    }
}
