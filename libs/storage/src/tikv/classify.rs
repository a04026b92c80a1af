//! Interprets the client's errors.
//!
//! A commit is a prewrite followed by the commit of the primary, which decides. Conflicts and locks
//! appear in the prewrite. It commits nothing, except in a one-phase commit, where the prewrite is
//! the commit. The client does not say in which of the two an error arose; only the form of some
//! errors does:
//! - key errors of a prewrite come in `MultipleKeyErrors`; those of the primary's commit come bare;
//! - only a prewrite meets foreign locks.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "errors that are not named prove nothing, nor do those that the client may add"
)]

#[cfg(test)]
mod tests;

use tikv_client::{Error, ProtoKeyError};
use types::Timestamp;

use crate::kv::KvError;

/// A lock whose primary does not exist: its writer died before it wrote the primary, or is about to
/// write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Orphan {
    /// Start of its transaction.
    pub(super) start_ts: Timestamp,
}

/// The meaning of an error of `commit()`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CommitVerdict {
    /// Another transaction wrote first. Definite: a request still on its way conflicts as well. A
    /// rollback clears the locks that other requests of the prewrite may have left.
    Conflict,
    /// Another client cleared the primary's lock before the primary was committed. Definite.
    Cleared,
    /// The prewrite failed, so no commit was sent. An earlier attempt at a one-phase prewrite may
    /// still be on its way, so this is definite only once a rollback is acknowledged.
    NotPrewritten { error: KvError, orphan: Option<Orphan> },
    /// The store fell back from one-phase commit: locks stand, and nothing is committed. Definite
    /// once a rollback is acknowledged.
    OnePhaseDeclined,
    /// Nothing was sent.
    Misused(String),
    /// The outcome is unknown.
    Undetermined(String),
}

/// The meaning of an error of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ReadVerdict {
    /// The connection to the store failed.
    Unreachable,
    /// The store answered that it cannot serve the read now.
    Busy,
    /// A lock outlasted the client's patience.
    Locked(Option<Orphan>),
    /// A retry does not help.
    Refused,
}

/// Interprets an error of `commit()`: undetermined unless proved otherwise.
pub(super) fn commit(error: &Error) -> CommitVerdict {
    let mut leaves = Vec::new();
    flatten(error, false, &mut leaves);
    // One definite failure of a prewrite decides, whatever became of its other requests.
    let verdicts: Vec<CommitVerdict> = leaves.iter().map(commit_leaf).collect();
    let rank = |verdict: &CommitVerdict| match verdict {
        CommitVerdict::Conflict => 0,
        CommitVerdict::Cleared => 1,
        CommitVerdict::NotPrewritten { .. } => 2,
        CommitVerdict::OnePhaseDeclined => 3,
        CommitVerdict::Misused(_) => 4,
        CommitVerdict::Undetermined(_) => 5,
    };
    let unknown = || CommitVerdict::Undetermined(error.to_string());
    verdicts.into_iter().min_by_key(rank).unwrap_or_else(unknown)
}

/// Interprets an error of a read.
pub(super) fn read(error: &Error) -> ReadVerdict {
    let mut leaves = Vec::new();
    flatten(error, false, &mut leaves);
    let mut verdict = ReadVerdict::Unreachable;
    for leaf in leaves {
        match leaf.error {
            Error::ResolveLockError(_) => return ReadVerdict::Locked(None),
            Error::TxnNotFound(found) => {
                return ReadVerdict::Locked(Some(orphan(found.start_ts)));
            }
            Error::KeyError(key_error) => {
                if let Some(found) = &key_error.txn_not_found {
                    return ReadVerdict::Locked(Some(orphan(found.start_ts)));
                }
                verdict = if key_error.abort.is_empty() {
                    ReadVerdict::Busy
                } else {
                    ReadVerdict::Refused
                };
            }
            Error::InvalidTransactionType
            | Error::OperationAfterCommitError
            | Error::MaxScanLimitExceeded { .. } => verdict = ReadVerdict::Refused,
            Error::RegionError(_) => verdict = ReadVerdict::Busy,
            _ => {}
        }
    }
    verdict
}

/// An error without the wrappers around it.
struct Leaf<'a> {
    error: &'a Error,
    /// It came in the wrapper that only prewrites and reads use.
    of_prewrite: bool,
    /// The client itself says that the outcome is undetermined.
    doubted: bool,
}

fn flatten<'a>(error: &'a Error, of_prewrite: bool, leaves: &mut Vec<Leaf<'a>>) {
    match error {
        Error::MultipleKeyErrors(inner) => {
            for error in inner {
                flatten(error, true, leaves);
            }
        }
        Error::ExtractedErrors(inner) => {
            for error in inner {
                flatten(error, of_prewrite, leaves);
            }
        }
        Error::PessimisticLockError { inner, .. } => flatten(inner, of_prewrite, leaves),
        Error::UndeterminedError(inner) => {
            leaves.push(Leaf { error: inner, of_prewrite, doubted: true });
        }
        _ => leaves.push(Leaf { error, of_prewrite, doubted: false }),
    }
}

fn commit_leaf(leaf: &Leaf<'_>) -> CommitVerdict {
    let unknown = || CommitVerdict::Undetermined(leaf.error.to_string());
    let locked = |orphan| CommitVerdict::NotPrewritten { error: KvError::Locked, orphan };
    if leaf.doubted {
        return unknown();
    }
    match leaf.error {
        Error::KeyError(key_error) => commit_key_error(key_error, leaf.of_prewrite),
        Error::ResolveLockError(_) => locked(None),
        Error::TxnNotFound(found) => locked(Some(orphan(found.start_ts))),
        Error::OnePcFailure => CommitVerdict::OnePhaseDeclined,
        Error::DuplicateKeyInsertion | Error::InvalidTransactionType | Error::NoPrimaryKey => {
            CommitVerdict::Misused(leaf.error.to_string())
        }
        // Includes lost requests and replies, a busy store, and a second commit.
        _ => unknown(),
    }
}

fn commit_key_error(error: &ProtoKeyError, of_prewrite: bool) -> CommitVerdict {
    let failed = |error, orphan| CommitVerdict::NotPrewritten { error, orphan };
    // A key to be inserted exists, so another writer was first.
    if error.conflict.is_some() || error.already_exist.is_some() {
        CommitVerdict::Conflict
    } else if error.retryable.contains("TxnLockNotFound") {
        CommitVerdict::Cleared
    } else if let Some(found) = &error.txn_not_found {
        failed(KvError::Locked, Some(orphan(found.start_ts)))
    } else if of_prewrite && !error.abort.is_empty() {
        failed(KvError::Refused(error.abort.clone()), None)
    } else {
        CommitVerdict::Undetermined(format!("{error:?}"))
    }
}

fn orphan(start_ts: u64) -> Orphan {
    Orphan { start_ts: Timestamp(start_ts) }
}
