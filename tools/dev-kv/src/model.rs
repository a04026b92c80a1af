//! Percolator's rules for one store, as pure decisions: no async, no I/O, no clock, no randomness.
//!
//! Each operation looks at keys through a [`View`], and either refuses or appends [`Effect`]s. It
//! changes no state itself: the caller applies all effects of a request together, or none.
//! Timestamps that a decision needs are arguments.
//!
//! The data model is TiKV's: at most one lock per key, and write records ordered by commit
//! timestamp. Rollback records are kept apart from the write records, by (key, start timestamp). So
//! a rollback never collides with another transaction's commit.
//!
//! Modules: `prewrite` locks and checks conflicts; `pessimistic` locks beforehand; `commit` commits
//! and rolls back; `status` asks about transactions; `read` says which lock blocks a read.

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

/// The version that asks for the newest value, whatever its timestamp.
pub(crate) const TS_MAX: Ts = Ts(u64::MAX);

/// What a write record does to its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A value.
    Put,
    /// The key has no value from here on.
    Delete,
    /// The key was locked and not changed. The record still conflicts with older writers.
    Lock,
}

/// What kind of lock is on a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockKind {
    /// Becomes a value at commit.
    Put,
    /// Becomes a deletion at commit.
    Delete,
    /// Becomes a `Lock` record at commit.
    Lock,
    /// Taken before the prewrite. Vanishes at commit and never blocks a reader.
    Pessimistic,
}

/// A transaction's lock on a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lock {
    /// Kind of the lock, which tells what the commit will write.
    pub(crate) kind: LockKind,
    /// The key whose lock decides the transaction.
    pub(crate) primary: Bytes,
    /// Start timestamp of the transaction, which identifies it.
    pub(crate) start_ts: Ts,
    /// Life in milliseconds, counted from the physical part of `start_ts`.
    pub(crate) ttl_ms: u64,
    /// The value to be committed; empty unless `kind` is `Put`.
    pub(crate) value: Bytes,
    /// The timestamp at which a pessimistic transaction read what it locked; zero for an optimistic
    /// one.
    pub(crate) for_update_ts: Ts,
    /// The lowest commit timestamp allowed; zero when nothing was promised to a reader.
    pub(crate) min_commit_ts: Ts,
    /// Whether the transaction counts as committed once all its locks are in place.
    pub(crate) async_commit: bool,
    /// The transaction's size in keys, as its client reported it.
    pub(crate) txn_size: u64,
    /// On the primary of an async commit: all other keys.
    pub(crate) secondaries: Vec<Bytes>,
}

impl Lock {
    /// Whether the lock has expired at `now`. Exactly at its end it is still alive.
    pub(crate) fn expired(&self, now: Ts) -> bool {
        now == TS_MAX || self.start_ts.physical().0.saturating_add(self.ttl_ms) < now.physical().0
    }
}

/// A write record without its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    /// The timestamp from which it is visible.
    pub(crate) commit_ts: Ts,
    /// Start timestamp of the transaction that wrote it.
    pub(crate) start_ts: Ts,
    /// What it does to its key.
    pub(crate) kind: Kind,
}

/// The part of a key's state that needs no search of its history.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct KeyState<'a> {
    /// The lock on the key.
    pub(crate) lock: Option<&'a Lock>,
    /// The newest write record of any kind.
    pub(crate) newest: Option<Version>,
    /// The newest record that determines the value (`Put` or `Delete`).
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
    /// Why reading failed; for example, a damaged file.
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
    /// Places a lock, or replaces the transaction's own.
    Lock(Bytes, Box<Lock>),
    /// Removes the lock.
    Unlock(Bytes),
    /// Adds a write record with its value (empty unless it is a `Put`).
    Write(Bytes, Version, Bytes),
    /// Records that the transaction may no longer write the key.
    Rollback(Bytes, Ts),
}

/// Why a request was not carried out. The client gets it as a key error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Another transaction holds a lock on the key.
    Locked {
        /// The key.
        key: Bytes,
        /// The lock. The client is told its `ttl_ms`; zero asks it to resolve the lock at once.
        lock: Box<Lock>,
    },
    /// There is a newer commit than the transaction may overwrite.
    Conflict {
        /// The refused transaction's start timestamp.
        start_ts: Ts,
        /// Start timestamp of the transaction in the way.
        conflict_start_ts: Ts,
        /// Its commit timestamp.
        conflict_commit_ts: Ts,
        /// The key.
        key: Bytes,
        /// The refused transaction's primary.
        primary: Bytes,
        /// The rule that found the conflict.
        reason: ConflictReason,
    },
    /// The key has a value, and the transaction inserts it or requires that it has none.
    AlreadyExists(Bytes),
    /// The transaction holds no lock on the key, and did not commit it.
    LockNotFound {
        /// The transaction's start timestamp.
        start_ts: Ts,
        /// The key.
        key: Bytes,
    },
    /// The commit timestamp breaks a promise made to a reader.
    CommitTsExpired {
        /// The transaction's start timestamp.
        start_ts: Ts,
        /// The commit timestamp that was asked for.
        attempted: Ts,
        /// The key.
        key: Bytes,
        /// The lowest commit timestamp that is allowed.
        min_commit_ts: Ts,
    },
    /// The transaction has left no trace on its primary.
    TxnNotFound {
        /// The transaction's start timestamp.
        start_ts: Ts,
        /// Its primary, as the caller believes.
        primary: Bytes,
    },
    /// The lock names another key as its primary.
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
    /// There is a commit after the transaction's start.
    Optimistic,
    /// There is a commit after the `for_update_ts` of the request for a pessimistic lock.
    PessimisticRetry,
    /// The transaction was rolled back here before.
    SelfRolledBack,
}

/// Why an operation was not carried out.
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
    /// A failure with a single refusal.
    pub(crate) fn refused(refusal: Refusal) -> Self {
        Self::Refused(vec![refusal])
    }

    /// The failure of a request that can never succeed.
    pub(crate) fn abort(text: impl Into<String>) -> Self {
        Self::refused(Refusal::Abort(text.into()))
    }
}

/// The result of an operation on a [`View`].
pub(crate) type Outcome<T, V> = Result<T, Failure<<V as View>::Error>>;
