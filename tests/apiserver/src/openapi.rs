//! `/openapi/v3`, as far as clients ask it before they write: whether the server itself checks fields.
//! Not recorded; kubectl and Helm look for the parameter `fieldValidation` of the kind's `PATCH`.

use serde_json::{Map, Value, json};

use crate::catalog::{self, Resource};

/// Answers an `OpenAPI` path, if it is one.
pub(crate) fn document(path: &str) -> Option<Value> {
    let rest = path.trim_end_matches('/').strip_prefix("/openapi/v3")?;
    if rest.is_empty() {
        return Some(index());
    }
    let place = rest.strip_prefix('/')?;
    let of_place = |resource: &&Resource| place_of(resource) == place;
    let mut found = catalog::resources().iter().filter(of_place).peekable();
    found.peek()?;
    let paths: Map<_, _> = found.filter(|resource| resource.may("patch")).map(patch).collect();
    let info = json!({"title": "Kubernetes", "version": "unversioned"});
    Some(json!({"openapi": "3.0.0", "info": info, "paths": paths}))
}

/// `api/v1`, `apis/apps/v1`.
fn place_of(resource: &Resource) -> String {
    let base = if resource.group.is_empty() { "api" } else { "apis" };
    format!("{base}/{}", resource.api_version())
}

fn index() -> Value {
    let paths: Map<_, _> = catalog::resources()
        .iter()
        .map(place_of)
        .map(|place| {
            let url = json!({"serverRelativeURL": format!("/openapi/v3/{place}?hash=0")});
            (place, url)
        })
        .collect();
    json!({ "paths": paths })
}

fn patch(resource: &Resource) -> (String, Value) {
    let namespace = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
    let path = format!("/{}/{namespace}{}/{{name}}", place_of(resource), resource.plural);
    let parameter = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let parameters = ["dryRun", "fieldManager", "fieldValidation", "force"].map(parameter);
    let operation = json!({
        "parameters": parameters,
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind":
            {"group": resource.group, "version": resource.version, "kind": resource.kind},
    });
    (path, json!({ "patch": operation }))
}
