//! The recorder's counters for Prometheus.

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::Status;

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
    gauge(registry, "interfaces", "Interfaces with packets", None, status.interfaces());
    gauge(registry, "segments", "Files of the recording", None, status.store.segments);
    let age = status.oldest.map_or(0, |oldest| status.now.since(oldest).as_secs());
    gauge(registry, "oldest_packet_age", "Age of the oldest packet held", Some(Unit::Seconds), age);
    let sizes = [
        ("held", "Bytes that the data directory takes", status.bytes_held),
        ("max_size", "pcapdump.maxSize", status.bounds.max_size),
        ("ring", "Memory of the capture rings", status.memory.rings),
        ("buffer", "Memory of the buffers between capture and disk", status.memory.buffers),
        ("resident", "Resident memory of the recorder", status.memory.resident),
    ];
    for (name, help, bytes) in sizes {
        gauge(registry, name, help, Some(Unit::Bytes), bytes);
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
            ("tls_secrets_lost", "TLS secrets lost on the way from the kernel", tls.lost),
            ("tls_secrets_unwritten", "TLS secrets that could not be written", tls.unwritten),
            ("tls_secrets_unmatched", "TLS secrets without a recorded handshake", tls.unmatched),
            ("tls_secrets_discarded", "TLS secrets of the control plane, not kept", tls.discarded),
        ];
        for (name, help, value) in counts {
            count(registry, name, help, value);
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
