//! The API server's double in a network namespace of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kuberewind_apiserver_double::{Command, Double, Fate};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::inside::Inside;

/// A running API server. Dropping it ends it.
#[derive(Debug)]
pub(super) struct ControlPlane {
    double: Arc<Double>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ControlPlane {
    /// Serves on `address` of a network namespace. Kubelets of the laboratory play the nodes' part.
    pub(super) fn start(netns: &Path, address: SocketAddr) -> Self {
        let inside = Inside::network(netns);
        let (started, double) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            inside.enter();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime for the API server").block_on(async {
                let double = Double::bind(address).await.expect("an API server");
                started.send(Arc::new(double)).expect("somebody who waits for the API server");
                // Dropped, or told: both mean the end.
                let _ = stopped.await;
            });
        });
        let double = double.recv_timeout(Duration::from_secs(10)).expect("a started API server");
        let plane = Self { double, stop: Some(stop), thread: Some(thread) };
        plane.control(Command::Fate { node: None, fate: Fate::Pending });
        plane
    }

    /// The double itself.
    pub(super) fn double(&self) -> &Double {
        &self.double
    }

    /// Does something to the cluster behind the server's back.
    pub(super) fn control(&self, command: Command) {
        let text = format!("{command:?}");
        self.double.control(command).unwrap_or_else(|error| panic!("{text}: {error}"));
    }

    /// Creates or replaces an object.
    pub(super) fn put(&self, object: Value) {
        self.control(Command::Put { object });
    }

    /// Makes a namespace unless it is there.
    pub(super) fn namespace(&self, name: &str) {
        if self.double.object("v1", "Namespace", "", name).is_none() {
            self.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
        }
    }

    /// A pod as the server has it now.
    pub(super) fn pod(&self, namespace: &str, name: &str) -> Option<Value> {
        self.double.object("v1", "Pod", namespace, name)
    }

    /// Tells a pod's status; a pod that is gone has none.
    pub(super) fn tell(&self, namespace: &str, name: &str, uid: &str, status: Value) {
        let [namespace, name, uid] = [namespace, name, uid].map(str::to_owned);
        let _ = self.double.control(Command::PodStatus { namespace, name, uid, status });
    }

    /// Takes a pod away, as when its kubelet says that it has ended.
    pub(super) fn remove_pod(&self, namespace: &str, name: &str, uid: &str) {
        if self.pod(namespace, name).is_some_and(|pod| pod["metadata"]["uid"] == uid) {
            self.control(Command::Remove {
                api_version: "v1".into(),
                kind: "Pod".into(),
                namespace: namespace.into(),
                name: name.into(),
            });
        }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its panic was printed when it happened.
            let _ = thread.join();
        }
    }
}
