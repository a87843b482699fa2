//! `--set` as Helm reads it: `a.b=c`, `a={x,y}`, `a.b[0]=c`, several with commas, `\` before a
//! character that means something else.
//!
//! Stricter than Helm where Helm silently does nothing (`=1`, `a[0`), since a lost setting is a lost
//! recording.

use std::fmt;
use std::iter::Peekable;
use std::str::Chars;

use serde_json::{Map, Value};

/// Helm's own bound for list indices.
const LAST_INDEX: usize = 65_536;

/// Helm allows 30 dots.
const DEEPEST: usize = 31;

/// One step from the root of the tree towards a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// `.name`
    Field(String),
    /// `[index]`
    Index(usize),
}

/// One `key=value`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Assignment {
    /// Never empty; begins with a field.
    pub(super) path: Vec<Step>,
    /// `Null` takes back what was set.
    pub(super) value: Value,
}

/// Why an argument of `--set` cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SetError {
    /// A key and nothing after it; often the second half of a value with a comma in it.
    #[error("`{key}` has no value: write key=value (a comma inside a value is written `\\,`)")]
    NoValue {
        /// As written.
        key: String,
    },
    /// `=1`, `.a=1`, `a..b=1`.
    #[error("a part of a key is empty near `{near}`")]
    EmptyName {
        /// The path up to there.
        near: String,
    },
    /// More dots and brackets than any tree of values has.
    #[error("a key has more than {DEEPEST} parts")]
    TooDeep,
    /// `[x]`, `[-1]`, `[70000]`.
    #[error("`[{index}]` is not a place in a list: write [0] to [{LAST_INDEX}]")]
    BadIndex {
        /// As written.
        index: String,
    },
    /// `[0` without its end.
    #[error("`[{index}` has no closing `]`")]
    OpenIndex {
        /// As written.
        index: String,
    },
    /// `a[0]x=1`.
    #[error("`{found}` after `]`: expected `=`, `.` or `[`")]
    AfterIndex {
        /// The character.
        found: char,
    },
    /// `a={x`.
    #[error("a list begins with `{{` and does not end with `}}`")]
    OpenList,
    /// `a={x}y`.
    #[error("`{found}` after `}}`: expected `,` or the end")]
    AfterList {
        /// The character.
        found: char,
    },
    /// `a=1,a.b=2`.
    #[error("`{step}` does not fit: what was set before is no {wanted}")]
    Clash {
        /// The step that cannot be taken.
        step: String,
        /// `list` or `section`.
        wanted: &'static str,
    },
}

/// Reads one argument of `--set`.
pub(super) fn parse(text: &str) -> Result<Vec<Assignment>, SetError> {
    let mut reader = Reader { rest: text.chars().peekable() };
    let mut assignments = Vec::new();
    while !reader.at_end() {
        assignments.push(Assignment { path: reader.path()?, value: reader.value()? });
    }
    Ok(assignments)
}

/// Puts `value` at `path` below `root`, making sections and lists on the way as Helm does: a list
/// grows with nulls, and a list's item gives way to a section.
pub(super) fn assign(root: &mut Value, path: &[Step], value: Value) -> Result<(), SetError> {
    let mut at = root;
    for (step, next) in path.iter().zip(path.iter().skip(1).map(Some).chain([None])) {
        at = descend(at, step, next)?;
    }
    *at = value;
    Ok(())
}

fn descend<'a>(
    at: &'a mut Value,
    step: &Step,
    next: Option<&Step>,
) -> Result<&'a mut Value, SetError> {
    match step {
        Step::Field(name) => {
            let section = at.as_object_mut().ok_or_else(|| clash(step, "section"))?;
            Ok(section.entry(name).or_insert_with(|| room_for(next)))
        }
        Step::Index(index) => {
            let list = at.as_array_mut().ok_or_else(|| clash(step, "list"))?;
            if list.len() <= *index {
                list.resize(index + 1, Value::Null);
            }
            let item = &mut list[*index];
            let give_way = match next {
                Some(Step::Field(_)) => !item.is_object(),
                Some(Step::Index(_)) => item.is_null(),
                None => false,
            };
            if give_way {
                *item = room_for(next);
            }
            Ok(item)
        }
    }
}

fn room_for(next: Option<&Step>) -> Value {
    match next {
        Some(Step::Field(_)) => Value::Object(Map::new()),
        Some(Step::Index(_)) => Value::Array(Vec::new()),
        None => Value::Null,
    }
}

fn clash(step: &Step, wanted: &'static str) -> SetError {
    SetError::Clash { step: step.to_string(), wanted }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => f.write_str(name),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// `a.b[0]`, as the user would write it.
pub(super) fn path_text(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        if !text.is_empty() && matches!(step, Step::Field(_)) {
            text.push('.');
        }
        text += &step.to_string();
    }
    text
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
}

impl Reader<'_> {
    fn at_end(&mut self) -> bool {
        self.rest.peek().is_none()
    }

    /// The text up to one of `stops`, which is consumed, or up to the end. A `\` takes the next
    /// character as it is.
    fn until(&mut self, stops: &[char]) -> (String, Option<char>) {
        let mut text = String::new();
        while let Some(c) = self.rest.next() {
            match c {
                '\\' => text.extend(self.rest.next()),
                c if stops.contains(&c) => return (text, Some(c)),
                c => text.push(c),
            }
        }
        (text, None)
    }

    /// A key and its `=`.
    fn path(&mut self) -> Result<Vec<Step>, SetError> {
        let mut path = Vec::new();
        loop {
            let (name, stop) = self.until(&['=', '[', ',', '.']);
            if name.is_empty() {
                let after = stop.map(String::from).unwrap_or_default();
                return Err(SetError::EmptyName { near: path_text(&path) + &after });
            }
            push(&mut path, Step::Field(name))?;
            let more = match stop {
                Some('=') => false,
                Some('.') => true,
                Some('[') => self.indices(&mut path)?,
                _ => return Err(SetError::NoValue { key: path_text(&path) }),
            };
            if !more {
                return Ok(path);
            }
        }
    }

    /// What follows a `[`: `0]=`, `0].`, `0][1]=` … Whether another name follows.
    fn indices(&mut self, path: &mut Vec<Step>) -> Result<bool, SetError> {
        loop {
            push(path, Step::Index(self.index()?))?;
            match self.rest.next() {
                Some('=') => return Ok(false),
                Some('.') => return Ok(true),
                Some('[') => {}
                Some(found) => return Err(SetError::AfterIndex { found }),
                None => return Err(SetError::NoValue { key: path_text(path) }),
            }
        }
    }

    fn index(&mut self) -> Result<usize, SetError> {
        let (index, stop) = self.until(&[']']);
        if stop.is_none() {
            return Err(SetError::OpenIndex { index });
        }
        match index.parse() {
            Ok(number) if number <= LAST_INDEX => Ok(number),
            _ => Err(SetError::BadIndex { index }),
        }
    }

    /// What follows the `=`, with the comma behind it.
    fn value(&mut self) -> Result<Value, SetError> {
        if self.rest.next_if_eq(&'{').is_some() {
            return self.list();
        }
        Ok(typed(self.until(&[',']).0))
    }

    fn list(&mut self) -> Result<Value, SetError> {
        let mut items = Vec::new();
        loop {
            let (item, stop) = self.until(&[',', '}']);
            if stop.is_none() {
                return Err(SetError::OpenList);
            }
            items.push(typed(item));
            if stop == Some('}') {
                break;
            }
        }
        match self.rest.next() {
            None | Some(',') => Ok(Value::Array(items)),
            Some(found) => Err(SetError::AfterList { found }),
        }
    }
}

fn push(path: &mut Vec<Step>, step: Step) -> Result<(), SetError> {
    if path.len() == DEEPEST {
        return Err(SetError::TooDeep);
    }
    path.push(step);
    Ok(())
}

/// Booleans, null and whole numbers are what they look like; all else is text. A leading zero makes
/// text, so that `0755` keeps its zero.
fn typed(text: String) -> Value {
    if text.eq_ignore_ascii_case("true") {
        return Value::Bool(true);
    }
    if text.eq_ignore_ascii_case("false") {
        return Value::Bool(false);
    }
    if text.eq_ignore_ascii_case("null") {
        return Value::Null;
    }
    match text.parse::<i64>() {
        Ok(number) if text == "0" || !text.starts_with('0') => Value::from(number),
        _ => Value::String(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Where Helm drops what was written without a word, or takes half a key for a whole one.
    const REFUSED_HERE_ONLY: [&str; 6] = ["=1", ".a=1", "a[0", "a[0]", "a={x}b=1", ","];

    #[derive(serde::Deserialize)]
    struct Table {
        answers: Vec<(String, Answer)>,
    }

    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    enum Answer {
        Values(Value),
        Error(#[expect(dead_code, reason = "for the reader of the table")] String),
    }

    fn helm() -> Vec<(String, Answer)> {
        let table: Table = serde_json::from_str(include_str!("testdata/helm_set.json")).unwrap();
        table.answers
    }

    fn tree(argument: &str) -> Result<Value, SetError> {
        let mut tree = Value::Object(Map::new());
        for Assignment { path, value } in parse(argument)? {
            assign(&mut tree, &path, value)?;
        }
        Ok(tree)
    }

    #[test]
    fn arguments_mean_what_they_mean_to_helm() {
        for (argument, answer) in helm() {
            let ours = tree(&argument);
            if REFUSED_HERE_ONLY.contains(&argument.as_str()) {
                assert!(ours.is_err(), "{argument}: {ours:?}");
                continue;
            }
            match answer {
                Answer::Values(values) => assert_eq!(ours, Ok(values), "{argument}"),
                Answer::Error(_) => assert!(ours.is_err(), "{argument}: {ours:?}"),
            }
        }
    }

    #[test]
    fn a_comma_inside_a_value_is_explained() {
        let error = parse("tap.bpfOverride=host a, b").unwrap_err().to_string();
        insta::assert_snapshot!(error, @r"` b` has no value: write key=value (a comma inside a value is written `\,`)");
    }

    #[test]
    fn a_path_of_any_depth_ends_in_an_error() {
        let deep = format!("a{}=1", "[0]".repeat(100_000));
        assert_eq!(parse(&deep), Err(SetError::TooDeep));
    }

    /// `text` with a `\` before whatever `--set` would take for its own.
    fn escape(text: &str) -> String {
        let mut escaped = String::new();
        for c in text.chars() {
            if "\\,=.[]{}".contains(c) {
                escaped.push('\\');
            }
            escaped.push(c);
        }
        escaped
    }

    proptest! {
        #[test]
        fn no_argument_panics(argument in any::<String>()) {
            let _ = tree(&argument);
        }

        #[test]
        fn nothing_like_an_argument_panics(argument in r"[ab.=,\\{}\[\]0-9 -]{0,40}") {
            let _ = tree(&argument);
        }

        #[test]
        fn any_escaped_text_arrives_whole(name in ".+", text in "x.*") {
            let assignments = parse(&format!("{}={}", escape(&name), escape(&text))).unwrap();
            let path = vec![Step::Field(name)];
            prop_assert_eq!(assignments, vec![Assignment { path, value: Value::String(text) }]);
        }

        #[test]
        fn several_in_one_argument_are_several_arguments(
            arguments in prop::collection::vec(r"[ab](\.[ab]|\[[0-2]\]){0,2}=([0-9]{0,2}|\{x,y\})", 1..5)
        ) {
            let joined = tree(&arguments.join(","));
            let mut one_by_one = Ok(Value::Object(Map::new()));
            for argument in &arguments {
                one_by_one = one_by_one.and_then(|mut tree| {
                    for Assignment { path, value } in parse(argument)? {
                        assign(&mut tree, &path, value)?;
                    }
                    Ok(tree)
                });
            }
            prop_assert_eq!(joined, one_by_one);
        }
    }
}
