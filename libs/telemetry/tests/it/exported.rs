//! `/metrics` serves the declared names, kinds and labels. Goal: a dashboard or an alert can rely
//! on the names. Method: use every instrument once, and compare the text with the declarations. The
//! test runs in a process of its own, whose environment names a collector that takes nothing.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    env,
    net::TcpListener,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use telemetry::{
    Format, Scope,
    metrics::{self, Audited},
    semconv::{self, Kind},
    trace,
};

/// Set in the process that exports.
const EXPORTS: &str = "TEST_EXPORTS";

/// Uses every instrument once. The result must live until the text is read.
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
    metrics.safe_point_age.watch(true);
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
    if env::var_os(EXPORTS).is_some() {
        return all_is_exported();
    }
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("exported::every_declared_metric_is_exported_by_its_name_and_nothing_else_is")
        .env(EXPORTS, "1")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", silent.local_addr().unwrap()))
        .env("OTEL_BSP_MAX_QUEUE_SIZE", "1")
        .env("OTEL_BLRP_MAX_QUEUE_SIZE", "1")
        .output()
        .unwrap();
    let said = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (out, errors) = (said(&output.stdout), said(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}{errors}");
}

/// Makes more spans and lines than their queues have room for, as the collector takes nothing.
fn overflow() {
    for number in 0..1_000 {
        drop(tracing::debug_span!(target: trace::TARGET, "one of many"));
        tracing::info!(number, "one of many");
        if number == 0 {
            // The first ones are on their way, and the next ones wait behind them.
            thread::sleep(Duration::from_millis(100));
        }
    }
}

fn all_is_exported() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _within = runtime.enter();
    let guard = telemetry::init("test", Format::Json, Scope::Service).unwrap();
    overflow();
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
        let mut labels = BTreeSet::new();
        for line in text.lines().filter(|line| line.starts_with(&name)) {
            let told = line.split_once('{').unwrap().1.rsplit_once("\"} ").unwrap().0;
            let names =
                told.split("\",").filter_map(|pair| Some(pair.split_once('=')?.0.to_owned()));
            labels.extend(names.filter(|name| name != "le"));
            assert!(line.contains("service_name=\"till-test\""), "{line}");
        }
        assert_eq!(labels, expected, "{name}: {text}");
    }
    what_a_full_queue_drops_is_counted(&text);
    counters_and_histograms_are_read_within_the_process();
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

fn what_a_full_queue_drops_is_counted(text: &str) {
    for name in
        ["otel_sdk_processor_span_processed_total", "otel_sdk_processor_log_processed_total"]
    {
        let line = text
            .lines()
            .find(|line| line.starts_with(name) && line.contains("error_type=\"queue_full\""))
            .unwrap_or_else(|| panic!("{name} of a full queue is missing: {text}"));
        let dropped: u64 = line.rsplit_once(' ').unwrap().1.parse().unwrap();
        assert!((900..1_000).contains(&dropped), "{line}");
    }
}

fn counters_and_histograms_are_read_within_the_process() {
    let only = |metric| {
        let [samples] = metrics::samples([metric]);
        let [sample] = &samples[..] else { panic!("{samples:?}") };
        sample.clone()
    };
    let problems = only(&semconv::HTTP_PROBLEMS);
    assert_eq!((problems.count, problems.label(semconv::REASON)), (1, "OUT_OF_STOCK"));
    assert_eq!(problems.buckets, []);
    let durations = only(&semconv::HTTP_SERVER_DURATION);
    assert_eq!((durations.count, durations.label(semconv::HTTP_STATUS)), (1, "200"));
    assert!(durations.buckets.contains(&(0.002, 0)) && durations.buckets.contains(&(0.004, 1)));
    assert!(durations.buckets.iter().all(|(bound, _)| bound.is_finite()));
}

/// Needs the same process, so it is part of the same test.
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
