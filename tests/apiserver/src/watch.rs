//! Watches.

use std::{io, sync::Arc, time::Duration};

use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{
    Shared,
    body::{self, Answer},
    catalog::Resource,
    select::Selector,
    state::Change,
    status::{self, Failure},
};

/// What a watch asks for.
pub(crate) struct Asked {
    pub(crate) resource: &'static Resource,
    pub(crate) namespace: String,
    pub(crate) selector: Selector,
    /// As written; empty is "from now, all there is first".
    pub(crate) version: String,
    pub(crate) initial_events: bool,
    pub(crate) version_match: String,
    pub(crate) bookmarks: bool,
    pub(crate) timeout: Option<Duration>,
}

/// A version as the server parses it.
pub(crate) fn parse_version(text: &str) -> Result<Option<u64>, Failure> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        Failure::internal(&format!(
            "resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
        ))
    })
}

pub(crate) fn start(shared: Arc<Shared>, asked: Asked) -> Result<Answer, Failure> {
    let version = parse_version(&asked.version)?;
    if asked.initial_events && asked.version_match != "NotOlderThan" {
        let message =
            "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        let causes = [("FieldValueForbidden", message.to_owned(), "resourceVersionMatch")];
        return Err(Failure::invalid("meta.k8s.io", "ListOptions", "", &causes));
    }
    // watch --events--> connection; when full: the watch waits
    let (events, parts) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut watch = Watch { shared, asked, events, seen: 0 };
        // The client went away: that is how most watches end.
        let _ = watch.run(version).await;
    });
    Ok(body::streamed(parts))
}

struct Watch {
    shared: Arc<Shared>,
    asked: Asked,
    events: mpsc::Sender<io::Result<Bytes>>,
    seen: u64,
}

/// The reader is gone, or the watch has ended.
struct Over;

impl Watch {
    async fn send(&self, kind: &str, object: &Value) -> Result<(), Over> {
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        self.events.send(Ok(line.into())).await.map_err(|_| Over)
    }

    async fn bookmark(&self, initial_end: bool) -> Result<(), Over> {
        if !self.asked.bookmarks {
            return Ok(());
        }
        let mut object = json!({
            "kind": self.asked.resource.kind, "apiVersion": self.asked.resource.api_version(),
            "metadata": {"resourceVersion": self.seen.to_string()},
        });
        if initial_end {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        if self.asked.resource.kind == "Pod" {
            object["spec"] = json!({"containers": null});
            object["status"] = json!({});
        }
        self.send("BOOKMARK", &object).await
    }

    async fn run(&mut self, version: Option<u64>) -> Result<(), Over> {
        let mut cuts = self.shared.cuts.subscribe();
        let mut changes = self.shared.changed.subscribe();
        let end = self.asked.timeout.map(|timeout| Instant::now() + timeout);
        let every = self.shared.settings().bookmarks;
        let mut next_bookmark = Instant::now() + every;
        match version {
            Some(version) if version > 0 && !self.asked.initial_events => {
                self.begin_at(version).await?;
            }
            _ => self.begin_with_all(version).await?,
        }
        loop {
            self.catch_up().await?;
            let far = Instant::now() + Duration::from_hours(1);
            tokio::select! {
                woken = changes.changed() => woken.map_err(|_| Over)?,
                () = sleep_until(next_bookmark) => {
                    self.bookmark(false).await?;
                    next_bookmark = Instant::now() + every;
                }
                () = sleep_until(end.unwrap_or(far)), if end.is_some() => {
                    // The real server sends its newest version shortly before it hangs up.
                    return self.bookmark(false).await;
                }
                cut = cuts.changed() => {
                    cut.map_err(|_| Over)?;
                    if cuts.borrow_and_update().abruptly {
                        let killed = io::Error::from(io::ErrorKind::ConnectionReset);
                        self.events.send(Err(killed)).await.map_err(|_| Over)?;
                    }
                    return Ok(());
                }
                () = self.events.closed() => return Ok(()),
            }
        }
    }

    async fn begin_at(&mut self, version: u64) -> Result<(), Over> {
        let (oldest, current) = {
            let state = self.shared.state();
            (state.oldest(), state.version())
        };
        if version < oldest {
            let expired =
                Failure::expired(&format!("too old resource version: {version} ({current})"));
            if let status::Body::Status(status) = &expired.body {
                self.send("ERROR", status).await?;
            }
            return Err(Over);
        }
        self.seen = version;
        Ok(())
    }

    async fn begin_with_all(&mut self, version: Option<u64>) -> Result<(), Over> {
        let (objects, version_now) = {
            let state = self.shared.state();
            (state.list(self.asked.resource, &self.asked.namespace), state.version())
        };
        self.seen = version_now;
        for object in objects.iter().filter(|object| self.asked.selector.matches(object)) {
            self.send("ADDED", object).await?;
        }
        if self.asked.initial_events || version == Some(0) {
            self.bookmark(true).await?;
        }
        Ok(())
    }

    /// Sends what happened since; silent while the version asked for lies in the future.
    async fn catch_up(&mut self) -> Result<(), Over> {
        let mut news = Vec::new();
        {
            let state = self.shared.state();
            for change in state.since(self.seen) {
                news.extend(self.told(change));
            }
            self.seen = self.seen.max(state.version());
        }
        for (kind, object) in news {
            self.send(kind, &object).await?;
        }
        Ok(())
    }

    /// A change as this watch sees it: an object that stops matching is deleted to it.
    fn told(&self, change: &Change) -> Option<(&'static str, Value)> {
        if change.resource != self.asked.resource {
            return None;
        }
        let seen = |object: &&Value| {
            let namespace = &self.asked.namespace;
            let inside =
                namespace.is_empty() || object["metadata"]["namespace"] == namespace.as_str();
            inside && self.asked.selector.matches(object)
        };
        let (before, after) =
            (change.before.as_ref().filter(seen), change.after.as_ref().filter(seen));
        match (before, after) {
            (None, Some(after)) => Some(("ADDED", after.clone())),
            (Some(_), Some(after)) => Some(("MODIFIED", after.clone())),
            (Some(before), None) => {
                let mut last = change
                    .last
                    .clone()
                    .or_else(|| change.after.clone())
                    .unwrap_or_else(|| before.clone());
                last["metadata"]["resourceVersion"] = json!(change.version.to_string());
                Some(("DELETED", last))
            }
            (None, None) => None,
        }
    }
}
