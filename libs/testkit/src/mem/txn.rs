//! KV transactions over the store in memory.

use std::{collections::BTreeSet, fmt, ops::Range};

use async_trait::async_trait;
use storage::kv::{CommitError, Key, KvError, Reads, TXN_LIFE_MAX, Txn, Value};
use tokio::time::Instant;
use types::{Mutation, Timestamp};

use super::{CallFate, Landing, Late, MemKv, Op, Writes};

/// A KV transaction: a view at one timestamp, and its buffered writes. A view alone is one that
/// writes nothing.
pub(super) struct MemTxn {
    kv: MemKv,
    at: Timestamp,
    primary: Key,
    writes: Writes,
    inserts: BTreeSet<Key>,
    begun: Instant,
}

impl MemTxn {
    pub(super) fn new(kv: MemKv, at: Timestamp) -> Self {
        Self {
            kv,
            at,
            primary: Key::new(),
            writes: Writes::new(),
            inserts: BTreeSet::new(),
            begun: Instant::now(),
        }
    }

    fn write(&mut self, key: Key, value: Option<Value>) {
        if self.writes.is_empty() {
            self.primary.clone_from(&key);
        }
        self.writes.insert(key, value);
    }
}

impl fmt::Debug for MemTxn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemTxn")
            .field("start_ts", &self.at)
            .field("writes", &self.writes.len())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Reads for MemTxn {
    fn read_ts(&self) -> Timestamp {
        self.at
    }

    async fn get(&mut self, key: &[u8]) -> Result<Option<Value>, KvError> {
        if let Some(write) = self.writes.get(key) {
            return Ok(write.clone());
        }
        let read = |kv: &MemKv| kv.state().get(key, self.at).cloned();
        self.kv.call(Op::Get, self.at, key, read).await
    }

    async fn batch_get(&mut self, mut keys: Vec<Key>) -> Result<Vec<(Key, Value)>, KvError> {
        keys.sort_unstable();
        keys.dedup();
        let first = keys.first().cloned().unwrap_or_default();
        let read = |kv: &MemKv| {
            let state = kv.state();
            let value_of = |key: &Key| match self.writes.get(key) {
                Some(write) => write.clone(),
                None => state.get(key, self.at).cloned(),
            };
            keys.into_iter().filter_map(|key| value_of(&key).map(|value| (key, value))).collect()
        };
        self.kv.call(Op::BatchGet, self.at, &first, read).await
    }

    async fn scan(&mut self, range: Range<Key>, limit: u32) -> Result<Vec<(Key, Value)>, KvError> {
        let read = |kv: &MemKv| kv.state().scan(&range, limit, self.at, &self.writes);
        self.kv.call(Op::Scan, self.at, &range.start, read).await
    }
}

#[async_trait]
impl Txn for MemTxn {
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

    async fn commit(self: Box<Self>) -> Result<Timestamp, CommitError> {
        if self.writes.is_empty() {
            return Ok(self.at);
        }
        if self.begun.elapsed() > TXN_LIFE_MAX {
            let error = KvError::Unavailable("the KV transaction lived too long".to_owned());
            return Err(CommitError::Failed(error));
        }
        let Self { kv, at, primary, writes, inserts, .. } = *self;
        let entered = kv.enter(Op::Commit, at, &primary).await;
        let land = |writes| kv.state().commit(kv.store.clock.as_ref(), at, writes, &inserts);
        let unknown = |what: &str| Err(CommitError::Undetermined(what.to_owned()));
        let outcome = match entered.1.fate.clone() {
            // A call that vanishes does not get here.
            CallFate::Proceed | CallFate::Vanish => land(writes).ok_or(CommitError::Conflict),
            CallFate::Fail(error) => Err(CommitError::Failed(error)),
            CallFate::Conflict => Err(CommitError::Conflict),
            CallFate::Undetermined(Landing::Lost) => unknown("the request was lost"),
            // The result of a rollback after such an error in TiKV: the primary stands, and the
            // other keys are gone.
            CallFate::Undetermined(Landing::Landed)
                if Mutation::RollbackAfterUndetermined.is_on() =>
            {
                land(writes.into_iter().filter(|(key, _)| *key == primary).collect());
                unknown("the reply was lost")
            }
            CallFate::Undetermined(Landing::Landed) => {
                // A real store reports a refusal. Only the reply to a success can be lost.
                if land(writes).is_some() {
                    unknown("the reply was lost")
                } else {
                    Err(CommitError::Conflict)
                }
            }
            CallFate::Undetermined(Landing::Late(after)) => {
                let due = Instant::now() + after;
                kv.state().late.push(Late { due, start_ts: at, writes, inserts: inserts.clone() });
                unknown("the request is late")
            }
        };
        kv.leave(Op::Commit, at, &primary, &entered).await;
        outcome
    }
}
