//! Adds metrics and traces to a store.

use std::{ops::Range, time::Instant};

use async_trait::async_trait;
use telemetry::{semconv, trace};
use tracing::{Instrument as _, Span, field::Empty};
use types::Timestamp;

use crate::kv::{CommitError, Key, Kv, KvError, Reads, SharedKv, Txn, Value};

/// Wraps a store, and counts, times and traces its calls.
#[derive(Debug)]
pub struct Metered(SharedKv);

impl Metered {
    /// Wraps this store.
    pub const fn new(kv: SharedKv) -> Self {
        Self(kv)
    }
}

/// The error as a label.
const fn kind(error: &KvError) -> &'static str {
    match error {
        KvError::Unavailable(_) => "unavailable",
        KvError::Locked => "locked",
        KvError::Corrupt { .. } => "corrupt",
        KvError::Refused(_) => "refused",
    }
}

/// The span of a call to the store.
fn span(operation: &'static str) -> Span {
    trace::below(|| {
        tracing::debug_span!(
            target: trace::TARGET,
            "kv",
            otel.name = operation,
            otel.kind = "client",
            otel.status_code = Empty,
            { semconv::DB_SYSTEM } = "tikv",
            { semconv::DB_OPERATION } = operation,
            { semconv::ERROR_TYPE } = Empty,
        )
    })
}

/// Records how a call ended. `problem` is empty after a success.
fn ended(span: &Span, operation: &'static str, begun: Instant, problem: &'static str) {
    if !problem.is_empty() {
        span.record(semconv::ERROR_TYPE, problem);
        trace::failed(span);
    }
    telemetry::metrics().db_duration.record(begun.elapsed(), [operation, problem]);
}

async fn measured<T>(
    operation: &'static str,
    call: impl Future<Output = Result<T, KvError>>,
) -> Result<T, KvError> {
    let begun = Instant::now();
    let span = span(operation);
    let result = call.instrument(span.clone()).await;
    ended(&span, operation, begun, result.as_ref().err().map_or("", kind));
    result
}

#[async_trait]
impl Kv for Metered {
    async fn timestamp(&self) -> Result<Timestamp, KvError> {
        measured("timestamp", self.0.timestamp()).await
    }

    async fn begin(&self) -> Result<Box<dyn Txn>, KvError> {
        let span = trace::below(|| {
            tracing::debug_span!(
                target: trace::TARGET,
                "kv transaction",
                { semconv::KV_START_TS } = Empty,
                { semconv::KV_OUTCOME } = Empty,
            )
        });
        let txn = measured("begin", self.0.begin()).instrument(span.clone()).await?;
        span.record(semconv::KV_START_TS, txn.read_ts().0);
        Ok(Box::new(Measured { store: txn, writes: false, span }))
    }

    fn snapshot(&self, at: Timestamp) -> Box<dyn Reads> {
        Box::new(Measured { store: self.0.snapshot(at), writes: false, span: Span::none() })
    }

    async fn collect_garbage(&self, safe_point: Timestamp) -> Result<Timestamp, KvError> {
        measured("collect_garbage", self.0.collect_garbage(safe_point)).await
    }
}

/// A view or a transaction.
#[derive(Debug)]
struct Measured<R: ?Sized> {
    store: Box<R>,
    writes: bool,
    /// Spans a transaction from start to end, with its calls as child spans. Disabled for a view,
    /// whose calls become child spans of the caller's.
    span: Span,
}

#[async_trait]
impl<R: Reads + ?Sized> Reads for Measured<R> {
    fn read_ts(&self) -> Timestamp {
        self.store.read_ts()
    }

    async fn get(&mut self, key: &[u8]) -> Result<Option<Value>, KvError> {
        measured("get", self.store.get(key)).instrument(self.span.clone()).await
    }

    async fn batch_get(&mut self, keys: Vec<Key>) -> Result<Vec<(Key, Value)>, KvError> {
        measured("batch_get", self.store.batch_get(keys)).instrument(self.span.clone()).await
    }

    async fn scan(&mut self, range: Range<Key>, limit: u32) -> Result<Vec<(Key, Value)>, KvError> {
        measured("scan", self.store.scan(range, limit)).instrument(self.span.clone()).await
    }
}

#[async_trait]
impl Txn for Measured<dyn Txn> {
    fn put(&mut self, key: Key, value: Value) {
        self.writes = true;
        self.store.put(key, value);
    }

    fn insert(&mut self, key: Key, value: Value) {
        self.writes = true;
        self.store.insert(key, value);
    }

    fn delete(&mut self, key: Key) {
        self.writes = true;
        self.store.delete(key);
    }

    async fn commit(self: Box<Self>) -> Result<Timestamp, CommitError> {
        let Self { store: txn, writes, span: whole } = *self;
        if !writes {
            return txn.commit().await;
        }
        let begun = Instant::now();
        let call = whole.in_scope(|| span("commit"));
        let result = txn.commit().instrument(call.clone()).await;
        let (outcome, problem) = match &result {
            Ok(_) => ("committed", ""),
            Err(CommitError::Conflict) => ("conflict", "conflict"),
            Err(CommitError::Undetermined(_)) => ("undetermined", "undetermined"),
            Err(CommitError::Failed(error)) => ("failed", kind(error)),
        };
        ended(&call, "commit", begun, problem);
        whole.record(semconv::KV_OUTCOME, outcome);
        telemetry::metrics().kv_commits.one([outcome]);
        result
    }
}
