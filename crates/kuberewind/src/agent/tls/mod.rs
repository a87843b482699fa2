//! TLS: secrets found, tied to the connections that were recorded, and kept beside their packets.
//!
//! ```text
//! capture thread --handshake packets--> |
//!                                       | joiner --lines and hellos, sealed--> notes in the store
//! TLS probes ----secrets--------------> |
//! ```
//!
//! The hellos of connections that go on are kept longer than the packets that they came in (`pins`).

mod keep;
pub(crate) mod leave;
mod marks;
mod pins;
mod plaintext;
mod recall;
mod second_net;
mod status;
mod tap;
mod vault;
mod work;

pub(crate) use keep::ControlPlane;
pub(crate) use pins::Sent;
pub(crate) use plaintext::PLAINTEXT;
#[cfg(test)]
pub(crate) use plaintext::tests::feed as feed_plaintext;
pub(crate) use recall::{MOST_SECRETS, left_behind, noted};
pub(crate) use second_net::{PlaintextReport, SecondNet};
pub(crate) use status::TlsReport;
pub(crate) use tap::Tap;
pub(crate) use work::Shelf;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};
use kuberewind_capture::{Opener, Target, TlsConfig, TlsError, TlsProbes};
use kuberewind_packet::{ByteSize, NetnsId, Span, Timestamp};
use kuberewind_store::Note;
use kuberewind_tls::{JoinCounts, Joiner, SecretEvent};

use marks::{Marks, Taken};
use pins::Pins;
use plaintext::Opened;
use recall::KeyLogText;
use tap::HandshakePacket;
use vault::{Vault, VaultError};
use work::Work;

/// Packets of handshakes, and secrets, that may wait for the joiner.
const QUEUE: usize = 4096;

/// Namespaces that are remembered for secrets that come late.
const MOST_OWNERS: usize = 10_000;

/// Where TLS secrets come from, and which are not kept.
#[derive(Debug, Clone)]
pub(crate) struct TlsSource {
    /// Who opens processes' files.
    pub(crate) opener: Opener,
    /// What is the cluster's own.
    pub(crate) control_plane: ControlPlane,
}

/// Why TLS secrets are not seen. Recording goes on without.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsFailure {
    #[error(transparent)]
    Probes(#[from] TlsError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("start the thread that joins TLS secrets: {0}")]
    Thread(std::io::Error),
}

/// The ends of what the capture threads tell.
pub(crate) struct Taps {
    packets: Sender<HandshakePacket>,
    left_out: Arc<AtomicU64>,
    received: Receiver<HandshakePacket>,
    marks: Vec<Arc<Marks>>,
}

impl Taps {
    pub(crate) fn new() -> Self {
        // capture threads --handshake packets--> joiner; when full: counted and left out.
        let (packets, received) = bounded(QUEUE);
        Self { packets, left_out: Arc::default(), received, marks: Vec::new() }
    }

    /// A sink that tells of handshakes and hands everything to `inner`.
    pub(crate) fn before<S>(&mut self, inner: S) -> Tap<S> {
        let marks = Arc::<Marks>::default();
        self.marks.push(Arc::clone(&marks));
        Tap::new(inner, self.packets.clone(), Arc::clone(&self.left_out), marks)
    }
}

/// The running of it.
pub(crate) struct Tls {
    vault: Arc<Vault>,
    probes: TlsProbes,
    left_out: Arc<AtomicU64>,
    keeps_control_plane: Arc<AtomicBool>,
    shown: Arc<Mutex<Shown>>,
    pinned: Arc<Pinboard>,
    /// anyone --questions--> joiner: what was joined and is not written yet, as texts of notes
    rests: Sender<Sender<Vec<Vec<u8>>>>,
    stop: Sender<()>,
    thread: JoinHandle<Vec<Vec<u8>>>,
}

/// The hellos of connections that go on, and what tells that they do. Locked by the joiner some times
/// a second, by an export once, by whoever recalls what an earlier recorder noted.
#[derive(Default)]
struct Pinboard {
    pins: Mutex<Pins>,
    marks: Vec<Arc<Marks>>,
    /// Connections that secrets open: the plaintext probes leave these out.
    opened: Arc<Mutex<Opened>>,
}

impl Pinboard {
    fn opened(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pins(&self) -> MutexGuard<'_, Pins> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Knows then of every packet that the capture threads have had by now.
    fn look(&self, pins: &mut Pins) {
        let taken = Taken::from(&self.marks);
        pins.see(&taken, Timestamp::now());
    }
}

/// What the joiner's thread lets others see.
#[derive(Debug, Clone, Default)]
struct Shown {
    all: JoinCounts,
    /// Of the recorded namespaces.
    namespaces: BTreeMap<NetnsId, JoinCounts>,
    /// Of these and of earlier ones.
    owners: BTreeMap<NetnsId, String>,
    discarded: u64,
    unwritten: u64,
    /// Secrets for which exports had no room.
    unsent: u64,
}

impl Tls {
    /// Loads the probes, which see nothing before [`Self::set_targets`].
    pub(crate) fn start(
        source: TlsSource,
        taps: Taps,
        second_net: Option<&SecondNet>,
        shelf: Shelf,
    ) -> Result<Self, TlsFailure> {
        let vault = Arc::new(Vault::open_usual()?);
        // probes --secrets--> joiner; when full: the probes wait, and their ring counts what it loses.
        let (secret, secrets) = bounded::<SecretEvent>(QUEUE);
        let config = TlsConfig { opener: source.opener };
        let probes = TlsProbes::start(config, move |event| {
            let _ = secret.send(event);
        })?;
        let (stop, stopped) = bounded(1);
        let (rests, asked) = bounded(1);
        let Taps { received, left_out, marks, packets: _ } = taps;
        let shown = Arc::<Mutex<Shown>>::default();
        let opened = second_net.map(SecondNet::opened).unwrap_or_default();
        let pinned = Arc::new(Pinboard { marks, opened, ..Pinboard::default() });
        let keeps_control_plane = Arc::<AtomicBool>::default();
        let mut work = Work {
            joiner: Joiner::default(),
            teach: Box::new(probes.teacher()),
            vault: Arc::clone(&vault),
            shelf,
            unwritten: Vec::new(),
            control_plane: source.control_plane,
            keeps_control_plane: Arc::clone(&keeps_control_plane),
            shown: Arc::clone(&shown),
            pinned: Arc::clone(&pinned),
            looked: None,
        };
        let thread = thread::Builder::new()
            .name("tls-join".into())
            .spawn(move || work.run(&received, &secrets, &asked, &stopped))
            .map_err(TlsFailure::Thread)?;
        Ok(Self {
            vault,
            probes,
            left_out,
            keeps_control_plane,
            shown,
            pinned,
            rests,
            stop,
            thread,
        })
    }

    /// Sees secrets of these namespaces and of no others.
    pub(crate) fn set_targets(&self, targets: &[Target]) {
        self.probes.set_targets(targets);
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.namespaces = targets.iter().map(|t| (t.netns, JoinCounts::default())).collect();
        if shown.owners.len() > MOST_OWNERS {
            shown.owners.clear();
        }
        shown.owners.extend(targets.iter().map(|t| (t.netns, t.owner.to_string())));
    }

    /// `tap.tlsControlPlane`
    pub(crate) fn keep_control_plane(&self, keep: bool) {
        self.keeps_control_plane.store(keep, Ordering::Relaxed);
    }

    /// `pcapdump.maxSize`
    pub(crate) fn set_max_size(&self, max_size: ByteSize) {
        self.pinned.pins().set_max_size(max_size);
    }

    /// What is needed of connections that began before `began` and had packets at `live` or later, as far
    /// as it was not sent, and no more than `room`.
    pub(crate) fn older_than(
        &self,
        began: Timestamp,
        live: Timestamp,
        wanted: impl Fn(&str) -> bool,
        sent: &mut Sent,
        room: usize,
    ) -> String {
        let mut pins = self.pinned.pins();
        self.pinned.look(&mut pins);
        pins.older_than(began, live, wanted, sent, room)
    }

    /// The lines of a key log for connections that began within `span` and that `wanted` takes.
    pub(crate) fn key_log(
        &self,
        notes: &[Note],
        span: Span,
        wanted: impl Fn(&str) -> bool,
    ) -> String {
        let read = KeyLogText::read(std::slice::from_ref(&self.vault), notes, span, wanted);
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).unsent += read.left_out;
        read.text
    }

    pub(crate) fn report(&self) -> TlsReport {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let pins = self.pinned.pins();
        let (pinned, pins_dropped) = (pins.len() as u64, pins.dropped());
        drop(pins);
        let left_out = self.left_out.load(Ordering::Relaxed);
        let report = TlsReport::new(self.probes.status(), &shown, left_out);
        TlsReport { pinned, pins_dropped, ..report }
    }

    /// Whether all that ran in the namespaces when they were last set has been looked at.
    pub(crate) fn has_looked(&self) -> bool {
        self.probes.has_looked()
    }

    /// Whether nothing that older connections need is about to go.
    #[cfg(test)]
    pub(crate) fn keeps_pins(&self, reach: &kuberewind_store::Reach) -> bool {
        self.pinned.pins().due(reach).is_empty()
    }

    /// What was joined and is not written yet, sealed; the caller writes it.
    pub(crate) fn rest(&self) -> Vec<Vec<u8>> {
        let (answer, rest) = bounded(1);
        let asked = self.rests.send(answer);
        let rest = asked.ok().and_then(|()| rest.recv().ok()).unwrap_or_default();
        sealed(&self.vault, &rest)
    }

    /// Ends it; what was joined last, sealed.
    pub(crate) fn stop(self) -> Vec<Vec<u8>> {
        let Self { vault, probes, stop, thread, .. } = self;
        probes.stop();
        let _ = stop.send(());
        sealed(&vault, &thread.join().unwrap_or_default())
    }
}

fn sealed(vault: &Vault, texts: &[Vec<u8>]) -> Vec<Vec<u8>> {
    texts.iter().filter_map(|text| vault.seal(text).ok()).collect()
}
