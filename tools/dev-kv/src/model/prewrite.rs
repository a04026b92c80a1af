//! The first phase: locks on every key, or the commit itself when it is one-phase.

use super::{
    ConflictReason, Effect, Failure, KEY_BYTES_MAX, KeyState, Kind, Lock, LockKind, Outcome,
    Refusal, Ts, Version, View,
};
use bytes::Bytes;

/// What a transaction does to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MutationOp {
    /// Write a value.
    Put,
    /// Remove the value.
    Delete,
    /// Lock the key without changing it.
    Lock,
    /// Write a value; refuse if there is one already.
    Insert,
    /// Refuse if there is a value; write nothing.
    CheckNotExists,
}

/// What a pessimistic transaction claims to have done with a key before its prewrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PessimisticAction {
    /// It never locked it.
    Skip,
    /// It holds a pessimistic lock.
    HoldsLock,
    /// It never locked it and asks for the optimistic check.
    CheckConstraints,
}

/// A change to one key.
#[derive(Debug, Clone)]
pub(crate) struct Mutation {
    /// What is done to the key.
    pub(crate) op: MutationOp,
    /// The key.
    pub(crate) key: Bytes,
    /// The value; empty unless a value is written.
    pub(crate) value: Bytes,
    /// The claim of a pessimistic transaction; not used for an optimistic one.
    pub(crate) action: PessimisticAction,
}

/// A prewrite request.
#[derive(Debug, Clone)]
pub(crate) struct Prewrite {
    /// The changes.
    pub(crate) mutations: Vec<Mutation>,
    /// The key that decides the transaction.
    pub(crate) primary: Bytes,
    /// The transaction's start timestamp.
    pub(crate) start_ts: Ts,
    /// How long the locks live, in milliseconds from the physical part of `start_ts`.
    pub(crate) ttl_ms: u64,
    /// The newest timestamp at which it took pessimistic locks; zero for an optimistic transaction.
    pub(crate) for_update_ts: Ts,
    /// The caller's lower bound for the commit timestamp.
    pub(crate) min_commit_ts: Ts,
    /// Size of the transaction in keys, as the client reports it.
    pub(crate) txn_size: u64,
    /// All other keys of an async commit; none for an ordinary one.
    pub(crate) async_commit: Option<Vec<Bytes>>,
    /// Whether to commit within this request.
    pub(crate) one_phase: bool,
}

/// A successful prewrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Prewritten {
    /// For an async commit, the lowest commit timestamp; zero when it fell back to two phases.
    pub(crate) min_commit_ts: Ts,
    /// The commit timestamp of a one-phase commit; zero when it was none.
    pub(crate) one_phase_commit_ts: Ts,
}

/// What to do with one key.
enum Plan {
    /// Lock the key for this long, or commit it. `held` tells that the transaction's own
    /// pessimistic lock is on it.
    Write { ttl_ms: u64, held: bool },
    /// The transaction's lock is already there, with this lower bound for the commit.
    Standing { min_commit_ts: Ts },
    /// The transaction is already committed here.
    Committed { commit_ts: Ts },
    /// The key was only checked.
    Nothing,
}

/// Locks every key of the request, or commits them all when it is one-phase. `fresh` is a timestamp
/// that the oracle gave out inside the critical section in which the effects become visible. So no
/// reader with a later timestamp can have looked before.
pub(crate) fn prewrite<V: View>(
    view: &mut V,
    request: &Prewrite,
    fresh: Ts,
    out: &mut Vec<Effect>,
) -> Outcome<Prewritten, V> {
    let floor = fresh
        .max(request.min_commit_ts)
        .max(Ts(request.start_ts.0.saturating_add(1)))
        .max(Ts(request.for_update_ts.0.saturating_add(1)));
    let mut plans = Vec::with_capacity(request.mutations.len());
    let mut locked = Vec::new();
    for mutation in &request.mutations {
        match plan(view, request, mutation)? {
            Ok(plan) => plans.push(plan),
            Err(refusal) => locked.push(refusal),
        }
    }
    if !locked.is_empty() {
        return Err(Failure::Refused(locked));
    }
    if request.one_phase {
        Ok(Prewritten {
            one_phase_commit_ts: commit_at_once(request, &plans, floor, out),
            ..Prewritten::default()
        })
    } else {
        Ok(Prewritten {
            min_commit_ts: place_locks(request, &plans, floor, out),
            ..Prewritten::default()
        })
    }
}

/// Decides one key. A lock in the way is the inner error, because these are collected over all
/// keys.
fn plan<V: View>(
    view: &mut V,
    request: &Prewrite,
    mutation: &Mutation,
) -> Outcome<Result<Plan, Refusal>, V> {
    let key = &mutation.key;
    if key.len() > KEY_BYTES_MAX {
        return Err(Failure::abort(format!(
            "key of {} bytes is too large: at most {KEY_BYTES_MAX}",
            key.len()
        )));
    }
    let pessimistic = request.for_update_ts.0 != 0;
    let claims_lock = pessimistic && mutation.action == PessimisticAction::HoldsLock;
    let state = view.key(key)?;
    if let Some(lock) = state.lock {
        if lock.start_ts == request.start_ts {
            if lock.kind != LockKind::Pessimistic {
                let min_commit_ts = if lock.async_commit { lock.min_commit_ts } else { Ts(0) };
                return Ok(Ok(Plan::Standing { min_commit_ts }));
            }
            let ttl_ms = lock.ttl_ms.max(request.ttl_ms);
            if let Some(refusal) = must_not_exist(mutation, &state) {
                return Err(Failure::refused(refusal));
            }
            return Ok(Ok(Plan::Write { ttl_ms, held: true }));
        }
        let mut lock = Box::new(lock.clone());
        if let Some(version) = view.commit_of(key, request.start_ts)? {
            return Ok(Ok(committed(version)));
        }
        if claims_lock {
            return Err(lost_pessimistic_lock(request, key));
        }
        if pessimistic {
            lock.ttl_ms = 0; // makes the client resolve it whatever its age
        }
        return Ok(Err(Refusal::Locked { key: key.clone(), lock }));
    }
    let newest = state.newest;
    let refusal = must_not_exist(mutation, &state);
    if let Some(failure) = conflict(view, request, mutation, newest)? {
        return match view.commit_of(key, request.start_ts)? {
            Some(version) => Ok(Ok(committed(version))),
            None => Err(failure),
        };
    }
    if let Some(refusal) = refusal {
        return Err(Failure::refused(refusal));
    }
    Ok(Ok(if mutation.op == MutationOp::CheckNotExists {
        Plan::Nothing
    } else {
        Plan::Write { ttl_ms: request.ttl_ms, held: false }
    }))
}

/// The conflict between the request and a key without a lock, if there is one.
fn conflict<V: View>(
    view: &mut V,
    request: &Prewrite,
    mutation: &Mutation,
    newest: Option<Version>,
) -> Result<Option<Failure<V::Error>>, V::Error> {
    let key = &mutation.key;
    let start_ts = request.start_ts;
    let refuse = |version: Version, reason| {
        Some(Failure::refused(Refusal::Conflict {
            start_ts,
            conflict_start_ts: version.start_ts,
            conflict_commit_ts: version.commit_ts,
            key: key.clone(),
            primary: request.primary.clone(),
            reason,
        }))
    };
    let pessimistic = request.for_update_ts.0 != 0;
    let claims_lock = pessimistic && mutation.action == PessimisticAction::HoldsLock;
    if view.rolled_back(key, start_ts)? {
        if claims_lock {
            return Ok(Some(lost_pessimistic_lock(request, key)));
        }
        let own = Version { commit_ts: start_ts, start_ts, kind: Kind::Lock };
        return Ok(refuse(own, ConflictReason::SelfRolledBack));
    }
    let checked = !pessimistic || mutation.action == PessimisticAction::CheckConstraints;
    Ok(match newest {
        Some(version) if version.commit_ts > start_ts && checked => {
            refuse(version, ConflictReason::Optimistic)
        }
        Some(version) if version.commit_ts >= start_ts && claims_lock => {
            Some(lost_pessimistic_lock(request, key))
        }
        Some(_) | None => None,
    })
}

fn must_not_exist(mutation: &Mutation, state: &KeyState<'_>) -> Option<Refusal> {
    let asks = matches!(mutation.op, MutationOp::Insert | MutationOp::CheckNotExists);
    (asks && state.exists()).then(|| Refusal::AlreadyExists(mutation.key.clone()))
}

fn committed(version: Version) -> Plan {
    Plan::Committed { commit_ts: version.commit_ts }
}

fn lost_pessimistic_lock<E>(request: &Prewrite, key: &Bytes) -> Failure<E> {
    Failure::abort(format!(
        "PessimisticLockNotFound {{ start_ts: {}, key: {key:?} }}",
        request.start_ts.0
    ))
}

/// Writes the locks. Returns the lowest commit timestamp of an async commit; zero in two phases.
fn place_locks(request: &Prewrite, plans: &[Plan], floor: Ts, out: &mut Vec<Effect>) -> Ts {
    let mut answer = Ts(0);
    let mut fell_back = request.async_commit.is_none();
    for (mutation, plan) in request.mutations.iter().zip(plans) {
        match plan {
            Plan::Nothing => {}
            Plan::Committed { commit_ts } => answer = answer.max(*commit_ts),
            Plan::Standing { min_commit_ts } => {
                fell_back |= min_commit_ts.0 == 0;
                answer = answer.max(*min_commit_ts);
            }
            Plan::Write { ttl_ms, .. } => {
                answer = answer.max(floor);
                out.push(Effect::Lock(
                    mutation.key.clone(),
                    Box::new(lock(request, mutation, *ttl_ms, floor)),
                ));
            }
        }
    }
    if fell_back { Ts(0) } else { answer }
}

fn lock(request: &Prewrite, mutation: &Mutation, ttl_ms: u64, floor: Ts) -> Lock {
    let (kind, value) = match mutation.op {
        MutationOp::Put | MutationOp::Insert => (LockKind::Put, mutation.value.clone()),
        MutationOp::Delete => (LockKind::Delete, Bytes::new()),
        MutationOp::Lock | MutationOp::CheckNotExists => (LockKind::Lock, Bytes::new()),
    };
    let is_primary = mutation.key == request.primary;
    Lock {
        kind,
        primary: request.primary.clone(),
        start_ts: request.start_ts,
        ttl_ms,
        value,
        for_update_ts: request.for_update_ts,
        min_commit_ts: if request.async_commit.is_some() { floor } else { request.min_commit_ts },
        async_commit: request.async_commit.is_some(),
        txn_size: request.txn_size,
        secondaries: match &request.async_commit {
            Some(secondaries) if is_primary => secondaries.clone(),
            Some(_) | None => Vec::new(),
        },
    }
}

/// Writes the records themselves. Returns their commit timestamp; for a repeated request, that of
/// the first one.
fn commit_at_once(request: &Prewrite, plans: &[Plan], commit_ts: Ts, out: &mut Vec<Effect>) -> Ts {
    let first = plans.iter().find_map(|plan| match plan {
        Plan::Committed { commit_ts } => Some(*commit_ts),
        Plan::Write { .. } | Plan::Standing { .. } | Plan::Nothing => None,
    });
    let commit_ts = first.unwrap_or(commit_ts);
    for (mutation, plan) in request.mutations.iter().zip(plans) {
        if matches!(plan, Plan::Committed { .. } | Plan::Nothing) {
            continue;
        }
        let (kind, value) = match mutation.op {
            MutationOp::Put | MutationOp::Insert => (Kind::Put, mutation.value.clone()),
            MutationOp::Delete => (Kind::Delete, Bytes::new()),
            MutationOp::Lock | MutationOp::CheckNotExists => (Kind::Lock, Bytes::new()),
        };
        let version = Version { commit_ts, start_ts: request.start_ts, kind };
        if !matches!(plan, Plan::Write { held: false, .. }) {
            out.push(Effect::Unlock(mutation.key.clone()));
        }
        out.push(Effect::Write(mutation.key.clone(), version, value));
    }
    commit_ts
}
