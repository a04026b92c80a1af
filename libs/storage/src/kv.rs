//! The seam to the store: the operations that Till needs of a key-value store with snapshot
//! isolation.

use std::{collections::BTreeMap, fmt, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use types::{Classify, ErrorKind, Timestamp};

/// A key.
pub type Key = Vec<u8>;
/// A value.
pub type Value = Vec<u8>;

/// The writes of a KV transaction. `None` is a removal.
pub(crate) type Writes = BTreeMap<Key, Option<Value>>;

/// A shared handle to a store.
pub type SharedKv = Arc<dyn Kv>;

/// Why a call to the store failed.
///
/// A failed *read* leaves nothing behind. For commits see [`CommitError`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// The store or a part of it is unreachable or busy, or did not answer in time. Retry.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// Another transaction's live lock was not released in time. Retry.
    #[error("locked by an unfinished KV transaction")]
    Locked,
    /// The stored value does not decode, or has a newer format. A retry does not help.
    #[error("corrupt record at {key}: {problem}")]
    Corrupt {
        /// The key, in hex.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The store refused, for a reason that a retry does not cure.
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

/// Why a commit did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Definitely not committed: another transaction wrote one of the keys first. Read again and
    /// retry.
    #[error("write conflict")]
    Conflict,
    /// Definitely not committed, for another reason.
    #[error("not committed: {0}")]
    Failed(#[source] KvError),
    /// The outcome is unknown: it may have landed, or may still land later. To find out, begin a
    /// new transaction that reads and writes a key of this one.
    #[error("undetermined: {0}")]
    Undetermined(String),
}

/// A key-value store with snapshot isolation, and timestamps that never go back.
///
/// Every call is bounded in time, and fails with [`KvError::Unavailable`] rather than hang.
#[async_trait]
pub trait Kv: Send + Sync + fmt::Debug + 'static {
    /// A timestamp greater than all that were issued before.
    async fn timestamp(&self) -> Result<Timestamp, KvError>;

    /// Begins an optimistic KV transaction at a fresh timestamp.
    async fn begin(&self) -> Result<Box<dyn Txn>, KvError>;

    /// A read-only view at a timestamp, to be used for a short time.
    fn snapshot(&self, at: Timestamp) -> Box<dyn Reads>;

    /// Clears locks that nothing else clears, and lets the store drop versions that nobody can read
    /// any more. Collects up to `safe_point`, or to where other users of the store hold it back,
    /// and returns the safe point that applies. Concurrent calls are harmless. A read below the
    /// safe point is silently incomplete.
    async fn collect_garbage(&self, safe_point: Timestamp) -> Result<Timestamp, KvError>;
}

/// Reads at one timestamp.
#[async_trait]
pub trait Reads: Send + fmt::Debug {
    /// The timestamp of all reads.
    fn read_ts(&self) -> Timestamp;

    /// The value of a key, if it has one.
    async fn get(&mut self, key: &[u8]) -> Result<Option<Value>, KvError>;

    /// The values of those keys that have one, in no particular order.
    async fn batch_get(&mut self, keys: Vec<Key>) -> Result<Vec<(Key, Value)>, KvError>;

    /// Up to `limit` pairs with keys in `range`, in key order. Fewer than `limit` means that there
    /// are no more. Includes what this transaction has written itself.
    async fn scan(&mut self, range: Range<Key>, limit: u32) -> Result<Vec<(Key, Value)>, KvError>;
}

/// An optimistic KV transaction. It reads at its start timestamp, buffers its writes, and commits
/// only if no key that it writes has changed since.
///
/// A transaction that is dropped without [`Txn::commit`] has no effect.
#[async_trait]
pub trait Txn: Reads {
    /// Sets a key. The first key written is the transaction's primary.
    fn put(&mut self, key: Key, value: Value);

    /// Sets a key that must have no value when the transaction commits. If it has one, however old,
    /// the commit fails with [`CommitError::Conflict`]. Do not write the key in another way in the
    /// same transaction.
    fn insert(&mut self, key: Key, value: Value);

    /// Removes a key.
    fn delete(&mut self, key: Key);

    /// Commits. Returns the commit timestamp, or the start timestamp if the transaction wrote
    /// nothing.
    ///
    /// # Errors
    /// [`CommitError`]: only `Conflict` and `Failed` mean that nothing happened.
    async fn commit(self: Box<Self>) -> Result<Timestamp, CommitError>;
}

/// How long a KV transaction may live: a tenth of the janitor's life time of versions (10 min).
pub const TXN_LIFE_MAX: Duration = Duration::from_millis(journal::LIFE_MAX_MS);
