//! Values as they are listed.

use kuberewind_packet::ByteSize;
use serde_json::Value;

use super::duration::parse_duration;

/// One line of YAML: plain where any reader takes it for the same, else JSON, which YAML includes but
/// for a few characters.
pub(super) fn yaml(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(yaml).collect::<Vec<_>>().join(", "))
        }
        value => value.to_string().chars().map(escaped).collect(),
    }
}

/// JSON has DEL and the byte-order mark as they are; YAML wants them escaped.
fn escaped(c: char) -> String {
    if c.is_control() || matches!(c, '\u{feff}' | '\u{fffe}' | '\u{ffff}') {
        return format!("\\u{:04x}", u32::from(c));
    }
    c.into()
}

/// No character with a meaning in YAML, and nothing that a YAML 1.1 or 1.2 reader takes for a number,
/// a boolean or a null.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["y", "yes", "n", "no", "on", "off", "true", "false", "null"];
    let harmless = |c: char| c.is_ascii_alphanumeric() || "/._% -".contains(c);
    let begins_well = |c: char| c.is_ascii_alphabetic() || c == '/';
    is_quantity(text)
        || text.starts_with(begins_well)
            && !text.ends_with(' ')
            && text.chars().all(harmless)
            && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

/// `1h30m`, `500MB`, `12%`: begins like a number, and no reader takes it for one.
fn is_quantity(text: &str) -> bool {
    let percent = text.strip_suffix('%').is_some_and(|digits| digits.parse::<u8>().is_ok());
    let unit = text.ends_with(|c: char| c.is_ascii_alphabetic());
    percent || unit && (parse_duration(text).is_ok() || text.parse::<ByteSize>().is_ok())
}
