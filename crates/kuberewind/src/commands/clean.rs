//! `kuberewind clean`: takes kuberewind off a cluster.

use kuberewind_cluster::ClusterError;
use kuberewind_cluster::agents::Agent;
use kuberewind_cluster::clean::{self, Cleaned, Outcome};
use kuberewind_cluster::control::{self, Recording};
use kuberewind_cluster::portforward;
use kuberewind_cluster::release::{self, Installed};

use super::cluster::Cluster;
use super::fleet::{AT_A_TIME, Fleet};
use super::switch;
use crate::cli::CleanArgs;
use crate::config;
use crate::exit::{Exit, Usage, one_line};

/// Erases the recordings, unless told to keep them, and then removes what `tap` made.
pub(crate) fn clean(args: &CleanArgs) -> anyhow::Result<Exit> {
    if args.local {
        let text = "clean takes kuberewind off a cluster; on this machine, end `kuberewind tap --local` and remove its data directory";
        return Err(Usage(text.to_owned()).into());
    }
    let patience = config::parse_duration(&args.wait)
        .map_err(|error| Usage(format!("--wait {}: {error}", args.wait)))?;
    let cluster = Cluster::open_only(&args.cluster)?;
    let Cluster { runtime, access, namespace } = &cluster;
    let installed = runtime.block_on(release::find(access, namespace))?;
    refuse_helm(installed.as_ref(), namespace)?;
    let kept = match &installed {
        Some(installed) if !args.keep_data => erase(&cluster, installed)?,
        _ => Vec::new(),
    };
    let cleaned = runtime.block_on(clean::clean(access, namespace, patience))?;
    for line in cleaned.iter().map(told) {
        anstream::println!("{line}");
    }
    if cleaned.is_empty() {
        anstream::println!("nothing of kuberewind is in namespace {namespace}");
    }
    Ok(if kept.is_empty() { Exit::Complete } else { Exit::Incomplete })
}

fn refuse_helm(installed: Option<&Installed>, namespace: &str) -> anyhow::Result<()> {
    let Some(release) = installed.and_then(|installed| installed.helm.as_ref()) else {
        return Ok(());
    };
    let text = format!(
        "kuberewind in namespace {namespace} is managed by Helm; Helm removes it:\n  helm uninstall {release} --namespace {namespace}"
    );
    Err(Usage(text).into())
}

/// Lets every agent delete what it holds; the nodes of which it is not known that they did.
fn erase(cluster: &Cluster, installed: &Installed) -> anyhow::Result<Vec<String>> {
    let Cluster { runtime, access, namespace } = cluster;
    let asked = async {
        let fleet = match Fleet::list(access, namespace).await {
            // Without agents there is nobody to ask.
            Err(ClusterError::NotFound { .. }) => return Ok(None),
            listed => listed?,
        };
        match portforward::review(access, namespace).await {
            Err(ClusterError::Forbidden { right, .. }) => {
                anyhow::bail!(
                    "erasing the recordings needs the right {right}; --keep-data leaves them on the nodes"
                )
            }
            reviewed => reviewed?,
        }
        // An agent erases nothing while it records, and one that is started anew does not begin again.
        match control::set(access, namespace, Recording::Stopped).await {
            Err(ClusterError::NotFound { .. }) => {}
            set => drop((set?, switch::follow(access, namespace, false).await?)),
        }
        let answers = fleet.ask(AT_A_TIME, async |mut session, _| session.erase().await).await;
        anyhow::Ok(Some((answers, fleet.absent().unwrap_or(0))))
    };
    let Some((answers, absent)) = runtime.block_on(asked)? else {
        return Ok(Vec::new());
    };
    let dir = data_dir(installed);
    let mut kept = Vec::new();
    for (Agent { node, .. }, answer) in answers {
        match answer {
            Ok(()) => anstream::println!("erased the recording of node {node}"),
            Err(error) => {
                anstream::eprintln!(
                    "node {node} keeps its recording ({}); on the node: sudo rm -r {dir}",
                    one_line(&error)
                );
                kept.push(node);
            }
        }
    }
    if absent > 0 {
        anstream::eprintln!(
            "{absent} nodes without an agent may keep a recording from before; on the node: sudo rm -r {dir}"
        );
        kept.push(format!("{absent} without an agent"));
    }
    Ok(kept)
}

fn data_dir(installed: &Installed) -> &str {
    let values = installed.values.as_ref();
    values.and_then(|values| values["tap"]["dataDir"].as_str()).unwrap_or("/var/lib/kuberewind")
}

/// `removed DaemonSet kuberewind/kuberewind-agent`.
fn told(cleaned: &Cleaned) -> String {
    let Cleaned { kind, namespace, name, outcome } = cleaned;
    let namespace = namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
    match outcome {
        Outcome::Removed => format!("removed {kind} {namespace}{name}"),
        Outcome::Kept { because } => format!("kept {kind} {namespace}{name}: {because}"),
    }
}
