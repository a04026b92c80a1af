//! A store that measures what it is asked.

use std::{ops::Range, time::Instant};

use async_trait::async_trait;
use types::Timestamp;

use crate::kv::{CommitError, Key, Kv, KvError, Reads, SharedKv, Txn, Value};

/// A store whose calls are counted and measured; else it is the one beneath.
#[derive(Debug)]
pub struct Metered(SharedKv);

impl Metered {
    /// Measures this store.
    pub const fn new(kv: SharedKv) -> Self {
        Self(kv)
    }
}

/// What went wrong, as a label.
const fn kind(error: &KvError) -> &'static str {
    match error {
        KvError::Unavailable(_) => "unavailable",
        KvError::Locked => "locked",
        KvError::Corrupt { .. } => "corrupt",
        KvError::Refused(_) => "refused",
    }
}

fn measured<T>(
    operation: &'static str,
    begun: Instant,
    result: Result<T, KvError>,
) -> Result<T, KvError> {
    let problem = result.as_ref().err().map_or("", kind);
    telemetry::metrics().db_duration.record(begun.elapsed(), [operation, problem]);
    result
}

#[async_trait]
impl Kv for Metered {
    async fn timestamp(&self) -> Result<Timestamp, KvError> {
        let begun = Instant::now();
        measured("timestamp", begun, self.0.timestamp().await)
    }

    async fn begin(&self) -> Result<Box<dyn Txn>, KvError> {
        let begun = Instant::now();
        let txn = measured("begin", begun, self.0.begin().await)?;
        Ok(Box::new(MeteredTxn(txn, false)))
    }

    fn snapshot(&self, at: Timestamp) -> Box<dyn Reads> {
        Box::new(MeteredReads(self.0.snapshot(at)))
    }

    async fn collect_garbage(&self, safe_point: Timestamp) -> Result<(), KvError> {
        let begun = Instant::now();
        measured("collect_garbage", begun, self.0.collect_garbage(safe_point).await)
    }
}

#[derive(Debug)]
struct MeteredReads(Box<dyn Reads>);

/// The transaction, and whether it writes anything.
#[derive(Debug)]
struct MeteredTxn(Box<dyn Txn>, bool);

macro_rules! reads {
    ($metered:ty) => {
        #[async_trait]
        impl Reads for $metered {
            fn read_ts(&self) -> Timestamp {
                self.0.read_ts()
            }

            async fn get(&mut self, key: &[u8]) -> Result<Option<Value>, KvError> {
                let begun = Instant::now();
                measured("get", begun, self.0.get(key).await)
            }

            async fn batch_get(&mut self, keys: Vec<Key>) -> Result<Vec<(Key, Value)>, KvError> {
                let begun = Instant::now();
                measured("batch_get", begun, self.0.batch_get(keys).await)
            }

            async fn scan(
                &mut self,
                range: Range<Key>,
                limit: u32,
            ) -> Result<Vec<(Key, Value)>, KvError> {
                let begun = Instant::now();
                measured("scan", begun, self.0.scan(range, limit).await)
            }
        }
    };
}

reads!(MeteredReads);
reads!(MeteredTxn);

#[async_trait]
impl Txn for MeteredTxn {
    fn put(&mut self, key: Key, value: Value) {
        self.1 = true;
        self.0.put(key, value);
    }

    fn insert(&mut self, key: Key, value: Value) {
        self.1 = true;
        self.0.insert(key, value);
    }

    fn delete(&mut self, key: Key) {
        self.1 = true;
        self.0.delete(key);
    }

    async fn commit(self: Box<Self>) -> Result<(), CommitError> {
        let Self(txn, writes) = *self;
        if !writes {
            return txn.commit().await;
        }
        let begun = Instant::now();
        let result = txn.commit().await;
        let (outcome, problem) = match &result {
            Ok(()) => ("committed", ""),
            Err(CommitError::Conflict) => ("conflict", "conflict"),
            Err(CommitError::Undetermined(_)) => ("undetermined", "undetermined"),
            Err(CommitError::Failed(error)) => ("failed", kind(error)),
        };
        let metrics = telemetry::metrics();
        metrics.db_duration.record(begun.elapsed(), ["commit", problem]);
        metrics.kv_commits.one([outcome]);
        result
    }
}
