//! Calls to a lane, and its answers.

use types::{Branch, BranchState, ClientCall, Refusal, Timestamp, TxId, TxMeta, UnixMillis, Vote};

use super::Domain;
use crate::records::Receipt;

/// Identifies a call within its lane.
pub type CallId = u64;

/// A call to a lane.
#[derive(Debug)]
pub enum Call<D: Domain> {
    /// An operation of the service.
    Op {
        /// The operation.
        op: D::Op,
        /// Makes the operation take effect once. `None` for reads.
        call: Option<ClientCall>,
        /// Whether the call may wait for others. If not, the answer is [`Answer::Waiting`].
        may_wait: bool,
    },
    /// A Prepare.
    Prepare {
        /// The transaction.
        meta: TxMeta,
        /// What it asks for.
        payload: D::Payload,
        /// Whether the call may wait for others. If not, the answer is [`Answer::Waiting`].
        may_wait: bool,
    },
    /// A Prepare that cannot get a YES, whatever the shard's state is.
    Reject {
        /// The transaction.
        meta: TxMeta,
        /// The reason for the NO.
        refusal: Refusal,
    },
    /// A Commit.
    Commit {
        /// The transaction.
        meta: TxMeta,
        /// The receipts of all branches. Sent to the primary only.
        receipts: Vec<Receipt>,
    },
    /// An Abort.
    Abort {
        /// The transaction.
        meta: TxMeta,
        /// Whether a branch is known not to commit: by a NO, a CONTENDED, or a fence without a
        /// vote.
        evidence: bool,
        /// The NO that the client will be told. Sent to the primary only.
        refusal: Option<Vote>,
    },
    /// A Query.
    Query {
        /// The transaction.
        meta: TxMeta,
        /// Whether to leave a fence if the transaction is unknown here.
        fence: bool,
    },
    /// A Forget.
    Forget {
        /// The transaction.
        tx_id: TxId,
    },
    /// Remembers that a call is refused, unless it has succeeded.
    Refuse {
        /// The call.
        call: ClientCall,
        /// When the attempt that led to the refusal began, if known.
        began: Option<Timestamp>,
        /// The NO that the caller is told. Its reason need not be one of ours.
        refusal: Vote,
    },
}

impl<D: Domain> Clone for Call<D> {
    fn clone(&self) -> Self {
        match self {
            Self::Op { op, call, may_wait } => {
                Self::Op { op: op.clone(), call: call.clone(), may_wait: *may_wait }
            }
            Self::Prepare { meta, payload, may_wait } => {
                Self::Prepare { meta: meta.clone(), payload: payload.clone(), may_wait: *may_wait }
            }
            Self::Reject { meta, refusal } => {
                Self::Reject { meta: meta.clone(), refusal: refusal.clone() }
            }
            Self::Commit { meta, receipts } => {
                Self::Commit { meta: meta.clone(), receipts: receipts.clone() }
            }
            Self::Abort { meta, evidence, refusal } => {
                Self::Abort { meta: meta.clone(), evidence: *evidence, refusal: refusal.clone() }
            }
            Self::Query { meta, fence } => Self::Query { meta: meta.clone(), fence: *fence },
            Self::Forget { tx_id } => Self::Forget { tx_id: *tx_id },
            Self::Refuse { call, began, refusal } => {
                Self::Refuse { call: call.clone(), began: *began, refusal: refusal.clone() }
            }
        }
    }
}

impl<D: Domain> Call<D> {
    /// Whether the call usually writes something.
    pub const fn is_mutation(&self) -> bool {
        match self {
            Self::Op { call, .. } => call.is_some(),
            Self::Prepare { .. }
            | Self::Reject { .. }
            | Self::Commit { .. }
            | Self::Abort { .. }
            | Self::Forget { .. }
            | Self::Refuse { .. } => true,
            Self::Query { fence, .. } => *fence,
        }
    }

    /// Whether the call only reads records.
    pub const fn is_read(&self) -> bool {
        matches!(self, Self::Op { call: None, .. })
    }

    /// Whether the call has ended by the store's clock, so that it must not take effect any more.
    pub fn is_over(&self, now: UnixMillis) -> bool {
        match self {
            Self::Prepare { meta, .. } | Self::Reject { meta, .. } => now >= meta.deadline,
            Self::Op { call, .. } => call.as_ref().is_some_and(|call| call.is_over(now)),
            Self::Commit { .. }
            | Self::Abort { .. }
            | Self::Query { .. }
            | Self::Forget { .. }
            | Self::Refuse { .. } => false,
        }
    }

    /// The transaction that the call is about, if it is about one.
    pub const fn tx_id(&self) -> Option<TxId> {
        match self {
            Self::Prepare { meta, .. }
            | Self::Reject { meta, .. }
            | Self::Commit { meta, .. }
            | Self::Abort { meta, .. }
            | Self::Query { meta, .. } => Some(meta.tx_id),
            Self::Forget { tx_id } => Some(*tx_id),
            Self::Op { .. } | Self::Refuse { .. } => None,
        }
    }

    /// True if nobody waits for the answer, so that the call may join a later batch.
    pub fn is_patient(&self, branch: &Branch) -> bool {
        match self {
            Self::Commit { meta, .. } => !meta.is_primary(branch),
            Self::Forget { .. } => true,
            Self::Op { .. }
            | Self::Prepare { .. }
            | Self::Reject { .. }
            | Self::Abort { .. }
            | Self::Query { .. }
            | Self::Refuse { .. } => false,
        }
    }
}

/// A lane's answer to a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer<R> {
    /// The operation succeeded, in a KV transaction that started at this timestamp. The result of a
    /// read may be newer (P11).
    Done(R, Timestamp),
    /// The operation was refused, or the call counts as refused from now on.
    Refused(Refusal),
    /// The operation came after the end of its call and did nothing.
    Expired,
    /// The call has already succeeded, by this transaction.
    Committed(TxId),
    /// A Prepare's vote.
    Vote(Vote),
    /// The call would have to wait for this transaction.
    Waiting(Box<TxMeta>),
    /// The state after a Commit or Query, and the vote that the branch gave.
    State(BranchState, Option<Vote>),
    /// The state after an Abort.
    Aborted {
        /// ABORTED, or the final state that prevented the abort.
        state: BranchState,
        /// True if the refusal that came along is remembered, so that no other attempt of the call
        /// takes effect.
        refused: bool,
    },
    /// A Forget was noted.
    Forgotten,
    /// Too many calls are waiting already.
    Overloaded,
}
