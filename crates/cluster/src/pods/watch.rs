//! The pods of one node, followed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::facts::RawPod;
use super::known::Known;
use super::{Origin, PodFacts, PodSnapshot, file};
use crate::follow::{Follower, Subject, Timing};
use crate::kept::Keeper;

/// Follows this node's pods until it is dropped.
#[derive(Debug)]
pub struct PodWatch {
    snapshots: watch::Receiver<Arc<PodSnapshot>>,
    keeper: Keeper,
    tasks: [JoinHandle<()>; 2],
}

impl PodWatch {
    /// Must be called within a tokio runtime. `file` keeps what is known for the next start. The client's
    /// configuration should have `default_retry: false`: waiting and asking again is done here, and
    /// kube's own retries would only delay the word that something is wrong.
    pub fn start(client: Client, node: &str, file: Option<PathBuf>, timing: Timing) -> Self {
        // watch --newest snapshot--> supervisor, file; a slow reader misses only what is out of date
        let (sender, snapshots) = watch::channel(Arc::default());
        let mut pods = Pods {
            node: node.to_owned(),
            known: Known::new(timing.linger),
            origin: Origin::Nobody,
            sender,
        };
        let keeper = Keeper::new(file);
        keeper.with(|path| pods.recall(path));
        let follower = Follower::new(client, timing, pods);
        let keeping = keep(keeper.clone(), node.to_owned(), snapshots.clone());
        let tasks = [tokio::spawn(follower.follow()), tokio::spawn(keeping)];
        Self { snapshots, keeper, tasks }
    }

    /// Removes the file, and keeps nothing any more.
    pub fn erase(&self) {
        self.keeper.erase();
    }

    /// The newest snapshot, whenever it changes.
    pub fn snapshots(&self) -> watch::Receiver<Arc<PodSnapshot>> {
        self.snapshots.clone()
    }
}

impl Drop for PodWatch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Writes what the API server told into the file, at most once a second.
async fn keep(keeper: Keeper, node: String, mut snapshots: watch::Receiver<Arc<PodSnapshot>>) {
    while snapshots.changed().await.is_ok() {
        let snapshot = snapshots.borrow_and_update().clone();
        if snapshot.origin != Origin::ApiServer {
            continue;
        }
        let (node, keeper) = (node.clone(), keeper.clone());
        let written = tokio::task::spawn_blocking(move || {
            let there: Vec<_> = snapshot.pods.iter().filter(|pod| !pod.deleted).cloned().collect();
            keeper.with(|path| file::write(path, &node, &there));
        });
        let _ = written.await;
        sleep(Duration::from_secs(1)).await;
    }
}

/// The pods of one node, as they are known.
pub(crate) struct Pods {
    node: String,
    known: Known,
    origin: Origin,
    sender: watch::Sender<Arc<PodSnapshot>>,
}

impl Pods {
    fn recall(&mut self, path: &Path) -> io::Result<()> {
        if let Some(pods) = file::read(path, &self.node)? {
            self.known.replace(pods, Instant::now());
            self.origin = Origin::File;
            self.tell(None);
        }
        Ok(())
    }
}

impl Subject for Pods {
    type Facts = PodFacts;

    fn collection(&self) -> String {
        "/api/v1/pods".to_owned()
    }

    fn field_selector(&self) -> String {
        format!("spec.nodeName={}", self.node)
    }

    fn name(&self) -> String {
        format!("the pods of node {}", self.node)
    }

    fn rights(&self) -> &'static str {
        "`list` and `watch` on pods"
    }

    fn read(object: Value) -> Result<PodFacts, String> {
        let name = format!("pod {}", object["metadata"]["name"]);
        let read = serde_json::from_value::<RawPod>(object).map(PodFacts::from);
        read.map_err(|error| format!("{name}: {error}"))
    }

    fn replace(&mut self, all: Vec<PodFacts>) {
        self.known.replace(all, Instant::now());
        self.origin = Origin::ApiServer;
    }

    fn apply(&mut self, facts: PodFacts) {
        self.known.apply(facts);
    }

    fn delete(&mut self, facts: &PodFacts) {
        self.known.delete(&facts.uid, Instant::now());
    }

    /// Readers wake only when something changed that they can see.
    fn tell(&mut self, problem: Option<&str>) {
        let going_on = match self.origin {
            Origin::Nobody => "no pod is known yet, so none is recorded",
            Origin::File => "going on with the pods that were known before the restart",
            Origin::ApiServer => "going on with the last known pods",
        };
        let problem = problem.map(|problem| format!("{problem}; {going_on}"));
        self.known.forget(Instant::now());
        let snapshot = PodSnapshot { pods: self.known.facts(), origin: self.origin, problem };
        self.sender.send_if_modified(|told| {
            let changed = **told != snapshot;
            if changed {
                *told = Arc::new(snapshot);
            }
            changed
        });
    }

    fn due(&self) -> Option<Instant> {
        self.known.next_to_forget()
    }
}
