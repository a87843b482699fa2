//! Taking away what `tap` made.
//!
//! The field manager tells what is ours: an object that `tap` never applied is left alone, whatever
//! its labels say. Data on the nodes is not an object and not touched here.

use std::time::Duration;

use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, StatefulSet},
    core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
};
use k8s_openapi::{
    ClusterResourceScope, NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Resource,
    api::{DeleteParams, DynamicObject, GroupVersionKind, ListParams},
    discovery::{Scope, pinned_kind},
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use crate::{Access, ClusterError, access::right, names};

/// What became of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is gone, or going.
    Removed,
    /// It stays.
    Kept {
        /// Why.
        because: String,
    },
}

/// An object that `clean` looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleaned {
    /// `DaemonSet` …
    pub kind: String,
    /// None for the cluster's own.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// Removes all that `tap` made for a release namespace: the daemonset first, then (once its pods are
/// gone, or after `patience`) the rest, the namespace last and only if nothing else lives in it.
///
/// # Errors
/// [`ClusterError`] of the first object that cannot be listed or deleted; running it again goes on.
pub async fn clean(
    access: &Access,
    namespace: &str,
    patience: Duration,
) -> Result<Vec<Cleaned>, ClusterError> {
    let broom = Broom { access, namespace };
    let mut done = broom.sweep::<DaemonSet>().await?;
    broom.await_pods(patience).await?;
    done.extend(broom.sweep::<ConfigMap>().await?);
    done.extend(broom.sweep::<Service>().await?);
    done.extend(broom.sweep::<Secret>().await?);
    done.extend(broom.sweep::<RoleBinding>().await?);
    done.extend(broom.sweep::<Role>().await?);
    done.extend(broom.sweep_cluster::<ClusterRoleBinding>().await?);
    done.extend(broom.sweep_cluster::<ClusterRole>().await?);
    done.extend(broom.sweep::<ServiceAccount>().await?);
    for (api_version, kind) in ON_DEMAND {
        done.extend(broom.sweep_on_demand(api_version, kind).await?);
    }
    done.extend(broom.sweep_namespace().await?);
    Ok(done)
}

/// What the chart installs only if told to, of kinds that not every cluster knows.
const ON_DEMAND: [(&str, &str); 4] = [
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
    ("security.openshift.io/v1", "SecurityContextConstraints"),
];

struct Broom<'a> {
    access: &'a Access,
    namespace: &'a str,
}

trait Object: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug {}
impl<T: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug> Object for T {}

impl Broom<'_> {
    fn api<K: Object + Resource<Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.access.client().clone(), self.namespace)
    }

    async fn sweep<K: Object + Resource<Scope = NamespaceResourceScope>>(
        &self,
    ) -> Result<Vec<Cleaned>, ClusterError> {
        self.sweep_api(&self.api::<K>(), Some(self.namespace)).await
    }

    async fn sweep_cluster<K: Object + Resource<Scope = ClusterResourceScope>>(
        &self,
    ) -> Result<Vec<Cleaned>, ClusterError> {
        self.sweep_api(&Api::<K>::all(self.access.client().clone()), None).await
    }

    async fn sweep_api<K: Object>(
        &self,
        api: &Api<K>,
        namespace: Option<&str>,
    ) -> Result<Vec<Cleaned>, ClusterError> {
        let mut done = Vec::new();
        for object in self.list(api, &names::ours(), namespace).await? {
            let Some(name) = object.meta().name.clone() else {
                continue;
            };
            // Cluster-wide objects of a release in another namespace are that release's.
            if namespace.is_none() && !self.is_of_this_release(object.meta()) {
                continue;
            }
            let outcome = match ours(object.meta()) {
                Ok(()) => self.delete(api, &name, namespace).await?,
                Err(because) => Outcome::Kept { because },
            };
            done.push(Cleaned {
                kind: K::kind(&()).into_owned(),
                namespace: namespace.map(str::to_owned),
                name,
                outcome,
            });
        }
        Ok(done)
    }

    /// Of a kind that the cluster may not know: then nothing of it is there.
    async fn sweep_on_demand(
        &self,
        api_version: &str,
        kind: &str,
    ) -> Result<Vec<Cleaned>, ClusterError> {
        let client = self.access.client();
        let Some((group, version)) = api_version.split_once('/') else {
            return Ok(Vec::new());
        };
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let Ok((resource, capabilities)) = pinned_kind(client, &gvk).await else {
            return Ok(Vec::new());
        };
        let namespace = (capabilities.scope == Scope::Namespaced).then_some(self.namespace);
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        let told = |verb: &str, doing: &str, error| {
            self.access.explain(doing, right(verb, group, &resource.plural, namespace), error)
        };
        let listed = api.list(&ListParams::default().labels(&names::ours())).await;
        let listed = listed
            .map_err(|error| told("list", &format!("list {} to remove", resource.plural), error))?;
        let mut done = Vec::new();
        for object in listed.items {
            let Some(name) = object.metadata.name.clone() else {
                continue;
            };
            if namespace.is_none() && !self.is_of_this_release(&object.metadata) {
                continue;
            }
            let outcome = match ours(&object.metadata) {
                Err(because) => Outcome::Kept { because },
                Ok(()) => match api.delete(&name, &DeleteParams::background()).await {
                    Ok(_) => Outcome::Removed,
                    Err(kube::Error::Api(status)) if status.code == 404 => Outcome::Removed,
                    Err(error) => {
                        return Err(told("delete", &format!("delete {kind} {name}"), error));
                    }
                },
            };
            let namespace = namespace.map(str::to_owned);
            done.push(Cleaned { kind: kind.to_owned(), namespace, name, outcome });
        }
        Ok(done)
    }

    /// The chart puts its release namespace on cluster-wide objects.
    fn is_of_this_release(&self, metadata: &ObjectMeta) -> bool {
        let annotations = metadata.annotations.as_ref();
        let of = annotations.and_then(|all| all.get(RELEASE_NAMESPACE));
        of.is_none_or(|of| of == self.namespace)
    }

    async fn list<K: Object>(
        &self,
        api: &Api<K>,
        labels: &str,
        namespace: Option<&str>,
    ) -> Result<Vec<K>, ClusterError> {
        let listed = api.list(&ListParams::default().labels(labels)).await;
        let listed = listed.map_err(|error| {
            let (group, plural) = (K::group(&()), K::plural(&()));
            let doing = format!("list {plural} to remove");
            self.access.explain(&doing, right("list", &group, &plural, namespace), error)
        })?;
        Ok(listed.items)
    }

    async fn delete<K: Object>(
        &self,
        api: &Api<K>,
        name: &str,
        namespace: Option<&str>,
    ) -> Result<Outcome, ClusterError> {
        match api.delete(name, &DeleteParams::background()).await {
            Ok(_) => Ok(Outcome::Removed),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Outcome::Removed),
            Err(error) => {
                let (group, plural, kind) = (K::group(&()), K::plural(&()), K::kind(&()));
                let doing = format!("delete {kind} {name}");
                Err(self.access.explain(&doing, right("delete", &group, &plural, namespace), error))
            }
        }
    }

    async fn await_pods(&self, patience: Duration) -> Result<(), ClusterError> {
        let deadline = Instant::now() + patience;
        let pods = self.api::<Pod>();
        while !self.list(&pods, &names::agents(), Some(self.namespace)).await?.is_empty()
            && Instant::now() < deadline
        {
            sleep(Duration::from_millis(250)).await;
        }
        Ok(())
    }

    async fn sweep_namespace(&self) -> Result<Option<Cleaned>, ClusterError> {
        let namespaces: Api<Namespace> = Api::all(self.access.client().clone());
        let found = namespaces.get_opt(self.namespace).await.map_err(|error| {
            let doing = format!("look at namespace {}", self.namespace);
            self.access.explain(&doing, right("get", "", "namespaces", None), error)
        })?;
        let Some(found) = found else {
            return Ok(None);
        };
        let outcome = if let Err(because) = ours_alone(&found.metadata) {
            Outcome::Kept { because }
        } else if let Some(other) = self.other_inhabitant().await? {
            Outcome::Kept { because: format!("{other} is in it, too") }
        } else {
            self.delete(&namespaces, self.namespace, None).await?
        };
        Ok(Some(Cleaned {
            kind: "Namespace".into(),
            namespace: None,
            name: self.namespace.to_owned(),
            outcome,
        }))
    }

    /// Something that is not ours and would be lost with the namespace.
    async fn other_inhabitant(&self) -> Result<Option<String>, ClusterError> {
        // Whatever the rest is, it stands behind one of these.
        let found = [
            self.first::<Pod>().await?,
            self.first::<Deployment>().await?,
            self.first::<StatefulSet>().await?,
            self.first::<DaemonSet>().await?,
            self.first::<PersistentVolumeClaim>().await?,
            self.first::<Secret>().await?,
            self.first::<Service>().await?,
            self.first::<ConfigMap>().await?,
        ];
        Ok(found.into_iter().flatten().next())
    }

    async fn first<K: Object + Resource<Scope = NamespaceResourceScope>>(
        &self,
    ) -> Result<Option<String>, ClusterError> {
        let not_ours = format!("{}!={}", names::LABEL_NAME.0, names::LABEL_NAME.1);
        let found = self.list(&self.api::<K>(), &not_ours, Some(self.namespace)).await?;
        let mut names = found.into_iter().filter_map(|object| object.meta().name.clone());
        // Every namespace has these two from the start.
        let name = names
            .find(|name| !matches!(name.as_str(), "kube-root-ca.crt" | "openshift-service-ca.crt"));
        Ok(name.map(|name| format!("{} {name}", K::kind(&()))))
    }
}

/// The annotation that ties a cluster-wide object to its release.
pub const RELEASE_NAMESPACE: &str = "kuberewind/release-namespace";

/// Whether `tap` applied it; otherwise why it stays.
pub(crate) fn ours(metadata: &ObjectMeta) -> Result<(), String> {
    let labels = metadata.labels.as_ref();
    if labels.and_then(|all| all.get(names::LABEL_MANAGED_BY)).is_some_and(|by| by == "Helm") {
        return Err("a Helm release manages it: remove it with `helm uninstall`".into());
    }
    let managers = metadata.managed_fields.iter().flatten();
    let applied = managers.into_iter().any(|manager| {
        manager.manager.as_deref() == Some(names::FIELD_MANAGER)
            && manager.operation.as_deref() == Some("Apply")
    });
    if applied { Ok(()) } else { Err("`tap` did not make it".into()) }
}

/// Whether nobody but `tap` wrote it.
fn ours_alone(metadata: &ObjectMeta) -> Result<(), String> {
    ours(metadata)?;
    let managers = metadata.managed_fields.iter().flatten();
    let mut others = managers.into_iter().filter_map(|manager| manager.manager.as_deref());
    match others.find(|name| !matches!(*name, names::FIELD_MANAGER | "kube-controller-manager")) {
        Some(other) => Err(format!("\"{other}\" manages it, too")),
        None => Ok(()),
    }
}
