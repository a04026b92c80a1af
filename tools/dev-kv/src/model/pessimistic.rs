//! Locks taken while a transaction runs, ahead of its prewrite.

use super::{
    ConflictReason, Effect, Failure, KEY_BYTES_MAX, Lock, LockKind, Outcome, Refusal, Ts, View,
};
use bytes::Bytes;

/// A request for pessimistic locks.
#[derive(Debug, Clone)]
pub(crate) struct LockRequest {
    /// The keys, each with whether it is required to have no value.
    pub(crate) keys: Vec<(Bytes, bool)>,
    /// The key that decides the transaction.
    pub(crate) primary: Bytes,
    /// The transaction's start timestamp.
    pub(crate) start_ts: Ts,
    /// How long the locks live, in milliseconds from the physical part of `start_ts`.
    pub(crate) ttl_ms: u64,
    /// A commit after this timestamp is a conflict.
    pub(crate) for_update_ts: Ts,
    /// Floor for the commit timestamp.
    pub(crate) min_commit_ts: Ts,
    /// Whether to return the newest values of the keys.
    pub(crate) return_values: bool,
}

/// The newest values, one per key in the order of the request; empty when none were asked for.
pub(crate) type LockAnswer = Vec<Option<Bytes>>;

/// Locks every key, or none. Repeating a successful request is harmless.
pub(crate) fn pessimistic_lock<V: View>(
    view: &mut V,
    request: &LockRequest,
    out: &mut Vec<Effect>,
) -> Outcome<LockAnswer, V> {
    let mut values = Vec::new();
    for (key, must_not_exist) in &request.keys {
        if key.len() > KEY_BYTES_MAX {
            return Err(Failure::abort(format!(
                "key of {} bytes is too large: at most {KEY_BYTES_MAX}",
                key.len()
            )));
        }
        let mut lock = Lock {
            kind: LockKind::Pessimistic,
            primary: request.primary.clone(),
            start_ts: request.start_ts,
            ttl_ms: request.ttl_ms,
            value: Bytes::new(),
            for_update_ts: request.for_update_ts,
            min_commit_ts: request.min_commit_ts,
            async_commit: false,
            txn_size: 1,
            secondaries: Vec::new(),
        };
        let refreshed = check_one(view, request, key, *must_not_exist, &mut lock)?;
        if refreshed {
            out.push(Effect::Lock(key.clone(), Box::new(lock)));
        }
        if request.return_values {
            values.push(view.newest_value(key)?);
        }
    }
    Ok(values)
}

/// Whether a lock has to be written. Raises the fields of `lock` to those of the transaction's own
/// lock where these are higher, and keeps its primary.
fn check_one<V: View>(
    view: &mut V,
    request: &LockRequest,
    key: &Bytes,
    must_not_exist: bool,
    lock: &mut Lock,
) -> Outcome<bool, V> {
    let state = view.key(key)?;
    let exists = state.exists();
    let newest = state.newest;
    if let Some(held) = state.lock {
        if held.start_ts != request.start_ts {
            return Err(Failure::refused(Refusal::Locked {
                key: key.clone(),
                lock: Box::new(held.clone()),
            }));
        }
        if held.kind != LockKind::Pessimistic {
            return Err(Failure::abort(format!(
                "LockTypeNotMatch {{ start_ts: {}, key: {key:?} }}",
                request.start_ts.0
            )));
        }
        if must_not_exist && exists {
            return Err(Failure::refused(Refusal::AlreadyExists(key.clone())));
        }
        lock.ttl_ms = lock.ttl_ms.max(held.ttl_ms);
        lock.for_update_ts = lock.for_update_ts.max(held.for_update_ts);
        lock.min_commit_ts = lock.min_commit_ts.max(held.min_commit_ts);
        lock.primary = held.primary.clone();
        return Ok(lock != held);
    }
    if let Some(version) = newest.filter(|newest| newest.commit_ts > request.for_update_ts) {
        return Err(Failure::refused(Refusal::Conflict {
            start_ts: request.start_ts,
            conflict_start_ts: version.start_ts,
            conflict_commit_ts: version.commit_ts,
            key: key.clone(),
            primary: request.primary.clone(),
            reason: ConflictReason::PessimisticRetry,
        }));
    }
    if view.rolled_back(key, request.start_ts)? || view.commit_of(key, request.start_ts)?.is_some()
    {
        return Err(Failure::abort(format!(
            "PessimisticLockRolledBack {{ start_ts: {}, key: {key:?} }}",
            request.start_ts.0
        )));
    }
    if must_not_exist && exists {
        return Err(Failure::refused(Refusal::AlreadyExists(key.clone())));
    }
    Ok(true)
}

/// Drops the transaction's pessimistic locks that were taken at or before `for_update_ts`. Leaves
/// no record, so the transaction may lock the keys again.
pub(crate) fn pessimistic_rollback<V: View>(
    view: &mut V,
    keys: &[Bytes],
    start_ts: Ts,
    for_update_ts: Ts,
    out: &mut Vec<Effect>,
) -> Outcome<(), V> {
    for key in keys {
        let held = view.key(key)?.lock.is_some_and(|lock| {
            lock.start_ts == start_ts
                && lock.kind == LockKind::Pessimistic
                && lock.for_update_ts <= for_update_ts
        });
        if held {
            out.push(Effect::Unlock(key.clone()));
        }
    }
    Ok(())
}
