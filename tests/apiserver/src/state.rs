//! The objects, their history, and the verbs on them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    catalog::{self, Resource},
    ownership::{self, Manager, Outcome},
    schema,
    status::{Failure, Target},
};

/// Where an object is kept: group, plural, namespace (empty for the cluster's), name.
pub(crate) type Key = (String, String, String, String);

#[derive(Debug, Clone)]
struct Stored {
    object: Value,
    managers: Vec<Manager>,
}

/// One step of history; `after` is none for a deletion.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) resource: &'static Resource,
    pub(crate) before: Option<Value>,
    pub(crate) after: Option<Value>,
    /// As the deleted object is told.
    pub(crate) last: Option<Value>,
}

/// How a write is to be done.
#[derive(Debug, Clone, Default)]
pub(crate) struct Write {
    pub(crate) manager: String,
    pub(crate) dry_run: bool,
    pub(crate) force: bool,
    pub(crate) status: bool,
}

/// Everything the server remembers.
#[derive(Debug, Default)]
pub(crate) struct State {
    version: u64,
    /// Watches from before this version are told 410.
    oldest: u64,
    uids: u64,
    /// Pods on nodes end when their kubelet says so.
    pub(crate) has_kubelets: bool,
    objects: BTreeMap<Key, Stored>,
    history: Vec<Change>,
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn key(resource: &Resource, namespace: &str, name: &str) -> Key {
    (resource.group.clone(), resource.plural.clone(), namespace.to_owned(), name.to_owned())
}

fn target<'a>(resource: &'a Resource, name: &'a str) -> Target<'a> {
    Target { group: &resource.group, resource: &resource.plural, name }
}

impl State {
    pub(crate) fn new() -> Self {
        Self { version: 100, oldest: 1, ..Self::default() }
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn oldest(&self) -> u64 {
        self.oldest
    }

    /// Forgets history, so that watches and exact lists from before are told 410.
    pub(crate) fn compact(&mut self) {
        self.version += 1;
        self.oldest = self.version;
        self.history.clear();
    }

    pub(crate) fn since(&self, version: u64) -> impl Iterator<Item = &Change> {
        let from = self.history.partition_point(|change| change.version <= version);
        self.history[from..].iter()
    }

    fn rendered(stored: &Stored) -> Value {
        let mut object = stored.object.clone();
        if !stored.managers.is_empty() {
            object["metadata"]["managedFields"] =
                stored.managers.iter().map(Manager::to_json).collect();
        }
        object
    }

    pub(crate) fn get(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Value, Failure> {
        self.objects
            .get(&key(resource, namespace, name))
            .map(Self::rendered)
            .ok_or_else(|| Failure::not_found(&target(resource, name)))
    }

    /// All of a kind, in one namespace or (empty) everywhere.
    pub(crate) fn list(&self, resource: &Resource, namespace: &str) -> Vec<Value> {
        self.objects
            .iter()
            .filter(|((group, plural, of, _), _)| {
                *group == resource.group
                    && *plural == resource.plural
                    && (namespace.is_empty() || of == namespace)
            })
            .map(|(_, stored)| Self::rendered(stored))
            .collect()
    }

    fn namespace_exists(&self, resource: &Resource, namespace: &str) -> Result<(), Failure> {
        if !resource.namespaced {
            return Ok(());
        }
        let exists = self.objects.contains_key(&(
            String::new(),
            "namespaces".to_owned(),
            String::new(),
            namespace.to_owned(),
        ));
        if exists {
            Ok(())
        } else {
            Err(Failure::not_found(&Target { group: "", resource: "namespaces", name: namespace }))
        }
    }

    fn manager(resource: &Resource, write: &Write, operation: &'static str) -> Manager {
        Manager {
            name: write.manager.clone(),
            operation,
            subresource: write.status.then_some("status"),
            api_version: resource.api_version(),
            time: now(),
            fields: std::collections::BTreeSet::default(),
        }
    }

    fn stamp_new(&mut self, resource: &Resource, namespace: &str, object: &mut Value) {
        self.uids += 1;
        object["apiVersion"] = json!(resource.api_version());
        object["kind"] = json!(resource.kind);
        let metadata = &mut object["metadata"];
        metadata["uid"] = json!(format!("00000000-0000-4000-8000-{:012x}", self.uids));
        metadata["creationTimestamp"] = json!(now());
        if resource.namespaced {
            metadata["namespace"] = json!(namespace);
        }
        if matches!(resource.kind.as_str(), "DaemonSet" | "Deployment" | "Pod") {
            metadata["generation"] = json!(1);
        }
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.remove("managedFields");
        }
    }

    /// Keeps what is new and tells history. A dry run only renders.
    fn keep(
        &mut self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        mut stored: Stored,
        dry_run: bool,
    ) -> Value {
        if dry_run {
            return Self::rendered(&stored);
        }
        let key = key(resource, namespace, name);
        let before = self.objects.get(&key).map(Self::rendered);
        self.version += 1;
        stored.object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let after = Self::rendered(&stored);
        self.objects.insert(key, stored);
        self.history.push(Change {
            version: self.version,
            resource,
            before,
            after: Some(after.clone()),
            last: None,
        });
        after
    }

    pub(crate) fn create(
        &mut self,
        resource: &'static Resource,
        namespace: &str,
        mut object: Value,
        write: &Write,
    ) -> Result<Value, Failure> {
        self.namespace_exists(resource, namespace)?;
        if object["metadata"]["name"].as_str().is_none_or(str::is_empty) {
            let prefix = object["metadata"]["generateName"].as_str().unwrap_or_default();
            object["metadata"]["name"] = json!(format!("{prefix}{}", suffix(self.uids + 1)));
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if self.objects.contains_key(&key(resource, namespace, &name)) {
            return Err(Failure::already_exists(&target(resource, &name)));
        }
        schema::fill_in(resource, &mut object);
        schema::validate(resource, None, &object)?;
        self.stamp_new(resource, namespace, &mut object);
        let updater = Self::manager(resource, write, "Update");
        let managers = ownership::update(&[], &updater, &json!({}), &object);
        let stored = Stored { object, managers };
        Ok(self.keep(resource, namespace, &name, stored, write.dry_run))
    }

    /// Replaces, or (with a merge) patches.
    pub(crate) fn update(
        &mut self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        write: &Write,
        change: impl FnOnce(&mut Value),
    ) -> Result<Value, Failure> {
        let stored = self
            .objects
            .get(&key(resource, namespace, name))
            .cloned()
            .ok_or_else(|| Failure::not_found(&target(resource, name)))?;
        let mut object = stored.object.clone();
        change(&mut object);
        let asked = object["metadata"]["resourceVersion"].clone();
        if asked.is_string() && asked != stored.object["metadata"]["resourceVersion"] {
            return Err(Failure::stale(&target(resource, name)));
        }
        for fixed in
            ["name", "namespace", "uid", "creationTimestamp", "generation", "resourceVersion"]
        {
            let value = stored.object["metadata"][fixed].clone();
            if !value.is_null() {
                object["metadata"][fixed] = value;
            }
        }
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
        schema::fill_in(resource, &mut object);
        if !write.status {
            schema::validate(resource, Some(&stored.object), &object)?;
        }
        if object == stored.object {
            return Ok(Self::rendered(&stored));
        }
        next_generation(&stored.object, &mut object);
        let updater = Self::manager(resource, write, "Update");
        let managers = ownership::update(&stored.managers, &updater, &stored.object, &object);
        Ok(self.keep(resource, namespace, name, Stored { object, managers }, write.dry_run))
    }

    /// Server-side apply. Returns whether it was created, and the object.
    pub(crate) fn apply(
        &mut self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        wanted: &Value,
        write: &Write,
    ) -> Result<(bool, Value), Failure> {
        self.namespace_exists(resource, namespace)?;
        let manager = Self::manager(resource, write, "Apply");
        let existing = self.objects.get(&key(resource, namespace, name)).cloned();
        let (live, managers) = match &existing {
            Some(stored) => (stored.object.clone(), stored.managers.clone()),
            None => (json!({"metadata": {"name": name}}), Vec::new()),
        };
        let leaves = ownership::leaves(wanted);
        let Outcome { mut object, managers: owned } =
            ownership::apply(&live, &managers, &manager, &leaves, write.force)
                .map_err(|conflicts| Failure::conflicts(&conflicts))?;
        schema::fill_in(resource, &mut object);
        let before = existing.as_ref().map(|stored| &stored.object);
        schema::validate(resource, before, &object)?;
        let Some(before) = existing else {
            self.stamp_new(resource, namespace, &mut object);
            let stored = Stored { object, managers: owned };
            return Ok((true, self.keep(resource, namespace, name, stored, write.dry_run)));
        };
        if object == before.object && owned == before.managers {
            return Ok((false, Self::rendered(&before)));
        }
        next_generation(&before.object, &mut object);
        let stored = Stored { object, managers: owned };
        Ok((false, self.keep(resource, namespace, name, stored, write.dry_run)))
    }

    pub(crate) fn delete(
        &mut self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        dry_run: bool,
    ) -> Result<Value, Failure> {
        let stored = self.get(resource, namespace, name)?;
        if dry_run {
            return Ok(stored);
        }
        if self.has_kubelets && resource.kind == "Pod" && !stored["spec"]["nodeName"].is_null() {
            return self.mark_deleted(resource, namespace, name);
        }
        self.remove(resource, namespace, name)
    }

    /// As after `kubectl delete`: the pod is there until its kubelet says that it has ended.
    fn mark_deleted(
        &mut self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Value, Failure> {
        let stored = self.get(resource, namespace, name)?;
        if !stored["metadata"]["deletionTimestamp"].is_null() {
            return Ok(stored);
        }
        let grace = stored["spec"]["terminationGracePeriodSeconds"].clone();
        let write = Write { manager: "kubectl".into(), status: true, ..Write::default() };
        self.update(resource, namespace, name, &write, |pod| {
            pod["metadata"]["deletionTimestamp"] = json!(now());
            pod["metadata"]["deletionGracePeriodSeconds"] = grace;
        })
    }

    /// Takes it away at once.
    pub(crate) fn remove(
        &mut self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Value, Failure> {
        let stored = self.get(resource, namespace, name)?;
        let mut last = stored.clone();
        self.objects.remove(&key(resource, namespace, name));
        self.version += 1;
        last["metadata"]["deletionTimestamp"] = json!(now());
        last["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        last["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.history.push(Change {
            version: self.version,
            resource,
            before: Some(stored),
            after: None,
            last: Some(last.clone()),
        });
        if resource.kind == "Namespace" {
            last["status"]["phase"] = json!("Terminating");
            self.empty_namespace(name);
        }
        self.collect_orphans(&last["metadata"]["uid"]);
        Ok(last)
    }

    fn empty_namespace(&mut self, namespace: &str) {
        let inside: Vec<Key> = self.objects.keys().filter(|k| k.2 == namespace).cloned().collect();
        self.delete_all(&inside);
    }

    fn collect_orphans(&mut self, owner: &Value) {
        let owned_by = |stored: &Stored| {
            let owners = stored.object["metadata"]["ownerReferences"].as_array();
            owners.is_some_and(|owners| owners.iter().any(|o| o["uid"] == *owner))
        };
        let orphans: Vec<Key> = self
            .objects
            .iter()
            .filter(|(_, stored)| owned_by(stored))
            .map(|(key, _)| key.clone())
            .collect();
        self.delete_all(&orphans);
    }

    fn delete_all(&mut self, keys: &[Key]) {
        for (group, plural, namespace, name) in keys {
            let resource =
                catalog::resources().iter().find(|r| r.group == *group && r.plural == *plural);
            if let Some(resource) = resource {
                // Another deletion may have taken it along.
                let _ = self.delete(resource, namespace, name, false);
            }
        }
    }
}

fn next_generation(before: &Value, object: &mut Value) {
    if before["spec"] == object["spec"] {
        return;
    }
    if let Some(generation) = before["metadata"]["generation"].as_u64() {
        object["metadata"]["generation"] = json!(generation + 1);
        if object["kind"] == "DaemonSet" && before["spec"]["template"] != object["spec"]["template"]
        {
            object["metadata"]["annotations"]["deprecated.daemonset.template.generation"] =
                json!((generation + 1).to_string());
        }
    }
}

/// Five letters as the server makes them up, here by counting.
fn suffix(count: u64) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rest = count;
    let mut text = String::new();
    for _ in 0..5 {
        let index = usize::try_from(rest % 27).unwrap_or_default();
        text.push(char::from(LETTERS[index]));
        rest /= 27;
    }
    text
}

/// RFC 7386.
pub(crate) fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    let Value::Object(members) = object else { return };
    for (name, value) in changes {
        if value.is_null() {
            members.remove(name);
        } else {
            merge(members.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}
