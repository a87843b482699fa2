//! Helm's own engine judges the chart, and what we render from it.
//!
//! Needs Python with `helm-python-sdk`: `cargo xtask setup` puts it into `target/venv`;
//! `KUBEREWIND_PYTHON` names another.

mod helm;

use kuberewind_cluster::chart::{self, Release};
use serde_json::{Value, json};

use helm::{Case, Judged};

fn case(values: Value) -> Case {
    Case {
        values,
        name: "kuberewind".into(),
        namespace: "kuberewind".into(),
        kube_version: "v1.36.1".into(),
    }
}

fn everything() -> Value {
    json!({
        "tap": {
            "regex": "^cart-[0-9]{1,3} <&> \"a\\b\" ö\u{2028}",
            "namespaces": ["shop", "bank"],
            "excludedNamespaces": ["kube-system"],
            "bpfOverride": "tcp[0] & 1 > 0 and len < 100",
            "capture": { "captureSelf": true, "hostNetwork": true },
            "tls": false,
            "tlsExport": false,
            "tlsControlPlane": true,
            "snaplen": 96,
            "ringMemory": "128Mi",
            "dataDir": "/mnt/a disk/kuberewind",
            "docker": {
                "registry": "registry.example:5000/team",
                "tag": "1.2.3-rc.1",
                "imagePullPolicy": "Always",
                "imagePullSecrets": ["a", "b"],
            },
            "resources": {
                "requests": { "cpu": 0.5, "memory": 134_217_728 },
                "limits": { "cpu": "2", "memory": "" },
            },
            "nodeSelectorTerms": [
                { "matchExpressions": [{ "key": "pool", "operator": "NotIn", "values": ["a", "1"] }] },
                { "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["n1"] }] },
            ],
            "tolerations": [
                { "key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30 },
            ],
            "priorityClass": "system-node-critical",
            "labels": { "team": "net", "on": "yes", "number": "1" },
            "annotations": { "example.com/note": "a: b, \"c\" {{ .d }} #e\nf" },
            "metrics": { "port": 9100, "podMonitor": true, "alerts": true, "dashboard": true },
            "networkPolicy": true,
            "openShift": true,
        },
        "pcapdump": { "enabled": false, "timeInterval": "30s", "maxTime": "24h", "maxSize": "50GB", "minFree": "10GB" },
        "headless": true,
        "logLevel": "debug",
        "global": { "of": "another chart" },
    })
}

fn cases() -> Vec<Case> {
    let old = |values| Case { kube_version: "v1.29.14+k3s1".into(), ..case(values) };
    let elsewhere = Case { namespace: "default".into(), name: "flight".into(), ..case(json!({})) };
    vec![
        case(json!({})),
        case(everything()),
        old(json!({})),
        old(everything()),
        elsewhere,
        case(json!({ "tap": { "bpfOverride": "port 53" } })),
        case(json!({ "tap": { "tls": false, "openShift": true } })),
        case(json!({ "tap": { "metrics": { "dashboard": true } } })),
        case(json!({ "tap": { "tolerations": [], "nodeSelectorTerms": [] } })),
        case(json!({ "tap": { "resources": { "requests": { "cpu": "", "memory": "" } } } })),
        case(json!({ "tap": { "namespaces": [""] } })),
    ]
}

fn render(case: &Case) -> Vec<Value> {
    let release = Release {
        name: case.name.clone(),
        namespace: case.namespace.clone(),
        kube_version: case.kube_version.clone(),
        cluster_id: None,
    };
    chart::render(&case.values, &release).unwrap()
}

#[test]
fn helm_s_linter_finds_nothing() {
    for (case, judged) in cases().iter().zip(helm::judge(&cases())) {
        assert_eq!(judged.refused, None, "{}", case.values);
        assert!(judged.lint.is_empty(), "{}: {:?}", case.values, judged.lint);
    }
}

#[test]
fn we_render_what_helm_renders() {
    for (case, judged) in cases().iter().zip(helm::judge(&cases())) {
        let ours = render(case);
        assert_eq!(ours.len(), judged.objects.len());
        for (ours, helms) in ours.iter().zip(&judged.objects) {
            assert_eq!(ours, helms, "{}", case.values);
        }
    }
}

#[test]
fn null_is_the_default() {
    let nulls = json!({
        "tap": { "regex": null, "tolerations": null, "snaplen": null, "labels": null, "metrics": { "port": null } },
        "pcapdump": null,
    });
    assert_eq!(render(&case(nulls)), render(&case(json!({}))));
}

#[test]
fn what_cannot_be_is_refused_before_it_is_installed() {
    let bad = [
        json!({ "tap": { "regx": "cart" } }),
        json!({ "tap": { "namespaces": "shop" } }),
        json!({ "tap": { "namespaces": ["Shop"] } }),
        json!({ "tap": { "snaplen": 262_145 } }),
        json!({ "tap": { "dataDir": "relative" } }),
        json!({ "tap": { "dataDir": "/" } }),
        json!({ "tap": { "dataDir": "/proc/1" } }),
        json!({ "tap": { "dataDir": "/var/../etc" } }),
        json!({ "tap": { "docker": { "registry": "" } } }),
        json!({ "tap": { "docker": { "imagePullPolicy": "Sometimes" } } }),
        json!({ "tap": { "labels": { "app.kubernetes.io/name": "other" } } }),
        json!({ "tap": { "labels": { "number": 1 } } }),
        json!({ "tap": { "resources": { "limits": { "memory": "lots" } } } }),
        json!({ "tap": { "metrics": { "port": 0 } } }),
        json!({ "tap": { "metrics": { "alerts": "yes" } } }),
        json!({ "tap": { "networkPolicy": {} } }),
        json!({ "pcapdump": { "maxTime": "1d" } }),
        json!({ "pcapdump": { "maxTime": 300 } }),
        json!({ "pcapdump": { "maxSize": "500m" } }),
        json!({ "pcapdump": { "maxSize": "5" } }),
        json!({ "pcapdump": { "minFree": "95%" } }),
        json!({ "pcapdump": { "recording": true } }),
        json!({ "logLevel": "loud" }),
    ];
    let cases: Vec<Case> = bad.into_iter().map(case).collect();
    for (case, judged) in cases.iter().zip(helm::judge(&cases)) {
        assert!(judged.refused.is_some(), "Helm takes {}", case.values);
    }
}

#[test]
fn the_notes_say_where_and_warn_of_namespace_default() {
    let default = Case { namespace: "default".into(), ..case(json!({})) };
    let pushed = case(json!({ "tap": { "docker": { "registry": "registry.example" } } }));
    let notes: Vec<String> = helm::judge(&[case(json!({})), default, pushed])
        .into_iter()
        .map(|j: Judged| j.notes)
        .collect();
    assert!(notes[0].contains("kuberewind pcapdump --time=5m -s kuberewind"));
    assert!(!notes[0].contains("WARNING") && notes[1].contains("WARNING"));
    assert!(notes[0].contains("is in no registry") && !notes[2].contains("is in no registry"));
}

fn kind<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap()
}

fn pod(objects: &[Value]) -> &Value {
    &kind(objects, "DaemonSet")["spec"]["template"]
}

#[test]
fn the_agent_has_these_rights_and_no_others() {
    let objects = render(&case(json!({})));
    let spec = &pod(&objects)["spec"];
    let container = &spec["containers"][0];
    assert_eq!(
        container["securityContext"],
        json!({
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "runAsUser": 0,
            "capabilities": {
                "drop": ["ALL"],
                "add": ["NET_RAW", "SYS_ADMIN", "SYS_PTRACE", "BPF", "PERFMON"],
            },
        })
    );
    assert_eq!(
        spec["securityContext"],
        json!({
            "seccompProfile": { "type": "RuntimeDefault" },
            "seLinuxOptions": { "type": "spc_t" },
            "appArmorProfile": { "type": "Unconfined" },
        })
    );
    assert_eq!((&spec["hostNetwork"], &spec["hostPID"]), (&json!(false), &json!(false)));
    let writable = container["volumeMounts"].as_array().unwrap().iter();
    let writable: Vec<_> = writable.filter(|m| m["readOnly"] != true).map(|m| &m["name"]).collect();
    assert_eq!(writable, ["data", "key"]);
    assert_eq!(
        kind(&objects, "ClusterRole")["rules"],
        json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"] }])
    );
    let without = render(&case(json!({ "tap": { "tls": false } })));
    assert_eq!(
        pod(&without)["spec"]["containers"][0]["securityContext"]["capabilities"]["add"],
        json!(["NET_RAW", "SYS_ADMIN", "SYS_PTRACE"])
    );
}

#[test]
fn openshift_allows_the_agent_what_it_asks_for_and_no_more() {
    for tls in [true, false] {
        let objects = render(&case(json!({ "tap": { "tls": tls, "openShift": true } })));
        let allowed = kind(&objects, "SecurityContextConstraints");
        let asked = &pod(&objects)["spec"]["containers"][0]["securityContext"]["capabilities"];
        assert_eq!(allowed["allowedCapabilities"], asked["add"]);
        assert_eq!(allowed["users"], json!(["system:serviceaccount:kuberewind:kuberewind"]));
        assert_eq!(allowed["allowPrivilegedContainer"], false);
    }
}

#[test]
fn the_dashboard_is_json_with_a_legend_of_grafana_s() {
    let objects = render(&case(json!({ "tap": { "metrics": { "dashboard": true } } })));
    let mut maps = objects.iter().filter(|object| object["kind"] == "ConfigMap");
    let map = maps.next_back().unwrap();
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let text = map["data"]["kuberewind.json"].as_str().unwrap();
    let dashboard: Value = serde_json::from_str(text).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 5);
    assert!(text.contains("{{node}}"), "{text}");
}

#[test]
fn what_is_off_by_default_installs_nothing() {
    let kinds: Vec<_> = render(&case(json!({}))).iter().map(|o| o["kind"].clone()).collect();
    for optional in ["NetworkPolicy", "PodMonitor", "PrometheusRule", "SecurityContextConstraints"]
    {
        assert!(!kinds.contains(&json!(optional)), "{optional}");
    }
}

#[test]
fn nobody_is_given_the_right_to_export() {
    let objects = render(&case(json!({})));
    let bound = objects.iter().filter(|object| object["roleRef"]["name"] == "kuberewind-exporter");
    assert_eq!(bound.count(), 0);
    let forward = |rule: &&Value| rule["resources"] == json!(["pods/portforward"]);
    let roles = objects.iter().filter(|object| {
        object["rules"].as_array().is_some_and(|rules| rules.iter().any(|rule| forward(&rule)))
    });
    let names: Vec<_> = roles.map(|role| &role["metadata"]["name"]).collect();
    assert_eq!(names, ["kuberewind-exporter"]);
}

#[test]
fn an_update_leaves_no_gap() {
    let objects = render(&case(json!({})));
    assert_eq!(
        kind(&objects, "DaemonSet")["spec"]["updateStrategy"],
        json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } })
    );
}

#[test]
fn the_selector_never_changes() {
    let selector = json!({
        "matchLabels": { "app.kubernetes.io/name": "kuberewind", "app.kubernetes.io/component": "agent" }
    });
    for case in cases() {
        assert_eq!(kind(&render(&case), "DaemonSet")["spec"]["selector"], selector);
    }
}

#[test]
fn a_switch_thrown_by_hand_is_not_part_of_the_chart() {
    let data = kind(&render(&case(everything())), "ConfigMap")["data"].clone();
    assert_eq!(data.as_object().unwrap().keys().collect::<Vec<_>>(), ["values.yaml"]);
}

#[test]
fn the_agents_are_given_the_values_and_the_cluster_s_id() {
    let release = Release {
        name: "kuberewind".into(),
        namespace: "kuberewind".into(),
        kube_version: "v1.36.1".into(),
        cluster_id: Some("d1c2".into()),
    };
    let objects = chart::render(&json!({ "tap": { "regex": "<cart>" } }), &release).unwrap();
    let data = &kind(&objects, "ConfigMap")["data"];
    assert_eq!(data["clusterId"], "d1c2");
    let mut values = chart::defaults().unwrap();
    values["tap"]["regex"] = "<cart>".into();
    let given: Value = serde_json::from_str(data["values.yaml"].as_str().unwrap()).unwrap();
    assert_eq!(given, values);
}
