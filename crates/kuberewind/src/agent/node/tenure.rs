//! Who has the node's data directory, and the way from one agent to the next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use kuberewind_packet::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::agent::Recorder;
use crate::agent::handover::{Answer, Lent, Request};
use crate::agent::recorder::SETTLED;
use crate::agent::serve::Served;

/// How soon after it is asked for packets are cut: by then the owner has answered,
const NOTICE: Duration = Duration::from_millis(200);
/// or it gets more time, up to this.
const LONGEST_NOTICE: Duration = Duration::from_secs(2);

/// TLS handshakes that go over the cut began no longer before it, but for slow ones.
const HANDSHAKE: Duration = Duration::from_secs(1);
/// Rings that do not open, and programs that cannot be looked into, are waited for no longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who refused is asked again after this time.
const REFUSED: Duration = Duration::from_secs(30);

/// For how long the directory may lie free before the one that let go of it takes it back with all that
/// it kept, while the heir seems to live.
const UNTAKEN: Duration = Duration::from_secs(2);
/// Whoever has taken the directory says so at once; after this time nothing is kept for it any more.
const UNSAID: Duration = Duration::from_secs(10);

/// Who has the data directory.
pub(super) enum Tenure {
    /// Not we, yet.
    Wanted(Wanted),
    /// We.
    Held { recorder: Arc<Recorder>, socket: Served, giving: Option<Giving> },
    /// We gave it to another agent.
    Given(Given),
    /// Nobody: it was erased, and this agent is about to go.
    Erased,
}

impl Tenure {
    pub(super) fn wanted() -> Self {
        Self::Wanted(Wanted::new())
    }
}

/// Since when we want it, and how far we have come.
pub(super) struct Wanted {
    pub(super) since: Instant,
    pub(super) retry_at: Instant,
    /// Whether we have said that we do not have it.
    pub(super) said: bool,
    /// What is ready to record once the owner lets go.
    pub(super) heir: Option<Heir>,
    /// Why the owner refused, which is left alone until then.
    refused: Option<(String, Instant)>,
}

impl Wanted {
    fn new() -> Self {
        let now = Instant::now();
        Self { since: now, retry_at: now, said: false, heir: None, refused: None }
    }

    /// Why the owner refused, if that was a moment ago.
    pub(super) fn refusal(&self) -> Option<String> {
        let (why, until) = self.refused.as_ref()?;
        (Instant::now() < *until).then(|| why.clone())
    }

    pub(super) fn refused(&mut self, why: String) {
        self.refused = Some((why, Instant::now() + REFUSED));
    }

    /// Whether the owner has not answered yet.
    pub(super) fn is_asking(&self) -> bool {
        self.heir.as_ref().is_some_and(|heir| heir.asking.is_some())
    }
}

/// One who catches all packets while another still records them.
pub(super) struct Heir {
    pub(super) recorder: Arc<Recorder>,
    since: Instant,
    /// Whether everything that ran was looked at, once: what is new is looked at as it comes.
    has_looked: bool,
    catches_since: Option<Instant>,
    notice: Duration,
    /// Since when it keeps what it catches.
    pub(super) keeps_from: Option<Timestamp>,
    asking: Option<JoinHandle<anyhow::Result<Answer>>>,
}

impl Heir {
    pub(super) fn new(recorder: Arc<Recorder>) -> Self {
        Self {
            recorder,
            since: Instant::now(),
            has_looked: false,
            catches_since: None,
            notice: NOTICE,
            keeps_from: None,
            asking: None,
        }
    }

    /// Whether it is time to ask the owner.
    pub(super) fn is_due(&mut self) -> bool {
        let now = Instant::now();
        if self.asking.is_some() {
            return false;
        }
        self.has_looked |= self.recorder.has_looked();
        let catches_all = self.has_looked && self.recorder.catches_all();
        if !catches_all && now < self.since + PATIENCE {
            self.catches_since = None;
            return false;
        }
        now >= *self.catches_since.get_or_insert(now) + HANDSHAKE
    }

    /// When packets are to be cut if the owner is asked now.
    pub(super) fn moment(&self) -> Timestamp {
        Timestamp::now().saturating_add(self.notice)
    }

    pub(super) fn asks(&mut self, from: Timestamp, asking: JoinHandle<anyhow::Result<Answer>>) {
        (self.keeps_from, self.asking) = (Some(from), Some(asking));
    }

    /// The owner had too little time.
    pub(super) fn give_more_notice(&mut self) {
        self.notice = (self.notice * 2).min(LONGEST_NOTICE);
    }
}

/// We are about to give it to another agent.
pub(super) struct Giving {
    /// Who that is.
    pub(super) to: String,
    /// When everything from before the cut has been read.
    pub(super) at: Instant,
    /// Closed once the heir is gone. None: there is none.
    pub(super) words: Option<mpsc::Sender<Bytes>>,
}

impl Giving {
    /// To the one who asked for what is stamped `from` then and later.
    pub(super) fn new(
        request: &Request,
        from: Timestamp,
        words: Option<mpsc::Sender<Bytes>>,
    ) -> Self {
        let to = format!("{}/{}", request.namespace, request.pod);
        let at = Instant::now() + from.since(Timestamp::now()) + SETTLED;
        Self { to, at, words }
    }
}

/// We gave it away.
pub(super) struct Given {
    pub(super) lent: Lent,
    /// What we keep until we hear that it has been taken.
    pub(super) kept: Option<Kept>,
}

/// Packets from the cut on, and the way back.
pub(super) struct Kept {
    pub(super) recorder: Arc<Recorder>,
    pub(super) socket: Served,
    pub(super) words: Option<mpsc::Sender<Bytes>>,
    pub(super) since: Instant,
}

/// What is to be done with what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Keep,
    TakeBack,
    Forget,
}

impl Kept {
    /// Whether the heir lives, and has its time: nobody looks at the lock that it is about to take.
    pub(super) fn is_patient(&self) -> bool {
        let is_alone = self.words.as_ref().is_none_or(mpsc::Sender::is_closed);
        !is_alone && self.since.elapsed() < UNTAKEN
    }

    /// What is to be done once its time is over, by the lock.
    pub(super) fn fate(&self, free: bool) -> Fate {
        match free {
            true => Fate::TakeBack,
            false if self.since.elapsed() > UNSAID => Fate::Forget,
            false => Fate::Keep,
        }
    }
}

/// What may happen by itself.
pub(super) enum Happened {
    /// The owner answered.
    Answered(anyhow::Result<Answer>),
    /// The one to whom the directory was given is gone.
    Gone,
}

/// Waits until something happens. To be dropped and called again at will.
pub(super) async fn happens(tenure: &mut Tenure) -> Happened {
    match tenure {
        Tenure::Wanted(Wanted { heir: Some(heir), .. }) => {
            if let Some(asking) = &mut heir.asking {
                let answer = asking.await;
                heir.asking = None;
                let answer = answer.unwrap_or_else(|error| Err(error.into()));
                return Happened::Answered(answer);
            }
        }
        Tenure::Given(Given { kept: Some(Kept { words, .. }), .. }) => {
            if let Some(open) = words {
                open.closed().await;
                *words = None;
                return Happened::Gone;
            }
        }
        _ => {}
    }
    std::future::pending().await
}
