//! Of a cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use kuberewind_cluster::agents::{Agent, Health};
use kuberewind_cluster::apply::{self, ApplyOptions};
use kuberewind_cluster::portforward::{self, Patience};
use kuberewind_cluster::preflight::{self, Deed, Need, NodeFacts, PodSecurity};
use kuberewind_cluster::{Access, ClusterError, chart};
use kuberewind_export::figures;
use serde_json::Value;

use super::super::cluster::Cluster;
use super::super::fleet::{AT_A_TIME, Fleet};
use super::super::tap::{self, Planned};
use super::finding::Finding;
use super::kernel;
use super::local::judge_room;
use crate::agent::Status;
use crate::cli::{CheckArgs, DeedArg, DeployArgs, TapArgs};
use crate::config::Config;
use crate::exit::one_line;

/// An agent answers at once, or something is wrong with the way to it.
const PATIENCE: Patience =
    Patience { connect: Duration::from_secs(5), silence: Duration::from_secs(5) };

/// The oldest minor version of Kubernetes 1 that the chart asks for.
const OLDEST_MINOR: u32 = 25;

/// More names of nodes are only counted.
const MOST_NAMES: usize = 5;

/// The machines that the image is built for unless told otherwise: that of this program.
const IMAGE_ARCH: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

const ADMINISTRATOR: &str = "an administrator may do it, or grant the right";

pub(super) fn look(args: &CheckArgs) -> anyhow::Result<Vec<Finding>> {
    let cluster = Cluster::open(&args.cluster, "check this machine")?;
    let Cluster { runtime, access, namespace } = &cluster;
    let version = match runtime.block_on(access.kube_version()) {
        Ok(version) => version,
        Err(error) => return Ok(vec![unreachable(error)]),
    };
    let mut findings = vec![judge_version(&version, access.server())];
    let planned = Planned::of(&cluster, &as_tap(args))?;
    let config = planned.settings.config();
    let set = chart::agents(&planned.objects);
    runtime.block_on(async {
        findings.extend(rights(access, namespace, &args.deeds, &planned.objects).await?);
        let spec = set.spec.as_ref().and_then(|spec| spec.template.spec.clone());
        let spec = spec.unwrap_or_default();
        let nodes = match preflight::nodes(access, &spec).await {
            Ok(nodes) => nodes,
            Err(error) => {
                findings.push(unseen("nodes", &error));
                Vec::new()
            }
        };
        findings.extend(judge_nodes(&nodes, config));
        let there = match preflight::pod_security(access, namespace).await {
            Ok(level) => {
                findings.push(judge_level(namespace, level.as_ref()));
                level.is_some()
            }
            Err(error) => {
                findings.push(unseen("namespace", &error));
                true
            }
        };
        findings.extend(admission(access, namespace, &planned.objects, there).await?);
        let openshift = preflight::has_group(access, "security.openshift.io").await?;
        if openshift && !config.tap.open_shift {
            findings.push(
                Finding::blocks("admission", "this is OpenShift, which must allow the agents")
                    .hinders("the agents' pods")
                    .mend("--set tap.openShift=true"),
            );
        }
        let fleet = match Fleet::list(access, namespace).await {
            Ok(fleet) => Some(fleet.with_patience(PATIENCE).with_tries(1)),
            Err(ClusterError::NotFound { .. } | ClusterError::Forbidden { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        if there {
            let running = fleet.as_ref().map_or(0, |fleet| fleet.agents().len());
            findings.push(pod(access, namespace, &set).await);
            let more = nodes.iter().filter(|node| node.passed_over.is_none()).count();
            findings.extend(quota(access, namespace, &spec, more.saturating_sub(running)).await);
        }
        match fleet {
            Some(fleet) => findings.extend(agents(access, namespace, &fleet).await),
            None => findings.extend(disks(&nodes, config)),
        }
        anyhow::Ok(())
    })?;
    Ok(findings)
}

fn as_tap(args: &CheckArgs) -> TapArgs {
    TapArgs {
        regex: None,
        local: false,
        // What may not be read is then not known, instead of an error.
        deploy: DeployArgs { dry_run: true, ..DeployArgs::default() },
        cluster: args.cluster.clone(),
        netns: Vec::new(),
        interface: Vec::new(),
        settings: args.settings.clone(),
    }
}

fn unreachable(error: ClusterError) -> Finding {
    Finding::blocks("API server", one_line(&error.into()))
        .hinders("everything")
        .mend("--kubeconfig or --context names another cluster")
}

/// Something that could not be looked at.
fn unseen(topic: &'static str, error: &ClusterError) -> Finding {
    Finding::warning(topic, format!("not looked at: {error}"))
}

fn judge_version(version: &str, server: &str) -> Finding {
    let mut numbers = version.trim_start_matches('v').split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next()?.parse::<u32>().ok();
    let found = format!("Kubernetes {version} at {server}");
    match number().zip(number()) {
        Some((1, minor)) if minor < OLDEST_MINOR => Finding::blocks("API server", found)
            .hinders("installing: agents could not be replaced without a gap")
            .mend(format!("Kubernetes 1.{OLDEST_MINOR} or newer")),
        Some(_) => Finding::ok("API server", found),
        None => Finding::warning("API server", found),
    }
}

async fn rights(
    access: &Access,
    namespace: &str,
    asked: &[DeedArg],
    objects: &[Value],
) -> Result<Vec<Finding>, ClusterError> {
    let all = [DeedArg::Tap, DeedArg::Pcapdump, DeedArg::Stop, DeedArg::Clean];
    let mut findings = Vec::new();
    for deed in all.into_iter().filter(|deed| asked.is_empty() || asked.contains(deed)) {
        let (deed, command) = match deed {
            DeedArg::Tap => (Deed::Tap, "tap"),
            DeedArg::Pcapdump => (Deed::Pcapdump, "pcapdump, status"),
            DeedArg::Stop => (Deed::Switch, "pcapdump stop, pcapdump start"),
            DeedArg::Clean => (Deed::Clean, "clean"),
        };
        let unmet = preflight::unmet(access, preflight::needs(deed, namespace, objects)).await?;
        findings.extend(judge_rights(deed, command, &unmet));
    }
    Ok(findings)
}

/// What is missing, in one finding for what must be and one for what should.
fn judge_rights(deed: Deed, command: &str, unmet: &[Need]) -> Vec<Finding> {
    let (must, better): (Vec<&Need>, Vec<&Need>) = unmet.iter().partition(|need| need.must);
    let mend = match deed {
        Deed::Pcapdump => "the Role kuberewind-exporter gives what is needed; bind it",
        _ => ADMINISTRATOR,
    };
    let mut findings = Vec::new();
    if !must.is_empty() {
        let missing = must.iter().map(|need| need.right.to_string()).collect::<Vec<_>>();
        findings.push(
            Finding::blocks("rights", format!("missing for {command}: {}", missing.join("; ")))
                .hinders(command)
                .mend(mend),
        );
    }
    let mut by_loss: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for need in better {
        by_loss.entry(need.without).or_default().push(need.right.to_string());
    }
    findings.extend(by_loss.into_iter().map(|(without, missing)| {
        Finding::warning("rights", format!("missing for {command}: {}", missing.join("; ")))
            .hinders(without)
            .mend(mend)
    }));
    if findings.is_empty() {
        findings.push(Finding::ok("rights", format!("all that {command} needs")));
    }
    findings
}

fn judge_nodes(nodes: &[NodeFacts], config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let wanted: Vec<_> = nodes.iter().filter(|node| node.passed_over.is_none()).collect();
    if !nodes.is_empty() {
        let found = format!("{} of {} nodes get an agent", wanted.len(), nodes.len());
        findings.push(if wanted.is_empty() {
            Finding::blocks("nodes", found)
                .hinders("recording")
                .mend("tap.nodeSelectorTerms and tap.tolerations choose the nodes")
        } else {
            Finding::ok("nodes", found)
        });
    }
    // Windows and the like are passed over on purpose.
    let is_linux = |node: &&NodeFacts| node.os.is_empty() || node.os == "linux";
    let passed_over = nodes.iter().filter(is_linux).filter_map(|node| {
        let why = node.passed_over.as_ref()?;
        Some((why.clone(), node.name.as_str()))
    });
    findings.extend(grouped(passed_over).into_iter().map(|(why, names)| {
        Finding::warning("nodes", format!("{names}: {why}"))
            .hinders("recording there")
            .mend("tap.tolerations and tap.nodeSelectorTerms choose the nodes")
    }));
    let others = nodes.iter().filter(|node| !is_linux(node));
    let others = others.map(|node| (node.os.clone(), node.name.as_str()));
    findings.extend(
        grouped(others).into_iter().map(|(os, names)| {
            Finding::ok("nodes", format!("{names}: {os}; only Linux is recorded"))
        }),
    );
    let down = wanted.iter().filter_map(|node| Some((node.not_ready.clone()?, &*node.name)));
    findings.extend(grouped(down).into_iter().map(|(why, names)| {
        Finding::warning("nodes", format!("{names}: not ready: {why}")).hinders("recording there")
    }));
    let pressed = wanted.iter().flat_map(|node| {
        node.pressures.iter().map(|pressure| (pressure.clone(), node.name.as_str()))
    });
    findings.extend(grouped(pressed).into_iter().map(|(why, names)| {
        Finding::warning("nodes", format!("{names}: {why}"))
            .hinders("the agents there: the kubelet evicts pods")
            .mend("make room there, or set tap.priorityClass=system-node-critical")
    }));
    let foreign = wanted.iter().filter(|node| !node.arch.is_empty() && node.arch != IMAGE_ARCH);
    let foreign = foreign.map(|node| (node.arch.clone(), node.name.as_str()));
    findings.extend(grouped(foreign).into_iter().map(|(arch, names)| {
        Finding::warning("nodes", format!("{names}: {arch}"))
            .hinders(format!("the agents there, if the image is for {IMAGE_ARCH} only"))
            .mend(format!("an image for {arch}; `cargo xtask image` on such a machine makes one"))
    }));
    let known = wanted.iter().filter(|node| !node.kernel.is_empty());
    let kernels = known.map(|node| (node.kernel.clone(), node.name.as_str()));
    findings.extend(grouped(kernels).into_iter().map(|(release, names)| {
        let well = || Finding::ok("kernel", format!("{names}: Linux {release}"));
        kernel::judge(&format!("{names}: "), &release, config.tap.tls).unwrap_or_else(well)
    }));
    let runtimes = wanted.iter().filter(|node| !node.runtime.is_empty());
    let runtimes = runtimes.map(|node| {
        (node.runtime.split(':').next().unwrap_or_default().to_owned(), node.name.as_str())
    });
    findings.extend(grouped(runtimes).into_iter().map(|(runtime, names)| {
        let found = format!("{names}: {runtime}");
        if matches!(runtime.as_str(), "containerd" | "cri-o" | "docker") {
            Finding::ok("container runtimes", found)
        } else {
            Finding::warning("container runtimes", found).hinders(
                "finding the pods' network namespaces, should its cgroups be named otherwise",
            )
        }
    }));
    findings
}

/// Nodes with the same to say, in one line: `n1, n2 and 7 more`.
fn grouped<'a>(facts: impl Iterator<Item = (String, &'a str)>) -> Vec<(String, String)> {
    let mut groups: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (fact, name) in facts {
        groups.entry(fact).or_default().push(name);
    }
    let shortened = |names: Vec<&str>| {
        let first = names[..names.len().min(MOST_NAMES)].join(", ");
        match names.len().saturating_sub(MOST_NAMES) {
            0 => first,
            more => format!("{first} and {more} more"),
        }
    };
    groups.into_iter().map(|(fact, names)| (fact, shortened(names))).collect()
}

fn judge_level(namespace: &str, security: Option<&PodSecurity>) -> Finding {
    const LABEL: &str = "pod-security.kubernetes.io/enforce";
    let Some(PodSecurity { level }) = security else {
        return Finding::ok(
            "namespace",
            format!("{namespace} is not there yet; `tap` makes it with the label that it needs"),
        );
    };
    match level.as_deref() {
        Some(level @ "privileged") => {
            Finding::ok("namespace", format!("{namespace} has {LABEL}={level}"))
        }
        Some(level) => Finding::blocks("namespace", format!("{namespace} has {LABEL}={level}"))
            .hinders("the agents' pods: they mount directories of the node and have capabilities")
            .mend(format!("kubectl label namespace {namespace} {LABEL}=privileged --overwrite")),
        None => Finding::ok(
            "namespace",
            format!("{namespace} has no label {LABEL}; the cluster's default holds"),
        ),
    }
}

/// The server's word on the objects, none of which it keeps.
async fn admission(
    access: &Access,
    namespace: &str,
    objects: &[Value],
    there: bool,
) -> anyhow::Result<Vec<Finding>> {
    let mut objects = objects.to_vec();
    if !there {
        // What belongs into a namespace cannot be judged before it is there.
        objects.retain(|object| object["metadata"]["namespace"].is_null());
        objects.insert(0, chart::namespace(namespace));
    }
    let count = objects.len();
    let mut findings = Vec::new();
    let options = ApplyOptions { dry_run: true, force: false };
    let objects = apply::objects(&objects)?;
    let told = |applied: &apply::Applied| {
        let warned = applied.warnings.iter();
        findings.extend(warned.map(|warning| {
            Finding::warning("admission", format!("{} {}: {warning}", applied.kind, applied.name))
        }));
    };
    let applied = apply::apply(access, namespace, &objects, options, told).await;
    findings.push(match applied {
        Ok(()) => {
            let rest = if there { "" } else { "; the others once the namespace is there" };
            Finding::ok("admission", format!("the API server takes {count} objects{rest}"))
        }
        Err(error @ ClusterError::Forbidden { .. }) => {
            let warning = Finding::warning("admission", format!("not looked at: {error}"));
            warning.hinders("tap").mend(ADMINISTRATOR)
        }
        Err(error @ ClusterError::Conflict { .. }) => {
            Finding::blocks("admission", error.to_string())
                .hinders("tap")
                .mend("`tap --force-conflicts` takes over what something else has changed")
        }
        Err(error @ ClusterError::UnknownKind { .. }) => {
            Finding::blocks("admission", error.to_string()).hinders("tap")
        }
        Err(error) => Finding::blocks("admission", error.to_string())
            .hinders("tap")
            .mend("the policy or the webhook that refuses it"),
    });
    Ok(findings)
}

async fn pod(access: &Access, namespace: &str, set: &chart::Agents) -> Finding {
    match preflight::try_pod(access, namespace, set).await {
        Ok(()) => Finding::ok("admission", "the API server takes the agents' pods"),
        Err(error @ ClusterError::Forbidden { .. }) => unseen("admission", &error),
        Err(error) => {
            let text = error.to_string();
            let mend = if text.contains("PodSecurity") {
                format!(
                    "kubectl label namespace {namespace} pod-security.kubernetes.io/enforce=privileged --overwrite"
                )
            } else {
                "what the server names".to_owned()
            };
            Finding::blocks("admission", text).hinders("the agents' pods").mend(mend)
        }
    }
}

async fn quota(
    access: &Access,
    namespace: &str,
    spec: &chart::PodSpec,
    pods: usize,
) -> Vec<Finding> {
    let quotas = match preflight::quotas(access, namespace).await {
        Ok(quotas) => quotas,
        Err(error) => return vec![unseen("quota", &error)],
    };
    let short = quotas.iter().flat_map(|quota| preflight::shortages(quota, spec, pods));
    let mut findings: Vec<Finding> = short
        .map(|why| {
            Finding::blocks("quota", why)
                .hinders("the agents of some nodes")
                .mend("a larger quota, or other tap.resources")
        })
        .collect();
    if findings.is_empty() {
        let found = if quotas.is_empty() { "none in the namespace" } else { "enough is left" };
        findings.push(Finding::ok("quota", found));
    }
    findings
}

/// What agents that run already say.
async fn agents(access: &Access, namespace: &str, fleet: &Fleet) -> Vec<Finding> {
    let sick = fleet.agents().iter().filter(|agent| agent.health != Health::Ready);
    let mut findings: Vec<Finding> = sick
        .map(|Agent { node, health, .. }| {
            Finding::blocks("agents", format!("{node}: {health}"))
                .hinders("recording there")
                .mend(format!("kubectl -n {namespace} describe pods tells more"))
        })
        .collect();
    if let Err(error) = portforward::review(access, namespace).await {
        findings.push(unseen("agents", &error));
        return findings;
    }
    let answers = fleet.ask(AT_A_TIME, async |mut session, _| session.status().await).await;
    for (agent, answer) in answers {
        match answer {
            Ok(status) => findings.extend(judge_agent(&agent.node, &status)),
            Err(error) if agent.health == Health::Ready => findings.push(
                Finding::warning("agents", format!("{}: {}", agent.node, one_line(&error)))
                    .hinders("exporting from there"),
            ),
            Err(_) => {}
        }
    }
    findings
}

fn judge_agent(node: &str, status: &Status) -> Vec<Finding> {
    let (problem, failing) = tap::problem(status);
    let mut findings = Vec::new();
    if failing {
        findings.push(
            Finding::blocks("agents", format!("{node}: {problem}"))
                .hinders("recording there")
                .mend("`kuberewind status` tells more"),
        );
    } else if problem.is_empty() {
        let pods = tap::pod_count(status);
        findings.push(Finding::ok("agents", format!("{node}: ready; pods recorded: {pods}")));
    } else {
        findings.push(Finding::warning("agents", format!("{node}: {problem}")));
    }
    if let Some(tls) = &status.tls {
        findings.extend(tls.problems.iter().map(|problem| {
            Finding::warning("TLS", format!("{node}: {problem}")).hinders("decrypting TLS there")
        }));
    }
    if let Some(room) = &status.disk {
        let wanted = status.bounds.max_size.saturating_sub(status.bytes_held);
        findings.push(judge_room(&format!("{node}: "), room, wanted));
    }
    findings
}

/// Before there are agents: whether the kubelets' disks are large enough.
fn disks(nodes: &[NodeFacts], config: &Config) -> Vec<Finding> {
    let wanted = config.pcapdump.max_size.bytes();
    let small = nodes.iter().filter(|node| node.passed_over.is_none()).filter_map(|node| {
        let disk = node.disk.filter(|disk| *disk < wanted)?;
        Some((figures::bytes(disk), node.name.as_str()))
    });
    grouped(small)
        .into_iter()
        .map(|(size, names)| {
            Finding::warning("disk", format!("{names}: the kubelet's disk has {size}"))
                .hinders("as long a recording as asked for, if tap.dataDir is on it")
                .mend(format!("pcapdump.maxSize, now {}", figures::bytes(wanted)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn a_cluster_that_is_too_old_blocks() {
        let state = |version| judge_version(version, "s").state;
        assert_eq!(state("v1.36.1"), State::Ok);
        assert_eq!(state("v1.25.16+k3s4"), State::Ok);
        assert_eq!(state("v1.24.17-eks-1"), State::Blocks);
        assert_eq!(state("strange"), State::Warning);
    }

    #[test]
    fn nodes_with_the_same_to_say_share_a_line() {
        let names = ["a", "b", "c", "d", "e", "f", "g"];
        let facts = names.iter().map(|name| ("same".to_owned(), *name));
        assert_eq!(grouped(facts), [("same".to_owned(), "a, b, c, d, e and 2 more".to_owned())]);
    }
}
