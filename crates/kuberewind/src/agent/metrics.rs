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

/// The status as `OpenMetrics` text: counters and gauges, no names and no addresses.
pub(crate) fn encode(status: &Status) -> String {
    let mut registry = Registry::with_prefix("kuberewind");
    count(&mut registry, "packets", "Packets recorded", status.packets);
    let lost = Family::<Cause, Counter>::default();
    for (cause, packets) in &status.losses {
        lost.get_or_create(&Cause { cause: cause.name() }).inc_by(*packets);
    }
    registry.register("lost_packets", "Packets lost, by cause", lost);
    count(&mut registry, "cut_packets", "Packets longer than 262144 bytes, cut", status.cut);
    count(&mut registry, "write_errors", "Writes that the disk refused", status.store.write_errors);
    bytes_counter(
        &mut registry,
        "captured",
        "Captured bytes of the packets recorded",
        status.bytes,
    );
    gauge(
        &mut registry,
        "recording",
        "1 while recording, 0 after `pcapdump stop`",
        None,
        u64::from(status.recording),
    );
    gauge(&mut registry, "interfaces", "Interfaces with packets", None, status.interfaces());
    gauge(&mut registry, "segments", "Files of the recording", None, status.store.segments);
    let age = status.oldest.map_or(0, |oldest| status.now.since(oldest).as_secs());
    gauge(
        &mut registry,
        "oldest_packet_age",
        "Age of the oldest packet held",
        Some(Unit::Seconds),
        age,
    );
    let sizes = [
        ("held", "Bytes that the data directory takes", status.bytes_held),
        ("max_size", "pcapdump.maxSize", status.bounds.max_size),
        ("ring", "Memory of the capture rings", status.memory.rings),
        ("buffer", "Memory of the buffers between capture and disk", status.memory.buffers),
        ("resident", "Resident memory of the recorder", status.memory.resident),
    ];
    for (name, help, bytes) in sizes {
        gauge(&mut registry, name, help, Some(Unit::Bytes), bytes);
    }
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = text::encode(&mut out, &registry);
    out
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
