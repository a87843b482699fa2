//! How far an export is, on a terminal.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use kuberewind_export::{Progress, figures};

/// Redrawn at most this often.
const REFRESH: Duration = Duration::from_millis(100);

/// One line on standard error; nothing where that is not a terminal.
pub(super) struct Bar {
    terminal: bool,
    drawn: Option<Instant>,
}

impl Bar {
    pub(super) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), drawn: None }
    }

    pub(super) fn show(&mut self, done: Progress) {
        if self.terminal && self.drawn.is_none_or(|drawn| drawn.elapsed() >= REFRESH) {
            let (packets, bytes) = (figures::count(done.packets), figures::bytes(done.bytes));
            anstream::eprint!("\r\x1b[K{packets} packets, {bytes}");
            self.drawn = Some(Instant::now());
        }
    }

    pub(super) fn clear(&mut self) {
        if self.drawn.take().is_some() {
            anstream::eprint!("\r\x1b[K");
        }
    }
}
