//! The joiner's thread: packets and secrets in, notes out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, select, tick};
use kuberewind_packet::Timestamp;
use kuberewind_store::{Reach, SegmentNumber};
use kuberewind_tls::{Joined, Joiner, ObjectPath, Pinned, SecretEvent};

use super::keep::{self, ControlPlane, Kept};
use super::plaintext::pair;
use super::tap::HandshakePacket;
use super::vault::Vault;
use super::{Pinboard, Shown};

/// How often what was joined is written down.
const WRITE: Duration = Duration::from_millis(200);

/// How often it is looked which connections go on, at least.
const LOOK: Duration = Duration::from_secs(1);

/// Secrets that wait to be written while that fails: some 20,000 connections.
const MOST_UNWRITTEN: usize = 100_000;

/// Where sealed notes lie; nowhere while another recorder has the directory.
pub(crate) struct Shelf {
    /// Writes one; the segment that it is in.
    pub(crate) write: Box<dyn FnMut(Vec<u8>) -> Option<SegmentNumber> + Send>,
    /// What is held, and what of it goes next.
    pub(crate) reach: Box<dyn Fn() -> Option<Reach> + Send>,
}

/// What the joiner's thread works with.
pub(super) struct Work {
    pub(super) joiner: Joiner,
    /// joiner --where libraries keep the client's random--> probes; waits while their queue is full.
    pub(super) teach: Box<dyn Fn(u32, ObjectPath) + Send>,
    pub(super) vault: Arc<Vault>,
    pub(super) shelf: Shelf,
    /// What could not be written so far: the store is busy, or its recorder is stopping.
    pub(super) unwritten: Vec<Kept>,
    pub(super) control_plane: ControlPlane,
    pub(super) keeps_control_plane: Arc<AtomicBool>,
    pub(super) shown: Arc<Mutex<Shown>>,
    pub(super) pinned: Arc<Pinboard>,
    /// When it was last looked which connections go on, and what was about to go then.
    pub(super) looked: Option<(Instant, SegmentNumber)>,
}

impl Work {
    /// Until it is told to stop; then gives back what is not written yet.
    pub(super) fn run(
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
        self.tell_opened(&joined, &pinned);
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
        for kept in &kept {
            pins.add_line(kept);
        }
        drop(pins);
        let mut all = std::mem::take(&mut self.unwritten);
        all.extend(kept);
        all
    }

    /// What secrets open is not shown a second time by the plaintext probes.
    fn tell_opened(&self, joined: &[Joined], pinned: &[Pinned]) {
        let joined = joined.iter().map(|joined| pair(joined.netns, joined.client, joined.server));
        let pinned = pinned.iter().filter(|pinned| !pinned.lines.is_empty());
        let pinned = pinned.map(|Pinned { pin, .. }| pair(pin.netns, pin.client, pin.server));
        let mut opened = self.pinned.opened();
        joined.chain(pinned).for_each(|pair| opened.insert(pair));
    }

    /// Writes hellos that are new, and anew those whose notes are about to go.
    fn keep_pins(&mut self) {
        let Some(reach) = (self.shelf.reach)() else { return };
        let mut pins = self.pinned.pins();
        let is_recent = |(when, lasting): (Instant, SegmentNumber)| {
            when.elapsed() < LOOK && lasting == reach.lasting
        };
        if !self.looked.is_some_and(is_recent) {
            self.pinned.look(&mut pins);
            pins.forget(reach.oldest, Timestamp::now());
            self.looked = Some((Instant::now(), reach.lasting));
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
            looked: None,
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
