//! Secrets as Go's typed clients write them, Helm's releases among them: Kubernetes' protobuf, of which
//! only this kind is read. Answers are JSON, which those clients take as well.

use std::iter;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::status::Failure;

/// Before each message (`k8s.io/apimachinery`, runtime/serializer/protobuf).
const MAGIC: &[u8] = b"k8s\0";

/// A body as JSON.
pub(crate) fn secret(body: &[u8]) -> Result<Value, Failure> {
    let refuse = |why| Failure::bad_request(&format!("error decoding protobuf: {why}"));
    let message = body.strip_prefix(MAGIC).ok_or_else(|| refuse("no k8s prefix"))?;
    let unknown = Message::read(message).ok_or_else(|| refuse("a broken envelope"))?;
    let kind = unknown.message(1).map(|meta| meta.text(2)).unwrap_or_default();
    if kind != "Secret" {
        return Err(refuse("not a Secret, which is all that is read here"));
    }
    let secret = unknown.message(2).ok_or_else(|| refuse("a broken object"))?;
    let metadata = secret.message(1).ok_or_else(|| refuse("broken metadata"))?;
    let mut object = json!({
        "apiVersion": "v1", "kind": "Secret", "type": secret.text(3),
        "metadata": {"name": metadata.text(1), "namespace": metadata.text(3)},
        "data": secret.map(2, |value| json!(base64(value))),
    });
    for (name, number) in [("labels", 11), ("annotations", 12)] {
        let texts = metadata.map(number, |value| json!(String::from_utf8_lossy(value)));
        if !texts.is_empty() {
            object["metadata"][name] = Value::Object(texts);
        }
    }
    for (name, number) in [("uid", 5), ("resourceVersion", 6)] {
        let text = metadata.text(number);
        if !text.is_empty() {
            object["metadata"][name] = json!(text);
        }
    }
    let created = metadata.message(8).and_then(|time| time.number(1));
    if let Some(time) = created.and_then(|seconds| Timestamp::from_second(seconds).ok()) {
        object["metadata"]["creationTimestamp"] = json!(time.to_string());
    }
    Ok(object)
}

/// A message's fields.
struct Message<'a>(Vec<(u64, Field<'a>)>);

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Message<'a> {
    fn read(mut rest: &'a [u8]) -> Option<Self> {
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let key = number(&mut rest)?;
            let field = match key & 7 {
                0 => Field::Number(number(&mut rest)?),
                2 => {
                    let length = usize::try_from(number(&mut rest)?).ok()?;
                    let (bytes, after) = rest.split_at_checked(length)?;
                    rest = after;
                    Field::Bytes(bytes)
                }
                // Of these objects no field is of fixed size.
                _ => return None,
            };
            fields.push((key >> 3, field));
        }
        Some(Self(fields))
    }

    fn all(&self, wanted: u64) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter_map(move |(number, field)| match field {
            Field::Bytes(bytes) if *number == wanted => Some(*bytes),
            _ => None,
        })
    }

    fn message(&self, wanted: u64) -> Option<Message<'a>> {
        Message::read(self.all(wanted).last()?)
    }

    fn text(&self, wanted: u64) -> String {
        let bytes = self.all(wanted).last().unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    }

    fn number(&self, wanted: u64) -> Option<i64> {
        self.0.iter().find_map(|(number, field)| match field {
            Field::Number(value) if *number == wanted => Some(value.cast_signed()),
            _ => None,
        })
    }

    /// Entries are messages of a key and a value.
    fn map(&self, wanted: u64, value: impl Fn(&[u8]) -> Value) -> Map<String, Value> {
        let entries = self.all(wanted).filter_map(Message::read);
        entries
            .map(|entry| (entry.text(1), value(entry.all(2).last().unwrap_or_default())))
            .collect()
    }
}

/// A varint.
fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in iter::successors(Some(0), |shift| Some(shift + 7)).take(10) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// RFC 4648.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let mut bits = [0; 4];
        bits[1..=three.len()].copy_from_slice(three);
        let bits = u32::from_be_bytes(bits);
        for place in 0..4 {
            let digit = bits >> (18 - 6 * place) & 0x3f;
            let is_there = place <= three.len();
            let digit = if is_there { DIGITS[digit as usize] } else { b'=' };
            text.push(char::from(digit));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let all = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|t| base64(t.as_bytes()));
        assert_eq!(all, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]);
    }

    #[test]
    fn what_is_broken_or_another_kind_is_refused() {
        assert!(secret(b"{}").is_err());
        assert!(secret(b"k8s\0\x0a\xff").is_err());
        assert!(secret(b"k8s\0\x0a\x05\x12\x03Pod\x12\x00").is_err());
        let whole = b"k8s\0\x0a\x08\x12\x06Secret\x12\x17\x0a\x08\x0a\x01n\x1a\x03all\x12\x08\x0a\x01k\x12\x03foo\x1a\x01t";
        let object = secret(whole).unwrap_or_default();
        assert_eq!(object["metadata"]["namespace"], "all");
        assert_eq!((&object["data"], &object["type"]), (&json!({"k": "Zm9v"}), &json!("t")));
    }
}
