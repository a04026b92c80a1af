//! What branches and coordinators say to each other about transactions.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    error::Refusal,
    id::{Branch, Priority, RequestId, TxId, fnv1a},
    time::{Timestamp, UnixMillis},
};

/// A client's call, as each of its attempts names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientCall {
    /// Makes it take effect once: the client's own id, or one minted for this call.
    pub id: RequestId,
    /// Hash of what is called, so that the id is not taken for another call.
    pub fingerprint: u64,
    /// No attempt takes effect at or after it, by the store's clock; none while nobody has fixed it.
    pub not_after: Option<UnixMillis>,
    /// Minted for this call where `id` is the client's own, which a later call may carry, too: whatever is
    /// refused for good is refused under this one.
    pub call_id: Option<RequestId>,
    /// A timestamp that was read after the call came in; given where `id` is the client's own. What is refused
    /// binds every call under that id that had come in by then.
    pub began: Option<Timestamp>,
}

impl ClientCall {
    /// A call under this id. `what` names the call and everything that it says.
    pub fn new(id: RequestId, what: &str) -> Self {
        Self {
            id,
            fingerprint: fnv1a(what.as_bytes()),
            not_after: None,
            call_id: None,
            began: None,
        }
    }

    /// Whether no attempt takes effect any more at this time of the store.
    pub fn is_over(&self, now: UnixMillis) -> bool {
        self.not_after.is_some_and(|end| now >= end)
    }

    /// The id that no other call has, if there is one.
    pub fn own_id(&self) -> Option<&RequestId> {
        self.call_id.as_ref().or(self.id.is_minted().then_some(&self.id))
    }

    /// A part of this call; each part takes effect once.
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
    /// Who goes first.
    pub priority: Priority,
    /// No vote is written at or after it, by the store's clock.
    pub deadline: UnixMillis,
    /// 1 to 256, all different; the first is the primary.
    pub branches: Arc<[Branch]>,
    /// The client's call.
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
        /// The oldest transaction that is in the way.
        blocker: Box<TxMeta>,
    },
    /// Fenced by somebody before it voted, aborted since, or past its deadline. A new attempt may succeed.
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
