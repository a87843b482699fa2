//! Who may do what: users by bearer token, each with rules.

use serde::{Deserialize, Serialize};

/// Somebody who sends requests.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// As messages name the user: `system:serviceaccount:rewind:nobody`.
    pub name: String,
    /// What is allowed; nothing else is.
    pub rules: Vec<Rule>,
}

/// One permission. `*` stands for all.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// `get`, `list`, `patch` …
    pub verbs: Vec<String>,
    /// API groups; empty text is the core group.
    pub groups: Vec<String>,
    /// `pods`, `pods/portforward` …
    pub resources: Vec<String>,
    /// The only namespace in which it holds; none is everywhere.
    #[serde(default)]
    pub namespace: Option<String>,
}

impl Rule {
    /// A rule of the core group.
    pub fn core(verbs: &[&str], resources: &[&str], namespace: Option<&str>) -> Self {
        Self::of("", verbs, resources, namespace)
    }

    /// A rule of one group.
    pub fn of(group: &str, verbs: &[&str], resources: &[&str], namespace: Option<&str>) -> Self {
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Self {
            verbs: own(verbs),
            groups: vec![group.to_owned()],
            resources: own(resources),
            namespace: namespace.map(str::to_owned),
        }
    }

    fn allows(&self, ask: &Ask<'_>) -> bool {
        let has = |list: &[String], word: &str| list.iter().any(|l| l == "*" || l == word);
        has(&self.verbs, ask.verb)
            && has(&self.groups, ask.group)
            && has(&self.resources, &ask.resource)
            && self.namespace.as_deref().is_none_or(|only| only == ask.namespace)
    }
}

/// What somebody wants to do.
#[derive(Debug, Clone)]
pub(crate) struct Ask<'a> {
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    /// With its subresource.
    pub(crate) resource: String,
    pub(crate) namespace: &'a str,
}

impl User {
    /// May do everything.
    pub fn admin() -> Self {
        Self { name: "kubernetes-admin".into(), rules: vec![Rule::of("*", &["*"], &["*"], None)] }
    }

    pub(crate) fn may(&self, ask: &Ask<'_>) -> bool {
        self.rules.iter().any(|rule| rule.allows(ask))
    }

    /// Why not, as the real server says it.
    pub(crate) fn refusal(&self, ask: &Ask<'_>) -> String {
        let scope = if ask.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace \"{}\"", ask.namespace)
        };
        format!(
            "User \"{}\" cannot {} resource \"{}\" in API group \"{}\" {scope}",
            self.name, ask.verb, ask.resource, ask.group
        )
    }
}
