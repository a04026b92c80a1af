//! What `/metrics` answers is what is declared: names, kinds and labels. Goal: whoever builds on a name (a
//! dashboard, an alert) builds on what is exported. Method: every instrument is used once, and the text is
//! compared with the declarations.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use telemetry::{
    Format, Scope,
    metrics::{self, Audited},
    semconv::{self, Kind},
};

/// Uses everything once; what is returned must live until the text is read.
fn use_all() -> impl Any {
    let metrics = telemetry::metrics();
    let took = Duration::from_millis(3);
    metrics.http_server_duration.record(took, ["POST", "/orders/checkout/{order_id}", "200"]);
    metrics.rpc_server_duration.record(took, ["till.x.v1.XService/Y", "OK"]);
    metrics.rpc_client_duration.record(took, ["till.x.v1.XService/Y", "OK"]);
    metrics.db_duration.record(took, ["commit", "conflict"]);
    metrics.kv_commits.one(["conflict"]);
    metrics.lane_batch_size.record(3, ["write"]);
    metrics.lane_batch_duration.record(took, ["write"]);
    metrics.lane_wait.record(took, ["write"]);
    metrics.mail_batch_size.record(3, []);
    metrics.retries.one(["batch", "conflict"]);
    metrics.replicas_passed_over.one(["order", "unavailable"]);
    metrics.http_problems.one(["/y", "OUT_OF_STOCK"]);
    metrics.checkouts.one(["refused", "OUT_OF_STOCK"]);
    metrics.transactions.one(["committed", "begun"]);
    metrics.ready.set(true);
    metrics.audit.set(Some(Audited {
        offences: vec![("I1", 2)],
        unresolved: 4,
        took,
        finished: Instant::now(),
    }));
    let lane = metrics.votes.lane();
    lane.set(5, 1_500);
    (lane, metrics.http_server_active.enter())
}

#[test]
fn every_declared_metric_is_exported_by_its_name_and_nothing_else_is() {
    let guard = telemetry::init("test", Format::Pretty, Scope::Service).unwrap();
    let kept = use_all();
    let text = metrics::text();

    let kinds: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .filter(|(name, _)| *name != "target_info")
        .collect();
    let declared: BTreeMap<String, &str> = semconv::METRICS
        .iter()
        .map(|metric| {
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            (metric.prometheus(), kind)
        })
        .collect();
    let declared = declared.iter().map(|(name, kind)| (name.as_str(), *kind)).collect();
    assert_eq!(kinds, declared, "{text}");

    for metric in semconv::METRICS {
        let name = metric.prometheus();
        let mut expected: BTreeSet<String> =
            metric.labels.iter().map(|name| semconv::label(name)).collect();
        expected.insert("service_name".to_owned());
        let line = text
            .lines()
            .find(|line| line.starts_with(&name) && !line.starts_with(&format!("{name}_bucket")))
            .unwrap_or_else(|| panic!("{name} is missing: {text}"));
        let labels = line.split_once('{').unwrap().1.rsplit_once("\"} ").unwrap().0;
        let labels: BTreeSet<String> = labels
            .split("\",")
            .filter_map(|pair| Some(pair.split_once('=')?.0.to_owned()))
            .collect();
        assert_eq!(labels, expected, "{line}");
        assert!(line.contains("service_name=\"till-test\""), "{line}");
    }
    let has = |line: &str| assert!(text.lines().any(|one| one == line), "{line} is not in {text}");
    has("till_votes_unresolved{service_name=\"till-test\"} 5");
    has("till_votes_unresolved_age_seconds{service_name=\"till-test\"} 1.5");
    has("till_audit_offences{till_invariant=\"I1\",service_name=\"till-test\"} 2");
    has("till_audit_clean{service_name=\"till-test\"} 0");
    has("http_server_active_requests{service_name=\"till-test\"} 1");

    too_many_series_become_one();
    drop(kept);
    drop(guard);
}

/// Of the same process, so of the same test.
fn too_many_series_become_one() {
    for number in 0..1_200 {
        telemetry::metrics().kv_commits.one([&format!("kind {number}")]);
    }
    let text = metrics::text();
    let lines = text.lines().filter(|line| line.starts_with("till_kv_commits_total"));
    assert_eq!(lines.count(), 1_001);
    let over = text.lines().find(|line| line.contains("otel_metric_overflow")).unwrap();
    assert!(over.ends_with(" 201"), "{over}");
}
