//! TLS: secrets found, tied to the connections that were recorded, and kept beside their packets.
//!
//! ```text
//! capture thread --handshake packets--> |
//!                                       | joiner --lines, sealed--> notes in the store
//! TLS probes ----secrets--------------> |
//! ```

mod keep;
pub(crate) mod leave;
mod plaintext;
mod second_net;
mod status;
mod tap;
mod vault;

pub(crate) use keep::ControlPlane;
pub(crate) use plaintext::PLAINTEXT;
pub(crate) use second_net::{PlaintextReport, SecondNet};
pub(crate) use status::TlsReport;
pub(crate) use tap::Tap;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select, tick};
use kuberewind_capture::{Target, TlsConfig, TlsError, TlsProbes};
use kuberewind_packet::{NetnsId, Span, Timestamp};
use kuberewind_store::Note;
use kuberewind_tls::{JoinCounts, Joined, Joiner, ObjectPath, SecretEvent};

use keep::Kept;
use plaintext::Opened;
use tap::HandshakePacket;
use vault::{Vault, VaultError};

/// How often what was joined is written down.
const WRITE: Duration = Duration::from_millis(200);

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
}

impl Taps {
    pub(crate) fn new() -> Self {
        // capture threads --handshake packets--> joiner; when full: counted and left out.
        let (packets, received) = bounded(QUEUE);
        Self { packets, left_out: Arc::default(), received }
    }

    /// A sink that tells of handshakes and hands everything to `inner`.
    pub(crate) fn before<S>(&self, inner: S) -> Tap<S> {
        Tap::new(inner, self.packets.clone(), Arc::clone(&self.left_out))
    }
}

/// The running of it.
pub(crate) struct Tls {
    vault: Arc<Vault>,
    probes: TlsProbes,
    left_out: Arc<AtomicU64>,
    keeps_control_plane: Arc<AtomicBool>,
    shown: Arc<Mutex<Shown>>,
    /// anyone --questions--> joiner: what was joined and is not written yet
    rests: Sender<Sender<Vec<Kept>>>,
    stop: Sender<()>,
    thread: JoinHandle<Vec<Kept>>,
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

/// Writes a sealed note; whether it was written.
pub(crate) type Write = Box<dyn FnMut(Vec<u8>) -> bool + Send>;

impl Tls {
    /// Loads the probes, which see nothing before [`Self::set_targets`].
    pub(crate) fn start(
        source: TlsSource,
        taps: Taps,
        second_net: Option<&SecondNet>,
        write: Write,
    ) -> Result<Self, TlsFailure> {
        let vault = Arc::new(Vault::open_usual()?);
        // probes --secrets--> joiner; when full: the probes wait, and their ring counts what it loses.
        let (secret, secrets) = bounded::<SecretEvent>(QUEUE);
        let config = TlsConfig { proc: source.proc };
        let probes = TlsProbes::start(config, move |event| {
            let _ = secret.send(event);
        })?;
        let (stop, stopped) = bounded(1);
        let (rests, asked) = bounded(1);
        let Taps { received, left_out, packets: _ } = taps;
        let shown = Arc::<Mutex<Shown>>::default();
        let keeps_control_plane = Arc::<AtomicBool>::default();
        let mut work = Work {
            joiner: Joiner::default(),
            teach: Box::new(probes.teacher()),
            vault: Arc::clone(&vault),
            write,
            unwritten: Vec::new(),
            control_plane: source.control_plane,
            keeps_control_plane: Arc::clone(&keeps_control_plane),
            shown: Arc::clone(&shown),
            opened: second_net.map(SecondNet::opened).unwrap_or_default(),
        };
        let thread = thread::Builder::new()
            .name("tls-join".into())
            .spawn(move || work.run(&received, &secrets, &asked, &stopped))
            .map_err(TlsFailure::Thread)?;
        Ok(Self { vault, probes, left_out, keeps_control_plane, shown, rests, stop, thread })
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

    /// The lines of a key log for connections that began within `span` and that `wanted` takes.
    pub(crate) fn key_log(
        &self,
        notes: &[Note],
        span: Span,
        wanted: impl Fn(&str) -> bool,
    ) -> Vec<u8> {
        key_log(std::slice::from_ref(&self.vault), notes, span, wanted).0
    }

    pub(crate) fn report(&self) -> TlsReport {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        TlsReport::new(self.probes.status(), &shown, self.left_out.load(Ordering::Relaxed))
    }

    /// Whether all that ran in the namespaces when they were last set has been looked at.
    pub(crate) fn has_looked(&self) -> bool {
        self.probes.has_looked()
    }

    /// What was joined and is not written yet, sealed; the caller writes it.
    pub(crate) fn rest(&self) -> Option<Vec<u8>> {
        let (answer, rest) = bounded(1);
        self.rests.send(answer).ok()?;
        let rest = rest.recv().ok()?;
        if rest.is_empty() { None } else { self.vault.seal(&keep::write(&rest)).ok() }
    }

    /// Ends it; what was joined last, sealed.
    pub(crate) fn stop(self) -> Option<Vec<u8>> {
        let Self { vault, probes, stop, thread, .. } = self;
        probes.stop();
        let _ = stop.send(());
        let rest = thread.join().unwrap_or_default();
        if rest.is_empty() { None } else { vault.seal(&keep::write(&rest)).ok() }
    }
}

/// The lines of a key log, and how many of the notes none of the keys opens.
fn key_log(
    vaults: &[Arc<Vault>],
    notes: &[Note],
    span: Span,
    wanted: impl Fn(&str) -> bool,
) -> (Vec<u8>, usize) {
    let (mut lines, mut closed) = (String::new(), 0);
    for note in notes {
        let Some(bytes) = vaults.iter().find_map(|vault| vault.unseal(&note.bytes)) else {
            closed += 1;
            continue;
        };
        let kept = keep::read(&bytes).into_iter();
        for kept in kept.filter(|kept| span.contains(kept.hello) && wanted(&kept.owner)) {
            let _ = writeln!(lines, "{}", kept.line);
        }
    }
    (lines.into_bytes(), closed)
}

/// When a recorder may have noted secrets of connections that began within `span`; their notes may
/// have waited for the disk.
pub(crate) fn noted(span: Span) -> Span {
    const WAITED: Duration = Duration::from_secs(5);
    Span::new(span.from.saturating_sub(WAITED), span.to.saturating_add(LATE))
}

/// The lines of a key log from what a recorder left in `dir`, for whoever may read its key; why it is
/// not all of them.
pub(crate) fn left_behind(
    dir: &Path,
    notes: &[Note],
    span: Span,
    wanted: impl Fn(&str) -> bool,
) -> (Vec<u8>, Option<String>) {
    const GONE: &str = "the key to the TLS secrets is gone, as after each start of the machine";
    let out = |why: String| (Vec::new(), Some(format!("{why}: they are left out")));
    match leave::is_allowed(dir) {
        Ok(true) => {}
        Ok(false) => return out("the TLS secrets stay here (tap.tlsExport=false)".to_owned()),
        Err(error) => return out(format!("look into {}: {error}; TLS secrets", dir.display())),
    }
    let vaults: Vec<_> = match Vault::left_behind() {
        Ok(vaults) => vaults.into_iter().map(Arc::new).collect(),
        Err(error) => return out(format!("{error}; it is the key to the TLS secrets")),
    };
    match key_log(&vaults, notes, span, wanted) {
        (log, 0) => (log, None),
        (log, closed) if closed < notes.len() => {
            (log, Some(format!("{GONE}: those of before it are left out")))
        }
        _ => out(GONE.to_owned()),
    }
}

/// What the joiner's thread works with.
struct Work {
    joiner: Joiner,
    /// joiner --where libraries keep the client's random--> probes; waits while their queue is full.
    teach: Box<dyn Fn(u32, ObjectPath) + Send>,
    vault: Arc<Vault>,
    write: Write,
    /// What could not be written so far: the store is busy, or its recorder is stopping.
    unwritten: Vec<Kept>,
    control_plane: ControlPlane,
    keeps_control_plane: Arc<AtomicBool>,
    shown: Arc<Mutex<Shown>>,
    /// joiner --connections that secrets open--> plaintext probes, which leave these out.
    opened: Arc<Mutex<Opened>>,
}

impl Work {
    /// Until it is told to stop; then gives back what is not written yet.
    fn run(
        &mut self,
        packets: &Receiver<HandshakePacket>,
        secrets: &Receiver<SecretEvent>,
        rests: &Receiver<Sender<Vec<Kept>>>,
        stop: &Receiver<()>,
    ) -> Vec<Kept> {
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
    ) -> Vec<Kept> {
        packets.try_iter().for_each(|p| self.joiner.packet(p.netns, p.time, &p.bytes));
        secrets.try_iter().for_each(|secret| self.joiner.secret(secret));
        self.joiner.settle();
        self.take()
    }

    /// What was joined and may be kept, and is not written yet.
    fn take(&mut self) -> Vec<Kept> {
        let joined = self.joiner.take(Timestamp::now());
        self.joiner.take_learned().into_iter().for_each(|(file, path)| (self.teach)(file, path));
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        joined.iter().for_each(|j| opened.insert(plaintext::pair(j.netns, j.client, j.server)));
        drop(opened);
        let keep_all = self.keeps_control_plane.load(Ordering::Relaxed);
        let (kept, discarded): (Vec<Joined>, Vec<Joined>) =
            joined.into_iter().partition(|j| keep_all || !self.control_plane.has(j));
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
        let mut all = std::mem::take(&mut self.unwritten);
        all.extend(kept);
        all
    }

    fn write_down(&mut self, kept: &[Kept]) {
        for part in kept.chunks(keep::MOST_IN_A_NOTE) {
            let written = match self.vault.seal(&keep::write(part)) {
                Ok(sealed) => (self.write)(sealed),
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
            write: Box::new(move |_| does.load(Ordering::Relaxed)),
            unwritten: Vec::new(),
            control_plane: ControlPlane::default(),
            keeps_control_plane: Arc::default(),
            shown: Arc::clone(&shown),
            opened: Arc::default(),
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
