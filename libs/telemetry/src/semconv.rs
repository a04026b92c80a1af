//! The names of spans and fields. Whoever adds one adds it here; names of OpenTelemetry's conventions
//! are theirs, names under `till.` are ours.

/// OpenTelemetry: which RPC system; always "grpc" here.
pub const RPC_SYSTEM_NAME: &str = "rpc.system.name";
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

/// A transaction: one attempt.
pub const TX_ID: &str = "till.tx.id";
/// What the attempt is at: prepare, commit, abort, resolve.
pub const TX_PHASE: &str = "till.tx.phase";
/// Number of the attempt, from 1.
pub const TX_ATTEMPT: &str = "till.tx.attempt";
/// COMMITTED or ABORTED, and why.
pub const TX_OUTCOME: &str = "till.tx.outcome";
/// One participant of a transaction: service/shard.
pub const BRANCH: &str = "till.branch";
/// An order.
pub const ORDER_ID: &str = "till.order.id";
/// An item.
pub const ITEM_ID: &str = "till.item.id";
/// A user.
pub const USER_ID: &str = "till.user.id";
/// What makes a call happen once.
pub const REQUEST_ID: &str = "till.request.id";
/// What an honest caller uses to find its own requests again.
pub const CORRELATION_ID: &str = "till.correlation.id";
/// A service's name.
pub const SERVICE: &str = "till.service";
/// A slice of a service's keys.
pub const SHARD: &str = "till.shard";
/// Number of a shard's batch.
pub const BATCH_SEQ: &str = "till.batch.seq";
/// Number of the try of a KV transaction, from 1.
pub const KV_ATTEMPT: &str = "till.kv.attempt";
/// The replica that was called.
pub const ENDPOINT: &str = "till.endpoint";
/// The rule of the protocol that a decision relied on.
pub const INVARIANT: &str = "till.invariant";
