//! KV transactions. Their writes are buffered here and handed to the client at the commit.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Range,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tikv_client::{Backoff, Error, RetryOptions, TimestampExt, Transaction, TransactionOptions};
use tokio::time::Instant;
use types::Timestamp;

use super::{
    CLIENT_BACKOFF, Inner, base_options,
    classify::{self, CommitVerdict, Orphan, ReadVerdict},
    commit_verifier::ErrorEpoch,
    pace::bounded,
    query::{TikvReads, span},
};
use crate::kv::{CommitError, Key, KvError, Reads, TXN_LIFE_MAX, Txn, Value, Writes};

/// Longest key that TiKV accepts, in bytes.
const KEY_BYTES_MAX: usize = 8 << 10;
/// Longest value, in bytes. A mutation must fit into one entry of TiKV's log, which is 8 MiB.
const VALUE_BYTES_MAX: usize = 6 << 20;
/// Longest wait for a rollback.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(2);

/// Optimistic, and without async commit, which can lose commits in this version of the client.
pub(super) fn options(one_phase: bool) -> TransactionOptions {
    let options = base_options(TransactionOptions::new_optimistic()).retry_options(RetryOptions {
        // See `commit_verifier`.
        region_backoff: Backoff::no_backoff(),
        lock_backoff: CLIENT_BACKOFF,
    });
    if one_phase { options.try_one_pc() } else { options }
}

/// A KV transaction.
pub(super) struct TikvTxn {
    inner: Arc<Inner>,
    reads: TikvReads,
    transaction: Transaction,
    /// Whether a one-phase commit was requested. The client itself falls back if the writes do not
    /// fit into one request (16 KiB of keys and values, one region).
    one_phase: bool,
    primary: Key,
    writes: Writes,
    /// The written keys that must have no value yet.
    inserts: BTreeSet<Key>,
    begun: Instant,
    /// The stretch without failures in which the transaction began.
    epoch: ErrorEpoch,
}

impl TikvTxn {
    pub(super) fn new(
        inner: Arc<Inner>,
        transaction: Transaction,
        one_phase: bool,
        epoch: ErrorEpoch,
    ) -> Self {
        let at = Timestamp(transaction.start_timestamp().version());
        Self {
            reads: TikvReads::new(Arc::clone(&inner), at),
            inner,
            transaction,
            one_phase,
            primary: Key::new(),
            writes: Writes::new(),
            inserts: BTreeSet::new(),
            begun: Instant::now(),
            epoch,
        }
    }

    fn write(&mut self, key: Key, value: Option<Value>) {
        if self.writes.is_empty() {
            self.primary.clone_from(&key);
        }
        self.writes.insert(key, value);
    }

    /// Passes the writes to the client, the primary first.
    async fn hand_over(&mut self) -> Result<(), KvError> {
        let mut writes = std::mem::take(&mut self.writes);
        let first = writes.remove_entry(&self.primary);
        for (key, value) in first.into_iter().chain(writes) {
            let value_bytes = value.as_ref().map_or(0, Vec::len);
            if key.len() > KEY_BYTES_MAX || value_bytes > VALUE_BYTES_MAX {
                let (key_bytes, problem) = (key.len(), "a key or value is too long");
                return Err(KvError::Refused(format!("{problem}: {key_bytes}, {value_bytes} B")));
            }
            let handed = match value {
                Some(value) if self.inserts.contains(&key) => {
                    self.transaction.insert(key, value).await
                }
                Some(value) => self.transaction.put(key, value).await,
                None => self.transaction.delete(key).await,
            };
            handed.map_err(|error| KvError::Refused(error.to_string()))?;
        }
        Ok(())
    }

    /// Whether a success that the client reports can be believed.
    fn is_believed(&self) -> bool {
        self.inner.epoch() == self.epoch && self.inner.verifier.holds(&self.primary, self.epoch)
    }

    /// Reads back what was written, at the commit timestamp that the client reported.
    async fn confirm(
        &self,
        at: Option<tikv_client::Timestamp>,
        written: Option<Writes>,
    ) -> Result<Timestamp, CommitError> {
        let unknown = |why: String| Err(CommitError::Undetermined(why));
        let (Some(at), Some(written)) = (at, written) else {
            return unknown("something failed while it was committed".to_owned());
        };
        let at = Timestamp(at.version());
        let reads = TikvReads::new(Arc::clone(&self.inner), at);
        let keys = written.keys().cloned().collect();
        match reads.batch_get_over(keys, &Writes::new()).await {
            Ok(found) => {
                let due = written.into_iter().filter_map(|(key, value)| Some((key, value?)));
                if found.into_iter().collect::<BTreeMap<_, _>>() != due.collect() {
                    return unknown("the store does not have what was committed".to_owned());
                }
                self.inner.verifier.confirm(&self.primary, self.epoch);
                Ok(at)
            }
            Err(error) => unknown(format!("a commit could not be confirmed: {error}")),
        }
    }

    /// Reads once after a commit whose region had moved or was split. Unlike commits, reads find
    /// the new location, which the client then keeps.
    async fn look_around(&self, error: &Error, span: Range<Key>) {
        if classify::read(error) == ReadVerdict::Busy
            && let Err(error) = self.reads.scan_over(span, 1, &Writes::new()).await
        {
            tracing::debug!(%error, "a moved region could not be found yet");
        }
    }

    /// Rolls back. Returns true if the store acknowledged it: then nothing of this transaction can
    /// land any more.
    async fn rolled_back(&mut self) -> bool {
        let deadline = Instant::now() + ROLLBACK_TIMEOUT;
        matches!(bounded(deadline, Box::pin(self.transaction.rollback())).await, Ok(Ok(())))
    }

    /// Maps an error that came before any commit was sent.
    async fn not_prewritten(&mut self, error: KvError) -> CommitError {
        if self.rolled_back().await || !self.one_phase {
            CommitError::Failed(error)
        } else {
            // An earlier attempt at a one-phase prewrite may still land.
            CommitError::Undetermined(format!("{error}, and no rollback was acknowledged"))
        }
    }

    fn clear_orphan(&self, orphan: Option<Orphan>, span: Range<Key>) {
        if let Some(orphan) = orphan {
            let passed = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            let now = Timestamp::from_physical(self.reads.at().physical().plus_ms(passed));
            self.inner.clear_orphan(orphan, span, now);
        }
    }
}

impl fmt::Debug for TikvTxn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TikvTxn")
            .field("start_ts", &self.reads.at())
            .field("writes", &self.writes.len())
            .finish_non_exhaustive()
    }
}

reads_over!(TikvTxn, |this| this.reads, &this.writes);

#[async_trait]
impl Txn for TikvTxn {
    fn put(&mut self, key: Key, value: Value) {
        self.write(key, Some(value));
    }

    fn insert(&mut self, key: Key, value: Value) {
        self.inserts.insert(key.clone());
        self.write(key, Some(value));
    }

    fn delete(&mut self, key: Key) {
        self.write(key, None);
    }

    async fn commit(mut self: Box<Self>) -> Result<Timestamp, CommitError> {
        if self.writes.is_empty() {
            return Ok(self.read_ts());
        }
        if self.begun.elapsed() > TXN_LIFE_MAX {
            let error = KvError::Unavailable("the KV transaction lived too long".to_owned());
            return Err(CommitError::Failed(error));
        }
        let span = span(self.writes.keys());
        let written = (!self.is_believed()).then(|| self.writes.clone());
        self.hand_over().await.map_err(CommitError::Failed)?;
        let supervisor = &self.inner.supervisor;
        let generation = supervisor.client(Instant::now()).await.ok();
        // Called only once: a second commit() would give other keys another commit timestamp.
        let attempt = Box::pin(self.transaction.commit());
        let error = match bounded(self.inner.deadline(), attempt).await {
            Ok(Ok(Some(at))) if written.is_none() && self.is_believed() => {
                supervisor.answered();
                return Ok(Timestamp(at.version()));
            }
            Ok(Ok(at)) => return self.confirm(at, written).await,
            Ok(Err(error)) => error,
            Err(interrupted) => {
                self.inner.verifier.failed();
                if let Some(generation) = generation {
                    supervisor.went_silent(&generation);
                }
                return Err(CommitError::Undetermined(interrupted.to_string()));
            }
        };
        let verdict = classify::commit(&error);
        if verdict != CommitVerdict::Conflict {
            self.inner.verifier.failed();
        }
        match verdict {
            CommitVerdict::Conflict => {
                self.rolled_back().await;
                Err(CommitError::Conflict)
            }
            // A one-phase prewrite whose answer was lost may have landed.
            CommitVerdict::Cleared if self.one_phase => {
                Err(CommitError::Undetermined("the primary has no lock".to_owned()))
            }
            CommitVerdict::Cleared => {
                let problem = "another client cleared the primary's lock";
                Err(CommitError::Failed(KvError::Unavailable(problem.to_owned())))
            }
            CommitVerdict::NotPrewritten { error, orphan } => {
                self.clear_orphan(orphan, span);
                Err(self.not_prewritten(error).await)
            }
            CommitVerdict::OnePhaseDeclined => {
                self.inner.leave_off_one_phase();
                let problem = "the store declined a one-phase commit";
                let error = KvError::Unavailable(problem.to_owned());
                Err(self.not_prewritten(error).await)
            }
            CommitVerdict::Misused(problem) => Err(CommitError::Failed(KvError::Refused(problem))),
            CommitVerdict::Undetermined(problem) => {
                self.look_around(&error, span).await;
                let unreachable = classify::read(&error) == ReadVerdict::Unreachable;
                if let Some(generation) = generation.filter(|_| unreachable) {
                    supervisor.failed(&generation);
                }
                Err(CommitError::Undetermined(problem))
            }
        }
    }
}
