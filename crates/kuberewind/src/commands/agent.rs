//! `kuberewind agent`: records one node's pods. The daemonset runs it.

use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::oneshot;

use super::shutdown;
use crate::agent::{Node, NodeConfig, confine};
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
    confine();
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
            let _ = stop.recv();
            let _ = stopping.send(());
        })
        .context("start the thread that waits for a signal")?;
    let ended = runtime.block_on(Node::run(config(args), set_level, stopped));
    runtime.shutdown_timeout(GRACE);
    ended.map(|()| Exit::Complete)
}

fn config(args: &AgentArgs) -> NodeConfig {
    let AgentArgs { node, namespace, pod, proc, kubeconfig, data_dir, metrics_port, log_format: _ } =
        args;
    NodeConfig {
        node: node.clone(),
        namespace: namespace.clone(),
        pod: pod.clone(),
        proc: proc.clone(),
        kubeconfig: kubeconfig.clone(),
        data_dir: data_dir.clone(),
        metrics_port: *metrics_port,
    }
}
