//! Objects as a real API server has them.

use serde_json::{Value, json};

/// A pod as it is when it was just bound to a node: no address, no container.
pub(super) fn bound_pod(namespace: &str, name: &str, node: &str, host_network: bool) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace,
            "labels": {"app": name.rsplit_once('-').map_or(name, |(app, _)| app)},
        },
        "spec": {
            "containers": [{
                "name": "main", "image": "localhost/tools:1", "command": ["sleep", "100000"],
                "resources": {}, "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File", "imagePullPolicy": "IfNotPresent",
            }],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 1, "dnsPolicy": "Default",
            "serviceAccountName": "default", "serviceAccount": "default", "nodeName": node,
            "securityContext": {}, "schedulerName": "default-scheduler", "priority": 0,
            "enableServiceLinks": true, "preemptionPolicy": "PreemptLowerPriority",
        },
        "status": {"phase": "Pending", "qosClass": "BestEffort", "conditions": [
            condition("PodScheduled", true),
        ]},
    });
    if host_network {
        pod["spec"]["hostNetwork"] = json!(true);
    }
    pod
}

/// A container as the kubelet tells of it.
#[derive(Clone, Debug)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) ready: bool,
    pub(super) restarts: u32,
    /// How its earlier self ended: exit code and last words.
    pub(super) last: Option<(i32, String)>,
}

/// The status of a pod that runs, its one container in it.
pub(super) fn running(
    pod: &Value,
    host: &str,
    addresses: &[String],
    container: &Container,
) -> Value {
    let spec = &pod["spec"]["containers"][0];
    let last = match &container.last {
        None => json!({}),
        Some((code, words)) => json!({"terminated": {
            "exitCode": code, "reason": "Error", "message": words,
            "startedAt": TIME, "finishedAt": TIME, "containerID": format!("containerd://{:064x}", 0),
        }}),
    };
    let ips: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    json!({
        "phase": "Running",
        "conditions": [
            condition("PodReadyToStartContainers", true), condition("Initialized", true),
            condition("Ready", container.ready), condition("ContainersReady", container.ready),
            condition("PodScheduled", true),
        ],
        "hostIP": host, "hostIPs": [{"ip": host}], "podIP": addresses[0], "podIPs": ips,
        "startTime": TIME, "qosClass": "BestEffort",
        "containerStatuses": [{
            "name": spec["name"], "image": spec["image"], "ready": container.ready, "started": true,
            "imageID": "sha256:103d53f00a7b66e5629a41eddce630d46efe354282fb1542200a4c90b73c3019",
            "state": {"running": {"startedAt": TIME}}, "lastState": last,
            "restartCount": container.restarts,
            "containerID": format!("containerd://{}", container.id),
        }],
    })
}

/// When everything happened; nobody who reads it here goes by it.
const TIME: &str = "2026-11-22T22:00:07Z";

fn condition(kind: &str, holds: bool) -> Value {
    let status = if holds { "True" } else { "False" };
    json!({"type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": TIME})
}
