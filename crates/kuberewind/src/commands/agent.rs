//! `kuberewind agent`: records one node's pods. The DaemonSet runs it.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

use super::shutdown;
use crate::agent::{Node, NodeConfig};
use crate::cli::AgentArgs;
use crate::exit::Exit;

/// Waiting on the network and for files; packets have threads of their own.
const THREADS: usize = 4;

/// How long tasks may take to end once everything is sealed.
const GRACE: Duration = Duration::from_millis(300);

/// Records until it is told to stop.
pub(crate) fn agent(args: &AgentArgs) -> anyhow::Result<Exit> {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(of_level(tracing::Level::INFO))
        .with_filter_reloading();
    let filter = subscriber.reload_handle();
    subscriber.init();
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
    let set_level = move |level| {
        let _ = filter.reload(of_level(level));
    };
    let ended = runtime.block_on(Node::run(config(args), set_level, stopped));
    runtime.shutdown_timeout(GRACE);
    ended.map(|()| Exit::Complete)
}

fn config(args: &AgentArgs) -> NodeConfig {
    let AgentArgs { node, namespace, pod, proc, kubeconfig, data_dir, metrics_port } = args;
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

/// What the libraries below say is of interest only to who traces everything.
fn of_level(level: tracing::Level) -> EnvFilter {
    match level {
        tracing::Level::TRACE => EnvFilter::new("trace"),
        level => EnvFilter::new(format!(
            "warn,kuberewind={level},kuberewind_cluster={level},kuberewind_capture={level},kuberewind_store={level}"
        )),
    }
}
