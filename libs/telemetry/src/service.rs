//! Who a process says that it is.

use std::{fs, process};

use opentelemetry::KeyValue;
use opentelemetry_sdk::{Resource, resource::EnvResourceDetector};

/// What is said of this process wherever something is exported: OpenTelemetry's conventions for services.
/// `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` go before what we say.
pub(crate) fn resource(role: &str) -> Resource {
    let own = [
        KeyValue::new("service.name", format!("till-{role}")),
        KeyValue::new("service.namespace", "till"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", instance()),
    ];
    let told = Resource::builder_empty()
        .with_attributes(own)
        .with_detector(Box::new(EnvResourceDetector::new()));
    match std::env::var_os("OTEL_SERVICE_NAME").and_then(|name| name.into_string().ok()) {
        Some(name) if !name.is_empty() => told.with_service_name(name).build(),
        _ => told.build(),
    }
}

/// Differs between the replicas of a role: the host's name, a pod's in a cluster, and the process.
fn instance() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), process::id())
}
