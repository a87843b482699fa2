//! The switch for the whole cluster's recording: a word in the agents' `ConfigMap`.
//!
//! The chart never renders the key, and it has a field manager of its own: neither `tap` nor
//! `helm upgrade` undoes it.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{Access, ClusterError, access::right, names};

/// The key in the `ConfigMap`'s data.
pub const RECORDING_KEY: &str = "recording";

/// The key of the cluster's id.
const CLUSTER_ID_KEY: &str = "clusterId";

/// What the switch says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recording {
    /// `pcapdump start`
    Started,
    /// `pcapdump stop`
    Stopped,
}

impl Recording {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Stopped => "stopped",
        }
    }

    /// As it was written; anything else says nothing.
    pub fn from_word(word: &str) -> Option<Self> {
        match word.trim() {
            "started" => Some(Self::Started),
            "stopped" => Some(Self::Stopped),
            _ => None,
        }
    }
}

fn config_maps(access: &Access, namespace: &str) -> Api<ConfigMap> {
    Api::namespaced(access.client().clone(), namespace)
}

/// What was said last; none if never (then `pcapdump.enabled` decides).
///
/// # Errors
/// [`ClusterError::NotFound`] if nothing is installed there.
pub async fn read(access: &Access, namespace: &str) -> Result<Option<Recording>, ClusterError> {
    let word = datum(access, namespace, RECORDING_KEY, "read whether recording is on").await?;
    Ok(word.and_then(|word| Recording::from_word(&word)))
}

/// The id that the cluster had when this was installed: the UID of its `kube-system`. None if whoever
/// installed it could not tell.
///
/// # Errors
/// [`ClusterError::NotFound`] if nothing is installed there.
pub async fn cluster_id(access: &Access, namespace: &str) -> Result<Option<String>, ClusterError> {
    let id = datum(access, namespace, CLUSTER_ID_KEY, "read the cluster's id").await?;
    Ok(id.filter(|id| !id.is_empty()))
}

async fn datum(
    access: &Access,
    namespace: &str,
    key: &str,
    doing: &str,
) -> Result<Option<String>, ClusterError> {
    let found = config_maps(access, namespace).get(names::CONFIG_MAP).await;
    let found = found.map_err(|error| {
        let doing = format!("{doing} in namespace {namespace}");
        access.explain(&doing, right("get", "", "configmaps", Some(namespace)), error)
    })?;
    Ok(found.data.and_then(|mut data| data.remove(key)))
}

/// Switches. A merge patch, so that it never makes a `ConfigMap` where nothing is installed.
///
/// # Errors
/// [`ClusterError::NotFound`] if nothing is installed there.
pub async fn set(
    access: &Access,
    namespace: &str,
    recording: Recording,
) -> Result<(), ClusterError> {
    let word = recording.word();
    let params = PatchParams {
        field_manager: Some(names::RECORDING_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(json!({"data": {RECORDING_KEY: word}}));
    let patched = config_maps(access, namespace).patch(names::CONFIG_MAP, &params, &patch).await;
    patched.map(drop).map_err(|error| {
        let doing = format!(
            "write `{RECORDING_KEY}: {word}` into ConfigMap {namespace}/{}",
            names::CONFIG_MAP
        );
        access.explain(&doing, right("patch", "", "configmaps", Some(namespace)), error)
    })
}
