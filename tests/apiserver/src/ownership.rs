//! Who owns which field: what server-side apply remembers and decides by.
//!
//! An object is seen as leaves, each with a path. Maps are granular unless the schema calls them
//! atomic; lists are atomic unless the schema gives them a key.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// A member of a map.
    Field(String),
    /// An item of a list, by its keys as sorted JSON.
    Item(String),
    /// The item itself, beside its members (`.` in `fieldsV1`).
    Itself,
}

pub(crate) type Path = Vec<Step>;

/// Leaves of what somebody wrote, with their values (`Itself` has none).
pub(crate) type Leaves = BTreeMap<Path, Value>;

/// One manager's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manager {
    pub(crate) name: String,
    /// `Apply` or `Update`.
    pub(crate) operation: &'static str,
    pub(crate) subresource: Option<&'static str>,
    pub(crate) api_version: String,
    pub(crate) time: String,
    pub(crate) fields: BTreeSet<Path>,
}

impl Manager {
    pub(crate) fn to_json(&self) -> Value {
        let mut entry = json!({
            "manager": self.name, "operation": self.operation, "apiVersion": self.api_version,
            "time": self.time, "fieldsType": "FieldsV1", "fieldsV1": fields_v1(&self.fields),
        });
        if let Some(subresource) = self.subresource {
            entry["subresource"] = json!(subresource);
        }
        entry
    }
}

/// Keys of the lists that merge item by item.
fn keys_of(field: &str, list: &[Value]) -> Option<&'static [&'static str]> {
    let keys: &'static [&'static str] = match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "env"
        | "volumes"
        | "imagePullSecrets" => &["name"],
        "volumeMounts" => &["mountPath"],
        "volumeDevices" => &["devicePath"],
        "ports" => &["containerPort", "protocol"],
        "conditions" => &["type"],
        "ownerReferences" => &["uid"],
        "hostAliases" => &["ip"],
        _ => return None,
    };
    list.iter().all(Value::is_object).then_some(keys)
}

fn is_atomic(field: &str) -> bool {
    matches!(
        field,
        "selector"
            | "nodeSelector"
            | "roleRef"
            | "fieldRef"
            | "configMapKeyRef"
            | "secretKeyRef"
            | "resourceFieldRef"
            | "requiredDuringSchedulingIgnoredDuringExecution"
            | "labelSelector"
            | "namespaceSelector"
    )
}

fn item_key(item: &Value, keys: &[&str]) -> String {
    let mut key = Map::new();
    for name in keys {
        match &item[*name] {
            Value::Null if *name == "protocol" => {
                key.insert((*name).to_owned(), json!("TCP"));
            }
            Value::Null => {}
            value => {
                key.insert((*name).to_owned(), value.clone());
            }
        }
    }
    Value::Object(key).to_string()
}

/// The leaves of an object as its author wrote it, without what nobody owns.
pub(crate) fn leaves(object: &Value) -> Leaves {
    let mut found = Leaves::new();
    let Some(members) = object.as_object() else {
        return found;
    };
    for (name, value) in members {
        match name.as_str() {
            "apiVersion" | "kind" => {}
            "metadata" => {
                for part in ["labels", "annotations", "finalizers", "ownerReferences"] {
                    if let Some(value) = value.get(part) {
                        let path = vec![Step::Field("metadata".into()), Step::Field(part.into())];
                        collect(part, value, path, &mut found);
                    }
                }
            }
            _ => collect(name, value, vec![Step::Field(name.clone())], &mut found),
        }
    }
    found
}

fn collect(field: &str, value: &Value, path: Path, found: &mut Leaves) {
    match value {
        Value::Null => {}
        Value::Object(members) if !members.is_empty() && !is_atomic(field) => {
            for (name, value) in members {
                let mut path = path.clone();
                path.push(Step::Field(name.clone()));
                collect(name, value, path, found);
            }
        }
        Value::Array(items) if !items.is_empty() => match keys_of(field, items) {
            Some(keys) => {
                for item in items {
                    let mut path = path.clone();
                    path.push(Step::Item(item_key(item, keys)));
                    let mut itself = path.clone();
                    itself.push(Step::Itself);
                    found.insert(itself, Value::Null);
                    for (name, value) in item.as_object().into_iter().flatten() {
                        let mut path = path.clone();
                        path.push(Step::Field(name.clone()));
                        collect(name, value, path, found);
                    }
                }
            }
            None => {
                found.insert(path, value.clone());
            }
        },
        _ => {
            found.insert(path, value.clone());
        }
    }
}

/// `.spec.template.spec.containers[name="agent"].image`.
pub(crate) fn written(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Field(name) => {
                text.push('.');
                text.push_str(name);
            }
            Step::Item(key) => {
                let key: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
                let parts: Vec<String> =
                    key.iter().map(|(name, value)| format!("{name}={value}")).collect();
                text.extend(["[", parts.join(",").as_str(), "]"]);
            }
            Step::Itself => {}
        }
    }
    text
}

fn fields_v1(fields: &BTreeSet<Path>) -> Value {
    let mut root = Map::new();
    for path in fields {
        let mut at = &mut root;
        for step in path {
            let name = match step {
                Step::Field(name) => format!("f:{name}"),
                Step::Item(key) => format!("k:{key}"),
                Step::Itself => ".".to_owned(),
            };
            let next = at.entry(name).or_insert_with(|| json!({}));
            let Value::Object(next) = next else { break };
            at = next;
        }
    }
    Value::Object(root)
}

/// The value at a path.
pub(crate) fn value_at<'a>(object: &'a Value, path: &[Step]) -> Option<&'a Value> {
    let mut at = object;
    for (index, step) in path.iter().enumerate() {
        at = match step {
            Step::Field(name) => at.get(name)?,
            Step::Item(key) => {
                let keys = keys_before(path, index);
                at.as_array()?.iter().find(|item| item_key(item, keys) == *key)?
            }
            Step::Itself => at,
        };
    }
    Some(at)
}

fn keys_before(path: &[Step], index: usize) -> &'static [&'static str] {
    let field = match index.checked_sub(1).and_then(|i| path.get(i)) {
        Some(Step::Field(name)) => name.as_str(),
        _ => "",
    };
    keys_of(field, &[]).unwrap_or(&[])
}

/// Writes a leaf, making what lies between.
pub(crate) fn set(object: &mut Value, path: &[Step], value: &Value) {
    let mut at = object;
    for (index, step) in path.iter().enumerate() {
        let list_follows = matches!(path.get(index + 1), Some(Step::Item(_)));
        at = match step {
            Step::Field(name) => {
                if !at.is_object() {
                    *at = json!({});
                }
                let Value::Object(members) = at else { return };
                let empty = if list_follows { json!([]) } else { Value::Null };
                let next = members.entry(name.clone()).or_insert(empty);
                if list_follows && !next.is_array() {
                    *next = json!([]);
                }
                next
            }
            Step::Item(key) => {
                let keys = keys_before(path, index);
                let Value::Array(items) = at else { return };
                let found = items.iter().position(|item| item_key(item, keys) == *key);
                let position = found.unwrap_or_else(|| {
                    items.push(serde_json::from_str(key).unwrap_or_default());
                    items.len() - 1
                });
                &mut items[position]
            }
            Step::Itself => return,
        };
    }
    *at = value.clone();
}

/// Takes a leaf away, and what it leaves empty.
pub(crate) fn unset(object: &mut Value, path: &[Step]) {
    let Some((step, rest)) = path.split_first() else {
        return;
    };
    match step {
        Step::Field(name) => {
            let Value::Object(members) = object else { return };
            let keys = keys_of(name, &[]).unwrap_or(&[]);
            let now_empty = match (members.get_mut(name), rest) {
                (None, _) => false,
                (Some(_), []) => true,
                (Some(Value::Array(items)), [Step::Item(key), Step::Itself]) => {
                    items.retain(|item| item_key(item, keys) != *key);
                    items.is_empty()
                }
                (Some(Value::Array(items)), [Step::Item(key), inner @ ..]) => {
                    for item in items.iter_mut().filter(|item| item_key(item, keys) == *key) {
                        unset(item, inner);
                    }
                    false
                }
                (Some(next), rest) => {
                    unset(next, rest);
                    next.as_object().is_some_and(Map::is_empty)
                }
            };
            if now_empty {
                members.remove(name);
            }
        }
        Step::Item(_) | Step::Itself => {}
    }
}

/// What an apply does to an object and to who owns it.
pub(crate) struct Outcome {
    pub(crate) object: Value,
    pub(crate) managers: Vec<Manager>,
}

/// Applies `wanted` as `manager`. Without `force` others' differing fields are conflicts: manager and field.
pub(crate) fn apply(
    live: &Value,
    managers: &[Manager],
    manager: &Manager,
    wanted: &Leaves,
    force: bool,
) -> Result<Outcome, Vec<(String, String)>> {
    let is_mine =
        |m: &Manager| m.name == manager.name && m.operation == "Apply" && m.subresource.is_none();
    let mut conflicts = Vec::new();
    for other in managers.iter().filter(|m| !is_mine(m)) {
        for (path, value) in wanted {
            let differs = path.last() != Some(&Step::Itself) && value_at(live, path) != Some(value);
            if differs && other.fields.contains(path) {
                conflicts.push((other.name.clone(), path.clone()));
            }
        }
    }
    if !conflicts.is_empty() && !force {
        return Err(conflicts.into_iter().map(|(name, path)| (name, written(&path))).collect());
    }

    let mut object = live.clone();
    let mut owned: Vec<Manager> = managers.to_vec();
    for other in owned.iter_mut().filter(|m| !is_mine(m)) {
        other.fields.retain(|path| {
            !conflicts.iter().any(|(name, taken)| *name == other.name && taken == path)
        });
    }
    let before = managers.iter().find(|m| is_mine(m)).map(|m| m.fields.clone()).unwrap_or_default();
    for gone in before.iter().filter(|path| !wanted.contains_key(*path)) {
        if !owned.iter().any(|m| !is_mine(m) && m.fields.contains(gone)) {
            unset(&mut object, gone);
        }
    }
    for (path, value) in wanted {
        if path.last() == Some(&Step::Itself) {
            make_item(&mut object, &path[..path.len() - 1]);
        } else {
            set(&mut object, path, value);
        }
    }

    let fields: BTreeSet<Path> = wanted.keys().cloned().collect();
    match owned.iter_mut().find(|m| is_mine(m)) {
        Some(mine) if mine.fields == fields && object == *live => {}
        Some(mine) => {
            mine.fields = fields;
            mine.time.clone_from(&manager.time);
        }
        None => owned.push(Manager { fields, ..manager.clone() }),
    }
    owned.retain(|m| !m.fields.is_empty());
    Ok(Outcome { object, managers: owned })
}

fn make_item(object: &mut Value, path: &[Step]) {
    if let (None, Some(Step::Item(key))) = (value_at(object, path), path.last()) {
        let item = serde_json::from_str(key).unwrap_or_default();
        set(object, path, &item);
    }
}

/// After an update: the changed leaves are the updater's now.
pub(crate) fn update(
    managers: &[Manager],
    updater: &Manager,
    before: &Value,
    after: &Value,
) -> Vec<Manager> {
    let (old, new) = (leaves(before), leaves(after));
    let changed: BTreeSet<Path> = new
        .iter()
        .filter(|(path, value)| old.get(*path) != Some(*value))
        .map(|(path, _)| path.clone())
        .collect();
    let mut owned = managers.to_vec();
    for manager in &mut owned {
        manager.fields.retain(|path| new.contains_key(path) && !changed.contains(path));
    }
    if !changed.is_empty() {
        let mine = owned.iter_mut().find(|m| {
            m.name == updater.name
                && m.operation == updater.operation
                && m.subresource == updater.subresource
        });
        match mine {
            Some(mine) => {
                mine.fields.extend(changed);
                mine.time.clone_from(&updater.time);
            }
            None => owned.push(Manager { fields: changed, ..updater.clone() }),
        }
    }
    owned.retain(|m| !m.fields.is_empty());
    owned
}
