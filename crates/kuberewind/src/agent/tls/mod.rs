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
mod recall;
mod status;
mod tap;
mod vault;

pub(crate) use keep::ControlPlane;
pub(crate) use pins::Sent;
pub(crate) use recall::{MOST_SECRETS, left_behind};
pub(crate) use status::TlsReport;
pub(crate) use tap::Tap;

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select, tick};
use kuberewind_capture::{Target, TlsConfig, TlsError, TlsProbes};
use kuberewind_packet::{ByteSize, NetnsId, Span, Timestamp};
use kuberewind_store::{Note, Reach, SegmentNumber};
use kuberewind_tls::{JoinCounts, Joined, Joiner, ObjectPath, Pinned, SecretEvent};

use keep::Kept;
use marks::{Marks, Taken};
use pins::Pins;
use tap::HandshakePacket;
use vault::{Vault, VaultError};

/// How often what was joined is written down.
const WRITE: Duration = Duration::from_millis(200);

/// How often it is looked which connections go on, at least.
const LOOK: Duration = Duration::from_secs(1);

/// Packets of handshakes, and secrets, that may wait for the joiner.
const QUEUE: usize = 4096;

/// Secrets that wait to be written while that fails: some 20,000 connections.
const MOST_UNWRITTEN: usize = 100_000;

/// Namespaces that are remembered for secrets that come late.
const MOST_OWNERS: usize = 10_000;

/// A secret may be written so long after its connection's first packet.
const LATE: Duration = Duration::from_secs(40);

/// Where TLS secrets come from, and which are not kept.
#[derive(Debug, Clone)]
pub(crate) struct TlsSource {
    /// Where processes are shown: `/proc`, or the node's.
    pub(crate) proc: PathBuf,
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
}

impl Pinboard {
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
}

/// Where sealed notes lie; nowhere while another recorder has the directory.
pub(crate) struct Shelf {
    /// Writes one; the segment that it is in.
    pub(crate) write: Box<dyn FnMut(Vec<u8>) -> Option<SegmentNumber> + Send>,
    /// What is held, and what of it goes next.
    pub(crate) reach: Box<dyn Fn() -> Option<Reach> + Send>,
}

impl Tls {
    /// Loads the probes, which see nothing before [`Self::set_targets`].
    pub(crate) fn start(source: TlsSource, taps: Taps, shelf: Shelf) -> Result<Self, TlsFailure> {
        let vault = Arc::new(Vault::open_usual()?);
        // probes --secrets--> joiner; when full: the probes wait, and their ring counts what it loses.
        let (secret, secrets) = bounded::<SecretEvent>(QUEUE);
        let config = TlsConfig { proc: source.proc };
        let probes = TlsProbes::start(config, move |event| {
            let _ = secret.send(event);
        })?;
        let (stop, stopped) = bounded(1);
        let (rests, asked) = bounded(1);
        let Taps { received, left_out, marks, packets: _ } = taps;
        let shown = Arc::<Mutex<Shown>>::default();
        let pinned = Arc::new(Pinboard { marks, ..Pinboard::default() });
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
            looked: (Instant::now(), SegmentNumber::default()),
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
        key_log(std::slice::from_ref(&self.vault), notes, span, wanted).0
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

/// The lines of a key log, each once, and how many of the notes none of the keys opens.
fn key_log(
    vaults: &[Arc<Vault>],
    notes: &[Note],
    span: Span,
    wanted: impl Fn(&str) -> bool,
) -> (String, usize) {
    let (mut lines, mut closed, mut known) = (String::new(), 0, HashSet::new());
    for note in notes {
        let Some(bytes) = vaults.iter().find_map(|vault| vault.unseal(&note.bytes)) else {
            closed += 1;
            continue;
        };
        let kept = keep::read(&bytes).into_iter();
        for Kept { line, .. } in
            kept.filter(|kept| span.contains(kept.hello) && wanted(&kept.owner))
        {
            if known.insert((line.client_random, line.label, line.secret.0.clone())) {
                let _ = writeln!(lines, "{line}");
            }
        }
    }
    (lines, closed)
}

/// When a recorder may have noted secrets of connections that began within `span`; their notes may
/// have waited for the disk.
pub(crate) fn noted(span: Span) -> Span {
    const WAITED: Duration = Duration::from_secs(5);
    Span::new(span.from.saturating_sub(WAITED), span.to.saturating_add(LATE))
}

/// What the joiner's thread works with.
struct Work {
    joiner: Joiner,
    /// joiner --where libraries keep the client's random--> probes; waits while their queue is full.
    teach: Box<dyn Fn(u32, ObjectPath) + Send>,
    vault: Arc<Vault>,
    shelf: Shelf,
    /// What could not be written so far: the store is busy, or its recorder is stopping.
    unwritten: Vec<Kept>,
    control_plane: ControlPlane,
    keeps_control_plane: Arc<AtomicBool>,
    shown: Arc<Mutex<Shown>>,
    pinned: Arc<Pinboard>,
    /// When it was last looked which connections go on, and what was about to go then.
    looked: (Instant, SegmentNumber),
}

impl Work {
    /// Until it is told to stop; then gives back what is not written yet.
    fn run(
        &mut self,
        packets: &Receiver<HandshakePacket>,
        secrets: &Receiver<SecretEvent>,
        rests: &Receiver<Sender<Vec<Vec<u8>>>>,
        stop: &Receiver<()>,
    ) -> Vec<Vec<u8>> {
        let ticks = tick(WRITE);
        loop {
            select! {
                recv(packets) -> packet => {
                    let Ok(packet) = packet else { break };
                    self.joiner.packet(packet.netns, packet.time, &packet.bytes);
                }
                recv(secrets) -> secret => {
                    let Ok(secret) = secret else { break };
                    self.joiner.secret(secret);
                }
                recv(ticks) -> _ => {
                    let kept = self.take();
                    self.write_down(&kept);
                    self.keep_pins();
                }
                recv(rests) -> answer => {
                    let Ok(answer) = answer else { break };
                    let _ = answer.send(self.take_rest(packets, secrets));
                }
                recv(stop) -> _ => break,
            }
        }
        self.take_rest(packets, secrets)
    }

    fn take_rest(
        &mut self,
        packets: &Receiver<HandshakePacket>,
        secrets: &Receiver<SecretEvent>,
    ) -> Vec<Vec<u8>> {
        packets.try_iter().for_each(|p| self.joiner.packet(p.netns, p.time, &p.bytes));
        secrets.try_iter().for_each(|secret| self.joiner.secret(secret));
        self.joiner.settle();
        let lines = self.take();
        let lines = lines.chunks(keep::MOST_IN_A_NOTE).map(keep::write);
        // With a reach of nothing only what was never written is due.
        let pins = self.pinned.pins().due(&Reach::default());
        lines.chain(pins.into_iter().map(|due| due.text)).collect()
    }

    /// What was joined and may be kept, and is not written yet.
    fn take(&mut self) -> Vec<Kept> {
        let now = Timestamp::now();
        let joined = self.joiner.take(now);
        let pinned = self.joiner.take_pinned();
        self.joiner.take_learned().into_iter().for_each(|(file, path)| (self.teach)(file, path));
        let keep_all = self.keeps_control_plane.load(Ordering::Relaxed);
        let (kept, discarded): (Vec<Joined>, Vec<Joined>) =
            joined.into_iter().partition(|joined| {
                let Joined { server, server_name, .. } = joined;
                keep_all || !self.control_plane.has(*server, server_name.as_deref())
            });
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.discarded += discarded.len() as u64;
        shown.all = self.joiner.counts();
        for (netns, counts) in &mut shown.namespaces {
            *counts = self.joiner.counts_of(*netns);
        }
        let owner = |netns| shown.owners.get(&netns).cloned().unwrap_or_default();
        let kept = kept.into_iter();
        let kept =
            kept.map(|Joined { hello, netns, line, .. }| Kept { hello, owner: owner(netns), line });
        let kept: Vec<Kept> = kept.collect();
        let mut pins = self.pinned.pins();
        for Pinned { pin, server_name, lines } in pinned {
            if !keep_all && self.control_plane.has(pin.server, server_name.as_deref()) {
                continue;
            }
            let (hello, owner) = (pin.hello, owner(pin.netns));
            pins.add(&owner, pin, now);
            for line in lines {
                pins.add_line(&Kept { hello, owner: owner.clone(), line });
            }
        }
        kept.iter().for_each(|kept| pins.add_line(kept));
        drop(pins);
        let mut all = std::mem::take(&mut self.unwritten);
        all.extend(kept);
        all
    }

    /// Writes hellos that are new, and anew those whose notes are about to go.
    fn keep_pins(&mut self) {
        let Some(reach) = (self.shelf.reach)() else { return };
        let (when, lasting) = self.looked;
        let mut pins = self.pinned.pins();
        if when.elapsed() >= LOOK || reach.lasting != lasting {
            self.pinned.look(&mut pins);
            pins.forget(reach.oldest, Timestamp::now());
            self.looked = (Instant::now(), reach.lasting);
        }
        let notes = pins.due(&reach);
        drop(pins);
        for due in notes {
            let sealed = self.vault.seal(&due.text).ok();
            let Some(segment) = sealed.and_then(|sealed| (self.shelf.write)(sealed)) else {
                return;
            };
            self.pinned.pins().note(&due, segment);
        }
    }

    fn write_down(&mut self, kept: &[Kept]) {
        for part in kept.chunks(keep::MOST_IN_A_NOTE) {
            let written = match self.vault.seal(&keep::write(part)) {
                Ok(sealed) => (self.shelf.write)(sealed).is_some(),
                Err(error) => {
                    tracing::error!("seal TLS secrets: {error}");
                    false
                }
            };
            if !written {
                self.unwritten.extend_from_slice(part);
            }
        }
        let lost = self.unwritten.len().saturating_sub(MOST_UNWRITTEN);
        if lost > 0 {
            self.unwritten.drain(..lost);
            let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            shown.unwritten += lost as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use kuberewind_tls::{KeyLogLabel, KeyLogLine, SecretBytes};

    use super::*;

    fn kept(number: u64) -> Kept {
        let mut client_random = [0; 32];
        client_random[..8].copy_from_slice(&number.to_le_bytes());
        let secret = SecretBytes(vec![1; 48]);
        let line = KeyLogLine { label: KeyLogLabel::ClientRandom, client_random, secret };
        Kept { hello: Timestamp::from_nanos(number), owner: "host".to_owned(), line }
    }

    /// A recorder that stops takes no notes from the moment on in which it empties its rings.
    #[test]
    fn what_cannot_be_written_is_kept_until_it_can_be_and_then_handed_over() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let works = Arc::new(AtomicBool::new(false));
        let does = Arc::clone(&works);
        let shown = Arc::<Mutex<Shown>>::default();
        let mut work = Work {
            joiner: Joiner::default(),
            teach: Box::new(|_, _| {}),
            vault: Arc::new(Vault::open(&dir.path().join("key")).unwrap()),
            shelf: Shelf {
                write: Box::new(move |_| {
                    does.load(Ordering::Relaxed).then_some(SegmentNumber::default())
                }),
                reach: Box::new(|| None),
            },
            unwritten: Vec::new(),
            control_plane: ControlPlane::default(),
            keeps_control_plane: Arc::default(),
            shown: Arc::clone(&shown),
            pinned: Arc::default(),
            looked: (Instant::now(), SegmentNumber::default()),
        };
        work.write_down(&[kept(1)]);
        assert_eq!(work.take(), [kept(1)]);
        work.write_down(&(0..MOST_UNWRITTEN as u64 + 7).map(kept).collect::<Vec<_>>());
        assert_eq!(shown.lock().unwrap().unwritten, 7);
        works.store(true, Ordering::Relaxed);
        let rest = work.take();
        assert_eq!((rest.len(), &rest[0]), (MOST_UNWRITTEN, &kept(7)));
        work.write_down(&rest);
        assert_eq!(work.take(), []);
    }
}
