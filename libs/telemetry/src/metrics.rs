//! Every instrument of [`crate::semconv::METRICS`], made once per process.
//!
//! In tests, simulations and commands nothing reads the metrics, and these calls do nothing. Label
//! values come from closed sets: never ids or texts from clients.

use std::{
    collections::HashSet,
    sync::{OnceLock, PoisonError, RwLock},
};

use opentelemetry::{
    Key, KeyValue,
    metrics::{Histogram, Meter, MeterProvider as _, noop::NoopMeterProvider},
};
use opentelemetry_sdk::{
    Resource,
    metrics::{MeterProviderBuilder, SdkMeterProvider},
};
use prometheus::{Encoder as _, Registry, TextEncoder, proto::MetricFamily};

mod family;
mod sample;
mod state;

pub use self::{
    family::{Counts, Durations, Sizes},
    sample::{Sample, samples},
    state::{Active, AuditState, Audited, Entered, LaneVotes, Ready, SafePointAge, Votes},
};
use crate::{
    otlp::ExportError,
    semconv::{self, Metric},
};

/// Bucket boundaries of durations, in seconds: a call within the shop takes about a millisecond, a
/// checkout a few, and the longest time-out is a minute.
const SECONDS: [f64; 17] = [
    0.0005, 0.001, 0.002, 0.004, 0.006, 0.01, 0.016, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
];
/// Bucket boundaries of batch sizes, in calls or messages.
const SIZES: [f64; 12] =
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0];

/// Reads a gauge's current value; none if there is nothing to report.
type Read = Box<dyn Fn() -> Option<f64> + Send + Sync>;

/// Every instrument of a process.
#[derive(Debug)]
pub struct Metrics {
    /// [`semconv::HTTP_SERVER_DURATION`], by method, route and status.
    pub http_server_duration: Durations<3>,
    /// [`semconv::HTTP_PROBLEMS`], by route and reason.
    pub http_problems: Counts<2>,
    /// [`semconv::HTTP_SERVER_ACTIVE`].
    pub http_server_active: Active,
    /// [`semconv::HTTP_CONNECTIONS`].
    pub http_connections: Active,
    /// [`semconv::HTTP_HELD`].
    pub http_held: Active,
    /// [`semconv::RPC_SERVER_DURATION`], by method and status.
    pub rpc_server_duration: Durations<2>,
    /// [`semconv::RPC_SERVER_ACTIVE`].
    pub rpc_server_active: Active,
    /// [`semconv::RPC_CLIENT_DURATION`], by method and status.
    pub rpc_client_duration: Durations<2>,
    /// [`semconv::DB_DURATION`], by operation and kind of error.
    pub db_duration: Durations<2>,
    /// [`semconv::KV_COMMITS`], by outcome.
    pub kv_commits: Counts<1>,
    /// [`semconv::LANE_BATCH_SIZE`], by kind.
    pub lane_batch_size: Sizes<1>,
    /// [`semconv::LANE_BATCH_DURATION`], by kind.
    pub lane_batch_duration: Durations<1>,
    /// [`semconv::LANE_WAIT`], by kind.
    pub lane_wait: Durations<1>,
    /// [`semconv::MAIL_BATCH_SIZE`].
    pub mail_batch_size: Sizes<0>,
    /// [`semconv::RETRIES`], by what and why.
    pub retries: Counts<2>,
    /// [`semconv::REPLICAS_PASSED_OVER`], by service and why.
    pub replicas_passed_over: Counts<2>,
    /// [`semconv::CHECKOUTS`], by outcome and reason.
    pub checkouts: Counts<2>,
    /// [`semconv::TRANSACTIONS`], by outcome and origin.
    pub transactions: Counts<2>,
    /// [`semconv::VOTES_UNRESOLVED`] and [`semconv::VOTES_UNRESOLVED_AGE`].
    pub votes: Votes,
    /// The `till.audit.*` metrics, which describe the last audit.
    pub audit: AuditState,
    /// [`semconv::SAFE_POINT_AGE`].
    pub safe_point_age: SafePointAge,
    /// [`semconv::READY`].
    pub ready: Ready,
}

static METRICS: OnceLock<Metrics> = OnceLock::new();
static REGISTRY: RwLock<Option<Registry>> = RwLock::new(None);

/// The instruments of this process. If this is called before [`crate::init`] has set a service up,
/// they do nothing, then and later.
pub fn metrics() -> &'static Metrics {
    METRICS.get_or_init(|| Metrics::over(&NoopMeterProvider::new().meter("till")))
}

/// The body of `/metrics`, in Prometheus' text format; empty if no metrics are set up.
pub fn text() -> String {
    let mut text = Vec::new();
    if let Err(error) = TextEncoder::new().encode(&gathered(), &mut text) {
        tracing::warn!(%error, "metrics could not be written down");
    }
    String::from_utf8(text).unwrap_or_default()
}

/// The values of all instruments; nothing if no metrics are set up.
fn gathered() -> Vec<MetricFamily> {
    let registry = REGISTRY.read().unwrap_or_else(PoisonError::into_inner).clone();
    registry.map(|registry| registry.gather()).unwrap_or_default()
}

/// The provider of the instruments, and the registry that Prometheus reads.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) provider: SdkMeterProvider,
    registry: Registry,
}

impl Reading {
    /// A provider that exports to Prometheus and to each reader that `readers` adds.
    pub(crate) fn new(
        resource: Resource,
        readers: impl FnOnce(MeterProviderBuilder) -> Result<MeterProviderBuilder, ExportError>,
    ) -> Result<Self, ExportError> {
        let registry = Registry::new();
        let service: HashSet<Key> = HashSet::from([Key::from_static_str("service.name")]);
        let pull = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .with_resource_selector(service)
            .build()?;
        let builder = SdkMeterProvider::builder().with_resource(resource).with_reader(pull);
        Ok(Self { provider: readers(builder)?.build(), registry })
    }
}

/// Makes [`metrics`] return live instruments from now on. If something was counted before, it is
/// too late, and a warning is logged.
pub(crate) fn install(reading: Reading) -> SdkMeterProvider {
    let Reading { provider, registry } = reading;
    if METRICS.set(Metrics::over(&provider.meter("till"))).is_ok() {
        *REGISTRY.write().unwrap_or_else(PoisonError::into_inner) = Some(registry);
    } else {
        tracing::warn!("something was counted before metrics were set up: they stay off");
    }
    provider
}

fn seconds(meter: &Meter, metric: &Metric) -> Histogram<f64> {
    meter
        .f64_histogram(metric.name)
        .with_unit(metric.unit)
        .with_description(metric.help)
        .with_boundaries(SECONDS.to_vec())
        .build()
}

fn sizes(meter: &Meter, metric: &Metric) -> Histogram<u64> {
    meter
        .u64_histogram(metric.name)
        .with_unit(metric.unit)
        .with_description(metric.help)
        .with_boundaries(SIZES.to_vec())
        .build()
}

fn counter(meter: &Meter, metric: &Metric) -> opentelemetry::metrics::Counter<u64> {
    meter.u64_counter(metric.name).with_unit(metric.unit).with_description(metric.help).build()
}

impl Metrics {
    fn over(meter: &Meter) -> Self {
        use semconv as s;
        let grpc = [(s::RPC_SYSTEM_NAME, "grpc")];
        let metrics = Self {
            http_server_duration: Durations::over(
                seconds(meter, &s::HTTP_SERVER_DURATION),
                [s::HTTP_METHOD, s::HTTP_ROUTE, s::HTTP_STATUS],
                &[(s::URL_SCHEME, "http")],
            ),
            http_problems: Counts::over(
                counter(meter, &s::HTTP_PROBLEMS),
                [s::HTTP_ROUTE, s::REASON],
            ),
            http_server_active: Active::default(),
            http_connections: Active::default(),
            http_held: Active::default(),
            rpc_server_duration: Durations::over(
                seconds(meter, &s::RPC_SERVER_DURATION),
                [s::RPC_METHOD, s::RPC_STATUS],
                &grpc,
            ),
            rpc_server_active: Active::default(),
            rpc_client_duration: Durations::over(
                seconds(meter, &s::RPC_CLIENT_DURATION),
                [s::RPC_METHOD, s::RPC_STATUS],
                &grpc,
            ),
            db_duration: Durations::over(
                seconds(meter, &s::DB_DURATION),
                [s::DB_OPERATION, s::ERROR_TYPE],
                &[(s::DB_SYSTEM, "tikv")],
            ),
            kv_commits: Counts::over(counter(meter, &s::KV_COMMITS), [s::KV_OUTCOME]),
            lane_batch_size: Sizes::over(sizes(meter, &s::LANE_BATCH_SIZE), [s::BATCH_KIND]),
            lane_batch_duration: Durations::over(
                seconds(meter, &s::LANE_BATCH_DURATION),
                [s::BATCH_KIND],
                &[],
            ),
            lane_wait: Durations::over(seconds(meter, &s::LANE_WAIT), [s::BATCH_KIND], &[]),
            mail_batch_size: Sizes::over(sizes(meter, &s::MAIL_BATCH_SIZE), []),
            retries: Counts::over(counter(meter, &s::RETRIES), [s::RETRY_OF, s::REASON]),
            replicas_passed_over: Counts::over(
                counter(meter, &s::REPLICAS_PASSED_OVER),
                [s::SERVICE, s::REASON],
            ),
            checkouts: Counts::over(
                counter(meter, &s::CHECKOUTS),
                [s::CHECKOUT_OUTCOME, s::REASON],
            ),
            transactions: Counts::over(
                counter(meter, &s::TRANSACTIONS),
                [s::TX_OUTCOME, s::TX_ORIGIN],
            ),
            votes: Votes::default(),
            audit: AuditState::default(),
            safe_point_age: SafePointAge::default(),
            ready: Ready::default(),
        };
        metrics.observe(meter);
        metrics
    }

    /// Registers the gauges, which are read at each collection. The meter keeps them alive.
    fn observe(&self, meter: &Meter) {
        let gauge = |metric: &Metric, read: Read| {
            meter
                .f64_observable_gauge(metric.name)
                .with_unit(metric.unit)
                .with_description(metric.help)
                .with_callback(move |observer| {
                    if let Some(value) = read() {
                        observer.observe(value, &[]);
                    }
                })
                .build();
        };
        for (metric, active) in [
            (semconv::HTTP_SERVER_ACTIVE, self.http_server_active.clone()),
            (semconv::HTTP_CONNECTIONS, self.http_connections.clone()),
            (semconv::HTTP_HELD, self.http_held.clone()),
            (semconv::RPC_SERVER_ACTIVE, self.rpc_server_active.clone()),
        ] {
            meter
                .i64_observable_up_down_counter(metric.name)
                .with_unit(metric.unit)
                .with_description(metric.help)
                .with_callback(move |observer| observer.observe(active.get(), &[]))
                .build();
        }
        let votes = self.votes.clone();
        let unresolved = move || votes.totals().map(|(unresolved, _)| number(unresolved));
        gauge(&semconv::VOTES_UNRESOLVED, Box::new(unresolved));
        let votes = self.votes.clone();
        let oldest = move || votes.totals().map(|(_, overdue_ms)| number(overdue_ms) / 1e3);
        gauge(&semconv::VOTES_UNRESOLVED_AGE, Box::new(oldest));
        let ready = self.ready.clone();
        gauge(&semconv::READY, Box::new(move || ready.get().map(f64::from)));
        let age = self.safe_point_age.clone();
        let seconds = move || age.get().map(|age| age.as_secs_f64());
        gauge(&semconv::SAFE_POINT_AGE, Box::new(seconds));
        self.observe_audit(meter, &gauge);
    }

    fn observe_audit(&self, meter: &Meter, gauge: &impl Fn(&Metric, Read)) {
        let of = |read: fn(&Audited) -> f64| {
            let audit = self.audit.clone();
            Box::new(move || audit.get().as_ref().map(read))
        };
        gauge(&semconv::AUDIT_CLEAN, of(|last| f64::from(last.offences.is_empty())));
        gauge(&semconv::AUDIT_UNRESOLVED, of(|last| number(last.unresolved)));
        gauge(&semconv::AUDIT_DURATION, of(|last| last.took.as_secs_f64()));
        gauge(&semconv::AUDIT_AGE, of(|last| last.finished.elapsed().as_secs_f64()));
        let audit = self.audit.clone();
        meter
            .u64_observable_gauge(semconv::AUDIT_OFFENCES.name)
            .with_unit(semconv::AUDIT_OFFENCES.unit)
            .with_description(semconv::AUDIT_OFFENCES.help)
            .with_callback(move |observer| {
                for (invariant, count) in audit.get().into_iter().flat_map(|last| last.offences) {
                    observer.observe(count, &[KeyValue::new(semconv::INVARIANT, invariant)]);
                }
            })
            .build();
    }
}

/// Exact up to 2^53, and close enough beyond.
#[allow(clippy::cast_precision_loss, reason = "a gauge need not be exact beyond 2^53")]
const fn number(count: u64) -> f64 {
    count as f64
}
