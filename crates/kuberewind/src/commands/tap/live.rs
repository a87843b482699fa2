//! The line that `tap` shows on a terminal while the cluster records.

use std::time::Duration;

use kuberewind_cluster::agents::Agent;
use kuberewind_export::figures;

use super::super::cluster::Cluster;
use super::super::fleet::{AT_A_TIME, Fleet};
use super::super::shutdown;
use super::cluster::PATIENCE;
use super::report;
use crate::agent::Status;
use crate::exit::one_line;

/// How often it is drawn anew.
const REFRESH: Duration = Duration::from_secs(1);

type Answers = Vec<(Agent, anyhow::Result<Status>)>;

/// Draws until Ctrl-C. The recording goes on without us.
pub(super) fn watch(cluster: &Cluster) -> anyhow::Result<()> {
    let stop = shutdown::requests()?;
    anstream::eprintln!("Ctrl-C ends this view; the cluster goes on recording");
    let mut packets = None;
    loop {
        let asked = async {
            let fleet = Fleet::list(&cluster.access, &cluster.namespace).await?;
            let fleet = fleet.with_patience(PATIENCE).with_tries(1);
            let answers = fleet.ask(AT_A_TIME, async |mut session, _| session.status().await);
            anyhow::Ok(answers.await)
        };
        let line = match cluster.runtime.block_on(asked) {
            Ok(answers) => line(&answers, &mut packets),
            Err(error) => one_line(&error),
        };
        anstream::eprint!("\r\x1b[K{line}");
        if stop.recv_timeout(REFRESH).is_ok() {
            anstream::eprintln!(
                "\r\x1b[K{line}\nthe cluster goes on recording: `kuberewind pcapdump` exports it, `kuberewind pcapdump stop` stops it, `kuberewind clean` removes it"
            );
            return Ok(());
        }
    }
}

/// `3 nodes, 41 pods; holds 4m12s or more, 693MB; 12,345 packets/s; lost 0`.
fn line(answers: &Answers, packets: &mut Option<u64>) -> String {
    let statuses: Vec<&Status> =
        answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()).collect();
    let sum = |of: fn(&Status) -> u64| statuses.iter().map(|status| of(status)).sum::<u64>();
    let recorded =
        |status: &Status| status.pods.as_ref().map_or(0, |pods| pods.recorded.len() as u64);
    let held = statuses.iter().filter_map(|status| Some(status.held()?.duration())).min();
    let now = sum(|status| status.packets);
    let rate = packets.replace(now).map_or(0, |before| now.saturating_sub(before));
    let failing: Vec<&str> = answers
        .iter()
        .filter(|(_, answer)| answer.as_ref().map_or(true, |status| report::problem(status).1))
        .map(|(agent, _)| agent.node.as_str())
        .collect();
    let trouble = match failing.as_slice() {
        [] => String::new(),
        names => format!("; PROBLEMS on {} (see kuberewind status)", names.join(", ")),
    };
    format!(
        "{} nodes, {} pods; holds {}, {}; {} packets/s; lost {}{trouble}",
        statuses.len(),
        figures::count(sum(recorded)),
        held.map_or_else(
            || "nothing yet".to_owned(),
            |held| format!("{} or more", figures::duration(held))
        ),
        figures::bytes(sum(|status| status.bytes_held)),
        figures::count(rate),
        figures::count(sum(Status::lost)),
    )
}
