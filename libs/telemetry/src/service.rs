//! Who a process says that it is.

use std::{fs, process};

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;

/// What is said of this process wherever something is exported: OpenTelemetry's conventions for services.
/// `attributes`, which the environment tells, go before what we say, and the last of a name before the others.
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

/// Differs between the replicas of a role: the host's name, a pod's in a cluster, and the process.
fn instance() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), process::id())
}
