//! Those of Helm's and Sprig's template functions that the chart uses.

use std::sync::Arc;

use gotmpl::{FuncMap, TemplateError, Value};
use serde_json::Value as Json;

type Answer = Result<Value, TemplateError>;

/// `cluster_id` is all that `lookup` finds.
pub(super) fn all(cluster_id: Option<String>) -> FuncMap {
    let mut all = FuncMap::new();
    let mut add = |name: &str, function: fn(&[Value]) -> Answer| {
        all.insert(name.to_owned(), Arc::new(function));
    };
    add("dict", dict);
    add("omit", omit);
    add("semverCompare", semver_compare);
    add("toJson", to_json);
    add("toPrettyJson", to_pretty_json);
    all.insert("lookup".to_owned(), Arc::new(move |args| lookup(cluster_id.as_deref(), args)));
    all
}

/// `dict "name" value …`
fn dict(args: &[Value]) -> Answer {
    let pairs = args.chunks(2).map(|pair| match pair {
        [Value::String(name), value] => Ok((name.clone(), value.clone())),
        _ => Err(TemplateError::Exec("dict takes names, each with a value".to_owned())),
    });
    Ok(Value::Map(Arc::new(pairs.collect::<Result<_, _>>()?)))
}

/// `omit map "name" …`
fn omit(args: &[Value]) -> Answer {
    let [Value::Map(map), names @ ..] = args else {
        return Err(TemplateError::Exec("omit takes a map first".to_owned()));
    };
    let omitted = |name: &Arc<str>| names.iter().any(|omitted| omitted.as_str() == Some(name));
    let kept = map.iter().filter(|(name, _)| !omitted(name));
    Ok(Value::Map(Arc::new(kept.map(|(name, value)| (name.clone(), value.clone())).collect())))
}

/// `lookup apiVersion kind namespace name`: nothing but the UID of `kube-system` is ever asked for.
fn lookup(cluster_id: Option<&str>, args: &[Value]) -> Answer {
    let wanted: Vec<_> = args.iter().map(Value::as_str).collect();
    if wanted != [Some("v1"), Some("Namespace"), Some(""), Some("kube-system")] {
        return Err(TemplateError::Exec(format!("lookup cannot look up {wanted:?}")));
    }
    let found = cluster_id.map(|uid| serde_json::json!({ "metadata": { "uid": uid } }));
    Ok(from_json(&found.unwrap_or_else(|| Json::Object(serde_json::Map::new()))))
}

/// `semverCompare ">=1.30-0" "v1.36.1"`. The `-0` takes pre-releases in, so major and minor decide.
fn semver_compare(args: &[Value]) -> Answer {
    let [Value::String(constraint), Value::String(version)] = args else {
        return Err(TemplateError::Exec("semverCompare takes two texts".to_owned()));
    };
    let bound = constraint.strip_prefix(">=").and_then(|bound| bound.strip_suffix("-0"));
    let bound = bound.and_then(major_minor).ok_or_else(|| {
        TemplateError::Exec(format!("semverCompare knows >=MAJOR.MINOR-0, not {constraint}"))
    })?;
    let version = major_minor(version)
        .ok_or_else(|| TemplateError::Exec(format!("{version} is no version of Kubernetes")))?;
    Ok(Value::Bool(version >= bound))
}

/// Of `1.30`, `v1.30.2`, `v1.30.2-eks-1`, `1.30+`.
fn major_minor(version: &str) -> Option<(u32, u32)> {
    let (major, rest) = version.trim_start_matches('v').split_once('.')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    Some((major.parse().ok()?, rest[..digits].parse().ok()?))
}

fn to_json(args: &[Value]) -> Answer {
    json_text(args, Json::to_string)
}

fn to_pretty_json(args: &[Value]) -> Answer {
    json_text(args, |value| format!("{value:#}"))
}

fn json_text(args: &[Value], write: impl Fn(&Json) -> String) -> Answer {
    match args {
        [value] => Ok(Value::String(escape(&write(&to_serde(value)?)).into())),
        _ => Err(TemplateError::Exec("JSON is made of one value".to_owned())),
    }
}

/// As Go's encoder, which has web pages in mind. These stand only inside of texts.
fn escape(json: &str) -> String {
    json.replace('&', "\\u0026")
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

/// A tree of values, as templates see it.
pub(super) fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Value::Int(whole),
            None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::String(text.as_str().into()),
        Json::Array(items) => Value::List(items.iter().map(from_json).collect()),
        Json::Object(map) => Value::Map(Arc::new(
            map.iter().map(|(name, value)| (name.as_str().into(), from_json(value))).collect(),
        )),
    }
}

fn to_serde(value: &Value) -> Result<Json, TemplateError> {
    Ok(match value {
        Value::Nil => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(whole) => Json::from(*whole),
        Value::Uint(whole) => Json::from(*whole),
        // Go writes a float that is whole without a point.
        Value::Float(number) => Json::from(*number),
        Value::String(text) => Json::from(text.as_ref()),
        Value::List(items) => Json::Array(items.iter().map(to_serde).collect::<Result<_, _>>()?),
        Value::Map(map) => Json::Object(
            map.iter()
                .map(|(name, value)| Ok((name.to_string(), to_serde(value)?)))
                .collect::<Result<_, TemplateError>>()?,
        ),
        Value::Function(_) => {
            return Err(TemplateError::Exec("a function has no JSON".to_owned()));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(constraint: &str, version: &str) -> Option<bool> {
        let answer = semver_compare(&[Value::from(constraint), Value::from(version)]);
        answer.ok().map(|answer| answer.is_truthy())
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(compare(">=1.30-0", "v1.30.0"), Some(true));
        assert_eq!(compare(">=1.30-0", "v1.30.0-alpha.1"), Some(true));
        assert_eq!(compare(">=1.30-0", "v1.31.2-eks-1234"), Some(true));
        assert_eq!(compare(">=1.30-0", "v1.29.9+k3s1"), Some(false));
        assert_eq!(compare(">=1.30-0", "v1.9.0"), Some(false));
        assert_eq!(compare(">=1.30-0", "v2.0.0"), Some(true));
        assert_eq!(compare(">=1.30-0", "new"), None);
        assert_eq!(compare("~1.30", "v1.30.0"), None);
    }

    #[test]
    fn json_is_escaped_as_go_does() {
        let text = to_json(&[Value::from("<a> & \u{2028}\"")]).unwrap();
        assert_eq!(text.as_str(), Some(r#""\u003ca\u003e \u0026 \u2028\"""#));
    }
}
