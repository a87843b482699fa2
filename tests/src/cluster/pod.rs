//! Pods that do the cluster's work.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::control_plane::ControlPlane;
use super::node::Node;
use super::objects::{self, Container};
use super::sandbox::{Birth, Sandbox, container_id};
use crate::{Netns, Program, wait_until};

/// A running pod. Its processes end when it is dropped; the API server hears of it by
/// [`Pod::delete`] only.
#[derive(Debug)]
pub struct Pod {
    plane: Arc<ControlPlane>,
    node: Arc<Node>,
    namespace: String,
    name: String,
    uid: String,
    sandbox: Sandbox,
}

impl Pod {
    /// In the order of a real node: the API tells of the pod, then its sandbox comes, then a
    /// container, then the API tells of its address.
    pub(super) fn make(
        plane: &Arc<ControlPlane>,
        node: &Arc<Node>,
        namespace: &str,
        name: &str,
        host_network: bool,
        birth: &mut Birth<'_>,
    ) -> Self {
        plane.namespace(namespace);
        plane.put(objects::bound_pod(namespace, name, &node.name, host_network));
        let object = plane.pod(namespace, name).expect("the pod that was just made");
        let uid = object["metadata"]["uid"].as_str().expect("its UID").to_owned();
        let mut sandbox = Sandbox::start(node, name, &uid, host_network, birth);
        let container = Container { id: container_id(), ready: true, restarts: 0, last: None };
        sandbox.run(&container.id, Command::new("sleep").arg("100000"));
        let host = node.address().to_string();
        plane.tell(
            namespace,
            name,
            &uid,
            objects::running(&object, &host, &sandbox.addresses, &container),
        );
        let [namespace, name] = [namespace, name].map(str::to_owned);
        Self { plane: plane.clone(), node: node.clone(), namespace, name, uid, sandbox }
    }

    /// `NAMESPACE/NAME`
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Its UID.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Its node.
    pub fn node(&self) -> &str {
        &self.node.name
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Netns {
        self.sandbox.netns()
    }

    /// Its addresses: IPv4, then IPv6.
    pub fn addresses(&self) -> [&str; 2] {
        let [v4, v6] = &self.sandbox.addresses[..] else {
            panic!("{} is in its node's network", self.full_name())
        };
        [v4, v6]
    }

    /// Starts another process of it, in a container of its own; to be dropped before the pod.
    pub fn start(&mut self, command: &Command) -> Program {
        self.sandbox.start_container(&container_id(), command)
    }

    /// Waits until packets that are sent to it arrive.
    pub fn wait_to_carry(&self) {
        wait_until(&format!("{}'s cable", self.full_name()), Duration::from_secs(10), || {
            self.sandbox.carries()
        });
    }

    /// Deletes it as `kubectl delete` does: marked first, then its processes end, then it is gone.
    pub fn delete(self) {
        let Self { plane, namespace, name, uid, sandbox, .. } = self;
        if let Some(mut object) = plane.pod(&namespace, &name) {
            object["metadata"]["deletionTimestamp"] = json!("2026-11-22T22:00:07Z");
            object["metadata"]["deletionGracePeriodSeconds"] = json!(1);
            plane.put(object);
        }
        drop(sandbox);
        plane.remove_pod(&namespace, &name, &uid);
    }
}
