//! What the API server says: one line of a watch, one list.

use serde::Deserialize;
use serde_json::Value;

use super::Subject;

/// One line of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event<T> {
    /// An object is there, or has changed.
    Applied(T, Option<String>),
    /// An object is gone: its last state.
    Deleted(T, Option<String>),
    /// Nothing but how far the watch has come.
    Bookmark(Option<String>),
    /// The watch's start is too old (410): only a list helps.
    Expired,
    /// The server ends the watch with an error.
    Failed {
        /// HTTP's number for it.
        code: u16,
        /// Its own words.
        message: String,
    },
    /// A line that we cannot read: of which object, and why.
    Unreadable(String),
}

#[derive(Deserialize)]
struct RawEvent {
    #[serde(rename = "type")]
    kind: String,
    object: Value,
}

/// Reads one line of a watch, whatever it holds.
pub(super) fn read_event<S: Subject>(line: &str) -> Event<S::Facts> {
    let RawEvent { kind, object } = match serde_json::from_str(line) {
        Ok(event) => event,
        Err(error) => return Event::Unreadable(format!("a line of {} bytes: {error}", line.len())),
    };
    match kind.as_str() {
        // A bookmark's spec has `"containers":null` and no name: it is not read as an object.
        "BOOKMARK" => Event::Bookmark(version(&object)),
        "ERROR" => failure(&object),
        "ADDED" | "MODIFIED" | "DELETED" => object_event::<S>(&kind, object),
        _ => Event::Unreadable(format!("an event of the unknown type `{kind}`")),
    }
}

fn object_event<S: Subject>(kind: &str, object: Value) -> Event<S::Facts> {
    let version = version(&object);
    match S::read(object) {
        Ok(facts) if kind == "DELETED" => Event::Deleted(facts, version),
        Ok(facts) => Event::Applied(facts, version),
        Err(problem) => Event::Unreadable(problem),
    }
}

fn failure<T>(object: &Value) -> Event<T> {
    let code = object["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(500);
    let expired = code == 410 || object["reason"] == "Expired" || object["reason"] == "Gone";
    let message = object["message"].as_str().unwrap_or("no reason given").to_owned();
    if expired { Event::Expired } else { Event::Failed { code, message } }
}

fn version(object: &Value) -> Option<String> {
    object["metadata"]["resourceVersion"].as_str().filter(|v| !v.is_empty()).map(str::to_owned)
}

/// A list. What cannot be read is left out; it is told in `unreadable`.
#[derive(Debug)]
pub(super) struct List<T> {
    pub(super) items: Vec<T>,
    pub(super) version: String,
    pub(super) unreadable: Vec<String>,
}

#[derive(Deserialize)]
struct RawList {
    metadata: RawListMetadata,
    items: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawListMetadata {
    resource_version: String,
}

/// Reads a list's body.
pub(super) fn read_list<S: Subject>(body: &str) -> Result<List<S::Facts>, serde_json::Error> {
    let raw: RawList = serde_json::from_str(body)?;
    let version = raw.metadata.resource_version;
    let mut list = List { items: Vec::new(), version, unreadable: Vec::new() };
    for item in raw.items.unwrap_or_default() {
        match S::read(item) {
            Ok(facts) => list.items.push(facts),
            Err(problem) => list.unreadable.push(problem),
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pods::{PodFacts, Pods};

    const BOOKMARKS: &str = include_str!("../../tests/data/watch-with-bookmarks.jsonl");
    const FORCED: &str = include_str!("../../tests/data/watch-delete-forced.jsonl");
    const EXPIRED: &str = include_str!("../../tests/data/watch-410.jsonl");
    const RUNNING: &str = include_str!("../../tests/data/watch-create-to-running.jsonl");
    const LIST: &str = include_str!("../../tests/data/pods-of-node.json");
    const EMPTY: &str = include_str!("../../tests/data/pods-empty.json");

    /// A recorded line is `{"t_ms":T,"event":RAW}`, RAW being what the server sent.
    fn events(recording: &'static str) -> Vec<Event<PodFacts>> {
        let raw = |line: &'static str| line.split_once("\"event\":")?.1.strip_suffix('}');
        recording.lines().filter_map(raw).map(read_event::<Pods>).collect()
    }

    #[test]
    fn every_recorded_line_is_read() {
        for recording in [BOOKMARKS, FORCED, EXPIRED, RUNNING] {
            let events = events(recording);
            assert!(!events.is_empty());
            let odd = events.iter().find(|event| matches!(event, Event::Unreadable(_)));
            assert_eq!(odd, None);
        }
    }

    #[test]
    fn bookmarks_tell_only_how_far_the_watch_has_come() {
        let events = events(BOOKMARKS);
        let bookmarks = events.iter().filter_map(|event| match event {
            Event::Bookmark(version) => version.as_deref(),
            _ => None,
        });
        assert_eq!(bookmarks.collect::<Vec<_>>(), ["940", "960", "1024", "1024"]);
    }

    #[test]
    fn an_expired_watch_says_so() {
        assert_eq!(events(EXPIRED), [Event::Expired]);
    }

    #[test]
    fn a_forced_deletion_names_the_uid_that_is_gone() {
        let events = events(FORCED);
        let Some(Event::Applied(added, _)) = events.first() else { panic!("{events:?}") };
        assert_eq!(
            (added.phase.as_str(), added.pod_ips.len(), added.container_ids.len()),
            ("Pending", 0, 0)
        );
        let gone = events.iter().filter_map(|event| match event {
            Event::Deleted(pod, _) => Some(&pod.uid),
            _ => None,
        });
        assert_eq!(gone.collect::<Vec<_>>(), [&added.uid]);
    }

    #[test]
    fn address_containers_and_phase_are_read_as_they_come() {
        let running = events(RUNNING).into_iter().rev().find_map(|event| match event {
            Event::Applied(pod, _) if pod.container_ids.len() > 1 => Some(pod),
            _ => None,
        });
        let running = running.unwrap();
        assert_eq!(running.phase, "Running");
        assert!(running.container_ids.iter().all(|id| id.len() == 64), "{running:?}");
        assert_eq!(running.pod_ips.len(), 1, "{running:?}");
    }

    #[test]
    fn lists_are_read_and_odd_items_left_out() {
        let list = read_list::<Pods>(LIST).unwrap();
        assert!(list.items.len() > 1 && list.unreadable.is_empty());
        assert!(!list.version.is_empty());
        assert!(read_list::<Pods>(EMPTY).unwrap().items.is_empty());

        let odd = r#"{"metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":"a"}},
            {"metadata":{"name":"b","namespace":"n","uid":"u"},"spec":{"containers":7},"status":null}]}"#;
        let list = read_list::<Pods>(odd).unwrap();
        assert_eq!((list.items.len(), list.unreadable.len()), (1, 1));
        assert!(
            list.unreadable[0].starts_with("pod \"a\": missing field"),
            "{:?}",
            list.unreadable
        );
    }

    #[test]
    fn only_a_mirror_pod_may_name_another_uid() {
        let pod = |annotations: &str| {
            let metadata =
                format!(r#"{{"name":"b","namespace":"n","uid":"u","annotations":{annotations}}}"#);
            Pods::read(serde_json::from_str(&format!(r#"{{"metadata":{metadata}}}"#)).unwrap())
                .unwrap()
        };
        let forged = pod(r#"{"kubernetes.io/config.hash":"h"}"#);
        let mirror = pod(r#"{"kubernetes.io/config.hash":"h","kubernetes.io/config.mirror":"h"}"#);
        assert_eq!((forged.cgroup_uid(), mirror.cgroup_uid()), ("u", "h"));
    }

    proptest! {
        #[test]
        fn any_line_is_read(line in "\\PC*") {
            read_event::<Pods>(&line);
            let _ = read_list::<Pods>(&line);
        }

        #[test]
        fn any_json_is_read(kind in "[A-Z]{0,8}|ADDED|ERROR|BOOKMARK", value in "[0-9]{1,3}|null|\"x\"|\\[\\]|\\{\\}") {
            for object in [value.clone(), format!(r#"{{"metadata":{value}}}"#), format!(r#"{{"code":{value}}}"#)] {
                read_event::<Pods>(&format!(r#"{{"type":"{kind}","object":{object}}}"#));
            }
        }
    }
}
