//! The names of all metrics, spans and fields. Names under `till.` are ours; the others are those
//! of OpenTelemetry's conventions.

/// OpenTelemetry: the RPC system; always "grpc" here.
pub const RPC_SYSTEM_NAME: &str = "rpc.system.name";
/// OpenTelemetry: replaces a name that a caller made up.
pub const OTHER: &str = "_OTHER";
/// OpenTelemetry: the fully qualified method.
pub const RPC_METHOD: &str = "rpc.method";
/// OpenTelemetry: the status code, as text.
pub const RPC_STATUS: &str = "rpc.response.status_code";
/// OpenTelemetry: the method of an HTTP request.
pub const HTTP_METHOD: &str = "http.request.method";
/// OpenTelemetry: the matched route of an HTTP request, without ids.
pub const HTTP_ROUTE: &str = "http.route";
/// OpenTelemetry: the status code of an HTTP response.
pub const HTTP_STATUS: &str = "http.response.status_code";

/// The id of a transaction, which is one attempt.
pub const TX_ID: &str = "till.tx.id";
/// The phase of an attempt: prepare, commit, abort, resolve.
pub const TX_PHASE: &str = "till.tx.phase";
/// Number of the attempt, from 1.
pub const TX_ATTEMPT: &str = "till.tx.attempt";
/// COMMITTED or ABORTED, and why.
pub const TX_OUTCOME: &str = "till.tx.outcome";
/// One participant of a transaction: service/shard.
pub const BRANCH: &str = "till.branch";
/// The id of an order.
pub const ORDER_ID: &str = "till.order.id";
/// The id of an item.
pub const ITEM_ID: &str = "till.item.id";
/// The id of a user.
pub const USER_ID: &str = "till.user.id";
/// The id that makes a call take effect once.
pub const REQUEST_ID: &str = "till.request.id";
/// The id by which a caller finds its own requests in logs.
pub const CORRELATION_ID: &str = "till.correlation.id";
/// A service's name.
pub const SERVICE: &str = "till.service";
/// The number of a shard, which is a fixed slice of a service's keys.
pub const SHARD: &str = "till.shard";
/// Number of a shard's batch.
pub const BATCH_SEQ: &str = "till.batch.seq";
/// Number of calls in a batch.
pub const BATCH_CALLS: &str = "till.batch.calls";
/// The start timestamp of a KV transaction.
pub const KV_START_TS: &str = "till.kv.start_ts";
/// Number of the attempt at a KV transaction, from 1.
pub const KV_ATTEMPT: &str = "till.kv.attempt";
/// The replica that was called.
pub const ENDPOINT: &str = "till.endpoint";
/// The rule of the protocol that a decision relied on.
pub const INVARIANT: &str = "till.invariant";

/// OpenTelemetry: the scheme of a request.
pub const URL_SCHEME: &str = "url.scheme";
/// OpenTelemetry: the kind of store; always "tikv" here.
pub const DB_SYSTEM: &str = "db.system.name";
/// OpenTelemetry: the operation on the store.
pub const DB_OPERATION: &str = "db.operation.name";
/// OpenTelemetry: the kind of error; absent after a success.
pub const ERROR_TYPE: &str = "error.type";
/// The result of a KV commit: committed, conflict, failed, undetermined.
pub const KV_OUTCOME: &str = "till.kv.outcome";
/// Whether a lane's batch wrote anything: write, read.
pub const BATCH_KIND: &str = "till.batch.kind";
/// What was retried: batch, message, checkout, call.
pub const RETRY_OF: &str = "till.retry.of";
/// The reason, from a closed list.
pub const REASON: &str = "till.reason";
/// The result of a checkout: paid, already_paid, refused, unavailable, unknown, failed.
pub const CHECKOUT_OUTCOME: &str = "till.checkout.outcome";
/// Whether a transaction began here or was resolved for another coordinator.
pub const TX_ORIGIN: &str = "till.tx.origin";

/// OpenTelemetry: the kind of SDK component.
pub const OTEL_COMPONENT_TYPE: &str = "otel.component.type";
/// OpenTelemetry: the SDK component, by kind and number.
pub const OTEL_COMPONENT_NAME: &str = "otel.component.name";

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// The current value.
    Gauge,
    /// The distribution of measurements.
    Histogram,
}

/// A metric's declaration: the only one, for every exporter.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// OpenTelemetry's name.
    pub name: &'static str,
    /// What kind of instrument it is.
    pub kind: Kind,
    /// In UCUM, with annotations in braces.
    pub unit: &'static str,
    /// One sentence of description.
    pub help: &'static str,
    /// The names of its labels, whose values are closed sets: never ids.
    pub labels: &'static [&'static str],
}

impl Metric {
    /// Its name at `/metrics`, by OpenTelemetry's rules for Prometheus. A histogram has three
    /// series: this name followed by `_bucket`, `_sum` and `_count`.
    pub fn prometheus(&self) -> String {
        let mut name = label(self.name);
        name.push_str(match self.unit {
            "s" => "_seconds",
            "By" => "_bytes",
            _ => "",
        });
        if self.kind == Kind::Counter {
            name.push_str("_total");
        }
        name
    }
}

/// A label's name at `/metrics`.
pub fn label(name: &str) -> String {
    name.replace('.', "_")
}

macro_rules! metrics {
    ($($constant:ident = $name:literal, $kind:ident, $unit:literal, [$($label:expr),*], $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                unit: $unit,
                help: $help,
                labels: &[$($label),*],
            };
        )*

        /// Every metric.
        pub const METRICS: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    HTTP_SERVER_DURATION = "http.server.request.duration", Histogram, "s",
        [HTTP_METHOD, HTTP_ROUTE, HTTP_STATUS, URL_SCHEME],
        "Duration of REST requests, from their head to the head of the answer";
    HTTP_PROBLEMS = "till.http.problems", Counter, "{problem}",
        [HTTP_ROUTE, REASON], "REST requests that were refused or failed, by the reason in their answer";
    HTTP_SERVER_ACTIVE = "http.server.active_requests", Gauge, "{request}",
        [], "REST requests in flight";
    HTTP_CONNECTIONS = "till.http.connections", Gauge, "{connection}",
        [], "Connections to the bridge";
    HTTP_HELD = "till.http.held", Gauge, "By",
        [], "Bytes of long heads, and of answers over HTTP/2 that clients have not taken yet";
    RPC_SERVER_DURATION = "rpc.server.call.duration", Histogram, "s",
        [RPC_SYSTEM_NAME, RPC_METHOD, RPC_STATUS],
        "Duration of gRPC calls that this process answered";
    RPC_SERVER_ACTIVE = "till.rpc.server.active_requests", Gauge, "{request}",
        [], "gRPC calls in flight at this process, as the callee";
    RPC_CLIENT_DURATION = "rpc.client.call.duration", Histogram, "s",
        [RPC_SYSTEM_NAME, RPC_METHOD, RPC_STATUS],
        "Duration of gRPC calls that this process made, each attempt separately";
    DB_DURATION = "db.client.operation.duration", Histogram, "s",
        [DB_SYSTEM, DB_OPERATION, ERROR_TYPE],
        "Duration of calls to the store";
    KV_COMMITS = "till.kv.commits", Counter, "{transaction}",
        [KV_OUTCOME], "KV transactions that wrote something, by the outcome of their commit";
    LANE_BATCH_SIZE = "till.lane.batch.size", Histogram, "{call}",
        [BATCH_KIND], "Calls that a lane answered with one KV transaction";
    LANE_BATCH_DURATION = "till.lane.batch.duration", Histogram, "s",
        [BATCH_KIND], "Duration of a lane's batch, from its start until it is durable";
    LANE_WAIT = "till.lane.wait.duration", Histogram, "s",
        [BATCH_KIND], "Waiting time of the oldest call of a batch when the batch began";
    MAIL_BATCH_SIZE = "till.mail.batch.size", Histogram, "{message}",
        [], "Messages that a coordinator sent to a shard together";
    RETRIES = "till.retries", Counter, "{retry}",
        [RETRY_OF, REASON], "Retries, by what was repeated and why";
    REPLICAS_PASSED_OVER = "till.replicas.passed_over", Counter, "{call}",
        [SERVICE, REASON], "Failed calls after which their replica was passed over for a second";
    CHECKOUTS = "till.checkouts", Counter, "{checkout}",
        [CHECKOUT_OUTCOME, REASON], "Checkouts, by the result that their caller got";
    TRANSACTIONS = "till.transactions", Counter, "{transaction}",
        [TX_OUTCOME, TX_ORIGIN],
        "Transactions, by outcome and by whether they began here or were resolved for another coordinator";
    VOTES_UNRESOLVED = "till.votes.unresolved", Gauge, "{vote}",
        [], "YES votes whose outcome this replica does not know, over all shards that it has looked at";
    VOTES_UNRESOLVED_AGE = "till.votes.unresolved.age", Gauge, "s",
        [], "Time for which the oldest unresolved YES vote has been past its deadline; 0 if none is";
    AUDIT_CLEAN = "till.audit.clean", Gauge, "{audit}",
        [], "1 if the last audit of the books found nothing, else 0; only where this replica audits";
    AUDIT_OFFENCES = "till.audit.offences", Gauge, "{offence}",
        [INVARIANT], "Violations that the last audit found, by invariant";
    AUDIT_UNRESOLVED = "till.audit.unresolved", Gauge, "{transaction}",
        [], "Transactions with a vote but no outcome, as of the last audit";
    AUDIT_DURATION = "till.audit.duration", Gauge, "s",
        [], "Duration of the last audit";
    AUDIT_AGE = "till.audit.age", Gauge, "s",
        [], "Time since the last audit finished";
    OTEL_SPANS_PROCESSED = "otel.sdk.processor.span.processed", Counter, "{span}",
        [ERROR_TYPE, OTEL_COMPONENT_NAME, OTEL_COMPONENT_TYPE],
        "Spans that were sent or dropped; the error is queue_full if a full queue dropped them; only where traces \
         are sent";
    OTEL_LOGS_PROCESSED = "otel.sdk.processor.log.processed", Counter, "{log_record}",
        [ERROR_TYPE, OTEL_COMPONENT_NAME, OTEL_COMPONENT_TYPE],
        "Log lines that were sent or dropped; the error is queue_full if a full queue dropped them; only where logs \
         are sent";
    OTEL_LOGS_CREATED = "otel.sdk.log.created", Counter, "{log_record}",
        [], "Log lines passed to the sender; only where logs are sent";
    OTEL_LOG_QUEUE_CAPACITY = "otel.sdk.processor.log.queue.capacity", Gauge, "{log_record}",
        [OTEL_COMPONENT_NAME, OTEL_COMPONENT_TYPE],
        "Capacity of the queue of log lines to send; only where logs are sent";
    SAFE_POINT_AGE = "till.store.safe_point.age", Gauge, "s",
        [], "Age of the store's safe point, below which garbage is collected; only where this replica sweeps the store";
    READY = "till.ready", Gauge, "{replica}",
        [], "1 while this replica reports that it is ready for requests, else 0";
}
