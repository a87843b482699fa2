//! The two threads of a set of probes: one reads what they send, one keeps them attached.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use libbpf_rs::RingBuffer;

use super::error::TlsError;

/// Both, running.
#[derive(Debug)]
pub(crate) struct Threads {
    ended: Arc<AtomicBool>,
    /// Gives back what it read.
    reader: JoinHandle<RingBuffer<'static>>,
    watch: JoinHandle<()>,
}

/// What the threads are called.
pub(crate) struct Names {
    pub(crate) reader: &'static str,
    pub(crate) watch: &'static str,
}

impl Threads {
    /// `idle` is called whenever the rings were found empty, at least once in each `nap`. `watch` works
    /// until whoever gives it orders tells it to end.
    pub(crate) fn start(
        names: &Names,
        ring: RingBuffer<'static>,
        nap: Duration,
        idle: impl FnMut() + Send + 'static,
        watch: impl FnOnce() + Send + 'static,
    ) -> Result<Self, TlsError> {
        let ended = Arc::<AtomicBool>::default();
        let stop = Arc::clone(&ended);
        let reader = spawn(names.reader, move || read(ring, nap, idle, &stop))?;
        let watch = spawn(names.watch, watch)?;
        Ok(Self { ended, reader, watch })
    }

    /// Whether either has ended by itself.
    pub(crate) fn is_broken(&self) -> bool {
        self.reader.is_finished() || self.watch.is_finished()
    }

    /// Waits for both once `watch` was told to end, and reads what stands in the rings then: nothing is
    /// attached any more.
    pub(crate) fn stop(self) {
        self.ended.store(true, Ordering::Relaxed);
        let (watch, reader) = (self.watch.join(), self.reader.join());
        if let Ok(ring) = &reader
            && let Err(error) = ring.consume()
        {
            tracing::error!("read the rings of the TLS probes to their end: {error}");
        }
        if watch.is_err() || reader.is_err() {
            tracing::error!("a thread of the TLS probes panicked");
        }
    }
}

fn read(
    ring: RingBuffer<'static>,
    nap: Duration,
    mut idle: impl FnMut(),
    ended: &AtomicBool,
) -> RingBuffer<'static> {
    while !ended.load(Ordering::Relaxed) {
        if let Err(error) = ring.poll(nap)
            && error.kind() != libbpf_rs::ErrorKind::Interrupted
        {
            tracing::error!("read the rings of the TLS probes: {error}");
            thread::sleep(nap);
        }
        idle();
    }
    ring
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, TlsError> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map_err(|source| TlsError::Thread { source })
}
