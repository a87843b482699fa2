//! Server-side apply of a list of objects.

use std::collections::HashMap;

use http::{
    HeaderMap, Request,
    header::{ACCEPT, CONTENT_TYPE, WARNING},
};
use kube::{
    Client, Resource,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    client::Body,
    core::Status,
    discovery::{self, Scope},
};
use serde_json::Value;

use crate::{Access, ClusterError, access::right, clean, error::Right, names};

/// How to apply.
#[derive(Debug, Clone, Copy, Default)]
pub struct ApplyOptions {
    /// The server checks and answers, and keeps nothing.
    pub dry_run: bool,
    /// Take fields that others manage.
    pub force: bool,
}

/// What came of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was not there.
    Created,
    /// It was there, otherwise.
    Changed,
    /// It was there just so.
    Unchanged,
}

/// An object, applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// `DaemonSet` …
    pub kind: String,
    /// None for the cluster's own.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// What came of it.
    pub change: Change,
    /// Its `metadata.resourceVersion` now.
    pub version: String,
    /// What the server warned of: Pod Security tells here that pods will be refused.
    pub warnings: Vec<String>,
}

/// Objects as they are applied.
///
/// # Errors
/// [`ClusterError::Nameless`] for one that is none.
pub fn objects(values: &[Value]) -> Result<Vec<DynamicObject>, ClusterError> {
    let object = |(index, value): (usize, &Value)| {
        serde_json::from_value(value.clone())
            .map_err(|_| ClusterError::Nameless { index, what: "metadata" })
    };
    values.iter().enumerate().map(object).collect()
}

/// Applies objects as field manager `kuberewind`: first what others need, the daemonset last.
/// `applied` hears of each as it is done; objects without a namespace go into `namespace`.
///
/// # Errors
/// The first object that the server does not take; those before it stay.
pub async fn apply(
    access: &Access,
    namespace: &str,
    objects: &[DynamicObject],
    options: ApplyOptions,
    mut applied: impl FnMut(&Applied),
) -> Result<(), ClusterError> {
    let mut kinds = HashMap::new();
    let mut sorted: Vec<(usize, &DynamicObject)> = objects.iter().enumerate().collect();
    sorted.sort_by_key(|(index, object)| (rank(object), *index));
    let mut places = Vec::new();
    for (index, object) in sorted {
        // All kinds are looked up first: one that the cluster does not know leaves nothing half done.
        places.push((Place::of(access, &mut kinds, index, namespace, object).await?, object));
    }
    for (place, object) in places {
        let done = place.apply(access, object, options).await?;
        applied(&done);
    }
    Ok(())
}

/// Takes away objects that an earlier `tap` applied and this one does not; those of others stay.
/// `removed` hears of each that was there.
///
/// # Errors
/// The first object that the server does not give up.
pub async fn remove(
    access: &Access,
    namespace: &str,
    objects: &[DynamicObject],
    mut removed: impl FnMut(&str, &str),
) -> Result<(), ClusterError> {
    let mut kinds = HashMap::new();
    for (index, object) in objects.iter().enumerate() {
        let place = match Place::of(access, &mut kinds, index, namespace, object).await {
            // Its objects went with the kind.
            Err(ClusterError::UnknownKind { .. }) => continue,
            place => place?,
        };
        let Some(before) = place.before(access).await? else {
            continue;
        };
        let found: Option<DynamicObject> = serde_json::from_value(before).ok();
        if found.is_some_and(|found| clean::ours(&found.metadata).is_ok()) {
            place.delete(access).await?;
            removed(&place.resource.kind, &place.name);
        }
    }
    Ok(())
}

/// Namespaces and accounts before rights, rights before settings, what runs last.
fn rank(object: &DynamicObject) -> u8 {
    match object.types.as_ref().map_or("", |types| types.kind.as_str()) {
        "Namespace" => 0,
        "CustomResourceDefinition" | "PriorityClass" => 1,
        "ServiceAccount" => 2,
        "ClusterRole" | "Role" => 3,
        "ClusterRoleBinding" | "RoleBinding" => 4,
        "ConfigMap" | "Secret" => 5,
        "DaemonSet" | "Deployment" | "Job" => 9,
        _ => 6,
    }
}

/// Where an object goes.
struct Place {
    resource: ApiResource,
    namespace: Option<String>,
    name: String,
}

type Kinds = HashMap<GroupVersionKind, (ApiResource, Scope)>;

impl Place {
    async fn of(
        access: &Access,
        kinds: &mut Kinds,
        index: usize,
        namespace: &str,
        object: &DynamicObject,
    ) -> Result<Self, ClusterError> {
        let types = object.types.as_ref();
        let types = types.ok_or(ClusterError::Nameless { index, what: "kind" })?;
        let gvk = GroupVersionKind::try_from(types)
            .map_err(|_| ClusterError::Nameless { index, what: "apiVersion" })?;
        let name = object.metadata.name.clone();
        let name = name.ok_or(ClusterError::Nameless { index, what: "name" })?;
        let (resource, scope) = if let Some(known) = kinds.get(&gvk) {
            known.clone()
        } else {
            let found = find(access, &gvk).await?;
            kinds.entry(gvk).or_insert(found).clone()
        };
        let namespace = match scope {
            Scope::Cluster => None,
            Scope::Namespaced => {
                Some(object.metadata.namespace.clone().unwrap_or_else(|| namespace.to_owned()))
            }
        };
        Ok(Self { resource, namespace, name })
    }

    fn path(&self) -> String {
        let collection = DynamicObject::url_path(&self.resource, self.namespace.as_deref());
        format!("{collection}/{}", self.name)
    }

    fn doing(&self) -> String {
        let namespace = self.namespace.as_ref().map(|n| format!("{n}/")).unwrap_or_default();
        format!("apply {} {namespace}{}", self.resource.kind, self.name)
    }

    fn right(&self, verb: &str) -> Right {
        right(verb, &self.resource.group, &self.resource.plural, self.namespace.as_deref())
    }

    async fn apply(
        &self,
        access: &Access,
        object: &DynamicObject,
        options: ApplyOptions,
    ) -> Result<Applied, ClusterError> {
        let before = self.before(access).await?;
        let mut object = object.clone();
        object.metadata.namespace.clone_from(&self.namespace);
        let mut path =
            format!("{}?fieldManager={}&fieldValidation=Strict", self.path(), names::FIELD_MANAGER);
        if options.force {
            path += "&force=true";
        }
        if options.dry_run {
            path += "&dryRun=All";
        }
        let body = serde_json::to_vec(&object).map_err(|error| self.unreadable(error))?;
        let request = Request::patch(path)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/apply-patch+yaml")
            .body(Body::from(body));
        let request = request.map_err(|error| {
            access.explain(&self.doing(), self.right("patch"), error.into_kube())
        })?;
        let (code, headers, text) = exchange(access.client(), request)
            .await
            .map_err(|error| access.explain(&self.doing(), self.right("patch"), error))?;
        if code >= 300 {
            return Err(access.explain_status(
                self.doing(),
                self.lacking(&text),
                &failure(code, &text),
            ));
        }
        let after: Value = serde_json::from_str(&text).map_err(|error| self.unreadable(error))?;
        let change = match before {
            _ if code == 201 => Change::Created,
            Some(before) if same(&before, &after) => Change::Unchanged,
            _ => Change::Changed,
        };
        Ok(Applied {
            kind: self.resource.kind.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            change,
            version: after["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned(),
            warnings: warnings(&headers),
        })
    }

    /// The object as it is; none if it is not there, or if we may not look.
    async fn before(&self, access: &Access) -> Result<Option<Value>, ClusterError> {
        let request =
            Request::get(self.path()).header(ACCEPT, "application/json").body(Body::empty());
        let request = request
            .map_err(|error| access.explain(&self.doing(), self.right("get"), error.into_kube()))?;
        let (code, _, text) = exchange(access.client(), request)
            .await
            .map_err(|error| access.explain(&self.doing(), self.right("get"), error))?;
        match code {
            200 => Ok(Some(serde_json::from_str(&text).map_err(|error| self.unreadable(error))?)),
            403 | 404 => Ok(None),
            _ => Err(access.explain_status(self.doing(), self.right("get"), &failure(code, &text))),
        }
    }

    async fn delete(&self, access: &Access) -> Result<(), ClusterError> {
        let doing = format!("remove {} {}", self.resource.kind, self.name);
        let told = |error| access.explain(&doing, self.right("delete"), error);
        let request = Request::delete(self.path()).header(ACCEPT, "application/json");
        let request = request.body(Body::empty()).map_err(|error| told(error.into_kube()))?;
        let (code, _, text) = exchange(access.client(), request).await.map_err(told)?;
        if code < 300 || code == 404 {
            return Ok(());
        }
        let right = self.right("delete");
        Err(access.explain_status(doing.clone(), right, &failure(code, &text)))
    }

    /// Creating by apply needs `create` besides `patch`, and RBAC objects only pass on rights that one
    /// has: the server's words say which verb it was.
    fn lacking(&self, text: &str) -> Right {
        let verb = text.split(" cannot ").nth(1).and_then(|rest| rest.split_whitespace().next());
        self.right(verb.unwrap_or("patch"))
    }

    fn unreadable(&self, error: serde_json::Error) -> ClusterError {
        ClusterError::Answer {
            doing: self.doing(),
            source: Box::new(kube::Error::SerdeError(error)),
        }
    }
}

trait IntoKube {
    fn into_kube(self) -> kube::Error;
}

impl IntoKube for http::Error {
    fn into_kube(self) -> kube::Error {
        kube::Error::HttpError(self)
    }
}

async fn find(
    access: &Access,
    gvk: &GroupVersionKind,
) -> Result<(ApiResource, Scope), ClusterError> {
    let (resource, capabilities) =
        discovery::pinned_kind(access.client(), gvk).await.map_err(|error| {
            // A group that is not there is a 404, a kind that is not in it is none of the server's errors.
            let unknown = match &error {
                kube::Error::Api(status) => status.code == 404,
                kube::Error::Discovery(_) => true,
                _ => false,
            };
            if unknown {
                return ClusterError::UnknownKind {
                    kind: gvk.kind.clone(),
                    api_version: gvk.api_version(),
                };
            }
            let doing = format!("ask whether the cluster knows {} {}", gvk.api_version(), gvk.kind);
            access.explain(&doing, right("get", "", "/apis", None), error)
        })?;
    Ok((resource, capabilities.scope))
}

async fn exchange(
    client: &Client,
    request: Request<Body>,
) -> Result<(u16, HeaderMap, String), kube::Error> {
    let response = client.send(request).await?;
    let (head, body) = response.into_parts();
    let bytes = body.collect_bytes().await?;
    Ok((head.status.as_u16(), head.headers, String::from_utf8_lossy(&bytes).into_owned()))
}

fn failure(code: u16, text: &str) -> Status {
    let parsed = serde_json::from_str::<Status>(text);
    let mut status = parsed.unwrap_or_else(|_| Status::failure(text.trim(), ""));
    status.code = code;
    status
}

/// A dry run keeps the version and may still differ; a write that changed nothing keeps it, too.
fn same(before: &Value, after: &Value) -> bool {
    let bare = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object["metadata"].as_object_mut() {
            for stamp in ["managedFields", "resourceVersion", "generation"] {
                metadata.remove(stamp);
            }
        }
        if let Some(members) = object.as_object_mut() {
            members.remove("status");
        }
        object
    };
    bare(before) == bare(after)
}

/// The texts of `299 - "…"`.
fn warnings(headers: &HeaderMap) -> Vec<String> {
    headers
        .get_all(WARNING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .map(|value| match value.split_once('"') {
            Some((_, text)) => text.trim_end().trim_end_matches('"').replace("\\\"", "\""),
            None => value.to_owned(),
        })
        .collect()
}
