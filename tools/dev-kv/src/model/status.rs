//! What became of a transaction: asked of its primary, of its secondaries, and told by its heart-beat.

use super::{Effect, Failure, Lock, LockKind, Outcome, Refusal, Ts, View};
use bytes::Bytes;

/// A question about a transaction, put to its primary.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "the wire's own switches, each independent")]
pub(crate) struct CheckStatus {
    /// Where the asker believes the transaction is decided.
    pub(crate) primary: Bytes,
    /// The transaction.
    pub(crate) lock_ts: Ts,
    /// The asker's own transaction.
    pub(crate) caller_start_ts: Ts,
    /// Now; the largest timestamp ends every lock.
    pub(crate) current_ts: Ts,
    /// Bar a transaction that left no trace.
    pub(crate) rollback_if_not_exist: bool,
    /// Treat an async commit as an ordinary one.
    pub(crate) force_sync_commit: bool,
    /// The lock in the asker's way was a pessimistic one.
    pub(crate) resolving_pessimistic_lock: bool,
    /// Refuse when the lock names another primary.
    pub(crate) verify_is_primary: bool,
}

/// What the question itself did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing.
    None,
    /// The lock's time was over: rolled back.
    TtlExpireRollback,
    /// There was no trace: barred.
    LockNotExistRollback,
    /// The lock will commit above the asker's timestamp.
    MinCommitTsPushed,
    /// The pessimistic lock's time was over: dropped.
    TtlExpirePessimisticRollback,
    /// There was no trace, and the asker waits for a pessimistic lock only.
    LockNotExistDoNothing,
}

/// What became of the transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TxnStatus {
    /// It was or is now rolled back, or nothing is known of it.
    RolledBack(Action),
    /// It is committed.
    Committed(Ts),
    /// It still holds its primary.
    Alive(Box<Lock>, Action),
}

/// Finds out what became of a transaction, ending it when its time is over.
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
        // A pessimistic lock of a statement that chose another primary is left over; anything else is a
        // caller's mistake that must not end the transaction.
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
        out.clear(); // a refusal changes nothing
        return Err(Failure::refused(Refusal::TxnNotFound { start_ts, primary: key.clone() }));
    }
    if request.resolving_pessimistic_lock {
        return Ok(TxnStatus::RolledBack(Action::LockNotExistDoNothing));
    }
    out.push(Effect::Rollback(key.clone(), start_ts));
    Ok(TxnStatus::RolledBack(Action::LockNotExistRollback))
}

/// The primary is held: alive, or ended now.
fn held_primary(request: &CheckStatus, lock: &Lock, out: &mut Vec<Effect>) -> TxnStatus {
    let key = &request.primary;
    if lock.async_commit && !request.force_sync_commit {
        // Its secondaries may make it committed already; only asking them tells.
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

/// What the secondaries of an async commit say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SecondaryStatus {
    /// All locks stand.
    Locked(Vec<(Bytes, Box<Lock>)>),
    /// One is committed.
    Committed(Ts),
    /// One is missing, and is barred now: the transaction cannot commit any more.
    RolledBack,
}

/// Asks secondaries for their locks; a missing one is barred, which ends the transaction.
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

/// Prolongs the primary's lock; never shortens it. Answers its life in milliseconds.
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
