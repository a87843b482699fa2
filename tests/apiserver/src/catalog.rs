//! Which resources there are: the recorded discovery documents.

use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::status::Failure;

const CORE: &str = include_str!("../data/api/api-v1.json");
const AGGREGATED: &str = include_str!("../data/api/apis-aggregated-discovery.json");
const APPS: &str = include_str!("../data/api/apis-apps-v1.json");
const RBAC: &str = include_str!("../data/api/apis-rbac-v1.json");

/// One resource that the server stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) kind: String,
    pub(crate) namespaced: bool,
    verbs: Vec<String>,
}

impl Resource {
    pub(crate) fn may(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }

    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

/// All of them.
pub(crate) fn resources() -> &'static [Resource] {
    static RESOURCES: OnceLock<Vec<Resource>> = OnceLock::new();
    RESOURCES.get_or_init(|| {
        let mut found = core();
        found.extend(grouped());
        found
    })
}

/// By the words of a path.
pub(crate) fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    resources().iter().find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// By the words of an object.
pub(crate) fn find_kind(api_version: &str, kind: &str) -> Option<&'static Resource> {
    resources().iter().find(|r| r.kind == kind && r.api_version() == api_version)
}

/// Answers a discovery path, if it is one.
pub(crate) fn discovery(path: &str, accept: &str) -> Option<Result<Value, Failure>> {
    let aggregated = accept.contains("as=APIGroupDiscoveryList");
    let text = match path.trim_end_matches('/') {
        "/version" => include_str!("../data/api/version.json"),
        "/api" if aggregated => return Some(Ok(aggregated_core())),
        "/api" => include_str!("../data/api/api.json"),
        "/api/v1" => CORE,
        "/apis" if aggregated => AGGREGATED,
        "/apis" => include_str!("../data/api/apis.json"),
        "/apis/apps/v1" => APPS,
        "/apis/rbac.authorization.k8s.io/v1" => RBAC,
        other => return group_version(other),
    };
    Some(Ok(parse(text)))
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn words(value: &Value) -> Vec<String> {
    let words = value.as_array().map_or(&[][..], Vec::as_slice);
    words.iter().filter_map(|w| w.as_str().map(str::to_owned)).collect()
}

fn core() -> Vec<Resource> {
    array(&parse(CORE), "resources")
        .iter()
        .filter(|r| !text(r, "name").contains('/'))
        .map(|r| Resource {
            group: String::new(),
            version: "v1".into(),
            plural: text(r, "name"),
            singular: text(r, "singularName"),
            kind: text(r, "kind"),
            namespaced: r["namespaced"].as_bool().unwrap_or(false),
            verbs: words(&r["verbs"]),
        })
        .collect()
}

fn grouped() -> Vec<Resource> {
    let document = parse(AGGREGATED);
    let mut found = Vec::new();
    for group in array(&document, "items") {
        for version in array(group, "versions") {
            for r in array(version, "resources") {
                found.push(Resource {
                    group: text(&group["metadata"], "name"),
                    version: text(version, "version"),
                    plural: text(r, "resource"),
                    singular: text(r, "singularResource"),
                    kind: text(&r["responseKind"], "kind"),
                    namespaced: text(r, "scope") == "Namespaced",
                    verbs: words(&r["verbs"]),
                });
            }
        }
    }
    found
}

/// A group whose plain document was not recorded, told from the aggregated one.
fn group_version(path: &str) -> Option<Result<Value, Failure>> {
    let (group, version) = path.strip_prefix("/apis/")?.split_once('/')?;
    if version.contains('/') {
        return None;
    }
    let listed: Vec<Value> = resources()
        .iter()
        .filter(|r| r.group == group && r.version == version)
        .map(|r| {
            json!({"name": r.plural, "singularName": r.singular, "namespaced": r.namespaced, "kind": r.kind, "verbs": r.verbs})
        })
        .collect();
    Some(if listed.is_empty() {
        Err(Failure::text(404, "404 page not found\n"))
    } else {
        Ok(json!({
            "kind": "APIResourceList", "apiVersion": "v1",
            "groupVersion": format!("{group}/{version}"), "resources": listed,
        }))
    })
}

fn aggregated_core() -> Value {
    let resources: Vec<Value> = core()
        .iter()
        .map(|r| {
            json!({
                "resource": r.plural, "responseKind": {"group": "", "version": "v1", "kind": r.kind},
                "scope": if r.namespaced { "Namespaced" } else { "Cluster" },
                "singularResource": r.singular, "verbs": r.verbs,
            })
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
        "items": [{"metadata": {}, "versions": [{"version": "v1", "resources": resources, "freshness": "Current"}]}],
    })
}
