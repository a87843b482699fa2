//! How each kind of value is read from the tree and written back to it.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use kuberewind_packet::{ByteSize, ParseByteSizeError};
use serde_json::Value;

use super::duration::{DurationError, format_duration, parse_duration};
use super::values::{
    Choice, Chosen, LogFormat, LogLevel, MinFree, Names, Namespaces, Objects, PullPolicy, Quantity,
    Registry, Snaplen, Texts,
};

/// A value of [`super::Config`], as a place in the tree.
pub(super) trait Setting {
    /// Takes the value over, or says why not. `value` is never null.
    fn read(&mut self, value: &Value) -> Result<(), Reason>;
    /// What [`Setting::read`] would take over again; null is "none".
    fn show(&self) -> Value;
    /// Whether the user names its parts, so that each is set by itself: `tap.labels.team=net`.
    fn is_map(&self) -> bool {
        false
    }
}

/// Why a value is not one for its key. The key and the value stand beside it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Reason {
    /// Not `true`, not `false`.
    #[error("expected true or false")]
    NotBool,
    /// A list or a section.
    #[error("expected one value, not a list or a section")]
    NotText,
    /// One value, or a list within the list.
    #[error("expected a list of names: {{shop,cart}} with --set, [shop, cart] in a file")]
    NotList,
    /// See [`DurationError`].
    #[error(transparent)]
    Duration(DurationError),
    /// Nothing would be held, or each packet would be a segment.
    #[error("must be more than 0")]
    ZeroDuration,
    /// See [`ParseByteSizeError`].
    #[error(transparent)]
    Size(Box<ParseByteSizeError>),
    /// Not 0 to 90, or not whole.
    #[error("expected a size like 10GB, or 0% to {}%", MinFree::MOST_PERCENT)]
    Percent,
    /// Not 0 to 262144.
    #[error("expected bytes from 1 to {}, or 0 for {}", Snaplen::MOST, Snaplen::MOST)]
    Snaplen,
    /// An empty path.
    #[error("expected a path")]
    NoPath,
    /// Upper case, dots, too long …
    #[error("`{name}` cannot be the name of a namespace (a-z, 0-9 and `-`, at most 63)")]
    Namespace {
        /// As written.
        name: String,
    },
    /// Another word.
    #[error("expected error, warn, info, debug or trace")]
    LogLevel,
    /// Another word.
    #[error("expected text or json")]
    LogFormat,
    /// See [`Quantity`].
    #[error("expected an amount as Kubernetes writes it, like 100m, 2 or 512Mi")]
    Quantity,
    /// Another word.
    #[error("expected Always, IfNotPresent or Never")]
    PullPolicy,
    /// Not a list, or not of objects.
    #[error("expected a list of objects, as in a pod's spec")]
    NotObjects,
    /// Not a list, or not of such entries.
    #[error("expected a list of entries, each with `namespace`, `regex` or both")]
    NotChosen,
    /// Not a regular expression.
    #[error("`{regex}`: {source}")]
    Regex {
        /// As written.
        regex: String,
        /// Why not.
        source: Box<regex::Error>,
    },
    /// Not an object, or one with more than texts in it.
    #[error("expected names, each with a text: {{team: net}} in a file, key.team=net with --set")]
    NotTexts,
    /// What the chart itself sets.
    #[error("`{name}` is kuberewind's own")]
    OwnName {
        /// The label's or annotation's name.
        name: String,
    },
    /// See [`Registry`].
    #[error(
        "expected what stands before `/kuberewind` in the image's name, like registry.example/team"
    )]
    Registry,
    /// Not 1 to 65535.
    #[error("expected a port from 1 to 65535")]
    Port,
}

impl From<ParseByteSizeError> for Reason {
    fn from(error: ParseByteSizeError) -> Self {
        Self::Size(Box::new(error))
    }
}

impl Setting for bool {
    fn read(&mut self, value: &Value) -> Result<(), Reason> {
        *self = value.as_bool().ok_or(Reason::NotBool)?;
        Ok(())
    }

    fn show(&self) -> Value {
        Value::Bool(*self)
    }
}

/// Text that may be absent; empty is absent, as in Kubeshark's defaults.
impl Setting for Option<String> {
    fn read(&mut self, value: &Value) -> Result<(), Reason> {
        *self = Some(text(value)?).filter(|text| !text.is_empty());
        Ok(())
    }

    fn show(&self) -> Value {
        self.as_deref().map_or(Value::Null, Value::from)
    }
}

impl Setting for PathBuf {
    fn read(&mut self, value: &Value) -> Result<(), Reason> {
        let path = text(value)?;
        if path.is_empty() {
            return Err(Reason::NoPath);
        }
        *self = PathBuf::from(path);
        Ok(())
    }

    fn show(&self) -> Value {
        Value::from(self.to_string_lossy())
    }
}

/// More than zero.
impl Setting for Duration {
    fn read(&mut self, value: &Value) -> Result<(), Reason> {
        let duration = parse_duration(&text(value)?).map_err(Reason::Duration)?;
        if duration.is_zero() {
            return Err(Reason::ZeroDuration);
        }
        *self = duration;
        Ok(())
    }

    fn show(&self) -> Value {
        Value::from(format_duration(*self))
    }
}

impl Setting for ByteSize {
    fn read(&mut self, value: &Value) -> Result<(), Reason> {
        *self = text(value)?.parse()?;
        Ok(())
    }

    fn show(&self) -> Value {
        Value::from(self.to_string())
    }
}

impl Setting for Option<ByteSize> {
    fn read(&mut self, value: &Value) -> Result<(), Reason> {
        let text = text(value)?;
        *self = if text.is_empty() { None } else { Some(text.parse()?) };
        Ok(())
    }

    fn show(&self) -> Value {
        self.map_or(Value::Null, |size| size.show())
    }
}

impl Setting for MinFree {
    fn read(&mut self, value: &Value) -> Result<(), Reason> {
        let text = text(value)?;
        *self = match text.strip_suffix('%') {
            Some(percent) => Self::Percent(percent_from(percent).ok_or(Reason::Percent)?),
            None => Self::Bytes(text.parse()?),
        };
        Ok(())
    }

    fn show(&self) -> Value {
        Value::from(self.to_string())
    }
}

impl Setting for Snaplen {
    fn read(&mut self, value: &Value) -> Result<(), Reason> {
        let bytes = text(value)?.parse().ok();
        *self = bytes.and_then(Self::new).ok_or(Reason::Snaplen)?;
        Ok(())
    }

    fn show(&self) -> Value {
        Value::from(self.bytes())
    }
}

/// `{}` with `--set` is, as in Helm, a list of one empty text: no names.
impl Setting for Namespaces {
    fn read(&mut self, value: &Value) -> Result<(), Reason> {
        let items = value.as_array().ok_or(Reason::NotList)?;
        let names: Vec<String> =
            items.iter().map(text).collect::<Result<_, _>>().map_err(|_| Reason::NotList)?;
        let names = if names == [""] { Vec::new() } else { names };
        *self = Self::new(names).map_err(|name| Reason::Namespace { name })?;
        Ok(())
    }

    fn show(&self) -> Value {
        Value::from(self.names())
    }
}

impl Setting for LogLevel {
    fn read(&mut self, value: &Value) -> Result<(), Reason> {
        *self = Self::from_name(&text(value)?).ok_or(Reason::LogLevel)?;
        Ok(())
    }

    fn show(&self) -> Value {
        Value::from(self.name())
    }
}

impl Setting for LogFormat {
    fn read(&mut self, value: &Value) -> Result<(), Reason> {
        *self = Self::from_name(&text(value)?).ok_or(Reason::LogFormat)?;
        Ok(())
    }

    fn show(&self) -> Value {
        Value::from(self.name())
    }
}

/// Empty is no bound: null would be the default, which is one.
impl Setting for Option<Quantity> {
    fn read(&mut self, value: &Value) -> Result<(), Reason> {
        let text = text(value)?;
        *self = match text.as_str() {
            "" => None,
            text => Some(Quantity::new(text).ok_or(Reason::Quantity)?),
        };
        Ok(())
    }

    fn show(&self) -> Value {
        Value::from(self.as_ref().map_or("", Quantity::text))
    }
}

impl Setting for PullPolicy {
    fn read(&mut self, value: &Value) -> Result<(), Reason> {
        *self = Self::from_name(&text(value)?).ok_or(Reason::PullPolicy)?;
        Ok(())
    }

    fn show(&self) -> Value {
        Value::from(self.name())
    }
}

impl Setting for Registry {
    fn read(&mut self, value: &Value) -> Result<(), Reason> {
        *self = Self::new(&text(value)?).ok_or(Reason::Registry)?;
        Ok(())
    }

    fn show(&self) -> Value {
        Value::from(self.text())
    }
}

impl Setting for NonZeroU16 {
    fn read(&mut self, value: &Value) -> Result<(), Reason> {
        *self = text(value)?.parse().map_err(|_| Reason::Port)?;
        Ok(())
    }

    fn show(&self) -> Value {
        Value::from(self.get())
    }
}

/// `{}` with `--set` is no names, as with namespaces.
impl Setting for Names {
    fn read(&mut self, value: &Value) -> Result<(), Reason> {
        let items = value.as_array().ok_or(Reason::NotList)?;
        let names = items.iter().map(text).collect::<Result<Vec<_>, _>>();
        let mut names = names.map_err(|_| Reason::NotList)?;
        names.retain(|name| !name.is_empty());
        *self = Self(names);
        Ok(())
    }

    fn show(&self) -> Value {
        Value::from(self.0.as_slice())
    }
}

/// `{}` with `--set` is no objects.
impl Setting for Objects {
    fn read(&mut self, value: &Value) -> Result<(), Reason> {
        let mut objects = value.as_array().ok_or(Reason::NotObjects)?.clone();
        objects.retain(|object| *object != "");
        if !objects.iter().all(Value::is_object) {
            return Err(Reason::NotObjects);
        }
        *self = Self(objects);
        Ok(())
    }

    fn show(&self) -> Value {
        Value::Array(self.0.clone())
    }
}

/// `{}` with `--set` is no entries.
impl Setting for Chosen {
    fn read(&mut self, value: &Value) -> Result<(), Reason> {
        let entries = value.as_array().ok_or(Reason::NotChosen)?.iter();
        let entries = entries.filter(|entry| **entry != "").map(choice);
        *self = Self(entries.collect::<Result<_, _>>()?);
        Ok(())
    }

    fn show(&self) -> Value {
        let entry = |Choice { namespace, regex }: &Choice| {
            let parts = [("namespace", namespace), ("regex", regex)];
            let parts = parts
                .into_iter()
                .filter_map(|(name, text)| Some((name.to_owned(), Value::from(text.as_deref()?))));
            Value::Object(parts.collect())
        };
        self.0.iter().map(entry).collect()
    }
}

fn choice(entry: &Value) -> Result<Choice, Reason> {
    let parts = entry.as_object().ok_or(Reason::NotChosen)?;
    let mut choice = Choice::default();
    for (name, value) in parts.iter().filter(|(_, value)| !value.is_null()) {
        let text = Some(text(value).map_err(|_| Reason::NotChosen)?);
        match name.as_str() {
            "namespace" => choice.namespace = text.filter(|text| !text.is_empty()),
            "regex" => choice.regex = text.filter(|text| !text.is_empty()),
            _ => return Err(Reason::NotChosen),
        }
    }
    if let Some(namespace) = &choice.namespace {
        Namespaces::new(vec![namespace.clone()]).map_err(|name| Reason::Namespace { name })?;
    }
    if let Some(regex) = &choice.regex {
        let failed = |source| Reason::Regex { regex: regex.clone(), source: Box::new(source) };
        regex::Regex::new(regex).map_err(failed)?;
    }
    if choice == Choice::default() { Err(Reason::NotChosen) } else { Ok(choice) }
}

impl Setting for Texts {
    fn read(&mut self, value: &Value) -> Result<(), Reason> {
        let map = value.as_object().ok_or(Reason::NotTexts)?;
        if let Some(name) = map.keys().find(|name| is_own(name)) {
            return Err(Reason::OwnName { name: name.clone() });
        }
        let texts = map.iter().map(|(name, value)| Ok((name.clone(), text(value)?)));
        let texts: Result<BTreeMap<_, _>, Reason> = texts.collect();
        *self = Self(texts.map_err(|_| Reason::NotTexts)?);
        Ok(())
    }

    fn show(&self) -> Value {
        self.0.iter().map(|(name, text)| (name.clone(), Value::from(text.as_str()))).collect()
    }

    fn is_map(&self) -> bool {
        true
    }
}

/// What selects our objects is not to be overwritten.
fn is_own(name: &str) -> bool {
    const OWN: [&str; 5] = ["name", "instance", "version", "component", "managed-by"];
    let ours = name.strip_prefix("app.kubernetes.io/").is_some_and(|rest| OWN.contains(&rest));
    ours || name.starts_with("kuberewind/")
}

/// `--set tap.regex=5` is a number to Helm and YAML, and text to us.
fn text(value: &Value) -> Result<String, Reason> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(bool) => Ok(bool.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => Err(Reason::NotText),
    }
}

fn percent_from(digits: &str) -> Option<u8> {
    digits.parse().ok().filter(|percent| *percent <= MinFree::MOST_PERCENT)
}
