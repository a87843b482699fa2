//! `kuberewind agent`: records one node's pods. The daemonset runs it.

use std::time::Duration;

use anyhow::{Context as _, bail};
use crossbeam_channel::select;
use kuberewind_capture::{Doors, Opener};
use tokio::sync::oneshot;

use super::shutdown;
use crate::agent::{Node, NodeConfig, part_with_rights};
use crate::cli::AgentArgs;
use crate::exit::Exit;
use crate::logging;

/// Waiting on the network and for files; packets have threads of their own.
const THREADS: usize = 4;

/// How long tasks may take to end once everything is sealed.
const GRACE: Duration = Duration::from_millis(300);

/// Records until it is told to stop.
pub(crate) fn agent(args: &AgentArgs) -> anyhow::Result<Exit> {
    let set_level = logging::start(args.log_format, tracing::Level::INFO);
    let (ended, opener_ended) = crossbeam_channel::bounded(1);
    let doors = Doors::new(&args.proc, &[]);
    let opener = part_with_rights(doors, move || {
        let _ = ended.send(());
    })?;
    let stop = shutdown::requests()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("agent")
        .enable_all()
        .build()
        .context("start the agent's threads")?;
    let (stopping, stopped) = oneshot::channel();
    // Ends with the process.
    std::thread::Builder::new()
        .name("stop".to_owned())
        .spawn(move || {
            // Without its opener it can record no new pod: its successor has one.
            select! {
                recv(stop) -> _ => {}
                recv(opener_ended) -> _ => {}
            }
            let _ = stopping.send(());
        })
        .context("start the thread that waits for a signal")?;
    let ended = runtime.block_on(Node::run(config(args, opener.clone()), set_level, stopped));
    runtime.shutdown_timeout(GRACE);
    ended?;
    opener.problem().map_or(Ok(Exit::Complete), |problem| bail!(problem))
}

fn config(args: &AgentArgs, opener: Opener) -> NodeConfig {
    let AgentArgs { node, namespace, pod, proc, kubeconfig, data_dir, metrics_port, log_format: _ } =
        args;
    NodeConfig {
        node: node.clone(),
        namespace: namespace.clone(),
        pod: pod.clone(),
        proc: proc.clone(),
        opener,
        kubeconfig: kubeconfig.clone(),
        data_dir: data_dir.clone(),
        metrics_port: *metrics_port,
    }
}
