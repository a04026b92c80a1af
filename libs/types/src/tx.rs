//! What coordinators and branches exchange about transactions.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    error::Refusal,
    id::{Branch, Priority, RequestId, TxId, fnv1a},
    time::{Timestamp, UnixMillis},
};

/// A client's call. Each of its attempts carries it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientCall {
    /// The id that makes the call take effect once: the client's own, or one minted for this call.
    pub id: RequestId,
    /// Hash of the call's content, so that another call under the same id is noticed.
    pub fingerprint: u64,
    /// No attempt takes effect at or after this time, by the store's clock. None until it is fixed.
    pub not_after: Option<UnixMillis>,
    /// An id minted for this call, if `id` is the client's own, which a later call may carry too. A
    /// final refusal is remembered under this id.
    pub call_id: Option<RequestId>,
    /// A timestamp that was read after the call arrived, if `id` is the client's own. A refusal
    /// under that id binds this call if the KV transaction that journals the refusal starts at or
    /// after this timestamp.
    pub began: Option<Timestamp>,
}

impl ClientCall {
    /// Makes a call under this id. `what` names the call and its whole content; its hash becomes
    /// the fingerprint.
    pub fn new(id: RequestId, what: &str) -> Self {
        Self {
            id,
            fingerprint: fnv1a(what.as_bytes()),
            not_after: None,
            call_id: None,
            began: None,
        }
    }

    /// Whether the call has ended at `now`, by the store's clock, so that no attempt takes effect
    /// any more.
    pub fn is_over(&self, now: UnixMillis) -> bool {
        self.not_after.is_some_and(|end| now >= end)
    }

    /// The id that only this call has, if there is one.
    pub fn own_id(&self) -> Option<&RequestId> {
        self.call_id.as_ref().or(self.id.is_minted().then_some(&self.id))
    }

    /// A part of this call, under ids of its own. Each part takes effect once.
    #[must_use]
    pub fn part(&self, part: &str) -> Self {
        Self {
            id: self.id.part(part),
            call_id: self.call_id.as_ref().map(|id| id.part(part)),
            ..*self
        }
    }
}

/// What every branch must know of a transaction, so that any of them can have it resolved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxMeta {
    /// The transaction.
    pub tx_id: TxId,
    /// Decides which of two transactions goes first.
    pub priority: Priority,
    /// No vote is written at or after this time, by the store's clock.
    pub deadline: UnixMillis,
    /// 1 to 256 branches, all different. The first one is the primary.
    pub branches: Arc<[Branch]>,
    /// The client's call that the transaction belongs to, if it is known.
    pub call: Option<ClientCall>,
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
    /// Voted YES. What the vote set aside is held.
    Prepared,
    /// Final: every branch voted YES, and the outcome took effect here.
    Committed,
    /// Final: voted NO or CONTENDED, was fenced, or was aborted after a YES. Nothing is held, and
    /// nothing can be.
    Aborted,
}

/// A branch's answer to Prepare.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Vote {
    /// The hold is durable.
    Yes {
        /// Opaque to the coordinator, which hands it to the primary's Commit.
        receipt: Vec<u8>,
    },
    /// Refused for a business reason, proved on the state of the KV transaction that journaled the
    /// vote.
    No {
        /// Stable upper-case code, for programs.
        reason: String,
        /// Ids and amounts, for people.
        metadata: BTreeMap<String, String>,
    },
    /// An unresolved transaction is in the way. Journaled as a fence. A new attempt may succeed
    /// when the blocker is resolved.
    Contended {
        /// The oldest transaction that is in the way.
        blocker: Box<TxMeta>,
    },
    /// The branch was fenced before it voted, its vote was aborted since, or the deadline has
    /// passed. A new attempt may succeed.
    Fenced,
}

impl From<&Refusal> for Vote {
    fn from(refusal: &Refusal) -> Self {
        let Refusal { reason, metadata } = refusal.clone();
        Self::No { reason: reason.as_str().to_owned(), metadata }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_over_at_its_end() {
        let id = RequestId::new("key").unwrap();
        let call = ClientCall { not_after: Some(UnixMillis(7)), ..ClientCall::new(id, "what") };
        assert_eq!([6, 7, 8].map(|now| call.is_over(UnixMillis(now))), [false, true, true]);
        let endless = ClientCall { not_after: None, ..call };
        assert!(!endless.is_over(UnixMillis(u64::MAX)));
    }

    #[test]
    fn the_first_branch_is_the_primary_and_no_other() {
        let branch = |shard| Branch {
            service: crate::Service::new("order").unwrap(),
            shard: crate::ShardId(shard),
        };
        let meta = TxMeta {
            tx_id: TxId([7; 16]),
            priority: Priority { begin_ts: 1, nonce: 2 },
            deadline: UnixMillis(3),
            branches: [branch(5), branch(4)].into(),
            call: None,
        };
        assert_eq!(meta.primary(), Some(&branch(5)));
        assert_eq!([5, 4, 3].map(|shard| meta.is_primary(&branch(shard))), [true, false, false]);
    }

    #[test]
    fn a_part_is_the_same_call_under_other_ids() {
        let id = RequestId::new("key").unwrap();
        let call_id = RequestId::minted(uuid::Uuid::from_u128(1));
        let call = ClientCall {
            not_after: Some(UnixMillis(7)),
            call_id: Some(call_id.clone()),
            began: Some(Timestamp(5)),
            ..ClientCall::new(id.clone(), "what")
        };
        let expected =
            ClientCall { id: id.part("0/0"), call_id: Some(call_id.part("0/0")), ..call.clone() };
        assert_eq!(call.part("0/0"), expected);
        assert_eq!(call.own_id(), Some(&call_id));
        let bare = ClientCall { call_id: None, ..call.clone() };
        assert_eq!(bare.own_id(), None, "a later call may carry it");
        let minted = ClientCall { id: call_id.clone(), ..bare };
        assert_eq!(minted.own_id(), Some(&call_id));
    }
}
