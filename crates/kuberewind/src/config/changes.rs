//! What differs between two trees of values, for the user and for Helm.

use serde_json::Value;

use super::keys::{KEYS, Key};
use super::listing::yaml;

/// A line for each key that differs: `pcapdump.maxSize: 500MB -> 2GB`.
pub(crate) fn changes(before: &Value, after: &Value) -> Vec<String> {
    differing(before, after)
        .map(|(key, old, new)| format!("{}: {} -> {}", key.name, plain(old), plain(new)))
        .collect()
}

/// The same as arguments of `helm upgrade`, quoted for a shell.
pub(crate) fn for_helm(before: &Value, after: &Value) -> Vec<String> {
    differing(before, after).map(|(key, _, new)| argument(key.name, new)).collect()
}

fn differing<'a>(
    before: &'a Value,
    after: &'a Value,
) -> impl Iterator<Item = (&'static Key, &'a Value, &'a Value)> {
    let both = move |key: &'static Key| {
        let of = move |tree: &'a Value| key.fields().fold(tree, |tree, name| &tree[name]);
        (key, of(before), of(after))
    };
    KEYS.iter().map(both).filter(|(_, old, new)| old != new)
}

fn plain(value: &Value) -> String {
    if value.is_null() { "none".to_owned() } else { yaml(value) }
}

fn argument(key: &str, value: &Value) -> String {
    match value {
        Value::Null => format!("--set {key}="),
        Value::String(text) => {
            let flag = if is_typed(text) { "--set-string" } else { "--set" };
            format!("{flag} {}", shell(&format!("{key}={}", escaped(text))))
        }
        Value::Bool(_) | Value::Number(_) => format!("--set {key}={value}"),
        Value::Array(_) | Value::Object(_) => {
            format!("--set-json {}", shell(&format!("{key}={value}")))
        }
    }
}

/// Whether Helm takes a text for something else.
fn is_typed(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "true" | "false" | "null")
        || text.parse::<i64>().is_ok()
}

/// What has a meaning in `--set`, without it.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if matches!(c, ',' | '\\' | '{') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn shell(text: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "-_./:=%@+".contains(c);
    if text.chars().all(harmless) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Effective, Sources};

    fn tree(set: &[&str]) -> Value {
        let set = set.iter().map(|&set| set.to_owned()).collect();
        Effective::load(&Sources { set, ..Sources::default() }).unwrap().tree().clone()
    }

    #[test]
    fn a_change_is_told_with_both_values() {
        let before = tree(&["tap.namespaces={shop}"]);
        let after = tree(&["pcapdump.maxSize=2GB", "tap.regex=^a{1\\,3}$"]);
        let wanted = [
            "tap.regex: none -> \"^a{1,3}$\"",
            "tap.namespaces: [shop] -> []",
            "pcapdump.maxSize: 500MB -> 2GB",
        ];
        assert_eq!(changes(&before, &after), wanted);
        assert_eq!(changes(&after, &after), Vec::<String>::new());
    }

    #[test]
    fn helm_is_told_what_the_user_told_us() {
        let set = [
            "tap.regex=it's {a}\\, b\\\\.c",
            "tap.namespaces={shop,bank}",
            "tap.docker.tag=\"12\"",
            "tap.resources.limits.memory=",
            "pcapdump.enabled=false",
            "pcapdump.minFree=20%",
        ];
        let after = tree(&set);
        let wanted = [
            r"--set 'tap.regex=it'\''s \{a}\, b\\.c'",
            r#"--set-json 'tap.namespaces=["shop","bank"]'"#,
            r#"--set 'tap.docker.tag="12"'"#,
            "--set tap.resources.limits.memory=",
            "--set pcapdump.enabled=false",
            "--set pcapdump.minFree=20%",
        ];
        assert_eq!(for_helm(&tree(&[]), &after), wanted);
        let number = serde_json::json!({ "tap": { "docker": { "tag": "12" } } });
        let mut before = tree(&[]);
        before["tap"]["docker"]["tag"] = number["tap"]["docker"]["tag"].clone();
        assert_eq!(for_helm(&tree(&[]), &before), ["--set-string tap.docker.tag=12"]);
    }
}
