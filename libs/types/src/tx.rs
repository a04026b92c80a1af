//! What branches and coordinators say to each other about transactions.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    id::{Branch, Priority, RequestId, TxId},
    time::UnixMillis,
};

/// What every branch must know of a transaction, so that any of them can have it resolved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxMeta {
    /// The transaction.
    pub tx_id: TxId,
    /// Who goes first.
    pub priority: Priority,
    /// No vote is written at or after it, by the store's clock.
    pub deadline: UnixMillis,
    /// 1 to 256, all different; the first is the primary.
    pub branches: Arc<[Branch]>,
    /// The client's call.
    pub request_id: Option<RequestId>,
}

impl TxMeta {
    /// The branch whose state decides.
    pub fn primary(&self) -> Option<&Branch> {
        self.branches.first()
    }

    /// True when `branch` is the one whose state decides.
    pub fn is_primary(&self, branch: &Branch) -> bool {
        self.primary() == Some(branch)
    }
}

/// What a branch durably knows of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BranchState {
    /// Nothing: never prepared here, or forgotten.
    Absent,
    /// Voted YES; what it set aside is held.
    Prepared,
    /// Final.
    Committed,
    /// Final: voted NO or CONTENDED, was fenced, or was aborted after a YES. Nothing is held, and
    /// nothing may be.
    Aborted,
}

/// A branch's answer to Prepare.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Vote {
    /// The hold is durable.
    Yes {
        /// Opaque to the coordinator; handed to the primary's Commit.
        receipt: Vec<u8>,
    },
    /// Refused for a business reason, proved on the state of the KV transaction that journaled it.
    No {
        /// Stable, upper case.
        reason: String,
        /// Ids and amounts for people.
        metadata: BTreeMap<String, String>,
    },
    /// Somebody unresolved is in the way; journaled as a fence. A new attempt may succeed when the blocker
    /// is resolved.
    Contended {
        /// Who.
        blocker: Box<TxMeta>,
    },
    /// Fenced by somebody before it voted, aborted since, or past its deadline. A new attempt may succeed.
    Fenced,
}
