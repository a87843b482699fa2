//! Which cluster, and as whom.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1::Namespace,
};
use kube::{
    Api, Client, Config,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
    core::Status,
};

use crate::error::{ClusterError, FieldConflict, Right};

/// What the user said about the cluster.
#[derive(Debug, Clone, Default)]
pub struct AccessOptions {
    /// `--kubeconfig`
    pub kubeconfig: Option<PathBuf>,
    /// `--context`
    pub context: Option<String>,
}

/// Where the way into the cluster is written down.
#[derive(Debug, PartialEq, Eq)]
enum Origin {
    Files(Vec<PathBuf>),
    InCluster,
}

/// A way into a cluster.
#[derive(Clone)]
pub struct Access {
    client: Client,
    server: String,
    context: Option<String>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("server", &self.server).finish_non_exhaustive()
    }
}

/// How a cluster is reached, before anything is made of it.
struct Way {
    config: Config,
    context: Option<String>,
    origin: String,
}

impl Way {
    async fn find(options: &AccessOptions) -> Result<Self, ClusterError> {
        let home = env::home_dir().map(|home| home.join(".kube/config"));
        let in_cluster = env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        let origin = locate(
            options.kubeconfig.as_deref(),
            env::var_os("KUBECONFIG"),
            home.as_deref(),
            in_cluster,
        )?;
        match origin {
            Origin::Files(files) => Self::of_files(files, options.context.as_deref()).await,
            Origin::InCluster => {
                let config =
                    Config::incluster().map_err(|source| ClusterError::InCluster { source })?;
                let origin = "this pod's service account".to_owned();
                Ok(Self { config, context: None, origin })
            }
        }
    }

    async fn of_files(files: Vec<PathBuf>, context: Option<&str>) -> Result<Self, ClusterError> {
        let wrong = |context: Option<&str>, source| ClusterError::Kubeconfig {
            files: files.clone(),
            context: context.map(str::to_owned),
            source,
        };
        let merged = files
            .iter()
            .try_fold(Kubeconfig::default(), |merged, file| {
                Kubeconfig::read_from(file).and_then(|next| merged.merge(next))
            })
            .map_err(|source| wrong(None, source))?;
        let known: Vec<String> = merged.contexts.iter().map(|c| c.name.clone()).collect();
        let current = merged.current_context.clone().filter(|current| !current.is_empty());
        let Some(wanted) = context.map(str::to_owned).or(current) else {
            return Err(ClusterError::NoCurrentContext { files, known });
        };
        if !known.contains(&wanted) {
            return Err(ClusterError::NoSuchContext { wanted, files, known });
        }
        let options =
            KubeConfigOptions { context: Some(wanted.clone()), ..KubeConfigOptions::default() };
        let config = Config::from_custom_kubeconfig(merged, &options)
            .await
            .map_err(|source| wrong(Some(&wanted), source))?;
        let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        let origin = format!("context {wanted} of {}", names.join(", "));
        Ok(Self { config, context: Some(wanted), origin })
    }

    fn into_access(self) -> Result<Access, ClusterError> {
        let Self { config, context, origin } = self;
        let server = format!("{} ({origin})", config.cluster_url);
        let client = Client::try_from(config).map_err(|source| ClusterError::Answer {
            doing: format!("set up a client for {server}"),
            source: Box::new(source),
        })?;
        Ok(Access { client, server, context })
    }
}

impl Access {
    /// Finds the cluster: `--kubeconfig`, else `$KUBECONFIG` (a list, merged as kubectl does), else
    /// `~/.kube/config`, else this pod's service account. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ClusterError::NoKubeconfig`] if there is none of these; others name the file and the context.
    pub async fn open(options: &AccessOptions) -> Result<Self, ClusterError> {
        Way::find(options).await?.into_access()
    }

    /// As [`Self::open`], for who asks again by himself: kube's own retries would only delay the word
    /// that something is wrong.
    ///
    /// # Errors
    /// As with [`Self::open`].
    pub async fn open_without_retries(options: &AccessOptions) -> Result<Self, ClusterError> {
        let mut way = Way::find(options).await?;
        way.config.default_retry = false;
        way.into_access()
    }

    /// The client, for what this crate has no word for.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The API server and where its address is from, for messages.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The context; none in a pod.
    pub fn context(&self) -> Option<&str> {
        self.context.as_deref()
    }

    /// The API server's version, as the chart asks for it: `v1.36.1`.
    ///
    /// # Errors
    /// [`ClusterError`] if the server cannot be asked.
    pub async fn kube_version(&self) -> Result<String, ClusterError> {
        let version = self.client.apiserver_version().await.map_err(|error| {
            let needed = right("get", "", "/version", None);
            self.explain("ask the API server for its version", needed, error)
        })?;
        Ok(version.git_version)
    }

    /// The UID of `kube-system`: no two clusters share it.
    pub async fn cluster_id(&self) -> Result<String, ClusterError> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let found = namespaces.get("kube-system").await;
        let found = found.map_err(|error| {
            let right = right("get", "", "namespaces", None);
            self.explain("learn the cluster's id from namespace kube-system", right, error)
        })?;
        Ok(found.metadata.uid.unwrap_or_default())
    }

    /// Whether we have a right.
    pub async fn has(&self, right: &Right) -> Result<bool, ClusterError> {
        let (resource, subresource) = match right.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
            None => (right.resource.as_str(), None),
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(right.verb.clone()),
                    group: Some(right.group.clone()),
                    resource: Some(resource.to_owned()),
                    subresource,
                    namespace: right.namespace.clone(),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let reviews: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await.map_err(|error| {
            let doing = format!("ask whether we have the right {right}");
            let needed =
                self::right("create", "authorization.k8s.io", "selfsubjectaccessreviews", None);
            self.explain(&doing, needed, error)
        })?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    /// The rights of a list that we lack.
    pub async fn missing(&self, rights: &[Right]) -> Result<Vec<Right>, ClusterError> {
        let mut missing = Vec::new();
        for right in rights {
            if !self.has(right).await? {
                missing.push(right.clone());
            }
        }
        Ok(missing)
    }

    /// What an error means, given what we were doing and the right that it takes.
    pub(crate) fn explain(&self, doing: &str, right: Right, error: kube::Error) -> ClusterError {
        let doing = doing.to_owned();
        match error {
            kube::Error::Api(status) => self.explain_status(doing, right, &status),
            kube::Error::HyperError(_) | kube::Error::Service(_) => ClusterError::Unreachable {
                doing,
                server: self.server.clone(),
                source: Box::new(error),
            },
            error => ClusterError::Answer { doing, source: Box::new(error) },
        }
    }

    pub(crate) fn explain_status(
        &self,
        doing: String,
        right: Right,
        status: &Status,
    ) -> ClusterError {
        let message = status.message.trim().to_owned();
        match status.code {
            401 => ClusterError::Unauthorized { doing, server: self.server.clone() },
            // The authorizer says "cannot VERB resource", or (for an upgrade) nothing; admission says why.
            403 if message.contains(" cannot ")
                || message.ends_with("is forbidden:")
                || message.is_empty() =>
            {
                ClusterError::Forbidden { doing, right: Box::new(right), message }
            }
            403 => ClusterError::Policy { doing, message },
            404 => ClusterError::NotFound { doing, message },
            409 if has_conflicts(status) => {
                ClusterError::Conflict { doing, conflicts: conflicts(status) }
            }
            code => ClusterError::Status { doing, code, message },
        }
    }
}

pub(crate) fn right(verb: &str, group: &str, resource: &str, namespace: Option<&str>) -> Right {
    Right {
        verb: verb.to_owned(),
        group: group.to_owned(),
        resource: resource.to_owned(),
        namespace: namespace.map(str::to_owned),
    }
}

fn has_conflicts(status: &Status) -> bool {
    let causes = status.details.as_ref().map_or(&[][..], |d| d.causes.as_slice());
    causes.iter().any(|cause| cause.reason == "FieldManagerConflict")
}

fn conflicts(status: &Status) -> Vec<FieldConflict> {
    let causes = status.details.as_ref().map_or(&[][..], |d| d.causes.as_slice());
    causes
        .iter()
        .map(|cause| FieldConflict {
            // `conflict with "kubectl" using apps/v1`
            manager: cause.message.split('"').nth(1).unwrap_or(&cause.message).to_owned(),
            field: cause.field.clone(),
        })
        .collect()
}

fn locate(
    flag: Option<&Path>,
    variable: Option<OsString>,
    home: Option<&Path>,
    in_cluster: bool,
) -> Result<Origin, ClusterError> {
    if let Some(file) = flag {
        return Ok(Origin::Files(vec![file.to_owned()]));
    }
    let named: Vec<PathBuf> = env::split_paths(&variable.unwrap_or_default())
        .filter(|path| !path.as_os_str().is_empty())
        .collect();
    if !named.is_empty() {
        // As kubectl: a list may name files that are not there (yet).
        let there: Vec<PathBuf> = named.iter().filter(|file| file.exists()).cloned().collect();
        return if there.is_empty() {
            Err(ClusterError::KubeconfigMissing { files: named })
        } else {
            Ok(Origin::Files(there))
        };
    }
    match home.filter(|file| file.exists()) {
        Some(file) => Ok(Origin::Files(vec![file.to_owned()])),
        None if in_cluster => Ok(Origin::InCluster),
        None => Err(ClusterError::NoKubeconfig),
    }
}

impl ClusterError {
    /// Whether a kubeconfig was found but cannot be read or parsed.
    pub fn is_broken_kubeconfig(&self) -> bool {
        matches!(
            self,
            Self::Kubeconfig {
                source: KubeconfigError::ReadConfig(..) | KubeconfigError::Parse(_),
                ..
            }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn from_files(
        files: Vec<PathBuf>,
        context: Option<&str>,
    ) -> Result<Access, ClusterError> {
        Way::of_files(files, context).await?.into_access()
    }

    fn file(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    const ONE: &str = "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters: [{name: c, cluster: {server: \"http://127.0.0.1:1\"}}]\nusers: [{name: u, user: {}}]\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n";
    const TWO: &str = "apiVersion: v1\nkind: Config\ncurrent-context: b\ncontexts: [{name: b, context: {cluster: c, user: u}}]\n";

    #[test]
    fn the_flag_goes_before_the_variable_before_the_home_before_the_pod() {
        let dir = tempfile::tempdir().unwrap();
        let (one, home) = (file(dir.path(), "one", ONE), file(dir.path(), "home", ONE));
        let list = Some(OsString::from(format!("{}:/absent:", one.display())));
        let flag = Path::new("/flag");
        let files =
            |files: &[&Path]| Origin::Files(files.iter().map(|f| (*f).to_owned()).collect());
        assert_eq!(locate(Some(flag), list.clone(), Some(&home), true).unwrap(), files(&[flag]));
        assert_eq!(locate(None, list, Some(&home), true).unwrap(), files(&[&one]));
        assert_eq!(locate(None, None, Some(&home), true).unwrap(), files(&[&home]));
        assert_eq!(
            locate(None, None, Some(Path::new("/absent")), true).unwrap(),
            Origin::InCluster
        );
    }

    #[test]
    fn no_kubeconfig_at_all_is_an_error_of_its_own() {
        assert!(matches!(locate(None, None, None, false), Err(ClusterError::NoKubeconfig)));
        let absent = locate(None, Some("/absent/config".into()), None, true).unwrap_err();
        assert_eq!(absent.to_string(), "$KUBECONFIG names /absent/config, which does not exist");
    }

    #[tokio::test]
    async fn files_of_a_list_are_merged_and_the_first_current_context_wins() {
        let dir = tempfile::tempdir().unwrap();
        let files = vec![file(dir.path(), "one", ONE), file(dir.path(), "two", TWO)];
        let access = from_files(files.clone(), None).await.unwrap();
        assert_eq!(access.context(), Some("a"));
        let access = from_files(files, Some("b")).await.unwrap();
        assert_eq!(access.context(), Some("b"));
        assert!(access.server().starts_with("http://127.0.0.1:1/ (context b of "));
    }

    #[tokio::test]
    async fn errors_name_the_file_and_the_context() {
        let dir = tempfile::tempdir().unwrap();
        let one = file(dir.path(), "one", ONE);
        let error = from_files(vec![one.clone()], Some("prod")).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("context prod is not in {} (it has: a)", one.display())
        );

        let two = file(dir.path(), "two", TWO);
        let error = from_files(vec![two.clone()], None).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("use {} (context b): ", two.display())), "{error}");

        let broken = file(dir.path(), "broken", "contexts: [");
        let error = from_files(vec![broken.clone()], None).await.unwrap_err();
        assert!(error.is_broken_kubeconfig());
        assert!(error.to_string().contains(&broken.display().to_string()));

        let absent = dir.path().join("absent");
        let error = from_files(vec![absent.clone()], None).await.unwrap_err();
        assert!(error.is_broken_kubeconfig());
        assert!(error.to_string().contains(&absent.display().to_string()));
    }
}
