//! Past the page cache or into it: pure.

use std::time::{Duration, Instant};

/// So many full buffers that wait for the disk say that it falls behind.
const BEHIND: usize = 4;
/// How long it must have kept up before the page cache is left again.
const CAUGHT_UP: Duration = Duration::from_mins(1);

/// How a write gets to the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Way {
    /// Past the page cache: no copy, nobody else's pages pushed out, and the write lasts as long as the
    /// disk takes.
    #[default]
    Direct,
    /// Into the page cache, which takes at once what the disk will take later.
    Cached,
}

/// Which way to write: past the page cache, but while the disk is slower than the packets, into it.
#[derive(Debug, Default)]
pub(crate) struct Route {
    behind: Option<Instant>,
}

impl Route {
    /// The way for the next buffer, behind which `waiting` others wait.
    pub(crate) fn choose(&mut self, waiting: usize, now: Instant) -> Way {
        if waiting >= BEHIND {
            self.behind = Some(now);
        }
        let fell_behind = |at| now.saturating_duration_since(at) < CAUGHT_UP;
        if self.behind.is_some_and(fell_behind) { Way::Cached } else { Way::Direct }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_cache_takes_what_a_slow_disk_does_not_until_it_has_kept_up_for_a_while() {
        let (mut route, start) = (Route::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(route.choose(BEHIND - 1, start), Way::Direct);
        assert_eq!(route.choose(BEHIND, start), Way::Cached);
        assert_eq!(route.choose(0, after(59)), Way::Cached);
        assert_eq!(route.choose(BEHIND, after(59)), Way::Cached);
        assert_eq!(route.choose(0, after(118)), Way::Cached);
        assert_eq!(route.choose(0, after(119)), Way::Direct);
    }
}
