//! Label and field selectors, and what a list's parameters ask.

use serde_json::Value;

/// Both selectors of a list or watch.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selector {
    fields: Vec<(String, bool, String)>,
    labels: Vec<Label>,
}

#[derive(Debug, Clone)]
enum Label {
    Is(String, String),
    IsNot(String, String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Has(String),
    HasNot(String),
}

impl Selector {
    pub(crate) fn parse(fields: &str, labels: &str) -> Self {
        Self {
            fields: fields.split(',').filter_map(field).collect(),
            labels: split_outside_parentheses(labels)
                .iter()
                .filter_map(|text| label(text))
                .collect(),
        }
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let field_holds = |(path, equal, wanted): &(String, bool, String)| {
            let found = path.split('.').fold(object, |at, name| &at[name]);
            (found.as_str().unwrap_or_default() == wanted) == *equal
        };
        let labels = &object["metadata"]["labels"];
        self.fields.iter().all(field_holds) && self.labels.iter().all(|l| l.holds(labels))
    }
}

impl Label {
    fn holds(&self, labels: &Value) -> bool {
        let of = |key: &str| labels[key].as_str();
        match self {
            Self::Is(key, value) => of(key) == Some(value),
            Self::IsNot(key, value) => of(key) != Some(value),
            Self::In(key, values) => of(key).is_some_and(|v| values.iter().any(|w| w == v)),
            Self::NotIn(key, values) => !of(key).is_some_and(|v| values.iter().any(|w| w == v)),
            Self::Has(key) => of(key).is_some(),
            Self::HasNot(key) => of(key).is_none(),
        }
    }
}

fn field(text: &str) -> Option<(String, bool, String)> {
    let own = |(path, value): (&str, &str), equal| {
        Some((path.trim().to_owned(), equal, value.trim().to_owned()))
    };
    match (text.split_once("!="), text.split_once("=="), text.split_once('=')) {
        (Some(parts), _, _) => own(parts, false),
        (_, Some(parts), _) | (_, _, Some(parts)) => own(parts, true),
        _ => None,
    }
}

fn label(text: &str) -> Option<Label> {
    let text = text.trim();
    let own = |t: &str| t.trim().to_owned();
    let values = |t: &str| t.trim().trim_matches(['(', ')']).split(',').map(own).collect();
    if text.is_empty() {
        return None;
    }
    Some(if let Some((key, list)) = text.split_once(" notin ") {
        Label::NotIn(own(key), values(list))
    } else if let Some((key, list)) = text.split_once(" in ") {
        Label::In(own(key), values(list))
    } else if let Some((key, value)) = text.split_once("!=") {
        Label::IsNot(own(key), own(value))
    } else if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        Label::Is(own(key), own(value))
    } else if let Some(key) = text.strip_prefix('!') {
        Label::HasNot(own(key))
    } else {
        Label::Has(own(text))
    })
}

fn split_outside_parentheses(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0_u32;
    for c in text.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if c == ',' && depth == 0 {
            parts.push(String::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    parts
}
