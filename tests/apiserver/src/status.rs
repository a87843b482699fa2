//! `Status` bodies, worded as the real server words them.

use serde_json::{Map, Value, json};

/// An answer that is not the object asked for.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) code: u16,
    pub(crate) body: Body,
    pub(crate) retry_after: Option<u32>,
}

/// How a failure is written.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Status(Value),
    Text(String),
}

impl Failure {
    fn status(code: u16, reason: Option<&str>, message: &str, details: Option<Value>) -> Self {
        let mut body = Map::new();
        body.insert("kind".into(), json!("Status"));
        body.insert("apiVersion".into(), json!("v1"));
        body.insert("metadata".into(), json!({}));
        body.insert("status".into(), json!("Failure"));
        body.insert("message".into(), json!(message));
        if let Some(reason) = reason {
            body.insert("reason".into(), json!(reason));
        }
        if let Some(details) = details {
            body.insert("details".into(), details);
        }
        body.insert("code".into(), json!(code));
        Self { code, body: Body::Status(Value::Object(body)), retry_after: None }
    }

    pub(crate) fn text(code: u16, text: &str) -> Self {
        Self { code, body: Body::Text(text.to_owned()), retry_after: None }
    }

    pub(crate) fn bad_request(message: &str) -> Self {
        Self::status(400, Some("BadRequest"), message, None)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::status(401, Some("Unauthorized"), "Unauthorized", None)
    }

    /// `resource` may carry a subresource: `pods/portforward`.
    pub(crate) fn forbidden(target: &Target<'_>, explanation: &str) -> Self {
        let who = target.quoted();
        Self::status(
            403,
            Some("Forbidden"),
            &format!("{who} is forbidden: {explanation}"),
            Some(target.details(None)),
        )
    }

    pub(crate) fn not_found(target: &Target<'_>) -> Self {
        Self::status(
            404,
            Some("NotFound"),
            &format!("{} not found", target.quoted()),
            Some(target.details(None)),
        )
    }

    pub(crate) fn already_exists(target: &Target<'_>) -> Self {
        Self::status(
            409,
            Some("AlreadyExists"),
            &format!("{} already exists", target.quoted()),
            Some(target.details(None)),
        )
    }

    pub(crate) fn stale(target: &Target<'_>) -> Self {
        Self::status(
            409,
            Some("Conflict"),
            &format!(
                "Operation cannot be fulfilled on {}: the object has been modified; please apply your changes to the latest version and try again",
                target.quoted()
            ),
            Some(target.details(None)),
        )
    }

    /// `conflicts`: manager and field.
    pub(crate) fn conflicts(conflicts: &[(String, String)]) -> Self {
        let causes: Vec<Value> = conflicts
            .iter()
            .map(|(manager, field)| {
                json!({"reason": "FieldManagerConflict", "message": format!("conflict with \"{manager}\""), "field": field})
            })
            .collect();
        let message = if let [(manager, field)] = conflicts {
            format!("Apply failed with 1 conflict: conflict with \"{manager}\": {field}")
        } else {
            let mut text = format!("Apply failed with {} conflicts:", conflicts.len());
            let mut last = "";
            for (manager, field) in conflicts {
                if manager != last {
                    text.extend([" conflicts with \"", manager, "\":"]);
                    last = manager;
                }
                text.extend(["\n- ", field]);
            }
            text
        };
        Self::status(409, Some("Conflict"), &message, Some(json!({"causes": causes})))
    }

    /// `kind` as in `DaemonSet.apps`; causes are reason, message and field.
    pub(crate) fn invalid(
        group: &str,
        kind: &str,
        name: &str,
        causes: &[(&str, String, &str)],
    ) -> Self {
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let lines: Vec<String> =
            causes.iter().map(|(_, message, field)| format!("{field}: {message}")).collect();
        let lines = match lines.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let mut details = Map::new();
        if !name.is_empty() {
            details.insert("name".into(), json!(name));
        }
        if !group.is_empty() {
            details.insert("group".into(), json!(group));
        }
        details.insert("kind".into(), json!(kind));
        details.insert(
            "causes".into(),
            causes
                .iter()
                .map(|(reason, message, field)| json!({"reason": reason, "message": message, "field": field}))
                .collect(),
        );
        Self::status(
            422,
            Some("Invalid"),
            &format!("{qualified} \"{name}\" is invalid: {lines}"),
            Some(Value::Object(details)),
        )
    }

    /// Unknown fields, wrong types: 500 without a reason.
    pub(crate) fn internal(message: &str) -> Self {
        Self::status(500, None, message, None)
    }

    pub(crate) fn too_many_requests(seconds: u32) -> Self {
        let mut failure = Self::status(
            429,
            Some("TooManyRequests"),
            "Too many requests, please try again later.",
            Some(json!({"retryAfterSeconds": seconds})),
        );
        failure.retry_after = Some(seconds);
        failure
    }

    pub(crate) fn expired(message: &str) -> Self {
        Self::status(410, Some("Expired"), message, None)
    }

    pub(crate) fn from_the_future(asked: u64, current: u64) -> Self {
        let mut failure = Self::status(
            504,
            Some("Timeout"),
            &format!("Timeout: Too large resource version: {asked}, current: {current}"),
            Some(json!({
                "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
                "retryAfterSeconds": 1,
            })),
        );
        failure.retry_after = Some(1);
        failure
    }
}

/// What a message is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) name: &'a str,
}

impl Target<'_> {
    fn quoted(&self) -> String {
        let mut text = self.resource.to_owned();
        if !self.group.is_empty() {
            text = format!("{text}.{}", self.group);
        }
        if !self.name.is_empty() {
            text.extend([" \"", self.name, "\""]);
        }
        text
    }

    fn details(&self, causes: Option<Value>) -> Value {
        let mut details = Map::new();
        if !self.name.is_empty() {
            details.insert("name".into(), json!(self.name));
        }
        if !self.group.is_empty() {
            details.insert("group".into(), json!(self.group));
        }
        details.insert("kind".into(), json!(self.resource));
        if let Some(causes) = causes {
            details.insert("causes".into(), causes);
        }
        Value::Object(details)
    }
}
