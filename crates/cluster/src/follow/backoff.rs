//! How long to wait before the API server is asked again.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Doubles from `least` to `most`, and takes a random part of the upper half, so that the agents of a
/// thousand nodes do not come back at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits of `least` at first and never more than `most`.
    pub const fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, failures: 0 }
    }

    /// The next wait. `chance` is a random number.
    pub fn next(&mut self, chance: u64) -> Duration {
        let doubled = self.least.saturating_mul(1 << self.failures.min(20));
        self.failures = self.failures.saturating_add(1);
        let whole = doubled.min(self.most);
        let part = f64::from(u32::try_from(chance >> 32).unwrap_or(0)) / f64::from(u32::MAX);
        whole / 2 + (whole / 2).mul_f64(part)
    }

    /// It answered: the next wait is a short one.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A random number, from the seed that the standard library draws for its hash tables.
pub(crate) fn chance() -> u64 {
    RandomState::new().hash_one(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_anew() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(6));
        let waits: Vec<_> = (0..5).map(|_| backoff.next(u64::MAX).as_secs_f64()).collect();
        assert_eq!(waits, [1.0, 2.0, 4.0, 6.0, 6.0]);
        backoff.reset();
        assert_eq!(backoff.next(0), Duration::from_millis(500));
    }

    proptest! {
        #[test]
        fn a_wait_is_between_half_and_all(failures in 0u32..40, chance: u64) {
            let (least, most) = (Duration::from_millis(100), Duration::from_secs(30));
            let mut backoff = Backoff { least, most, failures };
            let whole = least.saturating_mul(1 << failures.min(20)).min(most);
            let wait = backoff.next(chance);
            prop_assert!(whole / 2 <= wait && wait <= whole);
        }
    }
}
