//! What was found.

use std::fmt::Write as _;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// As it should be.
    Ok,
    /// Something works less well, or could not be looked at.
    Warning,
    /// Something does not work.
    Blocks,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Blocks => "blocks",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) state: State,
    /// `rights`, `nodes`, `kernel` …
    pub(super) topic: &'static str,
    /// What is so.
    pub(super) found: String,
    /// What it hinders.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hinders: Option<String>,
    /// How to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mend: Option<String>,
}

impl Finding {
    pub(super) fn ok(topic: &'static str, found: impl Into<String>) -> Self {
        Self { state: State::Ok, topic, found: found.into(), hinders: None, mend: None }
    }

    pub(super) fn warning(topic: &'static str, found: impl Into<String>) -> Self {
        Self { state: State::Warning, ..Self::ok(topic, found) }
    }

    pub(super) fn blocks(topic: &'static str, found: impl Into<String>) -> Self {
        Self { state: State::Blocks, ..Self::ok(topic, found) }
    }

    pub(super) fn hinders(self, what: impl Into<String>) -> Self {
        Self { hinders: Some(what.into()), ..self }
    }

    pub(super) fn mend(self, how: impl Into<String>) -> Self {
        Self { mend: Some(how.into()), ..self }
    }
}

/// For people: one finding a line, below it what it hinders and how to mend it.
pub(super) fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.topic.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { state, topic, found, hinders, mend } in findings {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:<8} {topic:<width$}  {found}", state.word());
        for (word, line) in [("hinders", hinders), ("mend", mend)] {
            if let Some(line) = line {
                let _ = writeln!(text, "{:<8} {word:>width$}: {line}", "");
            }
        }
    }
    let count = |state| findings.iter().filter(|finding| finding.state == state).count();
    let summary = match (count(State::Blocks), count(State::Warning)) {
        (0, 0) => "nothing hinders".to_owned(),
        (0, warnings) => format!("nothing blocks; warnings: {warnings}"),
        (blocks, warnings) => format!("blocks: {blocks}; warnings: {warnings}"),
    };
    let _ = writeln!(text, "{summary}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_says_what_it_hinders_and_how_to_mend_it() {
        let findings = [
            Finding::ok("API server", "v1.36.1"),
            Finding::blocks("rights", "`get` on pods is missing").hinders("tap").mend("ask"),
        ];
        assert_eq!(
            text(&findings),
            "ok       API server  v1.36.1\n\
             blocks   rights      `get` on pods is missing\n         \
             \x20  hinders: tap\n         \
             \x20     mend: ask\n\
             blocks: 1; warnings: 0\n"
        );
    }
}
