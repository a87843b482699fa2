//! Probes taken away without waiting for it: for each the kernel waits until nobody can be in it any more,
//! which takes a tenth of a second, but many can be waited for at once.

use std::thread::{Builder, JoinHandle};

use libbpf_rs::Link;

/// So many are waited for at once.
const AT_ONCE: usize = 64;

/// Detaches on threads of its own.
#[derive(Debug, Default)]
pub(crate) struct Detacher {
    threads: Vec<JoinHandle<()>>,
}

impl Detacher {
    /// Takes probes away, soon.
    pub(crate) fn detach(&mut self, links: impl IntoIterator<Item = Link>) {
        self.threads.retain(|thread| !thread.is_finished());
        let mut links: Vec<_> = links.into_iter().collect();
        let each = links.len().div_ceil(AT_ONCE).max(1);
        while !links.is_empty() {
            let part = links.split_off(links.len().saturating_sub(each));
            let thread = Builder::new().name("tls-detach".into());
            // Where there is no thread to be had the closure is dropped here, and its links with it.
            self.threads.extend(thread.spawn(move || drop(part)));
        }
    }

    /// Waits until all are gone.
    pub(crate) fn finish(&mut self) {
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that detaches TLS probes panicked");
            }
        }
    }
}
