//! The way from one agent of a node to the next, on either side: see `agent::handover`.

use std::time::{Duration, Instant};

use axum::body::Bytes;
use kuberewind_store::{Lock, StoreError};
use tokio::sync::mpsc;
use tokio::task::block_in_place;

use super::tenure::{Fate, Given, Giving, Heir, Kept, Tenure, Wanted, happens};
use super::{LAST_WAIT, LOOK_OFTEN, Node, RETRY, RETRY_LATER, given_up};
use crate::agent::duty::{Answer, Doing, Wish};
use crate::agent::handover::{self, Lent, Request, Word};
use crate::agent::recorder::RecorderError;
use crate::agent::serve::withdraw;
use crate::client::Refused;

/// How long the lock of a directory that was let go of may seem to be held, and how often it is tried.
const FREE: Duration = Duration::from_millis(200);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

impl Node {
    /// Gets ready to record while another agent does, and then asks that one to let go. Not before we know
    /// what to record: as long as we do not, the owner does better.
    pub(super) fn court(&mut self) {
        if !self.plans.borrow().is_known() {
            return self
                .wait_for_owner("another agent records until this one knows the node's pods");
        }
        let Tenure::Wanted(wanted) = &mut self.tenure else { return };
        if let Some(why) = wanted.refusal() {
            return self.postpone(&why, RETRY);
        }
        if wanted.heir.is_none() {
            match block_in_place(|| self.stand_by()) {
                Ok(recorder) => {
                    let Tenure::Wanted(wanted) = &mut self.tenure else { return };
                    wanted.heir = Some(Heir::new(recorder));
                    self.direct();
                }
                Err(error) => return self.postpone(&error.to_string(), RETRY_LATER),
            }
        }
        if let Err(error) = self.ask_when_due() {
            return self.postpone(&error.to_string(), RETRY_LATER);
        }
        self.wait_for_owner("another agent records until this one catches the packets of all pods");
    }

    fn ask_when_due(&mut self) -> Result<(), RecorderError> {
        let Tenure::Wanted(Wanted { heir: Some(heir), .. }) = &mut self.tenure else {
            return Ok(());
        };
        if !block_in_place(|| heir.is_due()) {
            return Ok(());
        }
        let from = heir.moment();
        heir.recorder.keep_from(from)?;
        let request = Request { from: Some(from), ..self.config.request() };
        tracing::info!("asking the agent that records for the data directory, from {from} on");
        let dir = self.config.data_dir.clone();
        heir.asks(from, tokio::spawn(async move { handover::ask(&dir, &request).await }));
        Ok(())
    }

    /// What the owner says to that.
    pub(super) async fn hear(&mut self, answer: anyhow::Result<handover::Answer>) {
        let Tenure::Wanted(wanted) = &mut self.tenure else { return };
        let Some(heir) = &mut wanted.heir else { return };
        wanted.retry_at = Instant::now();
        let release = match answer {
            Ok(handover::Answer::Released(release)) => Some(release),
            Ok(handover::Answer::TooLate) => return heir.give_more_notice(),
            Ok(handover::Answer::LetGo) => {
                tracing::warn!(
                    "the agent before is of an older version: packets of the last moment may be missing"
                );
                heir.keeps_from = None;
                None
            }
            Err(error) => {
                let why = format!("{error:#}");
                if error.is::<Refused>() {
                    retire(wanted.heir.take());
                    wanted.refused(why.clone());
                }
                return self.wait_for_owner(&why);
            }
        };
        match self.take_lock().await {
            Ok(lock) => {
                if let Some(release) = release {
                    release.taken().await;
                }
                self.begin(lock);
            }
            Err(error) => self.wait_for_owner(&error.to_string()),
        }
    }

    /// Takes the lock that is free, though somebody may be looking whether it is.
    async fn take_lock(&self) -> Result<Lock, StoreError> {
        let deadline = Instant::now() + FREE;
        loop {
            match Lock::take(&self.config.data_dir) {
                Err(StoreError::Locked { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                taken => return taken,
            }
        }
    }

    /// Gives the data directory to another agent.
    pub(super) async fn give_way(
        &mut self,
        request: &Request,
        words: mpsc::Sender<Bytes>,
        answer: Answer,
    ) {
        let Request { namespace, pod, from, .. } = request;
        let own = self.config.request();
        let refused = |answer: Answer, why: String| {
            tracing::warn!("not giving way to {namespace}/{pod}: {why}");
            let _ = answer.send(Err(why));
        };
        let Tenure::Held { recorder, giving: giving @ None, .. } = &mut self.tenure else {
            return refused(answer, "this agent does not hold the data directory".to_owned());
        };
        if let Some(why) = request.refusal(&own) {
            return refused(answer, why);
        }
        let Some(from) = *from else {
            tracing::warn!(
                "giving way to {namespace}/{pod}, which is of an older version: packets of the next \
                 moment will be missing"
            );
            let told = move || drop(answer.send(Ok(())));
            let why = format!("{namespace}/{pod} records this node now");
            self.give_up(&why, told).await;
            self.duty.set(Doing::Elsewhere { why, stands_by: true });
            self.tenure = Tenure::Given(Given { lent: Lent::new(), kept: None });
            return;
        };
        let agreed = block_in_place(|| recorder.agree(from));
        match &agreed {
            Ok(()) => {
                tracing::info!("giving way to {namespace}/{pod}, which records from {from} on");
                let _ = words.try_send(Word::Agreed(from).line().into());
                *giving = Some(Giving::new(request, from, Some(words)));
            }
            Err(error) => {
                tracing::info!("not giving way to {namespace}/{pod} yet: {error}");
                let _ = words.try_send(Word::TooLate.line().into());
                // What came since the moment asked for was set aside: it is put back.
                *giving = recorder.cut().map(|from| Giving::new(request, from, None));
            }
        }
        let _ = answer.send(Ok(()));
    }

    /// Lets go of the directory, and keeps what the heir is to write until it has it.
    pub(super) fn release(&mut self) {
        let before = std::mem::replace(&mut self.tenure, Tenure::Erased);
        let Tenure::Held { recorder, socket, giving: Some(giving) } = before else {
            self.tenure = before;
            return;
        };
        let Giving { to, words, .. } = giving;
        let why = format!("{to} records this node now");
        self.duty.set(Doing::Elsewhere { why, stands_by: true });
        // Before the lock: what is there afterwards is the next one's.
        if let Err(error) = withdraw(&self.config.data_dir) {
            tracing::warn!("remove the data directory's socket: {error}");
        }
        if let Err(error) = block_in_place(|| recorder.hand_over()) {
            tracing::error!("the recording was not closed in good order: {error}");
        }
        tracing::info!("the data directory is {to}'s");
        if let Some(words) = &words {
            let _ = words.try_send(Word::Released.line().into());
        }
        let kept = Some(Kept { recorder, socket, words, since: Instant::now() });
        self.tenure = Tenure::Given(Given { lent: Lent::new(), kept });
        self.look_at_lock();
    }

    /// What becomes of a directory that we gave away.
    pub(super) fn look_at_lock(&mut self) {
        let Tenure::Given(Given { lent, kept }) = &mut self.tenure else { return };
        if kept.as_ref().is_some_and(Kept::is_patient) {
            return;
        }
        let free = !kuberewind_store::is_locked(&self.config.data_dir);
        match kept.as_ref().map(|kept| kept.fate(free)) {
            Some(Fate::TakeBack) => self.take_back(),
            Some(Fate::Forget) => self.relieve(None),
            None if lent.is_abandoned(free, Instant::now()) => {
                tracing::warn!("the agent that took over is gone: recording again");
                self.tenure = Tenure::wanted();
            }
            Some(Fate::Keep) | None => {}
        }
    }

    /// Goes on where the heir was to begin.
    fn take_back(&mut self) {
        let Ok(lock) = Lock::take(&self.config.data_dir) else { return };
        let before = std::mem::replace(&mut self.tenure, Tenure::wanted());
        let Tenure::Given(Given { kept: Some(Kept { recorder, socket, .. }), .. }) = before else {
            return;
        };
        tracing::warn!("no agent took over: this one goes on, nothing is missing");
        let recorded = block_in_place(|| recorder.record(lock, recorder.cut()));
        match recorded.map_err(|error| given_up(&recorder, error)) {
            Ok(()) => self.hold(recorder),
            Err(error) => self.postpone(&error.to_string(), RETRY_LATER),
        }
        tokio::spawn(socket.stop());
    }

    /// The heir has the directory: what was kept for it is not needed.
    pub(super) fn relieve(&mut self, answer: Option<Answer>) {
        if let Tenure::Given(given) = &mut self.tenure
            && let Some(Kept { recorder, socket, .. }) = given.kept.take()
        {
            tokio::task::spawn_blocking(move || recorder.stop());
            tokio::spawn(socket.stop());
        }
        if let Some(answer) = answer {
            let _ = answer.send(Ok(()));
        }
    }

    /// Until what was kept is not needed any more, or is ours again.
    pub(super) async fn wait_for_heir(&mut self) {
        let deadline = Instant::now() + LAST_WAIT;
        while let Tenure::Given(Given { kept: Some(_), .. }) = &self.tenure {
            if Instant::now() > deadline {
                return self.take_back();
            }
            tokio::select! {
                Some((wish, answer)) = self.wishes.recv() => match wish {
                    Wish::Taken => self.relieve(Some(answer)),
                    Wish::HandOver(..) | Wish::Erase => {
                        let _ = answer.send(Err("this agent is stopping".to_owned()));
                    }
                },
                _ = happens(&mut self.tenure) => {}
                () = tokio::time::sleep(LOOK_OFTEN) => {}
            }
            self.look_at_lock();
        }
    }
}

/// Ends one that was ready to record and is not needed.
pub(super) fn retire(heir: Option<Heir>) {
    if let Some(Heir { recorder, .. }) = heir {
        tokio::task::spawn_blocking(move || recorder.stop());
    }
}
