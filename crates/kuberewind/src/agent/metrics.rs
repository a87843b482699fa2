//! The recorder's counters for Prometheus.

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::{Health, Room, Status};

/// What the text is.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cause {
    cause: &'static str,
}

/// The status as `OpenMetrics` text: counters and gauges, no names and no addresses. Without one there
/// is no recorder.
pub(crate) fn encode(status: Option<&Status>) -> String {
    let mut registry = Registry::with_prefix("kuberewind");
    match status {
        Some(status) => register(&mut registry, status),
        None => recording(&mut registry, false),
    }
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = text::encode(&mut out, &registry);
    out
}

fn recording(registry: &mut Registry, on: bool) {
    gauge(registry, "recording", "1 while recording, 0 when not", None, u64::from(on));
}

fn register(registry: &mut Registry, status: &Status) {
    count(registry, "packets", "Packets recorded", status.packets);
    let lost = Family::<Cause, Counter>::default();
    for (cause, packets) in &status.losses {
        lost.get_or_create(&Cause { cause: cause.name() }).inc_by(*packets);
    }
    registry.register("lost_packets", "Packets lost, by cause", lost);
    count(registry, "cut_packets", "Packets longer than 262144 bytes, cut", status.cut);
    count(registry, "write_errors", "Writes that the disk refused", status.store.write_errors);
    bytes_counter(registry, "captured", "Captured bytes of the packets recorded", status.bytes);
    recording(registry, status.recording);
    let failing = u64::from(status.health() != Health::Ok);
    gauge(registry, "failing", "1 where it should record and cannot", None, failing);
    let max_time = crate::config::parse_duration(&status.bounds.max_time).unwrap_or_default();
    gauge(registry, "max_time", "pcapdump.maxTime", Some(Unit::Seconds), max_time.as_secs());
    gauge(registry, "interfaces", "Interfaces with packets", None, status.interfaces());
    let undecided = status.undecided;
    let help = "Network namespaces of which it is not known yet whether they are recorded";
    gauge(registry, "undecided_namespaces", help, None, undecided.namespaces);
    gauge(registry, "undecided_packets", "Their packets in memory", None, undecided.packets);
    gauge(registry, "segments", "Files of the recording", None, status.store.segments);
    let age = status.oldest.map_or(0, |oldest| status.now.since(oldest).as_secs());
    gauge(registry, "oldest_packet_age", "Age of the oldest packet held", Some(Unit::Seconds), age);
    let sizes = [
        ("held", "Bytes that the data directory takes", status.bytes_held),
        ("max_size", "pcapdump.maxSize", status.bounds.max_size),
        ("ring", "Memory of the capture rings", status.memory.rings),
        ("undecided", "Memory of packets of undecided namespaces", status.undecided.bytes),
        ("buffer", "Memory of the buffers between capture and disk", status.memory.buffers),
        ("resident", "Resident memory of the recorder", status.memory.resident),
    ];
    for (name, help, bytes) in sizes {
        gauge(registry, name, help, Some(Unit::Bytes), bytes);
    }
    if let Some(Room { size, free, min_free }) = status.disk {
        let sizes = [
            ("disk_size", "The data directory's disk", size),
            ("disk_free", "What is free of it", free),
            ("disk_min_free", "What pcapdump.minFree keeps free of it", min_free),
        ];
        for (name, help, bytes) in sizes {
            gauge(registry, name, help, Some(Unit::Bytes), bytes);
        }
    }
    if let Some(pods) = &status.pods {
        let counts = [
            ("pods_recorded", "Pods that are recorded", pods.recorded.len()),
            ("pods_not_recorded", "Pods of this node that are not", pods.not_recorded.len()),
            ("pods_waiting", "Pods whose network is awaited", pods.waiting),
        ];
        for (name, help, count) in counts {
            gauge(registry, name, help, None, count as u64);
        }
    }
    if let Some(tls) = &status.tls {
        let counts = [
            ("tls_connections", "TLS handshakes recorded", tls.handshakes),
            ("tls_connections_with_secrets", "Of these, those that can be decrypted", tls.covered),
            (
                "tls_handshake_packets_unread",
                "Packets of handshakes that came too fast to be read for TLS; they are recorded",
                tls.handshake_packets_left_out,
            ),
            (
                "tls_pins_dropped",
                "TLS connections of which later exports cannot decrypt the rest, for want of room",
                tls.pins_dropped,
            ),
            ("tls_secrets_lost", "TLS secrets lost on the way from the kernel", tls.lost),
            ("tls_secrets_refused", "TLS secrets beyond a namespace's share", tls.refused),
            ("tls_secrets_unwritten", "TLS secrets that could not be written", tls.unwritten),
            ("tls_secrets_unsent", "TLS secrets that exports had no room for", tls.unsent),
            ("tls_secrets_unmatched", "TLS secrets without a recorded handshake", tls.unmatched),
            ("tls_secrets_discarded", "TLS secrets of the control plane, not kept", tls.discarded),
        ];
        for (name, help, value) in counts {
            count(registry, name, help, value);
        }
        if let Some(plaintext) = &tls.plaintext {
            let counts = [
                ("tls_plaintext", "Plaintext that probes saw", plaintext.bytes),
                ("tls_plaintext_lost", "Of it, lost on the way from the kernel", plaintext.lost),
                ("tls_plaintext_unplaced", "Of no known connection", plaintext.unplaced),
                ("tls_plaintext_unwritten", "Of it, not written in time", plaintext.unwritten),
            ];
            for (name, help, value) in counts {
                bytes_counter(registry, name, help, value);
            }
            let files = plaintext.files_left_out as u64;
            let help = "Files without plaintext probes, for there are too many";
            gauge(registry, "tls_plaintext_files_left_out", help, None, files);
        }
    }
    gauge(registry, "problems", "What status names as wrong", None, status.problems.len() as u64);
}

fn count(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let counter = Counter::<u64>::default();
    counter.inc_by(value);
    registry.register(name, help, counter);
}

fn bytes_counter(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let counter = Counter::<u64>::default();
    counter.inc_by(value);
    registry.register_with_unit(name, help, Unit::Bytes, counter);
}

fn gauge(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>, value: u64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, gauge),
        None => registry.register(name, help, gauge),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kuberewind_cluster::chart::{self, Release};
    use regex::Regex;
    use serde_json::{Value, json};

    use super::*;

    /// An agent that has everything to tell.
    fn full() -> Status {
        let loss: serde_json::Map<String, Value> = kuberewind_packet::LossCause::ALL
            .into_iter()
            .map(|cause| (cause.name().to_owned(), json!(0)))
            .collect();
        let status = json!({
            "node": "n1", "version": "0", "recording": true, "since": "2026-11-22T21:00:00Z",
            "now": "2026-11-22T21:30:00Z", "dataDir": "/data", "packets": 1, "bytes": 1, "cut": 0,
            "losses": loss, "oldest": "2026-11-22T21:25:00Z", "newest": "2026-11-22T21:30:00Z",
            "bytesHeld": 1,
            "bounds": {"maxTime": "1h", "maxSize": 1, "minFree": "12%", "timeInterval": "1m"},
            "disk": {"size": 100, "free": 50, "minFree": 12},
            "filter": {"expression": null, "notes": []},
            "memory": {"rings": 0, "ringBudget": 0, "buffers": 0, "resident": 0},
            "namespaces": [], "problems": [],
            "store": {
                "oldest": null, "newest": null, "bytesHeld": 0, "segments": 1, "packetsHeld": 1,
                "packets": 1, "bytes": 0, "lost": {}, "interfaces": [], "writeErrors": 0,
                "lastError": null, "bufferBytes": 0, "heldBackByMinFree": false,
                "lastWritten": null, "recording": true,
            },
            "pods": {"recorded": [], "notRecorded": [], "waiting": 0, "settingsVersion": null},
        });
        let mut status: Status = serde_json::from_value(status).unwrap();
        status.tls = Some(crate::agent::TlsReport::failed("no kernel"));
        status
    }

    fn exported() -> BTreeSet<String> {
        let text = encode(Some(&full()));
        let line = Regex::new(r"(?m)^(kuberewind_\w+)[ {]").unwrap();
        line.captures_iter(&text).map(|found| found[1].to_owned()).collect()
    }

    /// Every name of a metric in an object of the chart.
    fn asked(object: &Value) -> BTreeSet<String> {
        let name = Regex::new(r"\bkuberewind_\w+").unwrap();
        let text = object.to_string();
        name.find_iter(&text).map(|found| found.as_str().to_owned()).collect()
    }

    #[test]
    fn alerts_and_dashboard_ask_for_what_agents_export() {
        let values = json!({ "tap": { "metrics": { "alerts": true, "dashboard": true } } });
        let release = Release {
            name: "kuberewind".into(),
            namespace: "kuberewind".into(),
            kube_version: "v1.36.1".into(),
            cluster_id: None,
        };
        let objects = chart::render(&values, &release).unwrap();
        let exported = exported();
        for (kind, name, least) in
            [("PrometheusRule", "kuberewind", 8), ("ConfigMap", "kuberewind-dashboard", 12)]
        {
            let is = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
            let asked = asked(objects.iter().find(is).unwrap());
            let unknown: Vec<_> = asked.difference(&exported).collect();
            assert!(unknown.is_empty(), "{kind} asks for {unknown:?}; there are {exported:?}");
            assert!(asked.len() >= least, "{kind}: {asked:?}");
        }
    }

    #[test]
    fn what_fails_is_told_apart_from_what_was_stopped() {
        let mut status = full();
        let lines = |status: &Status| {
            let text = encode(Some(status));
            let line = |name: &str| text.lines().find(|l| l.starts_with(name)).unwrap().to_owned();
            [line("kuberewind_recording "), line("kuberewind_failing ")]
        };
        assert_eq!(lines(&status), ["kuberewind_recording 1", "kuberewind_failing 0"]);
        status.store.held_back_by_min_free = true;
        assert_eq!(lines(&status), ["kuberewind_recording 1", "kuberewind_failing 1"]);
        status.recording = false;
        assert_eq!(lines(&status), ["kuberewind_recording 0", "kuberewind_failing 0"]);
    }
}
