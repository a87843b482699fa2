//! On a cluster: install, wait, tell.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Context as _;
use kuberewind_cluster::agents::{Agent, Health};
use kuberewind_cluster::apply::{self, Applied, ApplyOptions, Change};
use kuberewind_cluster::portforward::{self, Patience};
use kuberewind_cluster::rollout::{self, Rollout};
use kuberewind_cluster::{Access, ClusterError, chart, names, release};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::super::cluster::Cluster;
use super::super::fleet::{AT_A_TIME, Fleet};
use super::planned::Planned;
use super::report::{self, Told};
use super::{live, preview};
use crate::VERSION;
use crate::agent::Status;
use crate::cli::TapArgs;
use crate::config;
use crate::exit::{Exit, Usage};

/// How often agents are asked whether they follow the settings yet.
const EVERY: Duration = Duration::from_millis(500);

/// Even if the rollout took all of `--wait`, the agents are asked once.
const AT_LEAST: Duration = Duration::from_secs(5);

/// An agent answers at once, or something is wrong with the way to it.
pub(super) const PATIENCE: Patience =
    Patience { connect: Duration::from_secs(5), silence: Duration::from_secs(5) };

/// Installs or changes kuberewind, and returns (or shows what is recorded) once every node records.
pub(super) fn tap(args: &TapArgs) -> anyhow::Result<Exit> {
    let limit = config::parse_duration(&args.deploy.wait)
        .map_err(|error| Usage(format!("--wait {}: {error}", args.deploy.wait)))?;
    let cluster = Cluster::open(&args.cluster, "record this machine")?;
    let planned = Planned::of(&cluster, args)?;
    if args.deploy.dry_run {
        return preview::show(&cluster, &planned, args.deploy.output);
    }
    refuse(&cluster, &planned)?;
    announce(&cluster, &planned);
    let deadline = Instant::now() + limit;
    let settings_version = install(&cluster, &planned, args.deploy.force_conflicts)?;
    let rollout = wait(&cluster, deadline)?;
    for line in report::rollout(&rollout, &cluster.namespace) {
        anstream::eprintln!("{line}");
    }
    let told = ask(&cluster, &settings_version, &rollout, deadline)?;
    let missing = report::show(&told, &rollout);
    for note in [planned.stopped().map(str::to_owned), planned.overridden()].into_iter().flatten() {
        anstream::eprintln!("{note}");
    }
    if !planned.settings.config().headless && std::io::stderr().is_terminal() {
        live::watch(&cluster)?;
    }
    Ok(if missing || !rollout.is_complete() { Exit::Incomplete } else { Exit::Complete })
}

/// What is somebody else's is left alone.
fn refuse(cluster: &Cluster, planned: &Planned) -> anyhow::Result<()> {
    let namespace = &cluster.namespace;
    if let Some(line) = planned.helm(namespace) {
        let text = format!(
            "kuberewind in namespace {namespace} is managed by Helm; the same with Helm:\n  {line}"
        );
        return Err(Usage(text).into());
    }
    let elsewhere = release::elsewhere(&cluster.access, namespace);
    if let Some(other) = cluster.runtime.block_on(elsewhere) {
        let text = format!(
            "kuberewind is installed in namespace {other} already, and a cluster has one: name it with `-s {other}`, or remove it first with `kuberewind clean -s {other}`"
        );
        return Err(Usage(text).into());
    }
    Ok(())
}

fn announce(cluster: &Cluster, planned: &Planned) {
    let verb = if planned.installed.is_some() { "updating" } else { "installing" };
    let server = cluster.access.server();
    anstream::eprintln!(
        "{verb} kuberewind {VERSION} in namespace {} of {server}",
        cluster.namespace
    );
    if cluster.namespace == "default" {
        anstream::eprintln!(
            "warning: in namespace default everybody with the stock `edit` role can read every recorded packet; -s names another"
        );
    }
    let notes = planned.notes.iter().cloned();
    for note in notes.chain(planned.replaces()).chain(planned.left_behind()) {
        anstream::eprintln!("note: {note}");
    }
    for change in planned.changes() {
        anstream::eprintln!("  {change}");
    }
}

/// Applies the objects; the version of the settings that the agents are to follow.
fn install(cluster: &Cluster, planned: &Planned, force: bool) -> anyhow::Result<String> {
    let Cluster { runtime, access, namespace } = cluster;
    let mut objects = planned.objects.clone();
    if !runtime.block_on(has_namespace(access, namespace))? {
        objects.push(chart::namespace(namespace));
    }
    let mut settings_version = String::new();
    let mut changed = false;
    let tell = |applied: &Applied| {
        changed |= applied.change != Change::Unchanged;
        report::applied(applied);
        if applied.kind == "ConfigMap" && applied.name == names::CONFIG_MAP {
            settings_version.clone_from(&applied.version);
        }
    };
    let objects = apply::objects(&objects)?;
    let options = ApplyOptions { dry_run: false, force };
    let done = runtime.block_on(apply::apply(access, namespace, &objects, options, tell));
    done.map_err(hinted)?;
    let gone = apply::objects(&planned.gone)?;
    let told = |kind: &str, name: &str| {
        changed = true;
        anstream::eprintln!("removed {kind} {name}");
    };
    runtime.block_on(apply::remove(access, namespace, &gone, told)).map_err(hinted)?;
    if !changed {
        anstream::eprintln!("nothing to change");
    }
    Ok(settings_version)
}

/// Somebody who may not look has an administrator who made it.
pub(super) async fn has_namespace(access: &Access, namespace: &str) -> Result<bool, ClusterError> {
    match release::has_namespace(access, namespace).await {
        Err(ClusterError::Forbidden { .. }) => Ok(true),
        found => found,
    }
}

/// What mends it, where that is more than the error says.
pub(super) fn hinted(error: ClusterError) -> anyhow::Error {
    let hint = match &error {
        ClusterError::Conflict { .. } => {
            "add --force-conflicts to take over what something else has changed"
        }
        ClusterError::Forbidden { .. } => {
            "installing takes an administrator's rights; what was applied so far stays"
        }
        _ => return error.into(),
    };
    anyhow::anyhow!("{error} ({hint})")
}

fn wait(cluster: &Cluster, deadline: Instant) -> anyhow::Result<Rollout> {
    let Cluster { runtime, access, namespace } = cluster;
    let limit = deadline.saturating_duration_since(Instant::now());
    let mut ready = None;
    let told = |rollout: &Rollout| {
        if rollout.observed && ready != Some(rollout.ready.len()) {
            ready = Some(rollout.ready.len());
            let all = rollout.ready.len() + rollout.waiting.len();
            anstream::eprintln!(
                "{} of {all} nodes have an agent that is ready",
                rollout.ready.len()
            );
        }
    };
    let waited = rollout::wait(access, namespace, names::DAEMONSET, limit, told);
    runtime.block_on(waited).context("it is installed, but whether the nodes record cannot be seen")
}

/// Asks the agents what they record until all of them follow the settings, or the time is over.
fn ask(
    cluster: &Cluster,
    version: &str,
    rollout: &Rollout,
    deadline: Instant,
) -> anyhow::Result<Told> {
    let Cluster { runtime, access, namespace } = cluster;
    runtime.block_on(async {
        match portforward::review(access, namespace).await {
            Err(ClusterError::Forbidden { right, .. }) => return Ok(Told::NotAllowed(*right)),
            reviewed => reviewed?,
        }
        let deadline = deadline.max(Instant::now() + AT_LEAST);
        Ok(Told::Agents(follow(access, namespace, version, &rollout.ready, deadline).await?))
    })
}

/// What every agent answers, once it follows; else why it does not. One that began to record
/// (`started`, by node) and is not ready any more is restarting, and waited for like the ready ones.
async fn follow(
    access: &Access,
    namespace: &str,
    version: &str,
    started: &[String],
    deadline: Instant,
) -> anyhow::Result<Vec<(Agent, anyhow::Result<Status>)>> {
    let mut settled: BTreeMap<String, Status> = BTreeMap::new();
    loop {
        let fleet = Fleet::list(access, namespace).await?.with_patience(PATIENCE).with_tries(1);
        let all = fleet.agents().to_vec();
        let open = fleet.only(|agent| !settled.contains_key(&agent.pod));
        let again = Instant::now() + EVERY;
        let asked = open.ask(AT_A_TIME, async |mut session, _| session.status().await);
        let answers = timeout_at(deadline, asked).await.unwrap_or_default();
        let mut lagging = BTreeMap::new();
        for (agent, answer) in answers {
            let why = match answer {
                Ok(status) if follows(&status, version) => {
                    settled.insert(agent.pod, status);
                    continue;
                }
                Ok(_) => anyhow::anyhow!("does not follow the new settings yet"),
                Err(error) => error,
            };
            lagging.insert(agent.pod, why);
        }
        let comes = |agent: &Agent| match agent.health {
            Health::Ready => true,
            Health::NotReady | Health::Starting { .. } => started.contains(&agent.node),
            _ => false,
        };
        let waited_for = |agent: &Agent| comes(agent) && !settled.contains_key(&agent.pod);
        if !all.iter().any(waited_for) || again >= deadline {
            let answer = |agent: Agent| {
                let late = || anyhow::anyhow!("did not answer in time");
                let status = settled.remove(&agent.pod);
                let answer = status.ok_or_else(|| lagging.remove(&agent.pod).unwrap_or_else(late));
                (agent, answer)
            };
            return Ok(all.into_iter().map(answer).collect());
        }
        sleep_until(again).await;
    }
}

/// Whether the agent has read the settings, or newer ones: resource versions count up.
fn follows(status: &Status, version: &str) -> bool {
    let read = status.pods.as_ref().and_then(|pods| pods.settings_version.as_deref());
    read.is_some_and(|read| {
        let number = |text: &str| text.parse::<u64>().ok();
        read == version || number(read).zip(number(version)).is_some_and(|(read, it)| read >= it)
    })
}
