//! How a process describes itself.

use std::{fs, process};

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;

/// The resource of everything that this process exports, by OpenTelemetry's conventions for
/// services. `attributes` come from the environment and override our own. Of two with the same name
/// the last one counts.
pub(crate) fn resource(role: &str, attributes: &[(String, String)]) -> Resource {
    let own = [
        KeyValue::new("service.name", format!("till-{role}")),
        KeyValue::new("service.namespace", "till"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", instance()),
    ];
    let told = attributes.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    Resource::builder_empty().with_attributes(own).with_attributes(told).build()
}

/// An id that differs between the replicas of a role: the host's name (in a cluster the pod's) and
/// the process id.
fn instance() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), process::id())
}
