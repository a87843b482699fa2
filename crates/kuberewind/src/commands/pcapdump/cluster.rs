//! A whole cluster's recording, in one file.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use kuberewind_cluster::agents::{Agent, Health};
use kuberewind_cluster::portforward::{self, Patience};
use kuberewind_cluster::rollout::{self, Waiting};
use kuberewind_cluster::{Access, control, names};
use kuberewind_export::{
    Destination, Export, ExportError, Fetch, Input, NodeReport, Report, SurveyLimits, TlsParts,
};
use kuberewind_packet::Span;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::watch;

use crate::agent::{Status, Wanted, WindowQuery};
use crate::cli::{PcapdumpArgs, SelectArgs, VantageArg};
use crate::config::parse_duration;
use crate::exit::{Exit, Usage, one_line};

use super::super::cluster::Cluster;
use super::super::fleet::Fleet;
use super::super::{advice, coverage, shutdown};
use super::clocks::{self, Clocks, Reading};
use super::deliver::{deliver, finish, job, spool_dir, user, views_note};
use super::fetch::{Fetcher, Outcome};
use super::plan::{self, Holding, Part};
use super::progress::Board;
use super::spool::Arrived;
use super::window::Asked;

/// How often an agent is asked for its clock. One that vanished costs its silence each time.
const ASKED: u32 = 2;

/// Everything that can be wrong with the call is found before anybody is asked.
pub(super) fn export(args: &PcapdumpArgs) -> anyhow::Result<Exit> {
    let PcapdumpArgs { export: wanted, select, .. } = args;
    if wanted.follow {
        bail!(Usage("--follow goes with --local: it shows one machine's packets".to_owned()));
    }
    let asked = Asked::parse(wanted)?;
    let destination = Destination::find(wanted.dest.as_deref(), wanted.format.map(Into::into))?;
    let tls = wanted.tls.parts(destination.format)?;
    let vantage = wanted.vantage()?;
    let mut query = query(wanted.filter.clone(), select);
    query.tls = tls != TlsParts::default();
    query.user = user();
    let chosen = Wanted::compile(&query)?;
    let patience = patience(&select.timeout)?;
    let cluster = Cluster::open(&args.cluster, "export this machine's recording")?;
    raise_file_limit();
    let fetch = async {
        portforward::review(&cluster.access, &cluster.namespace).await?;
        let (fleet, absent) = find(&cluster, &select.node).await?;
        let fleet = fleet.with_patience(patience).with_tries(ASKED);
        let answers = ask(&fleet, select.parallel.into()).await;
        Ok::<_, anyhow::Error>((fleet, absent, answers))
    };
    let (fleet, absent, answers) = cluster.runtime.block_on(fetch)?;
    let answers = sort(answers, absent)?;
    let bounds = asked.at(answers.clocks.now)?;
    let holdings =
        || answers.told.iter().map(|(node, status)| (node.as_str(), Holding::of(status)));
    let (parts, refused) = plan::parts(bounds, &answers.clocks, holdings());
    let window = plan::window(bounds, holdings().map(|(_, holding)| holding));

    let stop = stop_requests()?;
    let fetcher = Arc::new(Fetcher {
        access: cluster.access.clone(),
        namespace: cluster.namespace.clone(),
        agents: fleet.agents().to_vec(),
        patience,
        query,
        dir: spool_dir(&destination),
        survey: (vantage == VantageArg::One)
            .then(|| SurveyLimits::default().shared_by(parts.len())),
        stop: stop.clone(),
    });
    let outcomes = fetch_all(&cluster, fetcher, parts, window, select.parallel.into())?;
    let id = cluster.runtime.block_on(file_id(&cluster));
    let mut export = describe(job(&id, window, tls), &answers, refused);
    export.notes.extend(views_note(wanted, &destination));
    if bounds.from.is_some() {
        // Whoever asks for all that is held gets it.
        let held = |status| advice::window(status, window);
        export.notes.extend(answers.told.values().filter_map(held));
    }
    if tls != TlsParts::default() {
        let reports = answers.told.values().filter_map(|status| status.tls.as_ref());
        export.notes.extend(coverage::notes(reports, |owner| chosen.takes_owner(owner)));
    }
    let report = write(export, outcomes, &answers.clocks, &destination, &stop)?;
    finish(wanted, &destination, &report)
}

/// Everything but the times.
fn query(filter: Option<String>, select: &SelectArgs) -> WindowQuery {
    let namespaces = select.namespaces.join(",");
    WindowQuery {
        filter,
        compress: true,
        pods: select.pod.clone(),
        namespaces: (!namespaces.is_empty()).then_some(namespaces),
        ..WindowQuery::default()
    }
}

fn patience(timeout: &str) -> anyhow::Result<Patience> {
    let silence =
        parse_duration(timeout).map_err(|error| Usage(format!("--timeout {timeout}: {error}")))?;
    if silence.is_zero() {
        bail!(Usage(format!("--timeout {timeout}: nobody answers at once; try 30s")));
    }
    Ok(Patience { connect: silence, silence })
}

/// A spool file a node: as many as we may have. What is still too few shows when one cannot be made.
fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Ctrl-C for whoever waits.
fn stop_requests() -> anyhow::Result<watch::Receiver<bool>> {
    let requests = shutdown::requests()?;
    // signals --stop--> fetching and merging; only the newest word counts
    let (say, stop) = watch::channel(false);
    std::thread::Builder::new()
        .name("stop".to_owned())
        .spawn(move || {
            if requests.recv().is_ok() {
                say.send_replace(true);
            }
            // The word stays for as long as somebody may look.
            std::thread::park();
        })
        .context("start the thread that waits for Ctrl-C")?;
    Ok(stop)
}

/// The agents that are asked, and the nodes that should have one and have none.
async fn find(
    cluster: &Cluster,
    wanted: &[String],
) -> anyhow::Result<(Fleet, Vec<(String, String)>)> {
    let fleet = Fleet::list(&cluster.access, &cluster.namespace).await?;
    let mut absent = match fleet.absent() {
        Some(0) => Vec::new(),
        count => without_agent(&cluster.access, &cluster.namespace, &fleet, count).await,
    };
    let known: Vec<_> = fleet.agents().iter().map(|agent| agent.node.as_str()).collect();
    let missing = |node: &&String| {
        !known.contains(&node.as_str()) && !absent.iter().any(|(absent, _)| absent == *node)
    };
    if let Some(unknown) = wanted.iter().find(missing) {
        bail!(Usage(format!(
            "--node {unknown}: no agent records such a node; there are: {}",
            known.join(", ")
        )));
    }
    if wanted.is_empty() {
        return Ok((fleet, absent));
    }
    absent.retain(|(node, _)| wanted.contains(node));
    Ok((fleet.only(|agent| wanted.contains(&agent.node)), absent))
}

/// By name where we may know it.
async fn without_agent(
    access: &Access,
    namespace: &str,
    fleet: &Fleet,
    count: Option<usize>,
) -> Vec<(String, String)> {
    let has_agent = |node: &str| fleet.agents().iter().any(|agent: &Agent| agent.node == node);
    match rollout::look(access, namespace, names::DAEMONSET).await {
        Ok(rollout) => {
            let refusals = rollout.refusals.join("; ");
            let none = move |waiting: Waiting| match waiting {
                Waiting::NoPod if !refusals.is_empty() => format!("has no agent: {refusals}"),
                waiting => format!("has no agent: {waiting}"),
            };
            let down = |why| format!("has no agent, and is not ready: {why}");
            let waiting = rollout.waiting.into_iter().map(|(node, why)| (node, none(why)));
            let down = rollout.not_ready_nodes.into_iter().map(|(node, why)| (node, down(why)));
            waiting.chain(down).filter(|(node, _)| !has_agent(node)).collect()
        }
        Err(error) => {
            let Some(count) = count else { return Vec::new() };
            let names = if count == 1 { "(one node)" } else { "(nodes)" };
            vec![(
                names.to_owned(),
                format!(
                    "{count} of {} nodes that should be recorded have no agent; their names are \
                     not known: {error}",
                    fleet.agents().len() + count
                ),
            )]
        }
    }
}

/// What an agent told.
type Told = (Reading, Status);

/// The clocks of all in one round, and what each holds.
async fn ask(fleet: &Fleet, limit: usize) -> Vec<(Agent, anyhow::Result<Told>)> {
    fleet
        .ask(limit, async |mut session, _: &Agent| {
            let reading = clocks::read(&mut session).await?;
            Ok((reading, session.status().await?))
        })
        .await
}

/// Who answered what.
struct Answers {
    clocks: Clocks,
    told: BTreeMap<String, Status>,
    /// Who did not, and why.
    silent: Vec<(String, String)>,
    /// What else is to be said of those who did.
    notes: Vec<String>,
}

/// # Errors
/// That nobody answered.
fn sort(
    answers: Vec<(Agent, anyhow::Result<Told>)>,
    absent: Vec<(String, String)>,
) -> anyhow::Result<Answers> {
    let (mut readings, mut told, mut silent) = (BTreeMap::new(), BTreeMap::new(), absent);
    let mut notes = Vec::new();
    for (agent, answer) in answers {
        match answer {
            Ok((reading, status)) => {
                if agent.health != Health::Ready {
                    notes.push(format!("{}'s agent is {}", agent.node, agent.health));
                }
                readings.insert(agent.node.clone(), reading);
                told.insert(agent.node, status);
            }
            Err(error) => silent.push((agent.node, one_line(&error))),
        }
    }
    let Some(clocks) = Clocks::compare(&readings) else {
        let failure = |(node, why)| format!("{node}: {why}");
        let failures = silent.into_iter().map(failure).collect();
        return Err(ExportError::NoNode { failures }.into());
    };
    Ok(Answers { clocks, told, silent, notes })
}

fn fetch_all(
    cluster: &Cluster,
    fetcher: Arc<Fetcher>,
    parts: Vec<Part>,
    window: Span,
    limit: usize,
) -> anyhow::Result<Vec<Outcome>> {
    let parts: Vec<_> =
        parts.into_iter().map(|part| (part, Arc::new(Arrived::default()))).collect();
    let watched = parts.iter().map(|(part, arrived)| (part.node.clone(), Arc::clone(arrived)));
    let board = Board::new(window, watched.collect());
    let outcomes = cluster.runtime.block_on(async {
        tokio::select! {
            outcomes = fetcher.fetch_all(parts, limit) => outcomes,
            () = board.show() => unreachable!("it is shown for ever"),
        }
    });
    board.clear();
    Ok(outcomes?)
}

/// What the file is named after.
async fn file_id(cluster: &Cluster) -> String {
    let Cluster { access, namespace, .. } = cluster;
    if let Ok(Some(id)) = control::cluster_id(access, namespace).await {
        return id;
    }
    match access.cluster_id().await {
        Ok(id) if !id.is_empty() => id,
        _ => access.context().unwrap_or("cluster").to_owned(),
    }
}

/// The export with what is known before its packets are.
fn describe(export: Export, answers: &Answers, refused: Vec<(String, String)>) -> Export {
    let failed = |(node, why): (String, String)| {
        let fetch = Some(fetch(&answers.clocks, &node, 0));
        NodeReport { fetch, ..NodeReport::failed(node, export.window, why) }
    };
    let unreachable = answers.silent.iter().cloned().chain(refused).map(failed).collect();
    let warnings = answers.told.keys().filter_map(|node| answers.clocks.warning(node));
    let notes = warnings.chain(answers.notes.iter().cloned()).collect();
    Export { unreachable, notes, ..export }
}

fn fetch(clocks: &Clocks, node: &str, retries: u32) -> Fetch {
    Fetch { clock: clocks.offset(node), retries }
}

fn write(
    mut export: Export,
    outcomes: Vec<Outcome>,
    clocks: &Clocks,
    destination: &Destination,
    stop: &watch::Receiver<bool>,
) -> anyhow::Result<Report> {
    if !outcomes.iter().any(Outcome::is_whole) {
        // Said before the first byte is written: standard output takes nothing back.
        return Err(no_node(&export, &outcomes).into());
    }
    let mut inputs = Vec::new();
    for Outcome { node, retries, fetched } in outcomes {
        let fetch = Some(fetch(clocks, &node, retries));
        match fetched {
            Ok(mut stream) => {
                let survey = stream.take_survey();
                inputs.push(Input { node, stream, fetch, survey });
            }
            Err(why) => {
                let failed = NodeReport::failed(node, export.window, why);
                export.unreachable.push(NodeReport { fetch, ..failed });
            }
        }
    }
    inputs.sort_by(|a, b| a.node.cmp(&b.node));
    export.unreachable.sort_by(|a, b| a.account.node.cmp(&b.account.node));
    deliver(&export, inputs, destination, || *stop.borrow())
}

fn no_node(export: &Export, outcomes: &[Outcome]) -> ExportError {
    let silent = export.unreachable.iter().filter_map(|report| {
        let why = report.failure.as_deref()?;
        Some((report.account.node.as_str(), why))
    });
    let broken = outcomes.iter().filter_map(|outcome| Some((&*outcome.node, outcome.failure()?)));
    let failures = silent.chain(broken).map(|(node, why)| format!("{node}: {why}")).collect();
    ExportError::NoNode { failures }
}
