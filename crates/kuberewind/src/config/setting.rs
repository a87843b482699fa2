//! How each kind of value is read from the tree and written back to it.

use std::path::PathBuf;
use std::time::Duration;

use kuberewind_packet::{ByteSize, ParseByteSizeError};
use serde_json::Value;

use super::duration::{DurationError, format_duration, parse_duration};
use super::values::{LogLevel, MinFree, Namespaces, Snaplen};

/// A value of [`super::Config`], as a place in the tree.
pub(super) trait Setting {
    /// Takes the value over, or says why not. `value` is never null.
    fn read(&mut self, value: &Value) -> Result<(), Reason>;
    /// What [`Setting::read`] would take over again; null is "none".
    fn show(&self) -> Value;
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
