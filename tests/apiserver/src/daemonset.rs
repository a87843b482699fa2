//! The daemonset controller and the kubelets, as far as a recorder notices them.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Value, json};

use crate::{
    catalog::{self, Resource},
    control::{Fate, Settings},
    schema,
    state::{State, Write},
};

const FATE: &str = "double/fate";

fn resource(group: &str, plural: &str) -> &'static Resource {
    let found = catalog::find(group, "v1", plural);
    found.unwrap_or(&catalog::resources()[0])
}

fn write(status: bool) -> Write {
    Write {
        manager: if status { "kubelet" } else { "kube-controller-manager" }.into(),
        status,
        ..Write::default()
    }
}

/// One pass over all daemonsets. The caller repeats it until the version stands still.
pub(crate) fn reconcile(state: &mut State, settings: &Settings) {
    for set in state.list(resource("apps", "daemonsets"), "") {
        Pass { state, settings, hash: hash(&set["spec"]["template"]), set }.run();
    }
}

struct Pass<'a> {
    state: &'a mut State,
    settings: &'a Settings,
    set: Value,
    hash: String,
}

fn hash(template: &Value) -> String {
    let mut hasher = DefaultHasher::new();
    template.to_string().hash(&mut hasher);
    format!("{:x}", hasher.finish() & 0xff_ffff_ffff)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(crate) fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

impl Pass<'_> {
    fn namespace(&self) -> String {
        text(&self.set["metadata"]["namespace"]).to_owned()
    }

    fn pods(&self) -> Vec<Value> {
        let mut pods = self.state.list(resource("", "pods"), &self.namespace());
        pods.retain(|pod| {
            let owners = pod["metadata"]["ownerReferences"].as_array();
            owners.is_some_and(|o| o.iter().any(|o| o["uid"] == self.set["metadata"]["uid"]))
        });
        pods
    }

    fn is_current(&self, pod: &Value) -> bool {
        pod["metadata"]["labels"]["controller-revision-hash"] == self.hash.as_str()
    }

    fn run(mut self) {
        let nodes = self.state.list(resource("", "nodes"), "");
        let spec = self.set["spec"]["template"]["spec"].clone();
        let eligible: Vec<Value> = nodes.into_iter().filter(|node| runs_on(&spec, node)).collect();
        let names: Vec<String> =
            eligible.iter().map(|n| text(&n["metadata"]["name"]).to_owned()).collect();
        for pod in self.pods() {
            if !names.iter().any(|name| pod["spec"]["nodeName"] == name.as_str()) {
                self.delete(&pod);
            }
        }
        for node in &eligible {
            self.tend(node);
        }
        self.tell_status(&names);
    }

    fn tend(&mut self, node: &Value) {
        let name = text(&node["metadata"]["name"]).to_owned();
        let pods = self.pods();
        let here = |pod: &&Value| pod["spec"]["nodeName"] == name.as_str();
        let (current, old): (Vec<&Value>, Vec<&Value>) =
            pods.iter().filter(here).partition(|pod| self.is_current(pod));
        // Until it has ended there is no other one.
        if current.iter().any(|pod| !pod["metadata"]["deletionTimestamp"].is_null()) {
            return;
        }
        match current.first() {
            None => self.start(node, &name, &old, &pods),
            Some(pod) => {
                self.play_kubelet(node, pod, &name);
                let ready = self
                    .state
                    .get(resource("", "pods"), &self.namespace(), text(&pod["metadata"]["name"]))
                    .is_ok_and(|pod| is_ready(&pod));
                if ready {
                    for pod in old {
                        self.delete(pod);
                    }
                }
            }
        }
    }

    fn start(&mut self, node: &Value, name: &str, old: &[&Value], pods: &[Value]) {
        if !old.is_empty() {
            let elsewhere = pods.iter().any(|pod| {
                self.is_current(pod) && !is_ready(pod) && pod["spec"]["nodeName"] != name
            });
            if elsewhere {
                return;
            }
            if self.set["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"] == 0 {
                for pod in old {
                    self.delete(pod);
                }
            }
        }
        let pod = self.pod_for(name);
        if let Some(why) = self.refusal(name, &pod["spec"]) {
            self.tell_refusal(&why);
            return;
        }
        let namespace = self.namespace();
        if let Ok(pod) = self.state.create(resource("", "pods"), &namespace, pod, &write(false)) {
            self.play_kubelet(node, &pod, name);
        }
    }

    fn pod_for(&self, node: &str) -> Value {
        let template = &self.set["spec"]["template"];
        let mut pod = json!({
            "metadata": template["metadata"].clone(),
            "spec": template["spec"].clone(),
        });
        let set_name = text(&self.set["metadata"]["name"]);
        pod["metadata"]["generateName"] = json!(format!("{set_name}-"));
        pod["metadata"]["labels"]["controller-revision-hash"] = json!(self.hash);
        pod["metadata"]["labels"]["pod-template-generation"] =
            self.set["metadata"]["annotations"]["deprecated.daemonset.template.generation"].clone();
        pod["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "apps/v1", "kind": "DaemonSet", "name": set_name,
            "uid": self.set["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true,
        }]);
        pod["spec"]["nodeName"] = json!(node);
        pod
    }

    fn refusal(&self, node: &str, spec: &Value) -> Option<String> {
        if let Fate::Refused { message } = self.settings.fate_on(node) {
            return Some(message.clone());
        }
        let namespace = self.state.get(resource("", "namespaces"), "", &self.namespace()).ok()?;
        let level =
            text(&namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]).to_owned();
        let violations = schema::violations(&level, spec)?;
        Some(format!("violates PodSecurity \"{level}:latest\": {violations}"))
    }

    /// One event per set, counted up, as the real event series are.
    fn tell_refusal(&mut self, why: &str) {
        let events = resource("", "events");
        let (namespace, set) = (self.namespace(), text(&self.set["metadata"]["name"]).to_owned());
        let uid = self.set["metadata"]["uid"].clone();
        let message = format!("Error creating: pods \"{set}-rnzv9\" is forbidden: {why}");
        let told = self.state.list(events, &namespace).into_iter().any(|event| {
            event["involvedObject"]["uid"] == uid && event["message"] == message.as_str()
        });
        if told {
            return;
        }
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let event = json!({
            "metadata": {"generateName": format!("{set}."), "namespace": namespace},
            "involvedObject": {"kind": "DaemonSet", "namespace": namespace, "name": set, "uid": uid,
                "apiVersion": "apps/v1", "resourceVersion": self.set["metadata"]["resourceVersion"]},
            "reason": "FailedCreate", "message": message, "type": "Warning", "count": 1,
            "source": {"component": "daemonset-controller"}, "firstTimestamp": time, "lastTimestamp": time,
            "eventTime": null, "reportingComponent": "daemonset-controller", "reportingInstance": "",
        });
        // The namespace may be going; then nobody reads its events.
        let _ = self.state.create(events, &namespace, event, &write(false));
    }

    fn delete(&mut self, pod: &Value) {
        let (namespace, name) = (self.namespace(), text(&pod["metadata"]["name"]));
        // Already gone is as good.
        let _ = self.state.delete(resource("", "pods"), &namespace, name, false);
    }

    fn play_kubelet(&mut self, node: &Value, pod: &Value, name: &str) {
        let fate = self.settings.fate_on(name).clone();
        let wanted = format!("{fate:?}");
        let settled =
            pod["metadata"]["annotations"][FATE] == wanted.as_str() || fate == Fate::Pending;
        // What has been pulled stays pulled.
        let pulled = pod["status"]["phase"] == "Running" && matches!(fate, Fate::ImagePull { .. });
        if settled || pulled || !is_ready(node) {
            return;
        }
        let number = text(&pod["metadata"]["uid"])
            .get(24..)
            .and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let ip =
            format!("10.200.{}.{}", number.unwrap_or(0) >> 8 & 0xff, number.unwrap_or(0) & 0xff);
        let status = pod_status(&fate, pod, &node["status"]["addresses"][0]["address"], &ip);
        let namespace = self.namespace();
        let pods = resource("", "pods");
        // A pod deleted meanwhile has no kubelet.
        let _ = self.state.update(
            pods,
            &namespace,
            text(&pod["metadata"]["name"]),
            &write(true),
            |pod| {
                pod["metadata"]["annotations"][FATE] = json!(wanted);
                pod["status"] = status;
            },
        );
    }

    fn tell_status(&mut self, nodes: &[String]) {
        let pods = self.pods();
        let count = |holds: &dyn Fn(&Value) -> bool| {
            let on = |name: &String| {
                pods.iter().any(|pod| pod["spec"]["nodeName"] == name.as_str() && holds(pod))
            };
            nodes.iter().filter(|name| on(name)).count()
        };
        let (desired, ready) = (nodes.len(), count(&|pod| is_ready(pod)));
        let mut status = json!({
            "currentNumberScheduled": count(&|_| true), "numberMisscheduled": 0,
            "desiredNumberScheduled": desired, "numberReady": ready,
            "observedGeneration": self.set["metadata"]["generation"],
        });
        let updated = count(&|pod| self.is_current(pod));
        for (name, value) in [
            ("updatedNumberScheduled", updated),
            ("numberAvailable", ready),
            ("numberUnavailable", desired - ready),
        ] {
            if value > 0 {
                status[name] = json!(value);
            }
        }
        let (namespace, name) = (self.namespace(), text(&self.set["metadata"]["name"]).to_owned());
        let by =
            Write { manager: "kube-controller-manager".into(), status: true, ..Write::default() };
        // Deleted meanwhile: nobody to tell.
        let _ = self.state.update(resource("apps", "daemonsets"), &namespace, &name, &by, |set| {
            set["status"] = status;
        });
    }
}

fn pod_status(fate: &Fate, pod: &Value, host: &Value, ip: &str) -> Value {
    let ready = *fate == Fate::Ready;
    let (phase, state, last, restarts) = match fate {
        Fate::ImagePull { message } => (
            "Pending",
            json!({"waiting": {"reason": "ImagePullBackOff", "message": message}}),
            json!({}),
            0,
        ),
        Fate::CrashLoop { message, exit_code } => (
            "Running",
            json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}}),
            json!({"terminated": {"exitCode": exit_code, "reason": "Error", "message": message}}),
            3,
        ),
        _ => ("Running", json!({"running": {"startedAt": "2026-11-22T22:04:40Z"}}), json!({}), 0),
    };
    let containers: Vec<Value> = pod["spec"]["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|container| {
            json!({
                "name": container["name"], "image": container["image"], "imageID": "", "state": state,
                "lastState": last, "ready": ready, "started": ready, "restartCount": restarts,
                "containerID": format!("containerd://{}", text(&pod["metadata"]["uid"])),
            })
        })
        .collect();
    let yes = if ready { "True" } else { "False" };
    json!({
        "phase": phase, "hostIP": host, "podIP": ip, "podIPs": [{"ip": ip}], "qosClass": "BestEffort",
        "conditions": [
            {"type": "PodScheduled", "status": "True"}, {"type": "Initialized", "status": "True"},
            {"type": "ContainersReady", "status": yes}, {"type": "Ready", "status": yes},
        ],
        "containerStatuses": containers,
    })
}

/// Selector, required node affinity and taints, as the controller weighs them.
fn runs_on(spec: &Value, node: &Value) -> bool {
    let labels = &node["metadata"]["labels"];
    let selected = spec["nodeSelector"]
        .as_object()
        .is_none_or(|wanted| wanted.iter().all(|(key, value)| labels.get(key) == Some(value)));
    let terms = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        ["nodeSelectorTerms"];
    let affine = terms.as_array().is_none_or(|terms| {
        terms.iter().any(|term| {
            let expressions = term["matchExpressions"].as_array();
            expressions.is_none_or(|all| all.iter().all(|e| expression_holds(e, labels)))
        })
    });
    let taints = node["spec"]["taints"].as_array();
    let tolerated = taints.is_none_or(|taints| taints.iter().all(|taint| tolerates(spec, taint)));
    selected && affine && tolerated
}

fn expression_holds(expression: &Value, labels: &Value) -> bool {
    let found = &labels[text(&expression["key"])];
    let listed = expression["values"].as_array().is_some_and(|values| values.contains(found));
    match text(&expression["operator"]) {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => !found.is_null(),
        "DoesNotExist" => found.is_null(),
        _ => false,
    }
}

fn tolerates(spec: &Value, taint: &Value) -> bool {
    if taint["effect"] == "PreferNoSchedule"
        || text(&taint["key"]).starts_with("node.kubernetes.io/")
    {
        return true;
    }
    spec["tolerations"].as_array().into_iter().flatten().any(|toleration| {
        let any = |name: &str| toleration[name].is_null() || toleration[name] == "";
        let key = any("key") || toleration["key"] == taint["key"];
        let effect = any("effect") || toleration["effect"] == taint["effect"];
        let value = toleration["operator"] == "Exists" || toleration["value"] == taint["value"];
        key && effect && value
    })
}
