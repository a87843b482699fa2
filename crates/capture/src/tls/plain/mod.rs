//! Brings what chosen programs send and get by TLS out of the kernel.
//!
//! For connections whose handshake nobody saw. Unlike secrets this costs something for each call of the
//! library, so it is done only where it is asked for; while nothing is, no probe is attached.

mod event;
mod programs;
mod watch;

pub use event::Plaintext;
pub use event::PlaintextEvent;
#[doc(hidden)]
pub use event::{plaintext_event, read_plaintext};

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use kuberewind_packet::{NetnsId, Owner};
use libbpf_rs::{RingBuffer, RingBufferBuilder};

use super::error::TlsError;
use super::event::Clock;
use super::lock;
use super::processes::Processes;
use super::threads::{Names, Threads};
use crate::namespaces::Target;
use crate::opener::Opener;
use event::decode;
use programs::{Counts, Maps, Programs};
use watch::{Order, Sight, Watch};

/// How long the reader of the ring may sleep.
const NAP: Duration = Duration::from_millis(50);
/// Orders that may wait.
const MAX_ORDERS: usize = 16;

/// What the reader of the ring gives on.
#[derive(Debug)]
pub enum PlaintextTold {
    /// Something happened.
    Event(PlaintextEvent),
    /// Nothing more stands in the ring for now.
    Pause,
}

/// What is seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlaintextStatus {
    /// Files with probes, as a process that uses them sees them.
    pub files: Vec<String>,
    /// Files that would have probes if there were not as many already.
    pub left_out: usize,
    /// Pieces that left the kernel.
    pub pieces: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Bytes that found no room in the kernel's ring.
    pub lost: u64,
    /// Bytes of which it is not known which connection they belong to.
    pub unplaced: u64,
    /// What does not work, in words.
    pub problems: Vec<String>,
}

/// Probes that bring plaintext of chosen network namespaces.
#[derive(Debug)]
pub struct PlaintextProbes {
    maps: Arc<Maps>,
    orders: Sender<Order>,
    chosen: Mutex<BTreeMap<NetnsId, Owner>>,
    ordered: AtomicU64,
    shown: Arc<Mutex<Sight>>,
    threads: Threads,
}

impl PlaintextProbes {
    /// Loads the probes, which are attached to nothing before [`PlaintextProbes::set_targets`].
    /// `opener` opens processes' files. `tell` is called on a thread of its own, also some times a
    /// second when nothing happens.
    pub fn start(
        opener: Opener,
        tell: impl FnMut(PlaintextTold) + Send + 'static,
    ) -> Result<Self, TlsError> {
        let (programs, maps) = Programs::load()?;
        let maps = Arc::new(maps);
        // recorder --what is chosen--> watch; when full: the recorder waits.
        let (orders, ordered) = bounded(MAX_ORDERS);
        let shown = Arc::<Mutex<Sight>>::default();
        let tell = Arc::new(Mutex::new(tell));
        let ring = ring(&maps, Arc::clone(&tell))?;
        let watch = Watch::new(Processes::new(opener), programs, Arc::clone(&shown));
        let names = Names { reader: "tls-plaintext", watch: "tls-plain-watch" };
        let pause = move || lock(&tell)(PlaintextTold::Pause);
        let threads = Threads::start(&names, ring, NAP, pause, move || watch.run(&ordered))?;
        let (chosen, ordered) = (Mutex::default(), AtomicU64::new(0));
        Ok(Self { maps, orders, chosen, ordered, shown, threads })
    }

    /// Probes these namespaces and no others. Returns once the kernel lets plaintext of these out, and of
    /// no others; processes that run already are looked at soon after.
    pub fn set_targets(&self, targets: &[Target]) {
        let new: BTreeMap<NetnsId, Owner> =
            targets.iter().map(|target| (target.netns, target.owner.clone())).collect();
        let mut chosen = lock(&self.chosen);
        for netns in chosen.keys().filter(|netns| !new.contains_key(netns)) {
            if let Err(error) = self.maps.remove(*netns) {
                tracing::error!("stop seeing plaintext of network namespace {netns}: {error}");
            }
        }
        for netns in new.keys().filter(|netns| !chosen.contains_key(netns)) {
            if let Err(error) = self.maps.add(*netns) {
                tracing::error!("see plaintext of network namespace {netns}: {error}");
            }
        }
        chosen.clone_from(&new);
        if self.orders.send(Order::Chosen(new)).is_ok() {
            self.ordered.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether everything that ran in the namespaces when they were last set has been looked at.
    pub fn has_looked(&self) -> bool {
        lock(&self.shown).obeyed >= self.ordered.load(Ordering::Relaxed)
    }

    /// What is seen, and what is not.
    pub fn status(&self) -> PlaintextStatus {
        let mut status = status(&self.maps, &self.shown);
        if self.threads.is_broken() {
            let broken = "a thread of the plaintext probes has ended: restart the recorder";
            status.problems.push(broken.to_owned());
        }
        status
    }

    /// Takes the probes away, and tells what they saw until then; returns what they counted. The callback
    /// is not called again.
    pub fn stop(self) -> PlaintextStatus {
        let Self { maps, orders, shown, threads, .. } = self;
        let _ = orders.send(Order::Stop);
        threads.stop();
        status(&maps, &shown)
    }
}

fn status(maps: &Maps, shown: &Mutex<Sight>) -> PlaintextStatus {
    let Sight { files, left_out, problems, .. } = lock(shown).clone();
    let Counts { pieces, bytes, lost, unplaced } = maps.counts();
    PlaintextStatus { files, left_out, pieces, bytes, lost, unplaced, problems }
}

fn ring(
    maps: &Maps,
    tell: Arc<Mutex<impl FnMut(PlaintextTold) + Send + 'static>>,
) -> Result<RingBuffer<'static>, TlsError> {
    let piece = move |bytes: &[u8]| {
        if let Some(event) = decode(bytes, Clock::now()) {
            lock(&tell)(PlaintextTold::Event(event));
        }
        0
    };
    let mut builder = RingBufferBuilder::new();
    builder.add(&maps.pieces, piece).map_err(|source| TlsError::Ring { source })?;
    builder.build().map_err(|source| TlsError::Ring { source })
}
