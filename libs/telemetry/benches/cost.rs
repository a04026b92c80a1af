//! What telemetry costs a checkout when nothing is exported: the metrics, which are always counted,
//! and the spans, which are never made. Run it by `cargo bench -p telemetry`.

#![allow(missing_docs, reason = "criterion's macros make functions without any")]

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use http::HeaderMap;
use telemetry::{
    Format, Scope, semconv,
    trace::{self, CallerSpan},
};
use tracing::{Span, field::Empty};

/// The metrics of one checkout of two items, over all processes. `a_batch` has what is counted once
/// for each batch.
fn counts() {
    let metrics = telemetry::metrics();
    let took = black_box(Duration::from_millis(3));
    let _rest = metrics.http_server_active.enter();
    let _rpc = metrics.rpc_server_active.enter();
    metrics
        .rpc_client_duration
        .record(took, ["till.coordinator.v1.CoordinatorService/Checkout", "OK"]);
    metrics
        .rpc_server_duration
        .record(took, ["till.coordinator.v1.CoordinatorService/Checkout", "OK"]);
    metrics.http_server_duration.record(took, ["POST", "/orders/checkout/{order_id}", "200"]);
    metrics.checkouts.one(["paid", ""]);
    metrics.transactions.one(["committed", "begun"]);
}

/// The metrics of one batch: its messages, the lane that takes it, and the store beneath.
fn a_batch() {
    let metrics = telemetry::metrics();
    let took = black_box(Duration::from_millis(3));
    metrics.mail_batch_size.record(black_box(3), []);
    metrics
        .rpc_client_duration
        .record(took, ["till.participant.v1.ParticipantService/Apply", "OK"]);
    let active = metrics.rpc_server_active.enter();
    metrics
        .rpc_server_duration
        .record(took, ["till.participant.v1.ParticipantService/Apply", "OK"]);
    drop(active);
    metrics.lane_batch_size.record(black_box(3), ["write"]);
    metrics.lane_batch_duration.record(took, ["write"]);
    metrics.lane_wait.record(took, ["write"]);
    metrics.db_duration.record(took, ["begin", ""]);
    metrics.db_duration.record(took, ["batch_get", ""]);
    metrics.db_duration.record(took, ["commit", ""]);
    metrics.kv_commits.one(["committed"]);
}

/// Spans of one checkout: 2 at the bridge, 3 at the coordinator, and 9 for each of 4 branches (a
/// message and its batch, 2 calls, a lane's batch and 4 of the store).
const SPANS: u64 = 5 + 4 * 9;

/// The tracing code of each span: read the caller's span, make a span, keep the current one while it
/// waits, tie it to a batch, pass it to the callee. Nothing is exported, so none of it may cost
/// anything.
fn spans(headers: &mut HeaderMap) {
    for number in 0..SPANS {
        let caller = CallerSpan::of_caller(headers);
        let span = tracing::debug_span!(
            target: trace::TARGET,
            "message",
            otel.name = "prepare",
            otel.status_code = Empty,
            { semconv::BRANCH } = number,
        );
        caller.continue_in(&span);
        trace::inject(&span, headers);
        let callers = black_box([CallerSpan::here()]);
        let batch = trace::batch(&callers.iter(), Span::none);
        trace::link(&batch, callers.iter());
        black_box(trace::below(
            || tracing::debug_span!(target: trace::TARGET, "kv", { semconv::DB_OPERATION } = number),
        ));
        trace::failed(&span);
        drop(black_box(span));
    }
}

/// The same loop without tracing.
fn nothing(headers: &mut HeaderMap) {
    for number in 0..SPANS {
        black_box((number, &headers));
    }
}

fn cost(criterion: &mut Criterion) {
    let mut headers = HeaderMap::new();
    criterion.bench_function("a checkout's spans, without telemetry", |bench| {
        bench.iter(|| nothing(&mut headers));
    });
    criterion.bench_function("a checkout's counts, without telemetry", |bench| {
        bench.iter(|| black_box(Duration::from_millis(3)));
    });
    let _guard = telemetry::init("bench", Format::Pretty, Scope::Service)
        .expect("nothing is exported, so nothing can be refused");
    criterion.bench_function("a checkout's spans, without an endpoint", |bench| {
        bench.iter(|| spans(&mut headers));
    });
    criterion.bench_function("an event at debug level, without an endpoint", |bench| {
        bench.iter(|| tracing::debug!(number = black_box(3), "begin"));
    });
    criterion.bench_function("a checkout's counts", |bench| bench.iter(counts));
    criterion.bench_function("a batch's counts", |bench| bench.iter(a_batch));
    criterion.bench_function("a look at all metrics", |bench| bench.iter(telemetry::metrics::text));
}

criterion_group!(benches, cost);
criterion_main!(benches);
