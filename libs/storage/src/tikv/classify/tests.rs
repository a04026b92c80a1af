#![allow(clippy::default_trait_access, reason = "the client does not export these types' names")]

use super::*;

fn key_error(fill: impl FnOnce(&mut ProtoKeyError)) -> Error {
    let mut error = ProtoKeyError::default();
    fill(&mut error);
    Error::KeyError(Box::new(error))
}

fn conflict(reason: i32) -> Error {
    key_error(|error| {
        error.conflict = Some(Default::default());
        error.conflict.as_mut().unwrap().reason = reason;
        // TiKV also fills this in for conflicts.
        error.retryable = "Error(Txn(Error(Mvcc(Error(WriteConflict)))))".to_owned();
    })
}

fn lock_not_found() -> Error {
    key_error(|error| {
        error.retryable = "Error(Txn(Error(Mvcc(Error(TxnLockNotFound)))))".to_owned();
    })
}

fn orphaned(start_ts: u64) -> Error {
    key_error(|error| {
        error.txn_not_found = Some(Default::default());
        error.txn_not_found.as_mut().unwrap().start_ts = start_ts;
    })
}

fn aborted() -> Error {
    key_error(|error| error.abort = "KeyTooLarge".to_owned())
}

fn exists() -> Error {
    key_error(|error| error.already_exist = Some(Default::default()))
}

fn of_prewrite(errors: Vec<Error>) -> Error {
    Error::MultipleKeyErrors(errors)
}

fn busy() -> Error {
    let server_is_busy = Some(Default::default());
    Error::RegionError(Box::new(tikv_client::ProtoRegionError {
        server_is_busy,
        ..Default::default()
    }))
}

fn internal() -> Error {
    Error::InternalError { message: "TimestampRequest channel is closed".to_owned() }
}

fn name(verdict: &CommitVerdict) -> &'static str {
    match verdict {
        CommitVerdict::Conflict => "conflict",
        CommitVerdict::Cleared => "cleared",
        CommitVerdict::NotPrewritten { orphan: Some(_), .. } => "orphan",
        CommitVerdict::NotPrewritten { error: KvError::Locked, .. } => "locked",
        CommitVerdict::NotPrewritten { .. } => "not prewritten",
        CommitVerdict::OnePhaseDeclined => "one phase declined",
        CommitVerdict::Misused(_) => "misused",
        CommitVerdict::Undetermined(_) => "undetermined",
    }
}

#[test]
fn a_commit_error_is_undetermined_unless_proved_otherwise() {
    let doubted = |error| Error::UndeterminedError(Box::new(error));
    let io = || Error::Io(std::io::Error::other("reset"));
    for (error, expected) in [
        (of_prewrite(vec![conflict(1)]), "conflict"),
        (of_prewrite(vec![conflict(3)]), "conflict"),
        (Error::ExtractedErrors(vec![of_prewrite(vec![conflict(1)])]), "conflict"),
        (of_prewrite(vec![of_prewrite(vec![conflict(1)])]), "conflict"),
        (of_prewrite(vec![exists()]), "conflict"),
        (of_prewrite(vec![aborted()]), "not prewritten"),
        (of_prewrite(vec![orphaned(7)]), "orphan"),
        (Error::ResolveLockError(Vec::new()), "locked"),
        (Error::OnePcFailure, "one phase declined"),
        (lock_not_found(), "cleared"),
        (Error::ExtractedErrors(vec![lock_not_found()]), "cleared"),
        (Error::DuplicateKeyInsertion, "misused"),
        (Error::InvalidTransactionType, "misused"),
        // One request of the prewrite definitely failed and another got lost, so no commit was
        // sent.
        (of_prewrite(vec![internal(), conflict(1)]), "conflict"),
        (of_prewrite(vec![internal(), orphaned(7)]), "orphan"),
        // These commits may or may not have landed.
        (aborted(), "undetermined"),
        (busy(), "undetermined"),
        (internal(), "undetermined"),
        (io(), "undetermined"),
        (Error::StringError("commit_ts was refused".to_owned()), "undetermined"),
        (Error::OperationAfterCommitError, "undetermined"),
        (doubted(internal()), "undetermined"),
        (doubted(conflict(1)), "undetermined"),
        (doubted(Error::OnePcFailure), "undetermined"),
        (of_prewrite(vec![key_error(|_| ())]), "undetermined"),
        (key_error(|error| error.retryable = "other".to_owned()), "undetermined"),
        (key_error(|error| error.commit_ts_expired = Some(Default::default())), "undetermined"),
        (of_prewrite(Vec::new()), "undetermined"),
    ] {
        assert_eq!(name(&commit(&error)), expected, "{error:?}");
    }
}

#[test]
fn an_orphan_is_known_by_its_start() {
    let expected = Some(Orphan { start_ts: Timestamp(7) });
    let verdict = commit(&of_prewrite(vec![orphaned(7)]));
    assert_eq!(verdict, CommitVerdict::NotPrewritten { error: KvError::Locked, orphan: expected });
    assert_eq!(read(&of_prewrite(vec![orphaned(7)])), ReadVerdict::Locked(expected));
}

#[test]
fn a_read_is_tried_again_unless_it_is_refused() {
    for (error, expected) in [
        (Error::ResolveLockError(Vec::new()), ReadVerdict::Locked(None)),
        (of_prewrite(vec![key_error(|_| ())]), ReadVerdict::Busy),
        (of_prewrite(vec![aborted()]), ReadVerdict::Refused),
        (Error::OperationAfterCommitError, ReadVerdict::Refused),
        (busy(), ReadVerdict::Busy),
        (internal(), ReadVerdict::Unreachable),
        (Error::ExtractedErrors(vec![busy()]), ReadVerdict::Busy),
    ] {
        assert_eq!(read(&error), expected, "{error:?}");
    }
}
