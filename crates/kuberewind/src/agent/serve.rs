//! Serves the API on the data directory's socket until it is stopped.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Recorder, SOCKET_NAME, api};

/// Threads for sockets: requests wait for the recorder's threads, not for these.
const THREADS: usize = 2;

/// How long answers under way may take to end when the agent stops.
const GRACE: Duration = Duration::from_millis(300);

/// The running API.
pub(crate) struct Server {
    runtime: Runtime,
    stop: oneshot::Sender<()>,
    served: JoinHandle<io::Result<()>>,
}

impl Server {
    /// Listens on the socket in `dir`. The caller holds the directory's lock, so a socket that is
    /// there already was left behind by a recorder that was killed.
    pub(crate) fn start(dir: &Path, recorder: Arc<Recorder>) -> io::Result<Self> {
        let path = dir.join(SOCKET_NAME);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("api")
            .enable_all()
            .build()?;
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(&path)?
        };
        let (stop, stopped) = oneshot::channel();
        let served = runtime.spawn(async move {
            axum::serve(listener, api::router(recorder))
                .with_graceful_shutdown(async move {
                    let _ = stopped.await;
                })
                .await
        });
        Ok(Self { runtime, stop, served })
    }

    /// Takes no more requests, lets answers under way end for a moment, then cuts them.
    pub(crate) fn stop(self, dir: &Path) {
        let _ = self.stop.send(());
        self.runtime.block_on(async {
            let _ = tokio::time::timeout(GRACE, self.served).await;
        });
        self.runtime.shutdown_timeout(GRACE);
        let _ = std::fs::remove_file(dir.join(SOCKET_NAME));
    }
}
