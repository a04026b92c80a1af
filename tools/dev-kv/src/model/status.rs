//! The status of a transaction, from its primary or its secondaries; and heart-beats, which prolong
//! its life.

use super::{Effect, Failure, Lock, LockKind, Outcome, Refusal, Ts, View};
use bytes::Bytes;

/// A question about a transaction, put to its primary.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "the wire's own switches, each independent")]
pub(crate) struct CheckStatus {
    /// The key that the caller takes for the transaction's primary.
    pub(crate) primary: Bytes,
    /// The transaction's start timestamp.
    pub(crate) lock_ts: Ts,
    /// Start timestamp of the caller's own transaction.
    pub(crate) caller_start_ts: Ts,
    /// The current time; the largest timestamp makes every lock expire.
    pub(crate) current_ts: Ts,
    /// Bar a transaction that has left no trace.
    pub(crate) rollback_if_not_exist: bool,
    /// Treat an async commit as an ordinary one.
    pub(crate) force_sync_commit: bool,
    /// The lock in the caller's way is a pessimistic one.
    pub(crate) resolving_pessimistic_lock: bool,
    /// Refuse when the lock names another primary.
    pub(crate) verify_is_primary: bool,
}

/// The change that the question itself made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing changed.
    None,
    /// The lock had expired and was rolled back.
    TtlExpireRollback,
    /// The transaction had left no trace and was barred.
    LockNotExistRollback,
    /// The lock will commit above the caller's start timestamp.
    MinCommitTsPushed,
    /// The pessimistic lock had expired and was dropped.
    TtlExpirePessimisticRollback,
    /// There was no trace, and nothing was done, because the caller only waits for a pessimistic
    /// lock.
    LockNotExistDoNothing,
}

/// The status of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TxnStatus {
    /// It is rolled back, or has left no trace.
    RolledBack(Action),
    /// It is committed.
    Committed(Ts),
    /// It still holds its primary with this lock.
    Alive(Box<Lock>, Action),
}

/// Finds the status of a transaction, and ends it if its lock has expired.
pub(crate) fn check_txn_status<V: View>(
    view: &mut V,
    request: &CheckStatus,
    out: &mut Vec<Effect>,
) -> Outcome<TxnStatus, V> {
    let key = &request.primary;
    let start_ts = request.lock_ts;
    let held = view.key(key)?.lock.filter(|lock| lock.start_ts == start_ts);
    if let Some(lock) = held {
        let foreign = request.verify_is_primary && lock.primary != *key;
        if !foreign {
            return Ok(held_primary(request, lock, out));
        }
        // A pessimistic lock may be left from a statement that chose another primary; it is
        // dropped. In all other cases the caller is mistaken, and that must not end the
        // transaction.
        if lock.kind != LockKind::Pessimistic || request.resolving_pessimistic_lock {
            return Err(Failure::refused(Refusal::PrimaryMismatch {
                key: key.clone(),
                lock: Box::new(lock.clone()),
            }));
        }
        out.push(Effect::Unlock(key.clone()));
    }
    if let Some(version) = view.commit_of(key, start_ts)? {
        return Ok(TxnStatus::Committed(version.commit_ts));
    }
    if view.rolled_back(key, start_ts)? {
        return Ok(TxnStatus::RolledBack(Action::None));
    }
    if !request.rollback_if_not_exist {
        out.clear(); // a refused request changes nothing
        return Err(Failure::refused(Refusal::TxnNotFound { start_ts, primary: key.clone() }));
    }
    if request.resolving_pessimistic_lock {
        return Ok(TxnStatus::RolledBack(Action::LockNotExistDoNothing));
    }
    out.push(Effect::Rollback(key.clone(), start_ts));
    Ok(TxnStatus::RolledBack(Action::LockNotExistRollback))
}

/// Handles a primary that is locked: it stays alive, or ends now.
fn held_primary(request: &CheckStatus, lock: &Lock, out: &mut Vec<Effect>) -> TxnStatus {
    let key = &request.primary;
    if lock.async_commit && !request.force_sync_commit {
        // The transaction may be committed already. Only its secondaries can tell.
        return TxnStatus::Alive(Box::new(lock.clone()), Action::None);
    }
    if !lock.expired(request.current_ts) {
        let pushed = lock.min_commit_ts.0 != 0 && lock.min_commit_ts > request.caller_start_ts;
        let action = if pushed { Action::MinCommitTsPushed } else { Action::None };
        return TxnStatus::Alive(Box::new(lock.clone()), action);
    }
    out.push(Effect::Unlock(key.clone()));
    if lock.kind == LockKind::Pessimistic && request.resolving_pessimistic_lock {
        return TxnStatus::RolledBack(Action::TtlExpirePessimisticRollback);
    }
    out.push(Effect::Rollback(key.clone(), lock.start_ts));
    TxnStatus::RolledBack(Action::TtlExpireRollback)
}

/// The state of an async commit, as seen from some of its secondaries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SecondaryStatus {
    /// All locks are in place.
    Locked(Vec<(Bytes, Box<Lock>)>),
    /// One key is committed, at this timestamp.
    Committed(Ts),
    /// One lock is missing, and its key is barred: the transaction can no longer commit.
    RolledBack,
}

/// Looks for the locks of these secondaries. Bars a key whose lock is missing, which ends the
/// transaction.
pub(crate) fn check_secondary_locks<V: View>(
    view: &mut V,
    keys: &[Bytes],
    start_ts: Ts,
    out: &mut Vec<Effect>,
) -> Outcome<SecondaryStatus, V> {
    let mut locks = Vec::with_capacity(keys.len());
    for key in keys {
        let held = view.key(key)?.lock.filter(|lock| lock.start_ts == start_ts);
        if let Some(lock) = held {
            if lock.kind != LockKind::Pessimistic {
                locks.push((key.clone(), Box::new(lock.clone())));
                continue;
            }
            out.push(Effect::Unlock(key.clone()));
        } else if let Some(version) = view.commit_of(key, start_ts)? {
            return Ok(SecondaryStatus::Committed(version.commit_ts));
        } else if view.rolled_back(key, start_ts)? {
            return Ok(SecondaryStatus::RolledBack);
        }
        out.push(Effect::Rollback(key.clone(), start_ts));
        return Ok(SecondaryStatus::RolledBack);
    }
    Ok(SecondaryStatus::Locked(locks))
}

/// Prolongs the primary's lock; never shortens it. Returns its life in milliseconds.
pub(crate) fn heart_beat<V: View>(
    view: &mut V,
    primary: &Bytes,
    start_ts: Ts,
    ttl_ms: u64,
    out: &mut Vec<Effect>,
) -> Outcome<u64, V> {
    let held = view.key(primary)?.lock.filter(|lock| lock.start_ts == start_ts);
    let Some(lock) = held else {
        return Err(Failure::refused(Refusal::TxnNotFound { start_ts, primary: primary.clone() }));
    };
    if lock.ttl_ms >= ttl_ms {
        return Ok(lock.ttl_ms);
    }
    let mut lock = Box::new(lock.clone());
    lock.ttl_ms = ttl_ms;
    out.push(Effect::Lock(primary.clone(), lock));
    Ok(ttl_ms)
}
