//! What a lane is asked, and what it answers.

use types::{Branch, BranchState, ClientCall, Refusal, Timestamp, TxId, TxMeta, UnixMillis, Vote};

use super::Domain;
use crate::records::Receipt;

/// Names a call within its lane.
pub type CallId = u64;

/// What a lane is asked.
#[derive(Debug)]
pub enum Call<D: Domain> {
    /// An operation of the service.
    Op {
        /// The operation.
        op: D::Op,
        /// Makes it take effect once; none for reads.
        call: Option<ClientCall>,
        /// Whether it may wait here for others; else the answer is [`Answer::Waiting`].
        may_wait: bool,
    },
    /// A Prepare.
    Prepare {
        /// The transaction.
        meta: TxMeta,
        /// What it asks for.
        payload: D::Payload,
        /// Whether it may wait here for others; else the answer is [`Answer::Waiting`].
        may_wait: bool,
    },
    /// A Prepare that no state of the shard can answer with YES.
    Reject {
        /// The transaction.
        meta: TxMeta,
        /// Why not.
        refusal: Refusal,
    },
    /// A Commit.
    Commit {
        /// The transaction.
        meta: TxMeta,
        /// To the primary only.
        receipts: Vec<Receipt>,
    },
    /// An Abort.
    Abort {
        /// The transaction.
        meta: TxMeta,
        /// Whether a branch said for sure that it does not commit: by a NO, a CONTENDED, or a fence without a vote.
        evidence: bool,
        /// To the primary only: the NO that the client will be told.
        refusal: Option<Vote>,
    },
    /// A Query.
    Query {
        /// The transaction.
        meta: TxMeta,
        /// Whether to leave a fence where nothing is known.
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
        /// When the attempt that found the refusal began, where that is known.
        began: Option<Timestamp>,
        /// What its caller is told: a NO, whose reason need not be one of ours.
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
    /// True for what usually leaves something to write.
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

    /// True once it must not take effect any more, by the store's clock.
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

    /// The transaction that it is about.
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

    /// True for what nobody waits for: it may ride along with a later batch.
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

/// What a call is answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer<R> {
    /// An operation succeeded.
    Done(R, Timestamp),
    /// An operation was refused, or a call is from now on.
    Refused(Refusal),
    /// An operation came when its call was over; it did nothing.
    Expired,
    /// The call has succeeded before, by this transaction.
    Committed(TxId),
    /// A Prepare's vote.
    Vote(Vote),
    /// It would have to wait for this transaction.
    Waiting(Box<TxMeta>),
    /// What stands after a Commit or Query, and the vote that was given.
    State(BranchState, Option<Vote>),
    /// What stands after an Abort.
    Aborted {
        /// ABORTED, or what stood in its way.
        state: BranchState,
        /// The refusal that came along is remembered, and no other attempt of the call takes effect.
        refused: bool,
    },
    /// A Forget was noted.
    Forgotten,
    /// Too many wait already.
    Overloaded,
}
