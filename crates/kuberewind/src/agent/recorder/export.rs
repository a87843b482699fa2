//! Windows out of the store, with the TLS secrets that open them.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use kuberewind_export::wire::{SendError, Sender};
use kuberewind_packet::{LossAt, PacketStream as _, Span, Timestamp, WindowAccount};
use kuberewind_store::Note;

use super::{Recorder, RecorderError};
use crate::agent::WindowQuery;
use crate::agent::tls::{self, Sent};
use crate::agent::wanted::Wanted;

/// An export waits so long for namespaces of which nobody has decided yet; it mostly takes a quarter of
/// this.
const DECIDED_BY: Duration = Duration::from_secs(2);

impl Recorder {
    /// Sends a window: waits until its end is settled, then reads it from disk; then goes on with
    /// what came since, window by window, for as long as `follow` says so or until the other side
    /// hangs up. Nothing is written to `out` before the window is known to be there.
    pub(crate) fn send<W: Write>(
        &self,
        query: &WindowQuery,
        wanted: &Wanted,
        follow: impl Fn() -> bool,
        out: W,
    ) -> Result<(), RecorderError> {
        let mut asked = query.span(Timestamp::now());
        let mut last = !follow();
        if !last && query.tls {
            asked.to = held_back(asked, asked.to);
        }
        let mut waiting = self.settle(asked.to, asked)?;
        if query.from.is_none() {
            asked.from = self.oldest(asked)?;
        }
        let mut sender = Sender::new(out, query.compress).map_err(SendError::Io)?;
        let until = if last { asked.to } else { Timestamp::MAX };
        let began = Span::new(asked.from, until);
        let mut secrets = query.tls.then(|| Secrets::new(began));
        let mut account = None;
        loop {
            if let Some(secrets) = &mut secrets {
                let log = self.key_log(asked, secrets, wanted)?;
                sender.secrets(&log).map_err(SendError::Io)?;
            }
            let plaintext = query.tls && self.config(|config| config.tap.tls_export);
            let choice = wanted.choice(plaintext);
            let mut window = self.with_store(|store| store.window(asked, choice))?;
            sender.send(&mut window)?;
            let mut told = window.account().clone();
            told.losses.append(&mut waiting);
            let so_far = match account.take() {
                None => told,
                Some(earlier) => WindowAccount::then(earlier, &told),
            };
            if last {
                sender.finish(&so_far).map_err(SendError::Io)?;
                return Ok(());
            }
            account = Some(so_far);
            sender.flush().map_err(SendError::Io)?;
            last = !follow();
            let now = Timestamp::now();
            let rest = Span::new(asked.to, now);
            asked =
                if last || !query.tls { rest } else { Span::new(rest.from, held_back(rest, now)) };
            waiting = self.settle(now, asked)?;
        }
    }

    /// TLS secrets that were written since `asked` began, and what is needed of older connections, as far
    /// as it may leave and was not sent yet.
    fn key_log(
        &self,
        asked: Span,
        secrets: &mut Secrets,
        wanted: &Wanted,
    ) -> Result<Vec<u8>, RecorderError> {
        if !self.config(|config| config.tap.tls_export) {
            return Ok(Vec::new());
        }
        let span = tls::noted(asked);
        let mut notes = self.with_store(|store| store.notes(span))??;
        notes.retain(|note| secrets.is_new(note));
        secrets.forget_before(span.from);
        let Secrets { began, older, .. } = secrets;
        let takes = |owner: &str| wanted.takes_owner(owner);
        let log = self.with_tls(|tls| {
            let mut log = tls.key_log(&notes, *began, takes);
            let room = tls::MOST_SECRETS.saturating_sub(log.len());
            log.push_str(&tls.older_than(began.from, asked.from, takes, older, room));
            log.into_bytes()
        });
        Ok(log.unwrap_or_default())
    }

    /// Where "all that is held" begins.
    fn oldest(&self, asked: Span) -> Result<Timestamp, RecorderError> {
        let oldest = self.with_store(|store| store.status().oldest)?;
        oldest
            .map(|oldest| oldest.min(asked.to))
            .ok_or_else(|| RecorderError::Empty(self.data_dir()))
    }

    /// Every packet stamped before `to` is on disk when this returns, but for what it gives of `span`:
    /// packets of which nobody has decided yet, though they were waited for a little.
    fn settle(&self, to: Timestamp, span: Span) -> Result<Vec<LossAt>, RecorderError> {
        // Who hands over meanwhile does not wait for whoever waits here.
        self.with(|stages| stages.capture.settle(to))??;
        self.second_net.iter().for_each(|net| net.settle(to));
        let waiting = self.await_decisions(span, DECIDED_BY)?;
        self.with_sides(|sides| match &sides.store {
            Some(store) if sides.cut.is_none_or(|cut| to <= cut.at) => Ok(store.sync()?),
            _ => Err(RecorderError::HandedOver),
        })??;
        Ok(waiting)
    }

    /// Waits so long at most until of every packet in `span` it is known whether it is recorded; those of
    /// which it is not.
    pub(super) fn await_decisions(
        &self,
        span: Span,
        within: Duration,
    ) -> Result<Vec<LossAt>, RecorderError> {
        let deadline = Instant::now() + within;
        loop {
            let waiting = self.with(|stages| stages.capture.settle_span(span))??;
            if waiting.is_empty() || Instant::now() >= deadline {
                return Ok(waiting);
            }
            thread::sleep(DECIDED_BY / 40);
        }
    }
}

/// Where to end when packets are followed: a moment before `now`, so that secrets come before what
/// they open. They are written up to 200 ms after their handshake, and `settle` takes as long.
fn held_back(rest: Span, now: Timestamp) -> Timestamp {
    const MOMENT: Duration = Duration::from_millis(300);
    now.saturating_sub(MOMENT).max(rest.from)
}

/// What of TLS has been sent.
struct Secrets {
    /// When the connections began that are asked for.
    began: Span,
    /// Notes that were sent, by time and hash.
    sent: HashSet<(Timestamp, u64)>,
    /// What was sent of connections that began before.
    older: Sent,
}

impl Secrets {
    fn new(began: Span) -> Self {
        Self { began, sent: HashSet::new(), older: Sent::new() }
    }

    fn is_new(&mut self, note: &Note) -> bool {
        let mut hasher = DefaultHasher::new();
        note.bytes.hash(&mut hasher);
        self.sent.insert((note.at, hasher.finish()))
    }

    /// No more notes of before `time` are asked for.
    fn forget_before(&mut self, time: Timestamp) {
        self.sent.retain(|(at, _)| *at >= time);
    }
}
