//! The agents' settings, as the API server tells them: the `ConfigMap` in their namespace, followed.
//!
//! [`SettingsWatch`] offers the newest [`SettingsSnapshot`]. Once known, settings stay known: while the
//! API server is away, after the `ConfigMap` was deleted, and, from a file, for an agent that starts
//! meanwhile. Whether they make sense is for the reader to say.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kube::Client;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::control::{RECORDING_KEY, Recording};
use crate::follow::{Follower, Subject, Timing};
use crate::kept::{self, Keeper};
use crate::names;
use crate::pods::Origin;

/// The key that holds the chart's values.
pub const VALUES_KEY: &str = "values.yaml";

/// What the `ConfigMap` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SettingsFacts {
    /// `metadata.resourceVersion`.
    pub version: String,
    /// Its data, key by key.
    #[serde(default)]
    pub data: BTreeMap<String, String>,
}

impl SettingsFacts {
    /// The chart's values, as text.
    pub fn values(&self) -> Option<&str> {
        self.data.get(VALUES_KEY).map(String::as_str)
    }

    /// What `pcapdump stop` or `start` said last; none if never.
    pub fn recording(&self) -> Option<Recording> {
        self.data.get(RECORDING_KEY).and_then(|word| Recording::from_word(word))
    }
}

/// What is known of the settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettingsSnapshot {
    /// What the `ConfigMap` says, or said last; none before it was ever read.
    pub facts: Option<SettingsFacts>,
    /// Who told it.
    pub origin: Origin,
    /// Why it may be out of date.
    pub problem: Option<String>,
}

/// Follows the `ConfigMap` until it is dropped.
#[derive(Debug)]
pub struct SettingsWatch {
    snapshots: watch::Receiver<Arc<SettingsSnapshot>>,
    keeper: Keeper,
    tasks: [JoinHandle<()>; 2],
}

impl SettingsWatch {
    /// Must be called within a tokio runtime. `file` and the client are as with
    /// [`PodWatch`](crate::pods::PodWatch::start).
    pub fn start(client: Client, namespace: &str, file: Option<PathBuf>, timing: Timing) -> Self {
        // watch --newest snapshot--> agent, file; a slow reader misses only what is out of date
        let (sender, snapshots) = watch::channel(Arc::default());
        let namespace = namespace.to_owned();
        let mut settings = Settings {
            namespace: namespace.clone(),
            facts: None,
            origin: Origin::Nobody,
            gone: false,
            sender,
        };
        let keeper = Keeper::new(file);
        keeper.with(|path| settings.recall(path));
        let follower = Follower::new(client, timing, settings);
        let keeping = keep(keeper.clone(), namespace, snapshots.clone());
        let tasks = [tokio::spawn(follower.follow()), tokio::spawn(keeping)];
        Self { snapshots, keeper, tasks }
    }

    /// Removes the file, and keeps nothing any more.
    pub fn erase(&self) {
        self.keeper.erase();
    }

    /// The newest snapshot, whenever it changes.
    pub fn snapshots(&self) -> watch::Receiver<Arc<SettingsSnapshot>> {
        self.snapshots.clone()
    }
}

impl Drop for SettingsWatch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

#[derive(Serialize, Deserialize)]
struct Kept {
    namespace: String,
    facts: SettingsFacts,
}

/// Writes what the API server told into the file.
async fn keep(
    keeper: Keeper,
    namespace: String,
    mut snapshots: watch::Receiver<Arc<SettingsSnapshot>>,
) {
    let mut written = None;
    while snapshots.changed().await.is_ok() {
        let snapshot = snapshots.borrow_and_update().clone();
        let Some(facts) = snapshot.facts.clone() else { continue };
        if snapshot.origin != Origin::ApiServer || written.as_ref() == Some(&facts) {
            continue;
        }
        let (kept, keeper) = (Kept { namespace: namespace.clone(), facts }, keeper.clone());
        let done = tokio::task::spawn_blocking(move || {
            keeper.with(|path| kept::write(path, &kept));
            kept.facts
        });
        written = done.await.ok();
    }
}

/// The settings, as they are known.
struct Settings {
    namespace: String,
    facts: Option<SettingsFacts>,
    origin: Origin,
    /// The API server has no such `ConfigMap`.
    gone: bool,
    sender: watch::Sender<Arc<SettingsSnapshot>>,
}

impl Settings {
    fn recall(&mut self, path: &Path) -> io::Result<()> {
        let kept = kept::read::<Kept>(path)?;
        if let Some(kept) = kept.filter(|kept| kept.namespace == self.namespace) {
            self.facts = Some(kept.facts);
            self.origin = Origin::File;
            self.tell(None);
        }
        Ok(())
    }
}

impl Subject for Settings {
    type Facts = SettingsFacts;

    fn collection(&self) -> String {
        format!("/api/v1/namespaces/{}/configmaps", self.namespace)
    }

    fn field_selector(&self) -> String {
        format!("metadata.name={}", names::CONFIG_MAP)
    }

    fn name(&self) -> String {
        format!("ConfigMap {}/{}", self.namespace, names::CONFIG_MAP)
    }

    fn rights(&self) -> &'static str {
        "`get`, `list` and `watch` on that ConfigMap"
    }

    fn read(object: Value) -> Result<SettingsFacts, String> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let version = text(&object["metadata"]["resourceVersion"]).ok_or("it has no version")?;
        let data = object["data"].as_object().into_iter().flatten();
        let data = data.filter_map(|(key, value)| Some((key.clone(), text(value)?)));
        Ok(SettingsFacts { version, data: data.collect() })
    }

    fn replace(&mut self, all: Vec<SettingsFacts>) {
        match all.into_iter().next() {
            Some(facts) => self.apply(facts),
            None => self.gone = true,
        }
    }

    fn apply(&mut self, facts: SettingsFacts) {
        self.facts = Some(facts);
        self.origin = Origin::ApiServer;
        self.gone = false;
    }

    fn delete(&mut self, _: &SettingsFacts) {
        self.gone = true;
    }

    /// Readers wake only when something changed that they can see.
    fn tell(&mut self, problem: Option<&str>) {
        let going_on = match self.origin {
            Origin::Nobody => "nothing is known yet of what to record, so nothing is",
            Origin::File => "going on with the settings that were known before the restart",
            Origin::ApiServer => "going on with the last known settings",
        };
        let problem = match problem {
            Some(problem) => Some(format!("{problem}; {going_on}")),
            None if self.gone => Some(format!("{} is not there; {going_on}", self.name())),
            None => None,
        };
        let snapshot = SettingsSnapshot { facts: self.facts.clone(), origin: self.origin, problem };
        self.sender.send_if_modified(|told| {
            let changed = **told != snapshot;
            if changed {
                *told = Arc::new(snapshot);
            }
            changed
        });
    }
}
