//! Serves the API until it is stopped: on the data directory's socket, and in a pod on TCP ports.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Duty, SOCKET_NAME, api};

/// Threads for sockets: requests wait for the recorder's threads, not for these.
const THREADS: usize = 2;

/// How long answers under way may take to end when the agent stops.
const GRACE: Duration = Duration::from_millis(300);

/// Something that is being served.
pub(crate) struct Served {
    stop: oneshot::Sender<()>,
    task: JoinHandle<io::Result<()>>,
}

impl Served {
    /// Serves within the tokio runtime that calls.
    pub(crate) fn start<L>(listener: L, router: Router) -> Self
    where
        L: Listener,
        L::Addr: fmt::Debug,
    {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            axum::serve(listener, router)
                .with_graceful_shutdown(async move {
                    let _ = stopped.await;
                })
                .await
        });
        Self { stop, task }
    }

    /// Takes no more requests, and lets answers under way end for a moment.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        let _ = tokio::time::timeout(GRACE, self.task).await;
    }
}

/// Listens on the socket in `dir`, within a tokio runtime. The caller holds the directory's lock, so a
/// socket that is there already was left behind by a recorder that was killed.
pub(crate) fn listen(dir: &Path) -> io::Result<UnixListener> {
    withdraw(dir)?;
    UnixListener::bind(dir.join(SOCKET_NAME))
}

/// Takes the socket away; connections live on.
pub(crate) fn withdraw(dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(dir.join(SOCKET_NAME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The API of a recorder on a machine of its own, with the threads that serve it.
pub(crate) struct Server {
    runtime: Runtime,
    served: Served,
}

impl Server {
    /// Serves on the socket in `dir`, whose lock the caller holds.
    pub(crate) fn start(dir: &Path, duty: Arc<Duty>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("api")
            .enable_all()
            .build()?;
        let served = {
            let _inside = runtime.enter();
            Served::start(listen(dir)?, api::socket_router(duty))
        };
        Ok(Self { runtime, served })
    }

    /// Takes no more requests, lets answers under way end for a moment, then cuts them.
    pub(crate) fn stop(self, dir: &Path) {
        self.runtime.block_on(self.served.stop());
        self.runtime.shutdown_timeout(GRACE);
        let _ = withdraw(dir);
    }
}
