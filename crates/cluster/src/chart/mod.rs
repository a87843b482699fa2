//! The Helm chart, inside the binary: `tap` renders what `helm install` would.

mod functions;

pub use k8s_openapi::api::apps::v1::DaemonSet as Agents;
pub use k8s_openapi::api::core::v1::PodSpec;

use std::path::Path;

use gotmpl::{Template, TemplateError};
use rust_embed::{EmbeddedFile, RustEmbed};
use serde_json::{Value, json};

/// Everything of `chart/`.
#[derive(RustEmbed)]
#[folder = "../../chart/"]
struct Files;

/// What is known beside the values.
#[derive(Clone, Debug)]
pub struct Release {
    /// Its name; `kuberewind` unless Helm was told otherwise.
    pub name: String,
    /// Where it is installed.
    pub namespace: String,
    /// The API server's `gitVersion`: `v1.36.1`.
    pub kube_version: String,
    /// The UID of namespace `kube-system`, where it could be read.
    pub cluster_id: Option<String>,
}

/// Why the chart gives no objects.
#[derive(Debug, thiserror::Error)]
pub enum ChartError {
    /// The binary was built without it.
    #[error("the chart in this binary has no {file}")]
    NoFile {
        /// Below `chart/`.
        file: String,
    },
    /// A template that does not parse, or that the values do not suit.
    #[error("render the chart's {file}: {cause}")]
    Template {
        /// Below `chart/`.
        file: String,
        /// With line and column.
        cause: TemplateError,
    },
    /// Not YAML.
    #[error("read the chart's {file} as YAML: {cause}")]
    Yaml {
        /// Below `chart/`.
        file: String,
        /// With line and column.
        cause: Box<serde_saphyr::Error>,
    },
}

/// The defaults: `values.yaml`.
pub fn defaults() -> Result<Value, ChartError> {
    object("values.yaml")
}

/// The version of the chart, and the tag of the image that it runs unless told otherwise.
pub fn version() -> Result<String, ChartError> {
    Ok(object("Chart.yaml")?["appVersion"].as_str().unwrap_or_default().to_owned())
}

/// The namespace of the release, which no chart can make. Pod Security lets the agents in only where
/// everything is allowed.
pub fn namespace(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": name,
            "labels": {
                "app.kubernetes.io/name": "kuberewind",
                "pod-security.kubernetes.io/audit": "privileged",
                "pod-security.kubernetes.io/enforce": "privileged",
                "pod-security.kubernetes.io/warn": "privileged",
            },
        },
    })
}

/// The agents' daemonset among rendered objects; an empty one if it is not there.
pub fn agents(objects: &[Value]) -> Agents {
    let set = objects.iter().find(|object| object["kind"] == "DaemonSet");
    set.and_then(|set| serde_json::from_value(set.clone()).ok()).unwrap_or_default()
}

/// The objects of the release: `values` over the defaults, where null is the default. They are what
/// Helm renders from the same values, file by file in the order of the names.
pub fn render(values: &Value, release: &Release) -> Result<Vec<Value>, ChartError> {
    let mut tree = defaults()?;
    overlay(&mut tree, values);
    let data = functions::from_json(&data(&tree, release)?);
    let mut objects = Vec::new();
    for file in Files::iter().filter(|file| is_template(file)) {
        let at = |cause| ChartError::Template { file: file.to_string(), cause };
        let template = template(release, &text("templates/_names.tpl")?, &text(&file)?);
        let manifest =
            template.and_then(|template| template.execute_to_string(&data)).map_err(at)?;
        objects.append(&mut documents(&file, &manifest)?);
    }
    Ok(objects)
}

fn is_template(file: &str) -> bool {
    let file = Path::new(file);
    file.starts_with("templates") && file.extension().is_some_and(|kind| kind == "yaml")
}

fn template(release: &Release, names: &str, text: &str) -> Result<Template, TemplateError> {
    Template::new("chart")
        .funcs(functions::all(release.cluster_id.clone()))
        .parse(names)?
        .parse(text)
}

/// What a template sees as its dot.
fn data(values: &Value, release: &Release) -> Result<Value, ChartError> {
    Ok(json!({
        "Values": values,
        "Chart": { "AppVersion": version()? },
        "Release": { "Name": release.name, "Namespace": release.namespace },
        "Capabilities": { "KubeVersion": { "Version": release.kube_version } },
    }))
}

/// Sections are merged, all else is replaced.
fn overlay(under: &mut Value, over: &Value) {
    match (under, over) {
        (_, Value::Null) => {}
        (Value::Object(under), Value::Object(over)) => {
            for (name, value) in over {
                overlay(under.entry(name).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over.clone(),
    }
}

fn text(file: &str) -> Result<String, ChartError> {
    let found: Option<EmbeddedFile> = Files::get(file);
    let text = found.and_then(|found| String::from_utf8(found.data.into_owned()).ok());
    text.ok_or_else(|| ChartError::NoFile { file: file.to_owned() })
}

fn object(file: &str) -> Result<Value, ChartError> {
    Ok(documents(file, &text(file)?)?.into_iter().next().unwrap_or(Value::Null))
}

/// The YAML documents in a text; empty ones are none.
fn documents(file: &str, text: &str) -> Result<Vec<Value>, ChartError> {
    serde_saphyr::from_multiple(text)
        .map_err(|cause| ChartError::Yaml { file: file.to_owned(), cause: Box::new(cause) })
}
