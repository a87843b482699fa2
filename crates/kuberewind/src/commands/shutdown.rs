//! Ctrl-C and SIGTERM, as something to wait for.

use anyhow::Context as _;
use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Room for one word to stop and one to hurry.
const WORDS: usize = 2;

/// signals --words--> whoever runs; a third signal is dropped: two say it all.
pub(super) fn requests() -> anyhow::Result<Receiver<()>> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("wait for signals")?;
    let (words, requests) = bounded(WORDS);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for _ in signals.forever() {
                let _ = words.try_send(());
            }
        })
        .context("start the signal thread")?;
    Ok(requests)
}
