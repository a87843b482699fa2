//! What can go wrong between us and the API server.

use std::{fmt, io, path::PathBuf};

use kube::config::{InClusterError, KubeconfigError};

/// A permission, as a Role would grant it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    /// `get`, `patch` …
    pub verb: String,
    /// API group; empty is the core one.
    pub group: String,
    /// `pods`, `pods/portforward` …
    pub resource: String,
    /// None is the whole cluster.
    pub namespace: Option<String>,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` on {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in namespace {namespace}"),
            None => write!(f, " in the whole cluster"),
        }
    }
}

/// A field that somebody else manages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldConflict {
    /// Who.
    pub manager: String,
    /// `.data.config.yaml`
    pub field: String,
}

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Neither a kubeconfig nor a pod's service account: we do not know of any cluster.
    #[error(
        "no kubeconfig (looked for --kubeconfig, $KUBECONFIG, ~/.kube/config and a pod's service account)"
    )]
    NoKubeconfig,
    /// `$KUBECONFIG` names only files that are not there.
    #[error("$KUBECONFIG names {}, which does not exist", listed(.files))]
    KubeconfigMissing {
        /// All of them.
        files: Vec<PathBuf>,
    },
    /// A kubeconfig cannot be read, parsed or followed.
    #[error("use {}{}: {source}", listed(.files), context.as_ref().map(|c| format!(" (context {c})")).unwrap_or_default())]
    Kubeconfig {
        /// Where it was read from.
        files: Vec<PathBuf>,
        /// The context, once chosen.
        context: Option<String>,
        /// Why.
        source: KubeconfigError,
    },
    /// There is no such context.
    #[error("context {wanted} is not in {} (it has: {})", listed(.files), if .known.is_empty() { "none".to_owned() } else { .known.join(", ") })]
    NoSuchContext {
        /// What was asked for.
        wanted: String,
        /// Where it was looked for.
        files: Vec<PathBuf>,
        /// The contexts that there are.
        known: Vec<String>,
    },
    /// No context is set as the current one.
    #[error("{} sets no current-context; choose one with --context (it has: {})", listed(.files), if .known.is_empty() { "none".to_owned() } else { .known.join(", ") })]
    NoCurrentContext {
        /// Where it was looked for.
        files: Vec<PathBuf>,
        /// The contexts that there are.
        known: Vec<String>,
    },
    /// The pod's service account cannot be used.
    #[error("use this pod's service account: {source}")]
    InCluster {
        /// Why.
        source: InClusterError,
    },
    /// The API server does not answer.
    #[error("{doing}: the API server {server} cannot be reached: {source}")]
    Unreachable {
        /// What we were doing.
        doing: String,
        /// Its address and where we have it from.
        server: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The API server does not know who we are.
    #[error(
        "{doing}: the API server {server} does not accept these credentials (401); log in again or choose another --context"
    )]
    Unauthorized {
        /// What we were doing.
        doing: String,
        /// Its address and where we have it from.
        server: String,
    },
    /// A right is missing.
    #[error("{doing}: not allowed: needs the right {right}{}", if .message.is_empty() { String::new() } else { format!(" ({})", .message) })]
    Forbidden {
        /// What we were doing.
        doing: String,
        /// The missing one.
        right: Box<Right>,
        /// The server's own words.
        message: String,
    },
    /// Something else than our rights forbids it: Pod Security, quota, a webhook.
    #[error("{doing}: refused by the cluster's policy: {message}")]
    Policy {
        /// What we were doing.
        doing: String,
        /// The server's own words.
        message: String,
    },
    /// The object, or the namespace that it belongs to, is not there.
    #[error("{doing}: {message}")]
    NotFound {
        /// What we were doing.
        doing: String,
        /// The server's own words.
        message: String,
    },
    /// Others manage fields that we would set.
    #[error("{doing}: {}", conflicts_listed(.conflicts))]
    Conflict {
        /// What we were doing.
        doing: String,
        /// Whose and which.
        conflicts: Vec<FieldConflict>,
    },
    /// The server finds the object wrong or fails itself.
    #[error("{doing}: the API server answers {code}: {message}")]
    Status {
        /// What we were doing.
        doing: String,
        /// The HTTP code.
        code: u16,
        /// The server's own words.
        message: String,
    },
    /// The server's answer is none that we understand.
    #[error("{doing}: {source}")]
    Answer {
        /// What we were doing.
        doing: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// An object of the chart lacks its kind or name.
    #[error("object {index} of the manifest has no {what}")]
    Nameless {
        /// Counted from 0.
        index: usize,
        /// `kind`, `name` …
        what: &'static str,
    },
    /// The cluster has no such kind: an operator is missing, or the platform is another.
    #[error("the cluster knows no {kind} ({api_version}){}", mend(.kind))]
    UnknownKind {
        /// `PodMonitor` …
        kind: String,
        /// `monitoring.coreos.com/v1` …
        api_version: String,
    },
    /// The answer took too long.
    #[error("{doing}: no answer within {seconds} s")]
    Slow {
        /// What we were doing.
        doing: String,
        /// The limit.
        seconds: u64,
    },
    /// A stream to an agent broke.
    #[error("{doing}: {source}")]
    Stream {
        /// What we were doing.
        doing: String,
        /// Why.
        source: io::Error,
    },
}

/// The setting that asks for a kind.
fn mend(kind: &str) -> &'static str {
    match kind {
        "PodMonitor" => "; install the Prometheus operator, or --set tap.metrics.podMonitor=false",
        "PrometheusRule" => "; install the Prometheus operator, or --set tap.metrics.alerts=false",
        "SecurityContextConstraints" => "; it is no OpenShift: --set tap.openShift=false",
        _ => "",
    }
}

fn listed(files: &[PathBuf]) -> String {
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    files.join(", ")
}

fn conflicts_listed(conflicts: &[FieldConflict]) -> String {
    let each: Vec<String> = conflicts
        .iter()
        .map(|conflict| format!("{} is managed by \"{}\"", conflict.field, conflict.manager))
        .collect();
    each.join(", ")
}
