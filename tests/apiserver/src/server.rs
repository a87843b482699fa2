//! Requests and their answers.

use std::{io, sync::Arc, time::Duration};

use http_body_util::BodyExt;
use hyper::{
    Method, Request,
    body::Incoming,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use serde_json::{Value, json};

use crate::{
    Shared,
    body::{self, Answer},
    catalog::{self, Resource},
    control::{Command, Wrong},
    openapi, portforward, protobuf,
    rights::{Ask, User},
    schema,
    select::Selector,
    state::{self, Write},
    status::{Failure, Target},
    watch,
};

/// A path taken apart.
struct Place {
    resource: &'static Resource,
    namespace: String,
    /// Empty for a collection.
    name: String,
    subresource: String,
}

struct Asked {
    method: Method,
    query: Vec<(String, String)>,
    accept: String,
    content_type: String,
    agent: String,
    user: User,
}

impl Asked {
    fn parameter(&self, name: &str) -> &str {
        let found = self.query.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value.as_str())
    }

    fn is(&self, name: &str) -> bool {
        matches!(self.parameter(name), "1" | "true" | "True")
    }

    fn write(&self, status: bool) -> Write {
        let manager = self.parameter("fieldManager");
        let default = self.agent.split('/').next().unwrap_or_default();
        Write {
            manager: if manager.is_empty() { default } else { manager }.to_owned(),
            dry_run: self.parameter("dryRun") == "All",
            force: self.is("force"),
            status,
        }
    }
}

/// Answers one request; an error breaks the connection off.
pub(crate) async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> io::Result<Answer> {
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str()).to_owned();
    if request.uri().path().starts_with("/control") {
        return Ok(control(&shared, request).await);
    }
    let fault = {
        let mut settings = shared.settings();
        settings.requests.push(format!("{} {path}", request.method()));
        settings.fault(request.method().as_str(), &path)
    };
    match fault {
        Some(Wrong::Drop) => return Err(io::ErrorKind::ConnectionReset.into()),
        Some(Wrong::Internal { message }) => {
            return Ok(body::failure(&Failure::internal(&message)));
        }
        Some(Wrong::TooMany { retry_after }) => {
            return Ok(body::failure(&Failure::too_many_requests(retry_after)));
        }
        Some(Wrong::Delay { ms }) => tokio::time::sleep(Duration::from_millis(ms)).await,
        None => {}
    }
    Ok(route(&shared, request).await.unwrap_or_else(|failure| body::failure(&failure)))
}

async fn control(shared: &Arc<Shared>, request: Request<Incoming>) -> Answer {
    if request.method() == Method::GET {
        let requests = shared.settings().requests.clone();
        return body::json(200, &json!(requests));
    }
    let Ok(bytes) = request.into_body().collect().await else {
        return body::empty(400);
    };
    match serde_json::from_slice::<Command>(&bytes.to_bytes()) {
        Ok(command) => match shared.control(command) {
            Ok(()) => body::json(200, &json!({})),
            Err(failure) => body::failure(&failure),
        },
        Err(error) => body::failure(&Failure::bad_request(&error.to_string())),
    }
}

async fn route(shared: &Arc<Shared>, request: Request<Incoming>) -> Result<Answer, Failure> {
    let header = |name| {
        let value: Option<&HeaderValue> = request.headers().get(name);
        value.and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
    };
    let user = shared.user(&header(AUTHORIZATION)).ok_or_else(Failure::unauthorized)?;
    let asked = Asked {
        method: request.method().clone(),
        query: query(request.uri().query().unwrap_or_default()),
        accept: header(ACCEPT),
        content_type: header(CONTENT_TYPE),
        agent: header(hyper::header::USER_AGENT),
        user,
    };
    let path = request.uri().path().to_owned();
    if matches!(path.as_str(), "/healthz" | "/livez" | "/readyz") {
        return Err(Failure::text(200, "ok"));
    }
    if let Some(found) = catalog::discovery(&path, &asked.accept) {
        return found.map(|document| body::discovery(&document));
    }
    if let Some(document) = openapi::document(&path) {
        return Ok(body::json(200, &document));
    }
    let place = place(&path).ok_or_else(|| Failure::text(404, "404 page not found\n"))?;
    authorize(&asked, &place)?;
    if place.subresource == "portforward" {
        return portforward::upgrade(
            shared,
            request,
            &asked.user,
            &place.namespace,
            &place.name,
            &asked.query,
        );
    }
    if asked.method == Method::GET {
        return read(shared, &asked, &place);
    }
    let bytes =
        request.into_body().collect().await.map_err(|e| Failure::bad_request(&e.to_string()))?;
    write(shared, &asked, &place, &bytes.to_bytes())
}

fn query(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (unescaped(name), unescaped(value)))
        .collect()
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = match (first, after) {
            (b'%', [high, low, ..]) => std::str::from_utf8(&[*high, *low])
                .ok()
                .and_then(|hex| u8::from_str_radix(hex, 16).ok()),
            _ => None,
        };
        bytes.push(match (hex, first) {
            (Some(byte), _) => byte,
            (None, b'+') => b' ',
            (None, byte) => *byte,
        });
        rest = if hex.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn place(path: &str) -> Option<Place> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..]
            if !rest.is_empty() && !matches!(rest[0], "status" | "finalize") =>
        {
            (*namespace, rest)
        }
        rest => ("", rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (*plural, "", ""),
        [plural, name] => (*plural, *name, ""),
        [plural, name, subresource] => (*plural, *name, *subresource),
        _ => return None,
    };
    Some(Place {
        resource: catalog::find(group, version, plural)?,
        namespace: unescaped(namespace),
        name: unescaped(name),
        subresource: subresource.to_owned(),
    })
}

fn target(place: &Place) -> Target<'_> {
    Target { group: &place.resource.group, resource: &place.resource.plural, name: &place.name }
}

fn authorize(asked: &Asked, place: &Place) -> Result<(), Failure> {
    // Everybody may ask about themselves.
    if matches!(place.resource.group.as_str(), "authorization.k8s.io" | "authentication.k8s.io") {
        return Ok(());
    }
    let verb = match (&asked.method, place.name.is_empty()) {
        (&Method::GET, true) if asked.is("watch") => "watch",
        (&Method::GET, true) => "list",
        (&Method::GET, false) => "get",
        (&Method::POST, _) => "create",
        (&Method::PUT, _) => "update",
        (&Method::PATCH, _) => "patch",
        (&Method::DELETE, true) => "deletecollection",
        (&Method::DELETE, false) => "delete",
        _ => "unknown",
    };
    let plural = &place.resource.plural;
    // A namespace is in itself, to the authorizer.
    let namespace = if plural == "namespaces" { &place.name } else { &place.namespace };
    let ask = Ask {
        verb,
        group: &place.resource.group,
        resource: if place.subresource.is_empty() {
            plural.clone()
        } else {
            format!("{plural}/{}", place.subresource)
        },
        namespace,
    };
    if asked.user.may(&ask) {
        Ok(())
    } else {
        Err(Failure::forbidden(&target(place), &asked.user.refusal(&ask)))
    }
}

fn read(shared: &Arc<Shared>, asked: &Asked, place: &Place) -> Result<Answer, Failure> {
    if !place.name.is_empty() {
        let object = shared.state().get(place.resource, &place.namespace, &place.name)?;
        return Ok(body::json(200, &object));
    }
    let selector =
        Selector::parse(asked.parameter("fieldSelector"), asked.parameter("labelSelector"));
    if asked.is("watch") {
        let timeout = asked.parameter("timeoutSeconds").parse().ok();
        return watch::start(
            shared.clone(),
            watch::Asked {
                resource: place.resource,
                namespace: place.namespace.clone(),
                selector,
                version: asked.parameter("resourceVersion").to_owned(),
                initial_events: asked.is("sendInitialEvents"),
                version_match: asked.parameter("resourceVersionMatch").to_owned(),
                bookmarks: asked.is("allowWatchBookmarks"),
                timeout: timeout.filter(|s| *s > 0).map(Duration::from_secs),
            },
        );
    }
    list(shared, asked, place, &selector)
}

fn list(
    shared: &Shared,
    asked: &Asked,
    place: &Place,
    selector: &Selector,
) -> Result<Answer, Failure> {
    let state = shared.state();
    let version = watch::parse_version(asked.parameter("resourceVersion"))?;
    if let Some(version) = version {
        if version > state.version() {
            return Err(Failure::from_the_future(version, state.version()));
        }
        if asked.parameter("resourceVersionMatch") == "Exact" && version < state.oldest() {
            let message = "The resourceVersion for the provided list is too old.";
            return Err(Failure::expired(message));
        }
    }
    let mut items = state.list(place.resource, &place.namespace);
    items.retain(|object| selector.matches(object));
    let table = asked.accept.contains("as=PartialObjectMetadataList");
    for item in items.iter_mut().filter_map(Value::as_object_mut) {
        if table {
            item.retain(|name, _| name == "metadata");
        } else {
            item.remove("kind");
            item.remove("apiVersion");
        }
    }
    let (kind, api_version) = if table {
        ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned())
    } else {
        (format!("{}List", place.resource.kind), place.resource.api_version())
    };
    // Pages, by position: good enough while nothing changes between two.
    let limit = asked.parameter("limit").parse::<usize>().unwrap_or(0);
    let skip = asked.parameter("continue").parse::<usize>().unwrap_or(0);
    let total = items.len();
    let mut page: Vec<Value> = items.into_iter().skip(skip).collect();
    let mut metadata = json!({"resourceVersion": state.version().to_string()});
    if limit > 0 && page.len() > limit {
        page.truncate(limit);
        metadata["continue"] = json!((skip + limit).to_string());
        metadata["remainingItemCount"] = json!(total - skip - limit);
    }
    Ok(body::json(
        200,
        &json!({"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": page}),
    ))
}

fn write(shared: &Shared, asked: &Asked, place: &Place, bytes: &[u8]) -> Result<Answer, Failure> {
    match place.resource.kind.as_str() {
        "SelfSubjectAccessReview" => return review(&asked.user, &parse_json(bytes)?),
        "SelfSubjectReview" => return Ok(body::json(201, &whoami(&asked.user))),
        _ => {}
    }
    if place.name.is_empty() && !matches!(asked.method, Method::POST | Method::DELETE) {
        return Err(Failure::text(405, "405 method not allowed\n"));
    }
    let status = place.subresource == "status";
    let (resource, namespace, name) =
        (place.resource, place.namespace.as_str(), place.name.as_str());
    let write = asked.write(status);
    let (code, object) = match asked.method {
        Method::POST => (201, create(shared, place, object(asked, bytes)?, &write)?),
        Method::DELETE => (200, shared.state().delete(resource, namespace, name, write.dry_run)?),
        Method::PUT => {
            let wanted = object(asked, bytes)?;
            let replaced = shared.state().update(resource, namespace, name, &write, |object| {
                replace(object, &wanted, status);
            })?;
            (200, replaced)
        }
        Method::PATCH if asked.content_type.starts_with("application/apply-patch") => {
            let (created, object) = apply(shared, asked, place, bytes, &write)?;
            (if created { 201 } else { 200 }, object)
        }
        Method::PATCH => {
            let patch = parse_json(bytes)?;
            let patched = shared.state().update(resource, namespace, name, &write, |object| {
                state::merge(object, &patch);
            })?;
            (200, patched)
        }
        _ => return Err(Failure::text(405, "405 method not allowed\n")),
    };
    if !write.dry_run {
        shared.settle();
    }
    let mut answer = body::json(code, &object);
    if asked.method != Method::DELETE {
        warn(shared, &mut answer, &object);
    }
    Ok(answer)
}

/// A whole object, in the language that the client says.
fn object(asked: &Asked, bytes: &[u8]) -> Result<Value, Failure> {
    match asked.content_type.as_str() {
        "application/vnd.kubernetes.protobuf" => protobuf::secret(bytes),
        _ => parse_json(bytes),
    }
}

fn parse_json(bytes: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(bytes)
        .map_err(|error| Failure::bad_request(&format!("error decoding JSON: {error}")))
}

fn create(shared: &Shared, place: &Place, object: Value, write: &Write) -> Result<Value, Failure> {
    if place.resource.kind == "Pod"
        && let Some(level) = level(shared, &place.namespace, "enforce")
        && let Some(violations) = schema::violations(&level, &object["spec"])
    {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let target = Target { name, ..target(place) };
        let why = format!("violates PodSecurity \"{level}:latest\": {violations}");
        return Err(Failure::forbidden(&target, &why));
    }
    shared.state().create(place.resource, &place.namespace, object, write)
}

fn replace(object: &mut Value, wanted: &Value, status: bool) {
    if status {
        object["status"] = wanted["status"].clone();
        return;
    }
    let old_status = object["status"].clone();
    *object = wanted.clone();
    if !old_status.is_null() {
        object["status"] = old_status;
    }
}

fn apply(
    shared: &Shared,
    asked: &Asked,
    place: &Place,
    bytes: &[u8],
    write: &Write,
) -> Result<(bool, Value), Failure> {
    if asked.parameter("fieldManager").is_empty() {
        let required = "Required value: is required for apply patch".to_owned();
        let causes = [("FieldValueRequired", required, "fieldManager")];
        return Err(Failure::invalid("meta.k8s.io", "PatchOptions", "", &causes));
    }
    let text = String::from_utf8_lossy(bytes);
    let object: Value = serde_saphyr::from_str(&text).map_err(|error| {
        Failure::bad_request(&format!(
            "error decoding YAML: error converting YAML to JSON: yaml: {error}"
        ))
    })?;
    let (api_version, kind) = (&object["apiVersion"], &object["kind"]);
    if *api_version != place.resource.api_version().as_str()
        || *kind != place.resource.kind.as_str()
    {
        let message = format!("the object's {api_version} {kind} does not match the URL");
        return Err(Failure::bad_request(&message));
    }
    let name = object["metadata"]["name"].as_str().unwrap_or(&place.name);
    if name != place.name {
        return Err(Failure::bad_request(&format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            place.name
        )));
    }
    schema::check(place.resource, &object)?;
    shared.state().apply(place.resource, &place.namespace, &place.name, &object, write)
}

fn level(shared: &Shared, namespace: &str, mode: &str) -> Option<String> {
    let resource = catalog::find("", "v1", "namespaces")?;
    let namespace = shared.state().get(resource, "", namespace).ok()?;
    let label = &namespace["metadata"]["labels"][format!("pod-security.kubernetes.io/{mode}")];
    label.as_str().map(str::to_owned)
}

/// Pod Security's warnings for workloads: by the `warn` label, or else what `enforce` will refuse.
fn warn(shared: &Shared, answer: &mut Answer, object: &Value) {
    let spec = match object["kind"].as_str() {
        Some("DaemonSet" | "Deployment") => &object["spec"]["template"]["spec"],
        Some("Pod") => &object["spec"],
        _ => return,
    };
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let levels = ["warn", "enforce"].into_iter().filter_map(|mode| level(shared, namespace, mode));
    for level in levels {
        let Some(violations) = schema::violations(&level, spec) else {
            continue;
        };
        let text = format!("would violate PodSecurity \"{level}:latest\": {violations}")
            .replace('"', "\\\"");
        if let Ok(warning) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            answer.headers_mut().insert("warning", warning);
            return;
        }
    }
}

fn review(user: &User, body: &Value) -> Result<Answer, Failure> {
    let asked = &body["spec"]["resourceAttributes"];
    if !asked.is_object() {
        return Err(Failure::bad_request("only resourceAttributes are reviewed"));
    }
    let word = |name: &str| asked[name].as_str().unwrap_or_default();
    let resource = match word("subresource") {
        "" => word("resource").to_owned(),
        subresource => format!("{}/{subresource}", word("resource")),
    };
    let allowed = user.may(&Ask {
        verb: word("verb"),
        group: word("group"),
        resource,
        namespace: word("namespace"),
    });
    let mut spec = asked.clone();
    if let Some(spec) = spec.as_object_mut() {
        spec.retain(|_, value| *value != "");
    }
    Ok(body::json(
        201,
        &json!({
            "kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "metadata": {},
            "spec": {"resourceAttributes": spec}, "status": {"allowed": allowed},
        }),
    ))
}

fn whoami(user: &User) -> Value {
    json!({
        "kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {},
        "status": {"userInfo": {"username": user.name, "groups": ["system:authenticated"]}},
    })
}
