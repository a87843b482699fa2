//! How far an export is, on a terminal.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kuberewind_export::{Progress, figures};
use kuberewind_packet::{Span, Timestamp};

use super::spool::Arrived;

/// Redrawn at most this often.
const REFRESH: Duration = Duration::from_millis(100);

/// So many nodes are shown at a time; the rest are a number.
const LINES: usize = 16;

/// Characters of a node's name, and of a bar: a line is then shorter than a narrow terminal.
const NAME: usize = 28;
const BAR: usize = 24;

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

/// A bar for each node whose window is on its way; nothing where standard error is not a terminal.
pub(super) struct Board {
    window: Span,
    nodes: Vec<(String, Arc<Arrived>)>,
    /// Lines on the screen.
    drawn: Mutex<usize>,
}

impl Board {
    pub(super) fn new(window: Span, nodes: Vec<(String, Arc<Arrived>)>) -> Self {
        Self { window, nodes, drawn: Mutex::new(0) }
    }

    /// Draws again and again, for ever.
    pub(super) async fn show(&self) {
        if !std::io::stderr().is_terminal() {
            return std::future::pending().await;
        }
        loop {
            self.draw(&self.lines());
            tokio::time::sleep(REFRESH).await;
        }
    }

    pub(super) fn clear(&self) {
        if *self.drawn.lock().unwrap_or_else(PoisonError::into_inner) > 0 {
            self.draw(&[]);
        }
    }

    /// In the place of what was drawn before.
    fn draw(&self, lines: &[String]) {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let up = if *drawn > 0 { format!("\x1b[{drawn}A") } else { String::new() };
        anstream::eprint!("{up}\r\x1b[J");
        for line in lines {
            anstream::eprintln!("{line}");
        }
        *drawn = lines.len();
    }

    fn lines(&self) -> Vec<String> {
        let under_way = |arrived: &Arrived| {
            arrived.bytes.load(Ordering::Relaxed) > 0 && !arrived.done.load(Ordering::Relaxed)
        };
        let done = self.nodes.iter().filter(|(_, arrived)| arrived.done.load(Ordering::Relaxed));
        let bytes = |arrived: &Arrived| arrived.bytes.load(Ordering::Relaxed);
        let total = self.nodes.iter().map(|(_, arrived)| bytes(arrived)).sum();
        let shown = self.nodes.iter().filter(|(_, arrived)| under_way(arrived)).take(LINES);
        let line = |(node, arrived): &(String, Arc<Arrived>)| {
            let newest = Timestamp::from_nanos(arrived.newest.load(Ordering::Relaxed));
            line(node, share(self.window, newest), bytes(arrived))
        };
        let mut lines: Vec<_> = shown.map(line).collect();
        lines.push(format!(
            "{} of {} nodes, {}",
            done.count(),
            self.nodes.len(),
            figures::bytes(total)
        ));
        lines
    }
}

/// How much of the window lies before an instant, in hundredths: packets come in the order of time.
fn share(window: Span, newest: Timestamp) -> usize {
    let whole = window.duration().as_nanos().max(1);
    let share = newest.since(window.from).as_nanos() * 100 / whole;
    usize::try_from(share.min(100)).unwrap_or(100)
}

fn line(node: &str, share: usize, bytes: u64) -> String {
    let full = BAR * share / 100;
    let mut name: String = node.chars().take(NAME).collect();
    if name.len() < node.len() {
        name.pop();
        name.push('…');
    }
    let mut line = format!("{name:NAME$} ");
    let _ = write!(line, "[{:BAR$}] {share:>3} %  {}", "#".repeat(full), figures::bytes(bytes));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_grows_with_the_time_of_the_packets() {
        let at = |seconds| Timestamp::from_parts(seconds, 0);
        let window = Span::new(at(100), at(200));
        assert_eq!([at(0), at(150), at(300)].map(|newest| share(window, newest)), [0, 50, 100]);
        assert_eq!(
            line("n1", 50, 1_500_000),
            format!("{:NAME$} [{:BAR$}]  50 %  1.5MB", "n1", "#".repeat(12))
        );
        let long = line(&"node-".repeat(20), 100, u64::MAX);
        assert!(long.chars().count() < 80, "{long}");
    }
}
