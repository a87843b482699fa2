//! Keeps the plan up to date: looks at `/proc` when pods or rules change, often while a pod that is to
//! be recorded has no namespace yet or a namespace no known pod, and now and then anyway.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kuberewind_filter::TargetRules;
use kuberewind_packet::NetnsId;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::netns::{Namespaces, ScanError, Scanner};
use crate::plan::{Plan, plan};
use crate::pods::PodSnapshot;

/// Between two looks when nothing is expected: namespaces that are gone are noticed within it.
const CALM: Duration = Duration::from_secs(1);

/// A plan, and what it comes from.
#[derive(Debug)]
pub struct Planned<'a> {
    /// What is to be recorded.
    pub plan: &'a Plan,
    /// The rules that it goes by.
    pub rules: &'a Arc<TargetRules>,
    /// When the look at `/proc` began that found the namespaces.
    pub looked: Instant,
}

/// Follows pods, rules and `/proc` until one of the senders is dropped, and tells a plan after each look.
/// When `/proc` cannot be read there is an error, and plans go by what was found last: new rules, and
/// above all new exclusions, hold at once. `undecided` are namespaces of which somebody waits to hear
/// whose they are.
pub async fn supervise(
    mut scanner: Scanner,
    mut pods: watch::Receiver<Arc<PodSnapshot>>,
    mut rules: watch::Receiver<Arc<TargetRules>>,
    mut undecided: watch::Receiver<BTreeSet<NetnsId>>,
    mut tell: impl FnMut(Result<Planned<'_>, ScanError>) + Send,
) {
    let mut found = None;
    let mut eagerness = Eagerness::new(Instant::now());
    loop {
        // Known before the look: a pod that appears in between is a stranger only for this one.
        let (known, chosen) = (pods.borrow_and_update().clone(), rules.borrow_and_update().clone());
        let named: Vec<NetnsId> = undecided.borrow_and_update().iter().copied().collect();
        let began = Instant::now();
        let looked;
        (scanner, looked) = look(scanner).await;
        let failed = match looked {
            Ok(namespaces) => {
                found = Some((namespaces, began));
                None
            }
            Err(error) => Some(error),
        };
        if let Some((found, looked)) = &found {
            let plan = plan(&known, found, &chosen);
            let named = named.iter().map(|netns| format!("netns {netns}"));
            eagerness.expect(plan.waiting.iter().cloned().chain(named).collect(), Instant::now());
            tell(Ok(Planned { plan: &plan, rules: &chosen, looked: *looked }));
        }
        if let Some(error) = failed {
            tell(Err(error));
        }
        let changed = tokio::select! {
            changed = pods.changed() => changed,
            changed = rules.changed() => changed,
            changed = undecided.changed() => changed,
            () = sleep(eagerness.pause(Instant::now())) => Ok(()),
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Reading `/proc` takes milliseconds: off the threads that serve the network.
async fn look(mut scanner: Scanner) -> (Scanner, Result<Namespaces, ScanError>) {
    let looked = tokio::task::spawn_blocking(move || {
        let looked = scanner.look();
        (scanner, looked)
    });
    match looked.await {
        Ok(looked) => looked,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// How long to wait before the next look. A pod's first process is in its namespace 56 ms after the
/// namespace was made and 120 ms before its first container sends; the API tells of the pod 300 ms
/// before. So for some seconds after a pod was told of, or a namespace appeared, looks are frequent, then
/// they get rarer: a pod can wait for a volume for hours.
#[derive(Debug)]
struct Eagerness {
    waiting: BTreeSet<String>,
    since: Instant,
}

impl Eagerness {
    const fn new(now: Instant) -> Self {
        Self { waiting: BTreeSet::new(), since: now }
    }

    fn expect(&mut self, waiting: BTreeSet<String>, now: Instant) {
        if !waiting.is_subset(&self.waiting) {
            self.since = now;
        }
        self.waiting = waiting;
    }

    fn pause(&self, now: Instant) -> Duration {
        let waited = now.saturating_duration_since(self.since);
        match waited.as_secs() {
            _ if self.waiting.is_empty() => CALM,
            0..10 => Duration::from_millis(40),
            10..60 => Duration::from_millis(200),
            _ => CALM,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_frequent_only_while_a_new_pod_is_expected() {
        let start = Instant::now();
        let mut eagerness = Eagerness::new(start);
        let pods = |uids: &[&str]| uids.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        assert_eq!(eagerness.pause(start), CALM);

        eagerness.expect(pods(&["a"]), start);
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(eagerness.pause(after(9)), Duration::from_millis(40));
        assert_eq!(eagerness.pause(after(59)), Duration::from_millis(200));
        assert_eq!(eagerness.pause(after(60)), CALM);

        // One that has waited long keeps nobody busy; a new one does.
        eagerness.expect(pods(&["a"]), after(60));
        assert_eq!(eagerness.pause(after(60)), CALM);
        eagerness.expect(pods(&["a", "b"]), after(60));
        assert_eq!(eagerness.pause(after(60)), Duration::from_millis(40));
        eagerness.expect(pods(&[]), after(61));
        assert_eq!(eagerness.pause(after(61)), CALM);
    }
}
