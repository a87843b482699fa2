//! What the server checks and fills in: fields that the schema knows, defaults, validity.

use k8s_openapi::api::{apps::v1 as apps, core::v1 as core, rbac::v1 as rbac};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{catalog::Resource, status::Failure};

/// Refuses fields that the schema lacks and wrong types, as apply does whatever `fieldValidation` says.
pub(crate) fn check(resource: &Resource, object: &Value) -> Result<(), Failure> {
    let mut object = object.clone();
    quantities_are_text(&mut object);
    let found = match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Namespace") => typed::<core::Namespace>(&object),
        ("", "ServiceAccount") => typed::<core::ServiceAccount>(&object),
        ("", "ConfigMap") => typed::<core::ConfigMap>(&object),
        ("", "Secret") => typed::<core::Secret>(&object),
        ("", "Service") => typed::<core::Service>(&object),
        ("", "Pod") => typed::<core::Pod>(&object),
        ("apps", "DaemonSet") => typed::<apps::DaemonSet>(&object),
        ("apps", "Deployment") => typed::<apps::Deployment>(&object),
        ("rbac.authorization.k8s.io", "Role") => typed::<rbac::Role>(&object),
        ("rbac.authorization.k8s.io", "RoleBinding") => typed::<rbac::RoleBinding>(&object),
        ("rbac.authorization.k8s.io", "ClusterRole") => typed::<rbac::ClusterRole>(&object),
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => {
            typed::<rbac::ClusterRoleBinding>(&object)
        }
        _ => return Ok(()),
    };
    let Err(problem) = found else { return Ok(()) };
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default();
    let whole = match metadata["namespace"].as_str() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => format!("/{name}"),
    };
    Err(Failure::internal(&format!(
        "failed to create typed patch object ({whole}; {}, Kind={}): {problem}",
        resource.api_version(),
        resource.kind
    )))
}

fn typed<T: Serialize + DeserializeOwned>(object: &Value) -> Result<(), String> {
    let known: T = serde_path_to_error::deserialize(object)
        .map_err(|error| format!(".{}: {}", error.path(), error.inner()))?;
    let known = serde_json::to_value(&known).unwrap_or_default();
    match unknown(object, &known, "") {
        Some(path) => Err(format!("{path}: field not declared in schema")),
        None => Ok(()),
    }
}

/// The first field that is in `written` and not in `known`.
fn unknown(written: &Value, known: &Value, at: &str) -> Option<String> {
    match (written, known) {
        (Value::Object(members), Value::Object(kept)) => {
            members.iter().find_map(|(name, value)| {
                let path = format!("{at}.{name}");
                match kept.get(name) {
                    _ if value.is_null() => None,
                    Some(known) => unknown(value, known, &path),
                    None => Some(path),
                }
            })
        }
        (Value::Array(items), Value::Array(kept)) => {
            items.iter().zip(kept).enumerate().find_map(|(index, (item, known))| {
                let key = match item["name"].as_str() {
                    Some(name) => format!("[name=\"{name}\"]"),
                    None => format!("[{index}]"),
                };
                unknown(item, known, &format!("{at}{key}"))
            })
        }
        _ => None,
    }
}

/// `cpu: 1` is as good as `cpu: "1"`.
fn quantities_are_text(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                if let ("limits" | "requests", Value::Object(amounts)) =
                    (name.as_str(), &mut *value)
                {
                    for amount in amounts.values_mut().filter(|a| a.is_number()) {
                        *amount = json!(amount.to_string());
                    }
                }
                quantities_are_text(value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(quantities_are_text),
        _ => {}
    }
}

fn default(object: &mut Value, name: &str, value: Value) {
    if let Some(members) = object.as_object_mut() {
        members.entry(name.to_owned()).or_insert(value);
    }
}

/// Fills in what the real server fills in.
pub(crate) fn fill_in(resource: &Resource, object: &mut Value) {
    match resource.kind.as_str() {
        "Namespace" => {
            let name = object["metadata"]["name"].clone();
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
            default(object, "spec", json!({"finalizers": ["kubernetes"]}));
            default(object, "status", json!({"phase": "Active"}));
        }
        "DaemonSet" => {
            default(&mut object["metadata"], "annotations", json!({}));
            default(
                &mut object["metadata"]["annotations"],
                "deprecated.daemonset.template.generation",
                json!("1"),
            );
            let spec = &mut object["spec"];
            default(spec, "updateStrategy", json!({"type": "RollingUpdate"}));
            if spec["updateStrategy"]["type"] == "RollingUpdate" {
                default(&mut spec["updateStrategy"], "rollingUpdate", json!({}));
                default(&mut spec["updateStrategy"]["rollingUpdate"], "maxUnavailable", json!(1));
                default(&mut spec["updateStrategy"]["rollingUpdate"], "maxSurge", json!(0));
            }
            default(spec, "revisionHistoryLimit", json!(10));
            fill_in_pod(&mut spec["template"]["spec"]);
            default(
                object,
                "status",
                json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0}),
            );
        }
        "Pod" => {
            fill_in_pod(&mut object["spec"]);
            default(object, "status", json!({"phase": "Pending", "qosClass": "BestEffort"}));
        }
        _ => {}
    }
}

fn fill_in_pod(spec: &mut Value) {
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            default(container, "resources", json!({}));
            default(container, "terminationMessagePath", json!("/dev/termination-log"));
            default(container, "terminationMessagePolicy", json!("File"));
            default(container, "imagePullPolicy", json!("IfNotPresent"));
            for port in
                container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten()
            {
                default(port, "protocol", json!("TCP"));
            }
        }
    }
    default(spec, "restartPolicy", json!("Always"));
    default(spec, "terminationGracePeriodSeconds", json!(30));
    default(spec, "dnsPolicy", json!("ClusterFirst"));
    default(spec, "securityContext", json!({}));
    default(spec, "schedulerName", json!("default-scheduler"));
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        default(spec, "serviceAccount", account);
    }
}

/// Refuses what the real server finds invalid. `before` is the stored object, if there is one.
pub(crate) fn validate(
    resource: &Resource,
    before: Option<&Value>,
    object: &Value,
) -> Result<(), Failure> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let mut causes = Vec::new();
    if resource.kind == "DaemonSet" {
        let spec = &object["spec"];
        if before.is_some_and(|before| before["spec"]["selector"] != spec["selector"]) {
            let message = format!("Invalid value: {}: field is immutable", spec["selector"]);
            causes.push(("FieldValueInvalid", message, "spec.selector"));
        }
        let labels = &spec["template"]["metadata"]["labels"];
        let selected = spec["selector"]["matchLabels"].as_object();
        let matches = selected
            .is_some_and(|wanted| wanted.iter().all(|(key, value)| labels.get(key) == Some(value)));
        if !matches {
            let message =
                format!("Invalid value: {labels}: `selector` does not match template `labels`");
            causes.push(("FieldValueInvalid", message, "spec.template.metadata.labels"));
        }
        let rolling = &spec["updateStrategy"]["rollingUpdate"];
        if rolling["maxSurge"] == 0 && rolling["maxUnavailable"] == 0 {
            causes.push((
                "FieldValueRequired",
                "Required value: cannot be 0 when maxSurge is 0".to_owned(),
                "spec.updateStrategy.rollingUpdate.maxUnavailable",
            ));
        }
    }
    if matches!(resource.kind.as_str(), "RoleBinding" | "ClusterRoleBinding")
        && before.is_some_and(|before| before["roleRef"] != object["roleRef"])
    {
        let message = format!("Invalid value: {}: cannot change roleRef", object["roleRef"]);
        causes.push(("FieldValueInvalid", message, "roleRef"));
    }
    if causes.is_empty() {
        Ok(())
    } else {
        Err(Failure::invalid(&resource.group, &resource.kind, name, &causes))
    }
}

/// What a Pod Security level finds in a pod; none if it passes. Of its checks, those that matter to a
/// recorder.
pub(crate) fn violations(level: &str, pod: &Value) -> Option<String> {
    let found = match level {
        "restricted" => {
            [host_and_privilege(pod), escalation(pod), volumes(pod, true), identity(pod)].concat()
        }
        "baseline" => [host_and_privilege(pod), volumes(pod, false)].concat(),
        _ => return None,
    };
    (!found.is_empty()).then(|| found.join(", "))
}

fn containers(pod: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let all = pod["containers"].as_array().map_or(&[][..], Vec::as_slice);
    all.iter().map(|c| (c["name"].as_str().unwrap_or_default(), &c["securityContext"]))
}

fn host_and_privilege(pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for host in ["hostNetwork", "hostPID", "hostIPC"] {
        if pod[host] == true {
            found.push(format!("host namespaces ({host}=true)"));
        }
    }
    for (name, context) in containers(pod) {
        if context["privileged"] == true {
            found.push(format!(
                "privileged (container \"{name}\" must not set securityContext.privileged=true)"
            ));
        }
    }
    found
}

fn volumes(pod: &Value, restricted: bool) -> Vec<String> {
    let all = pod["volumes"].as_array().into_iter().flatten();
    all.filter(|volume| volume.get("hostPath").is_some())
        .map(|volume| {
            let name = volume["name"].as_str().unwrap_or_default();
            if restricted {
                format!("restricted volume types (volume \"{name}\" uses restricted volume type \"hostPath\")")
            } else {
                format!("hostPath volumes (volume \"{name}\")")
            }
        })
        .collect()
}

fn escalation(pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (name, context) in containers(pod) {
        if context["allowPrivilegeEscalation"] != false {
            found.push(format!(
                "allowPrivilegeEscalation != false (container \"{name}\" must set securityContext.allowPrivilegeEscalation=false)"
            ));
        }
        let adds = context["capabilities"]["add"].as_array().is_some_and(|a| !a.is_empty());
        if adds || context["capabilities"]["drop"] != json!(["ALL"]) {
            found.push(format!(
                "unrestricted capabilities (container \"{name}\" must set securityContext.capabilities.drop=[\"ALL\"])"
            ));
        }
    }
    found
}

fn identity(pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (name, context) in containers(pod) {
        let says = |field: &str, wanted: &dyn Fn(&Value) -> bool| {
            wanted(&context[field]) || wanted(&pod["securityContext"][field])
        };
        if !says("runAsNonRoot", &|v| *v == true) {
            found.push(format!(
                "runAsNonRoot != true (pod or container \"{name}\" must set securityContext.runAsNonRoot=true)"
            ));
        }
        if !says("seccompProfile", &Value::is_object) {
            found.push(format!(
                "seccompProfile (pod or container \"{name}\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
            ));
        }
    }
    found
}
