//! The second phase: commit, rollback, and resolving the locks that another transaction left.

use super::{Effect, Failure, Kind, LockKind, Outcome, Refusal, Ts, Version, View};
use bytes::Bytes;

/// Commits the transaction's locks on `keys`: all of them, or none. One bad key refuses the
/// request.
pub(crate) fn commit<V: View>(
    view: &mut V,
    keys: &[Bytes],
    start_ts: Ts,
    commit_ts: Ts,
    out: &mut Vec<Effect>,
) -> Outcome<(), V> {
    if commit_ts <= start_ts {
        return Err(Failure::abort(format!(
            "InvalidTxnTso {{ start_ts: {}, commit_ts: {} }}",
            start_ts.0, commit_ts.0
        )));
    }
    for key in keys {
        let held = view.key(key)?.lock.filter(|lock| lock.start_ts == start_ts);
        let Some(lock) = held else {
            // A repeated commit succeeds, even with another timestamp. The first one holds.
            if view.commit_of(key, start_ts)?.is_some() {
                continue;
            }
            return Err(Failure::refused(Refusal::LockNotFound { start_ts, key: key.clone() }));
        };
        if commit_ts < lock.min_commit_ts {
            return Err(Failure::refused(Refusal::CommitTsExpired {
                start_ts,
                attempted: commit_ts,
                key: key.clone(),
                min_commit_ts: lock.min_commit_ts,
            }));
        }
        let kind = match lock.kind {
            LockKind::Put => Some(Kind::Put),
            LockKind::Delete => Some(Kind::Delete),
            LockKind::Lock => Some(Kind::Lock),
            LockKind::Pessimistic => None,
        };
        let value = lock.value.clone();
        out.push(Effect::Unlock(key.clone()));
        if let Some(kind) = kind {
            let version = Version { commit_ts, start_ts, kind };
            out.push(Effect::Write(key.clone(), version, value));
        }
    }
    Ok(())
}

/// Rolls the transaction back on `keys` and bars it from them permanently. Refused as a whole if it
/// is committed on one of them.
pub(crate) fn rollback<V: View>(
    view: &mut V,
    keys: &[Bytes],
    start_ts: Ts,
    out: &mut Vec<Effect>,
) -> Outcome<(), V> {
    for key in keys {
        if view.key(key)?.lock.is_some_and(|lock| lock.start_ts == start_ts) {
            out.push(Effect::Unlock(key.clone()));
            out.push(Effect::Rollback(key.clone(), start_ts));
            continue;
        }
        if let Some(version) = view.commit_of(key, start_ts)? {
            return Err(Failure::abort(format!(
                "Committed {{ start_ts: {}, commit_ts: {}, key: {key:?} }}",
                start_ts.0, version.commit_ts.0
            )));
        }
        if !view.rolled_back(key, start_ts)? {
            out.push(Effect::Rollback(key.clone(), start_ts));
        }
    }
    Ok(())
}

/// Finishes the transaction's locks on `keys` according to its primary; a `commit_ts` of zero means
/// a rollback. Skips keys on which it holds no lock.
pub(crate) fn resolve<V: View>(
    view: &mut V,
    keys: &[Bytes],
    start_ts: Ts,
    commit_ts: Ts,
    out: &mut Vec<Effect>,
) -> Outcome<(), V> {
    let mut held = Vec::with_capacity(keys.len());
    for key in keys {
        if view.key(key)?.lock.is_some_and(|lock| lock.start_ts == start_ts) {
            held.push(key.clone());
        }
    }
    if commit_ts.0 == 0 {
        rollback(view, &held, start_ts, out)
    } else {
        commit(view, &held, start_ts, commit_ts, out)
    }
}
