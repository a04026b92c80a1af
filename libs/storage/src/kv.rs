//! The seam to the store: what a key-value store with snapshot isolation must do for us.

use std::{collections::BTreeMap, fmt, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use types::{Classify, ErrorKind, Timestamp};

/// A key.
pub type Key = Vec<u8>;
/// A value.
pub type Value = Vec<u8>;

/// What a KV transaction has written itself; none for a key that it has deleted.
pub(crate) type Writes = BTreeMap<Key, Option<Value>>;

/// A store, shared.
pub type SharedKv = Arc<dyn Kv>;

/// Why a call to the store failed.
///
/// No variant of a *read* leaves anything behind. For commits see [`CommitError`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// The store, or a part of it, is not there, is busy, or did not answer in time. Retry.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// A live lock of somebody else outlasted our patience. Retry.
    #[error("locked by an unfinished KV transaction")]
    Locked,
    /// What stands there does not decode, or is of a newer format. A retry does not help.
    #[error("corrupt record at {key}: {problem}")]
    Corrupt {
        /// The key, in hex.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// The store refused for a reason that a retry does not cure.
    #[error("the store refused: {0}")]
    Refused(String),
}

impl Classify for KvError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unavailable(_) | Self::Locked => ErrorKind::Unavailable,
            Self::Corrupt { .. } | Self::Refused(_) => ErrorKind::Internal,
        }
    }

    fn reason(&self) -> std::borrow::Cow<'static, str> {
        match self {
            Self::Unavailable(_) | Self::Locked => "UNAVAILABLE".into(),
            Self::Corrupt { .. } | Self::Refused(_) => "INTERNAL".into(),
        }
    }
}

/// Why a commit did not say yes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Definitely not committed: somebody else wrote one of the keys first. Read again, run again.
    #[error("write conflict")]
    Conflict,
    /// Definitely not committed, for another reason.
    #[error("not committed: {0}")]
    Failed(#[source] KvError),
    /// Nobody knows: it may have landed, may not have, or may land later. Begin a new transaction that
    /// reads and writes a key of this one, and look.
    #[error("undetermined: {0}")]
    Undetermined(String),
}

/// A store of keys and values under snapshot isolation, with timestamps that never go back.
///
/// Every call is bounded in time and fails with [`KvError::Unavailable`] rather than hang.
#[async_trait]
pub trait Kv: Send + Sync + fmt::Debug + 'static {
    /// A timestamp greater than every one given out before.
    async fn timestamp(&self) -> Result<Timestamp, KvError>;

    /// Begins an optimistic KV transaction at a fresh timestamp.
    async fn begin(&self) -> Result<Box<dyn Txn>, KvError>;

    /// A read-only view at a timestamp. Meant to be short-lived.
    fn snapshot(&self, at: Timestamp) -> Box<dyn Reads>;

    /// Clears locks that nothing else clears and lets the store drop versions that nobody can read any
    /// more, up to `safe_point` or to where others of the store's users hold it back. Answers the safe
    /// point that holds. Two callers at once are harmless. A reader older than the safe point silently
    /// sees too little.
    async fn collect_garbage(&self, safe_point: Timestamp) -> Result<Timestamp, KvError>;
}

/// Reads at one timestamp.
#[async_trait]
pub trait Reads: Send + fmt::Debug {
    /// The timestamp.
    fn read_ts(&self) -> Timestamp;

    /// The value of a key.
    async fn get(&mut self, key: &[u8]) -> Result<Option<Value>, KvError>;

    /// The values of those keys that have one, in no particular order.
    async fn batch_get(&mut self, keys: Vec<Key>) -> Result<Vec<(Key, Value)>, KvError>;

    /// Up to `limit` pairs with keys in `range`, in key order. Fewer than `limit` means that there are no
    /// more. Sees what this transaction has written itself.
    async fn scan(&mut self, range: Range<Key>, limit: u32) -> Result<Vec<(Key, Value)>, KvError>;
}

/// An optimistic KV transaction: reads at its start timestamp, buffers its writes, and commits only if no
/// key that it writes was changed since.
///
/// Dropped without [`Txn::commit`], it has no effect.
#[async_trait]
pub trait Txn: Reads {
    /// Sets a key. The first key written is the transaction's primary.
    fn put(&mut self, key: Key, value: Value);

    /// Sets a key that must have no value when the transaction commits, at whatever timestamp that one was
    /// written: else the commit fails with [`CommitError::Conflict`]. Not for a key that this transaction
    /// writes in another way.
    fn insert(&mut self, key: Key, value: Value);

    /// Removes a key.
    fn delete(&mut self, key: Key);

    /// Commits. Returns the commit timestamp; of a transaction that wrote nothing its start timestamp.
    ///
    /// # Errors
    /// [`CommitError`]: only `Conflict` and `Failed` mean that nothing happened.
    async fn commit(self: Box<Self>) -> Result<Timestamp, CommitError>;
}

/// Longest that a KV transaction may live: a tenth of the garbage collector's life time (10 min).
pub const TXN_LIFE_MAX: Duration = Duration::from_millis(journal::LIFE_MAX_MS);
