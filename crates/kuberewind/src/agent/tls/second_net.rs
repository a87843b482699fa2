//! Probes for plaintext, attached while somebody is chosen for it (`tap.tlsPlaintext`).

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kuberewind_capture::{PlaintextProbes, PlaintextStatus, Target};
use kuberewind_packet::{PacketSink, Timestamp};
use serde::{Deserialize, Serialize};

use super::TlsSource;
use super::plaintext::{Opened, Stream, lock};

/// How long an export waits for words that wait themselves.
const SETTLED_BY: Duration = Duration::from_secs(4);

/// How long who stops or hands over waits for secrets of connections that have just begun: their handshakes
/// were before their first words, and are joined five times a second.
const JOINED_BY: Duration = Duration::from_millis(300);

/// Plaintext of the chosen.
pub(crate) struct SecondNet {
    source: TlsSource,
    stream: Arc<Mutex<Stream>>,
    opened: Arc<Mutex<Opened>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    chosen: Vec<Target>,
    probes: Option<PlaintextProbes>,
    /// What probes counted that are gone.
    past: Past,
    problem: Option<String>,
}

impl State {
    /// Reads what they sent to its end.
    fn stop_probes(&mut self) {
        if let Some(probes) = self.probes.take() {
            self.past = self.past.with(&probes.stop());
        }
    }
}

/// Bytes.
#[derive(Clone, Copy, Default)]
struct Past {
    seen: u64,
    lost: u64,
    unplaced: u64,
}

impl Past {
    fn with(self, status: &PlaintextStatus) -> Self {
        Self {
            seen: self.seen + status.bytes,
            lost: self.lost + status.lost,
            unplaced: self.unplaced + status.unplaced,
        }
    }
}

/// Plaintext as `kuberewind status --json` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PlaintextReport {
    /// Whose.
    pub(crate) chosen: Vec<String>,
    /// Files with probes.
    pub(crate) files: Vec<String>,
    /// Files that would have probes if there were not as many already, of all or of their pod.
    pub(crate) files_left_out: usize,
    /// Conversations that are shown.
    pub(crate) conversations: u64,
    /// Conversations that are not: secrets open them, the other end shows them, or they are the control
    /// plane's.
    pub(crate) left_out: u64,
    /// Bytes that the probes saw.
    pub(crate) bytes: u64,
    /// Bytes lost on the way from the kernel.
    pub(crate) lost: u64,
    /// Bytes of which it is not known which connection they belong to.
    pub(crate) unplaced: u64,
    /// Bytes that waited for their connections' secrets when there was no time left, or came too late to
    /// be written.
    pub(crate) unwritten: u64,
    /// Programs that hand the library's bytes to a socket themselves, so that their connections are
    /// not known.
    pub(crate) without_socket: Vec<String>,
    /// What does not work.
    pub(crate) problems: Vec<String>,
}

impl PlaintextReport {
    /// Whether there is anything to say.
    pub(crate) fn is_used(&self) -> bool {
        *self != Self::default()
    }
}

impl SecondNet {
    pub(crate) fn new(source: TlsSource, node: String, sink: Box<dyn PacketSink>) -> Self {
        let opened = Arc::<Mutex<Opened>>::default();
        let control_plane = source.control_plane.clone();
        let stream = Stream::new(sink, node, Arc::clone(&opened), control_plane);
        Self { source, stream: Arc::new(Mutex::new(stream)), opened, state: Mutex::default() }
    }

    /// Where the joiner notes what secrets open.
    pub(super) fn opened(&self) -> Arc<Mutex<Opened>> {
        Arc::clone(&self.opened)
    }

    /// Secrets are not looked for, so there is none to wait for.
    pub(crate) fn no_secrets(&self) {
        lock(&self.opened).set_recalled();
    }

    /// `tap.tlsControlPlane`
    pub(crate) fn keep_control_plane(&self, keep: bool) {
        lock(&self.stream).keeps_control_plane = keep;
    }

    /// Probes these and no others; none at all where nobody is chosen.
    pub(crate) fn choose(&self, chosen: Vec<Target>) {
        let mut state = lock(&self.state);
        if state.chosen == chosen {
            return;
        }
        let owners = chosen.iter().map(|target| (target.netns, target.owner.clone())).collect();
        lock(&self.stream).welcome(&owners);
        if chosen.is_empty() {
            state.stop_probes();
        } else if state.probes.is_none() {
            match self.start() {
                Ok(probes) => (state.probes, state.problem) = (Some(probes), None),
                Err(error) => {
                    tracing::warn!("tap.tlsPlaintext: {error}");
                    state.problem = Some(error.to_string());
                }
            }
        }
        if let Some(probes) = &state.probes {
            probes.set_targets(&chosen);
        }
        let mut stream = lock(&self.stream);
        stream.keep_only(&owners);
        if state.probes.is_none() {
            stream.end_of_probes();
        }
        drop(stream);
        state.chosen = chosen;
    }

    fn start(&self) -> Result<PlaintextProbes, kuberewind_capture::TlsError> {
        let stream = Arc::clone(&self.stream);
        let (opener, proc) = (&self.source.opener, self.source.opener.proc().to_owned());
        PlaintextProbes::start(opener.clone(), move |told| {
            lock(&stream).hear(told, |pid| {
                let name = std::fs::read_to_string(proc.join(pid.to_string()).join("comm"));
                name.map_or_else(|_| format!("process {pid}"), |name| name.trim().to_owned())
            });
        })
    }

    /// Whether whatever ran when the choice changed was looked at.
    pub(crate) fn has_looked(&self) -> bool {
        lock(&self.state).probes.as_ref().is_none_or(PlaintextProbes::has_looked)
    }

    /// Whatever was said before `to` has been handed to the store when this returns, unless it waits for
    /// too long.
    pub(crate) fn settle(&self, to: Timestamp) {
        self.await_ring(SETTLED_BY, |stream| !stream.holds_before(to));
        lock(&self.stream).flush();
    }

    /// Waits, so long at most, until what stands in the ring now was read and the stream is as it should be.
    fn await_ring(&self, within: Duration, is_ready: impl Fn(&Stream) -> bool) {
        const STEP: Duration = Duration::from_millis(20);
        if lock(&self.state).probes.is_none() {
            return;
        }
        let deadline = Instant::now() + within;
        // The ring is empty once before what is asked for was said, and once after.
        let enough = lock(&self.stream).counts.pauses + 2;
        let is_read = |stream: &Stream| stream.counts.pauses >= enough && is_ready(stream);
        while !is_read(&lock(&self.stream)) && Instant::now() < deadline {
            std::thread::sleep(STEP);
        }
    }

    /// Another recorder wrote what was said before `from`.
    pub(crate) fn begin(&self, from: Timestamp) {
        lock(&self.stream).begin(from);
    }

    /// Packets are cut at `at`.
    pub(crate) fn cut(&self, at: Timestamp) {
        lock(&self.stream).cut(at);
    }

    /// Writes what was said before `at`, for another recorder writes what comes then.
    pub(crate) fn hand_over(&self, at: Timestamp) {
        self.await_ring(JOINED_BY, |_| true);
        let mut stream = lock(&self.stream);
        stream.hand_over(at);
        warn_of(&stream);
    }

    /// Ends it, and writes what waits.
    pub(crate) fn stop(&self) {
        lock(&self.state).stop_probes();
        let youngest = lock(&self.stream).youngest();
        if let Some(youngest) = youngest {
            let joined = youngest + JOINED_BY;
            std::thread::sleep(joined.saturating_duration_since(Instant::now()));
        }
        let mut stream = lock(&self.stream);
        stream.end_waiting();
        warn_of(&stream);
    }

    pub(crate) fn report(&self) -> PlaintextReport {
        let state = lock(&self.state);
        let status = state.probes.as_ref().map(PlaintextProbes::status).unwrap_or_default();
        let Past { seen, lost, unplaced } = state.past.with(&status);
        let counts = lock(&self.stream).counts.clone();
        let mut without_socket: Vec<_> = counts.nowhere.into_iter().collect();
        without_socket.sort();
        PlaintextReport {
            chosen: state.chosen.iter().map(|target| target.owner.to_string()).collect(),
            files: status.files,
            files_left_out: status.left_out,
            conversations: counts.conversations,
            left_out: counts.left_out,
            bytes: seen,
            lost: lost.max(counts.missing),
            unplaced,
            unwritten: counts.unwritten,
            without_socket,
            problems: status.problems.into_iter().chain(state.problem.clone()).collect(),
        }
    }
}

/// Who ends has nobody left who asks for its status.
fn warn_of(stream: &Stream) {
    let unwritten = stream.counts.unwritten;
    if unwritten > 0 {
        tracing::warn!("{unwritten} bytes of tap.tlsPlaintext could not be written");
    }
}
