//! Conversion between the wire's messages and the model's types. Syntax is checked here, once.

use crate::model::{
    Action, ConflictReason, Lock, LockKind, Mutation, MutationOp, PessimisticAction, Prewrite,
    Refusal, Ts,
};
use crate::wire::kvrpcpb;
use bytes::Bytes;
use tonic::Status;

/// Converts a prewrite request. Fails for an op that does not belong in a prewrite.
pub(crate) fn prewrite(request: kvrpcpb::PrewriteRequest) -> Result<Prewrite, Status> {
    let actions = request.pessimistic_actions;
    let mutations = request
        .mutations
        .into_iter()
        .enumerate()
        .map(|(position, mutation)| {
            let op = match kvrpcpb::Op::try_from(mutation.op) {
                Ok(kvrpcpb::Op::Put) => MutationOp::Put,
                Ok(kvrpcpb::Op::Del) => MutationOp::Delete,
                Ok(kvrpcpb::Op::Lock) => MutationOp::Lock,
                Ok(kvrpcpb::Op::Insert) => MutationOp::Insert,
                Ok(kvrpcpb::Op::CheckNotExists) => MutationOp::CheckNotExists,
                Ok(kvrpcpb::Op::Rollback | kvrpcpb::Op::PessimisticLock) | Err(_) => {
                    return Err(Status::invalid_argument(format!(
                        "mutation op {} is not for a prewrite",
                        mutation.op
                    )));
                }
            };
            // There may be more actions than mutations: the actions are those of the whole
            // transaction, the mutations those of one batch.
            let action = match actions.get(position).copied().unwrap_or_default() {
                1 => PessimisticAction::HoldsLock,
                2 => PessimisticAction::CheckConstraints,
                _ => PessimisticAction::Skip,
            };
            Ok(Mutation { op, key: mutation.key, value: mutation.value, action })
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Prewrite {
        mutations,
        primary: request.primary_lock,
        start_ts: Ts(request.start_version),
        ttl_ms: request.lock_ttl,
        for_update_ts: Ts(request.for_update_ts),
        min_commit_ts: Ts(request.min_commit_ts),
        txn_size: request.txn_size,
        async_commit: request.use_async_commit.then_some(request.secondaries),
        one_phase: request.try_one_pc,
    })
}

/// Converts a lock, with all fields that clients use.
pub(crate) fn lock_info(key: &Bytes, lock: &Lock) -> kvrpcpb::LockInfo {
    let kind = match lock.kind {
        LockKind::Put => kvrpcpb::Op::Put,
        LockKind::Delete => kvrpcpb::Op::Del,
        LockKind::Lock => kvrpcpb::Op::Lock,
        LockKind::Pessimistic => kvrpcpb::Op::PessimisticLock,
    };
    kvrpcpb::LockInfo {
        primary_lock: lock.primary.clone(),
        lock_version: lock.start_ts.0,
        key: key.clone(),
        lock_ttl: lock.ttl_ms,
        txn_size: lock.txn_size,
        lock_type: kind.into(),
        lock_for_update_ts: lock.for_update_ts.0,
        use_async_commit: lock.async_commit,
        min_commit_ts: lock.min_commit_ts.0,
        secondaries: lock.secondaries.clone(),
    }
}

/// Converts a refusal. For conflicts TiKV fills the text as well as the field.
pub(crate) fn key_error(refusal: Refusal) -> kvrpcpb::KeyError {
    let mut error = kvrpcpb::KeyError::default();
    match refusal {
        Refusal::Locked { key, lock } => error.locked = Some(lock_info(&key, &lock)),
        Refusal::Conflict {
            start_ts,
            conflict_start_ts,
            conflict_commit_ts,
            key,
            primary,
            reason,
        } => {
            error.retryable = format!(
                "WriteConflict {{ start_ts: {}, conflict_start_ts: {}, conflict_commit_ts: {}, \
                 key: {key:?} }}",
                start_ts.0, conflict_start_ts.0, conflict_commit_ts.0
            );
            let reason = match reason {
                ConflictReason::Optimistic => kvrpcpb::write_conflict::Reason::Optimistic,
                ConflictReason::PessimisticRetry => {
                    kvrpcpb::write_conflict::Reason::PessimisticRetry
                }
                ConflictReason::SelfRolledBack => kvrpcpb::write_conflict::Reason::SelfRolledBack,
            };
            error.conflict = Some(kvrpcpb::WriteConflict {
                start_ts: start_ts.0,
                conflict_ts: conflict_start_ts.0,
                key,
                primary,
                conflict_commit_ts: conflict_commit_ts.0,
                reason: reason.into(),
            });
        }
        Refusal::AlreadyExists(key) => {
            error.already_exist = Some(kvrpcpb::AlreadyExist { key });
        }
        Refusal::LockNotFound { start_ts, key } => {
            error.retryable =
                format!("TxnLockNotFound {{ start_ts: {}, key: {key:?} }}", start_ts.0);
        }
        Refusal::CommitTsExpired { start_ts, attempted, key, min_commit_ts } => {
            error.commit_ts_expired = Some(kvrpcpb::CommitTsExpired {
                start_ts: start_ts.0,
                attempted_commit_ts: attempted.0,
                key,
                min_commit_ts: min_commit_ts.0,
            });
        }
        Refusal::TxnNotFound { start_ts, primary } => {
            error.txn_not_found =
                Some(kvrpcpb::TxnNotFound { start_ts: start_ts.0, primary_key: primary });
        }
        Refusal::PrimaryMismatch { key, lock } => {
            error.primary_mismatch =
                Some(kvrpcpb::PrimaryMismatch { lock_info: Some(lock_info(&key, &lock)) });
        }
        Refusal::Abort(text) => error.abort = text,
    }
    error
}

/// The action's number on the wire.
pub(crate) fn action(action: Action) -> i32 {
    match action {
        Action::None => kvrpcpb::Action::NoAction,
        Action::TtlExpireRollback => kvrpcpb::Action::TtlExpireRollback,
        Action::LockNotExistRollback => kvrpcpb::Action::LockNotExistRollback,
        Action::MinCommitTsPushed => kvrpcpb::Action::MinCommitTsPushed,
        Action::TtlExpirePessimisticRollback => kvrpcpb::Action::TtlExpirePessimisticRollback,
        Action::LockNotExistDoNothing => kvrpcpb::Action::LockNotExistDoNothing,
    }
    .into()
}
