//! What can be wrong with a configuration.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::duration::format_duration;
use super::keys::KEYS;
use super::origin::Origin;
use super::set::SetError;
use super::setting::Reason;

/// A configuration that cannot be used; exit 2. Each text is whole, with its cause in it, on one line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A values file that is not there, or not readable.
    #[error("read values file {}: {cause}", one_line(&path.to_string_lossy()))]
    ReadFile {
        /// As given, or where it was found.
        path: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
    /// Not YAML, or with a key twice.
    #[error("read values file {}: {}", one_line(&path.to_string_lossy()), yaml_text(cause))]
    Yaml {
        /// As given, or where it was found.
        path: PathBuf,
        /// With line and column.
        cause: Box<serde_saphyr::Error>,
    },
    /// A list or a word where keys should be.
    #[error("expected keys and values in {origin}, like `pcapdump: {{ maxTime: 1h }}`")]
    NoKeys {
        /// Where.
        origin: Origin,
    },
    /// See [`SetError`].
    #[error("--set {}: {}", one_line(argument), one_line(&cause.to_string()))]
    Set {
        /// As given.
        argument: String,
        /// What is wrong with it.
        cause: SetError,
    },
    /// A key that does not exist.
    #[error("unknown key `{}` in {origin}{}", one_line(key), hint(key))]
    UnknownKey {
        /// As written.
        key: String,
        /// Where.
        origin: Origin,
    },
    /// A value for `tap` or `pcapdump` as a whole.
    #[error(
        "`{section}` in {origin} is `{}`, but it holds keys like `{section}.{}`",
        plain(value),
        first_in(section)
    )]
    SectionIsValue {
        /// `tap` or `pcapdump`.
        section: String,
        /// Where.
        origin: Origin,
        /// What was written.
        value: Value,
    },
    /// A value that its key cannot have.
    #[error("bad value `{}` for `{key}` in {origin}: {reason}", plain(value))]
    BadValue {
        /// A known key.
        key: &'static str,
        /// Where.
        origin: Origin,
        /// What was written.
        value: Value,
        /// What is wrong with it.
        reason: Reason,
    },
    /// A segment is deleted only when its last packet is too old, so it must be shorter than what is
    /// held.
    #[error(
        "`pcapdump.timeInterval` is {} ({interval_origin}), longer than `pcapdump.maxTime`, {} ({max_origin}): set pcapdump.timeInterval={} or less",
        format_duration(*interval), format_duration(*max), format_duration(*max)
    )]
    IntervalOverMaxTime {
        /// `pcapdump.timeInterval`
        interval: Duration,
        /// Where it came from.
        interval_origin: Origin,
        /// `pcapdump.maxTime`
        max: Duration,
        /// Where it came from.
        max_origin: Origin,
    },
    /// A change of what is fixed while recording.
    #[error(
        "`{key}` cannot change while recording: stop `kuberewind tap`, and start it with the new value"
    )]
    NotLive {
        /// A known key.
        key: &'static str,
    },
}

/// A value as the user wrote it: text without quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), one_line)
}

/// Line breaks and the like as escapes.
pub(super) fn one_line(text: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.into() };
    text.chars().map(escaped).collect()
}

/// For users, not for callers of the library.
fn yaml_text(error: &serde_saphyr::Error) -> String {
    one_line(&error.without_snippet().render_with_formatter(&serde_saphyr::UserMessageFormatter))
}

fn first_in(section: &str) -> &'static str {
    KEYS.iter()
        .find_map(|key| key.name.strip_prefix(section)?.strip_prefix('.'))
        .unwrap_or_default()
}

fn hint(unknown: &str) -> String {
    match nearest(unknown) {
        Some(key) if key == unknown => {
            format!("; in a file each part of `{key}` is a key of its own")
        }
        Some(key) => format!("; did you mean `{key}`?"),
        None => "; `kuberewind config` lists all keys".to_owned(),
    }
}

/// The key that was probably meant: the whole name or its last part mistyped.
fn nearest(unknown: &str) -> Option<&'static str> {
    if let Some(key) = KEYS.iter().find(|key| is_below(unknown, key.name)) {
        return Some(key.name);
    }
    let unknown = unknown.trim().to_lowercase();
    let distance = |name: &'static str| {
        let whole = name.to_lowercase();
        let last = whole.rsplit('.').next().unwrap_or_default();
        let written_last = unknown.rsplit('.').next().unwrap_or_default();
        // A right last part below a wrong section is nearer than a wrong last part.
        [
            strsim::damerau_levenshtein(&unknown, &whole),
            strsim::damerau_levenshtein(&unknown, last),
            1 + strsim::damerau_levenshtein(written_last, last),
        ]
        .into_iter()
        .min()
        .unwrap_or(usize::MAX)
    };
    let (distance, name) =
        KEYS.iter().map(|key| (distance(key.name), key.name)).min_by_key(|(d, _)| *d)?;
    let last = name.rsplit('.').next().unwrap_or_default();
    (distance <= 1 + last.len() / 3).then_some(name)
}

/// `tap.snaplen.bytes`, below a key that is a value.
fn is_below(unknown: &str, key: &str) -> bool {
    unknown.strip_prefix(key).is_some_and(|rest| rest.starts_with(['.', '[']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_that_was_meant_is_named() {
        let table = [
            ("pcapdump.maxTme", Some("pcapdump.maxTime")),
            ("pcapdump.maxtime", Some("pcapdump.maxTime")),
            ("pcapdump.max_time", Some("pcapdump.maxTime")),
            ("pcapdmp.maxSize", Some("pcapdump.maxSize")),
            ("maxSize", Some("pcapdump.maxSize")),
            ("tap.maxSize", Some("pcapdump.maxSize")),
            (" pcapdump.maxSize", Some("pcapdump.maxSize")),
            ("tap.bpf", None),
            ("tap.namespace", Some("tap.namespaces")),
            ("tap.excludeNamespaces", Some("tap.excludedNamespaces")),
            ("tap.snaplen.bytes", Some("tap.snaplen")),
            ("loglevel", Some("logLevel")),
            ("dataDir", Some("tap.dataDir")),
            ("colour", None),
            ("", None),
        ];
        for (unknown, key) in table {
            assert_eq!(nearest(unknown), key, "{unknown}");
        }
    }
}
