//! What only the binary reads: settings of every spelling, and requests to the agent.

use std::fs;
use std::path::Path;
use std::time::Duration;

use kuberewind_fuzz::{Effort, Target, feed, run};

use crate::agent::{WindowQuery, feed_plaintext};
use crate::config::{Effective, Sources, format_duration, parse_duration};

/// Each that there is.
const TARGETS: [Target; 6] = [
    Target { name: "values", seeds: some_values, words: WORDS, read: values },
    Target { name: "set", seeds: some_sets, words: WORDS, read: set },
    Target { name: "settings", seeds: some_settings, words: WORDS, read: settings },
    Target { name: "query", seeds: some_queries, words: WORDS, read: query },
    Target { name: "duration", seeds: some_durations, words: WORDS, read: duration },
    Target { name: "plaintext-stream", seeds: some_plaintext, words: &[], read: feed_plaintext },
];

const WORDS: &[&str] = &[
    "pcapdump",
    "pcapdump.maxSize",
    "tap.bpfOverride",
    "tap.namespaces",
    "tap.docker",
    "1h-5m",
    "50MB",
    "18446744073709551615",
    "-1",
    "1e400",
    "null",
    "true",
    "{}",
    "[]",
    "[[[[",
    "{a,b}",
    "\\,",
    "[9]",
    "[4294967295]",
    "\": \"",
    "\n  ",
    "&a ",
    "*a",
    "!!binary ",
    "<<: ",
    "- ",
    "%00",
    "%E2%82",
    "&from=",
    "&to=2026-11-22T21:30:05Z",
    "&follow=18446744073709551616",
    "&pods=(",
    "µs",
    "9e9h",
    "\u{feff}",
];

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn said<T>(answer: Result<T, impl std::fmt::Display>) -> String {
    answer.map_or_else(|error| error.to_string(), |_| "taken".to_owned())
}

fn some_values() -> Vec<Vec<u8>> {
    let all = Effective::load(&Sources::default()).expect("the defaults");
    let all = serde_json::to_vec(all.tree()).expect("JSON is YAML");
    let more = texts(&[
        "pcapdump:\n  maxSize: 2GB\n  maxTime: 1h30m\n  minFree: 12%\ntap:\n  namespaces: [a, b]\n",
        "tap: {bpfOverride: \"tcp port 80\", snaplen: 96}\nheadless: yes\n",
        "a: &a {b: 1}\nc: *a\n",
    ]);
    more.into_iter().chain([all]).collect()
}

/// A values file.
fn values(input: &[u8]) -> String {
    thread_local! { static DIR: tempfile::TempDir = tempfile::tempdir().expect("a directory"); }
    DIR.with(|dir| {
        let path = dir.path().join("values.yaml");
        fs::write(&path, input).expect("a file");
        said(Effective::load(&Sources { values: vec![path], ..Sources::default() }))
    })
}

fn some_sets() -> Vec<Vec<u8>> {
    texts(&["pcapdump.maxSize=2GB", "tap.namespaces={a,b},pcapdump.maxTime=1h", "a[0].b=c\\,d"])
}

/// An argument of `--set`.
fn set(input: &[u8]) -> String {
    let set = vec![String::from_utf8_lossy(input).into_owned()];
    said(Effective::load(&Sources { set, ..Sources::default() }))
}

fn some_settings() -> Vec<Vec<u8>> {
    let mut all = texts(&[
        r#"{"pcapdump":{"maxSize":"2GB","minFree":"5%"},"tap":{"bpfOverride":null}}"#,
        r#"{"recording":true}"#,
    ]);
    all.extend(some_values().pop());
    all
}

/// The body of a change of settings: what is taken once is taken again, and changes nothing more.
fn settings(input: &[u8]) -> String {
    let Ok(changes) = serde_json::from_slice::<serde_json::Value>(input) else {
        return "no JSON".to_owned();
    };
    let before = Effective::load(&Sources::default()).expect("the defaults");
    match before.with_changes(&changes) {
        Ok(after) => {
            let again = after.with_changes(&changes).expect("taken before");
            assert_eq!(after.config(), again.config(), "twice is not once");
            "taken".to_owned()
        }
        Err(error) => error.to_string(),
    }
}

fn some_queries() -> Vec<Vec<u8>> {
    texts(&[
        "from=2026-11-22T21:30:05Z&to=2026-11-22T21:30:06Z&compress=true",
        "filter=tcp%20port%2080&follow=7&pods=cart-.*&namespaces=shop,bank",
    ])
}

/// What stands behind `/v1/window?`: what is understood is written as it was meant.
fn query(input: &[u8]) -> String {
    let text: String = input.iter().map(|byte| char::from(*byte & 0x7f)).collect();
    match WindowQuery::parse(&text) {
        Ok(query) => {
            let written = query.encode().expect("a query can be written");
            let again = WindowQuery::parse(&written).expect("and read");
            assert_eq!(format!("{query:?}"), format!("{again:?}"));
            format!("{query:?}")
        }
        Err(error) => error.to_string(),
    }
}

fn some_durations() -> Vec<Vec<u8>> {
    texts(&["1h30m", "1.5s", "300ms", "0", "-0", "9223372036854775807ns"])
}

fn duration(input: &[u8]) -> String {
    let parsed = parse_duration(&String::from_utf8_lossy(input));
    if let Ok(duration) = &parsed {
        assert_eq!(parse_duration(&format_duration(*duration)).as_ref(), Ok(duration));
    }
    said(parsed)
}

/// What probes send, one after the other, between other things that happen.
fn some_plaintext() -> Vec<Vec<u8>> {
    let events = kuberewind_fuzz::TARGETS.iter().find(|target| target.name == "plaintext");
    let events = (events.expect("a target").seeds)();
    let join = |orders: &[u8]| {
        let both = events.iter().zip(orders.iter().cycle());
        let parts = both.map(|(event, order)| {
            let len = u8::try_from(event.len()).expect("a short event");
            [&[b'd', len], &event[..], &[*order, 0]].concat()
        });
        parts.collect::<Vec<_>>().concat()
    };
    [&b"p"[..], b"pe", b"h", b"kpps", b"bs"].map(join).to_vec()
}

#[test]
fn whatever_is_set_or_asked_is_answered_with_a_value_or_an_error() {
    for target in TARGETS {
        let done = run(&target, Effort::Inputs(500), None);
        let done = done.unwrap_or_else(|found| {
            panic!("{} with {:?}: {}", target.name, found.crash, found.input.escape_ascii())
        });
        assert!(done.answers > 3, "{} is always answered alike: {done:?}", target.name);
    }
}

/// Run by `cargo xtask fuzz`, which says for how long and what.
#[test]
#[ignore = "goes on for as long as it is told to"]
fn for_long() {
    let told = |name| std::env::var(name).expect("cargo xtask fuzz tells");
    let seconds = told("KUBEREWIND_FUZZ_SECONDS").parse().expect("seconds");
    let name = told("KUBEREWIND_FUZZ_TARGET");
    let target = TARGETS.into_iter().find(|target| target.name == name).expect("a target");
    let dir = told("KUBEREWIND_FUZZ_DIR");
    println!("{}", feed(&target, Duration::from_secs(seconds), Path::new(&dir)).expect("nothing"));
}
