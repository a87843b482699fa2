//! The way to a cluster, as every command takes it.

use anyhow::Context as _;
use kuberewind_cluster::{Access, AccessOptions, ClusterError};
use tokio::runtime::Runtime;

use crate::cli::ClusterArgs;
use crate::exit::Usage;

/// A cluster that answers, and the threads that talk to it.
pub(super) struct Cluster {
    pub(super) runtime: Runtime,
    pub(super) access: Access,
    /// Where kuberewind is installed.
    pub(super) namespace: String,
}

impl Cluster {
    /// As [`Self::open`], for what there is only on a cluster.
    pub(super) fn open_only(args: &ClusterArgs) -> anyhow::Result<Self> {
        Self::find(args, |error| match error {
            error @ ClusterError::NoKubeconfig => Usage(error.to_string()).into(),
            error => error.into(),
        })
    }

    /// Finds the cluster that the arguments, `$KUBECONFIG` or the pod that we run in name. `what` is
    /// what `--local` would do instead, for who has no cluster.
    pub(super) fn open(args: &ClusterArgs, what: &str) -> anyhow::Result<Self> {
        Self::find(args, |error| match error {
            ClusterError::NoKubeconfig => {
                Usage(format!("no kubeconfig; to {what} add --local")).into()
            }
            error => error.into(),
        })
    }

    fn find(
        args: &ClusterArgs,
        explain: impl Fn(ClusterError) -> anyhow::Error,
    ) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("cluster")
            .enable_all()
            .build()
            .context("start the threads that talk to the cluster")?;
        let options =
            AccessOptions { kubeconfig: args.kubeconfig.clone(), context: args.context.clone() };
        let access = runtime.block_on(Access::open(&options)).map_err(explain)?;
        Ok(Self { runtime, access, namespace: args.release_namespace.clone() })
    }
}
