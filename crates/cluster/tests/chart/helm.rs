//! Asks Helm.

use std::env;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// What Helm is given.
pub(crate) struct Case {
    pub(crate) values: Value,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) kube_version: String,
}

/// What Helm said.
pub(crate) struct Judged {
    /// Why the values do not fit the schema.
    pub(crate) refused: Option<String>,
    pub(crate) lint: Vec<String>,
    pub(crate) objects: Vec<Value>,
    pub(crate) notes: String,
}

/// One answer for each case.
pub(crate) fn judge(cases: &[Case]) -> Vec<Judged> {
    let cases = cases.iter().map(|case| {
        json!({
            "values": case.values,
            "name": case.name,
            "namespace": case.namespace,
            "kubeVersion": case.kube_version,
        })
    });
    let asked = json!({ "chart": chart(), "cases": cases.collect::<Vec<_>>() });
    let answers = ask(&asked);
    answers.as_array().expect("a list").iter().map(judged).collect()
}

/// A release on a cluster, which need not be there yet.
#[allow(dead_code, reason = "the chart's own tests have no cluster")]
pub(crate) struct Release {
    pub(crate) kubeconfig: PathBuf,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

#[allow(dead_code, reason = "the chart's own tests have no cluster")]
impl Release {
    /// `helm install --wait`; what Helm says of it, or why it did not.
    pub(crate) fn install(&self, values: &Value) -> Result<Value, String> {
        self.act("install", values)
    }

    /// `helm upgrade --wait --reuse-values`
    pub(crate) fn upgrade(&self, values: &Value) -> Result<Value, String> {
        self.act("upgrade", values)
    }

    /// `helm uninstall --wait`
    pub(crate) fn uninstall(&self) -> Result<Value, String> {
        self.act("uninstall", &Value::Null)
    }

    fn act(&self, what: &str, values: &Value) -> Result<Value, String> {
        let Self { kubeconfig, namespace, name } = self;
        let mut answer = ask(&json!({
            "do": what, "kubeconfig": kubeconfig, "namespace": namespace, "name": name,
            "chart": chart(), "values": values,
        }));
        match answer["failed"].as_str() {
            Some(why) => Err(why.to_owned()),
            None => Ok(answer["said"].take()),
        }
    }
}

/// The documents of a YAML text, as Go reads them.
#[allow(dead_code, reason = "not every test that asks Helm reads manifests")]
pub(crate) fn documents(yaml: &str) -> Vec<Value> {
    serde_json::from_value(ask(&json!({ "yaml": yaml }))).expect("a list")
}

fn chart() -> PathBuf {
    here().join("../../chart")
}

/// The crate of these files, also when another one includes them.
fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster")
}

fn judged(answer: &Value) -> Judged {
    let texts =
        |value: &Value| value.as_array().into_iter().flatten().map(Value::to_string).collect();
    Judged {
        refused: answer["refused"].as_str().map(str::to_owned),
        lint: texts(&answer["lint"]),
        objects: answer["objects"].as_array().cloned().unwrap_or_default(),
        notes: answer["notes"].as_str().unwrap_or_default().to_owned(),
    }
}

fn ask(asked: &Value) -> Value {
    let script = here().join("tests/chart/helm.py");
    let python = python();
    let mut child = Command::new(&python)
        .arg(&script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{}: {error}; `cargo xtask setup` installs it", python.display())
        });
    let mut input = child.stdin.take().expect("piped");
    input.write_all(asked.to_string().as_bytes()).expect("python reads");
    drop(input);
    let output = child.wait_with_output().expect("python ends");
    assert!(
        output.status.success(),
        "{} failed; `cargo xtask setup` installs helm-python-sdk",
        script.display()
    );
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn python() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target =
        target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"));
    env::var_os("KUBEREWIND_PYTHON").map_or_else(|| target.join("venv/bin/python"), PathBuf::from)
}
