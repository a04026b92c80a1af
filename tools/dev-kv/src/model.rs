//! Percolator's rules for one store, as pure decisions: no async, no I/O, no clock, no randomness.
//!
//! Each operation looks at keys through a [`View`], and either refuses or appends [`Effect`]s. Nothing is
//! changed here: the caller applies the effects of a request together, or none of them. Timestamps that a
//! decision needs come in as arguments.
//!
//! The data model is TiKV's: at most one lock a key, write records ordered by commit timestamp. Rollback
//! records live apart from the write records, found by (key, start timestamp), so that a rollback and
//! another transaction's commit can never fall on the same place.

mod commit;
mod pessimistic;
mod prewrite;
mod read;
mod status;
#[cfg(test)]
mod tests;

use bytes::Bytes;
pub(crate) use commit::{commit, resolve, rollback};
pub(crate) use pessimistic::{LockRequest, pessimistic_lock, pessimistic_rollback};
pub(crate) use prewrite::{Mutation, MutationOp, PessimisticAction, Prewrite, prewrite};
pub(crate) use read::blocks_read;
pub(crate) use status::{
    Action, CheckStatus, SecondaryStatus, TxnStatus, check_secondary_locks, check_txn_status,
    heart_beat,
};
pub(crate) use types::Timestamp as Ts;

/// The largest key that a write may carry, in bytes; what TiKV allows in a memcomparable row.
pub(crate) const KEY_BYTES_MAX: usize = 8 * 1024;

/// The version that asks for the newest value whatever its timestamp.
pub(crate) const TS_MAX: Ts = Ts(u64::MAX);

/// What a write record does to its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A value.
    Put,
    /// No value from here on.
    Delete,
    /// The key was locked and left as it was; it still conflicts with older writers.
    Lock,
}

/// What kind of lock stands on a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockKind {
    /// Becomes a value at commit.
    Put,
    /// Becomes a deletion at commit.
    Delete,
    /// Becomes a `Lock` record at commit.
    Lock,
    /// Taken ahead of the prewrite; vanishes at commit, never blocks a reader.
    Pessimistic,
}

/// A transaction's lock on a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lock {
    /// Kind, that is, what the commit will write.
    pub(crate) kind: LockKind,
    /// The key whose lock decides the transaction.
    pub(crate) primary: Bytes,
    /// The transaction.
    pub(crate) start_ts: Ts,
    /// Life in milliseconds, counted from the physical part of `start_ts`.
    pub(crate) ttl_ms: u64,
    /// The value to be committed; empty unless `kind` is `Put`.
    pub(crate) value: Bytes,
    /// Where a pessimistic transaction read what it locked; zero for an optimistic one.
    pub(crate) for_update_ts: Ts,
    /// The commit timestamp may not be below this; zero when nothing was promised to a reader.
    pub(crate) min_commit_ts: Ts,
    /// Whether all locks standing is already a commit.
    pub(crate) async_commit: bool,
    /// The transaction's size in keys, as its client said.
    pub(crate) txn_size: u64,
    /// On the primary of an async commit: all other keys.
    pub(crate) secondaries: Vec<Bytes>,
}

impl Lock {
    /// Whether the lock's time is over at `now`. Exactly at its end it is still alive.
    pub(crate) fn expired(&self, now: Ts) -> bool {
        now == TS_MAX || self.start_ts.physical().0.saturating_add(self.ttl_ms) < now.physical().0
    }
}

/// A write record without its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    /// When it became visible.
    pub(crate) commit_ts: Ts,
    /// The transaction that wrote it.
    pub(crate) start_ts: Ts,
    /// What it does.
    pub(crate) kind: Kind,
}

/// What a decision may know of a key at a glance.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct KeyState<'a> {
    /// The lock that stands on it.
    pub(crate) lock: Option<&'a Lock>,
    /// The newest write record of any kind.
    pub(crate) newest: Option<Version>,
    /// The newest record that says what the value is (`Put` or `Delete`).
    pub(crate) newest_data: Option<Version>,
}

impl KeyState<'_> {
    /// Whether the key has a value now.
    pub(crate) fn exists(&self) -> bool {
        self.newest_data.is_some_and(|version| version.kind == Kind::Put)
    }
}

/// The state that a decision reads.
pub(crate) trait View {
    /// Why reading failed, such as a damaged file.
    type Error;

    /// Lock and newest records of a key.
    fn key(&mut self, key: &Bytes) -> Result<KeyState<'_>, Self::Error>;

    /// The record that transaction `start_ts` committed on the key, if it did.
    fn commit_of(&mut self, key: &Bytes, start_ts: Ts) -> Result<Option<Version>, Self::Error>;

    /// Whether transaction `start_ts` was rolled back on the key.
    fn rolled_back(&mut self, key: &Bytes, start_ts: Ts) -> Result<bool, Self::Error>;

    /// The key's value as of its newest record.
    fn newest_value(&mut self, key: &Bytes) -> Result<Option<Bytes>, Self::Error>;
}

/// One change to the state. The effects of a request are applied together, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Place a lock, or replace the transaction's own.
    Lock(Bytes, Box<Lock>),
    /// Remove the lock.
    Unlock(Bytes),
    /// Add a write record with its value (empty unless it is a `Put`).
    Write(Bytes, Version, Bytes),
    /// Remember that the transaction may no longer write the key.
    Rollback(Bytes, Ts),
}

/// Why a request was not carried out; the client's key errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Another transaction's lock stands in the way.
    Locked {
        /// The key.
        key: Bytes,
        /// The lock; `ttl_ms` is what the client is told, zero asks it to resolve at once.
        lock: Box<Lock>,
    },
    /// A newer commit than the transaction may overwrite.
    Conflict {
        /// The refused transaction.
        start_ts: Ts,
        /// The transaction in the way.
        conflict_start_ts: Ts,
        /// When that one committed.
        conflict_commit_ts: Ts,
        /// The key.
        key: Bytes,
        /// The refused transaction's primary.
        primary: Bytes,
        /// What kind of conflict.
        reason: ConflictReason,
    },
    /// An insert met a value.
    AlreadyExists(Bytes),
    /// The transaction holds no lock on the key, and did not commit it.
    LockNotFound {
        /// The transaction.
        start_ts: Ts,
        /// The key.
        key: Bytes,
    },
    /// The commit timestamp breaks a promise made to a reader.
    CommitTsExpired {
        /// The transaction.
        start_ts: Ts,
        /// What was asked for.
        attempted: Ts,
        /// The key.
        key: Bytes,
        /// The least that is allowed.
        min_commit_ts: Ts,
    },
    /// The transaction has left no trace on its primary.
    TxnNotFound {
        /// The transaction.
        start_ts: Ts,
        /// Its primary, as the caller believes.
        primary: Bytes,
    },
    /// The lock names another primary.
    PrimaryMismatch {
        /// The key that was asked about.
        key: Bytes,
        /// Its lock.
        lock: Box<Lock>,
    },
    /// The request can never succeed.
    Abort(String),
}

/// Which rule found the conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConflictReason {
    /// A commit after the transaction's start.
    Optimistic,
    /// A commit after the timestamp a pessimistic lock was asked for.
    PessimisticRetry,
    /// The transaction was rolled back here before.
    SelfRolledBack,
}

/// Why an operation did not happen.
#[derive(Debug)]
pub(crate) enum Failure<E> {
    /// The rules forbid it.
    Refused(Vec<Refusal>),
    /// The state could not be read.
    View(E),
}

impl<E> From<E> for Failure<E> {
    fn from(error: E) -> Self {
        Self::View(error)
    }
}

impl<E> Failure<E> {
    /// One refusal.
    pub(crate) fn refused(refusal: Refusal) -> Self {
        Self::Refused(vec![refusal])
    }

    /// A request that can never succeed.
    pub(crate) fn abort(text: impl Into<String>) -> Self {
        Self::refused(Refusal::Abort(text.into()))
    }
}

/// What an operation answers.
pub(crate) type Outcome<T, V> = Result<T, Failure<<V as View>::Error>>;
