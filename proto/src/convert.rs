//! Converts wire messages to types and back. Syntactic validation happens here and only here.

use std::ops::Range;

use prost::Message;
use types::{
    AmountError, Branch, BranchState, ClientCall, IdError, ItemId, Money, OrderId, Priority,
    Quantity, Refusal, RequestId, Service, ShardId, Timestamp, TxId, TxMeta, UnixMillis, UserId,
    Vote,
};

use crate::{participant::v1 as participant, types::v1 as wire};

/// Decodes the message in a field's bytes.
///
/// # Errors
/// [`InvalidField`]; a retry does not help.
pub fn message<M: Message + Default>(field: &'static str, bytes: &[u8]) -> Result<M, InvalidField> {
    M::decode(bytes).map_err(|error| InvalidField::new(field, error))
}

/// Greatest number of branches of a transaction.
pub const BRANCHES_MAX: usize = 256;

/// A field that cannot be converted. A retry does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct InvalidField {
    /// Path of the field in the request message.
    pub field: &'static str,
    /// What is wrong with it, as the end of a sentence that begins with its name.
    pub problem: String,
}

impl InvalidField {
    /// Makes the error for a field.
    pub fn new(field: &'static str, problem: impl std::fmt::Display) -> Self {
        Self { field, problem: format!("{problem}") }
    }
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident: $id:ty;)*) => {
        $($(#[$doc])*
        ///
        /// # Errors
        /// [`InvalidField`]; a retry does not help.
        pub fn $name(field: &'static str, text: &str) -> Result<$id, InvalidField> {
            <$id>::new(text).map_err(|error: IdError| InvalidField::new(field, error))
        })*
    };
}

ids! {
    /// Reads an item id.
    item_id: ItemId;
    /// Reads a user id.
    user_id: UserId;
    /// Reads an order id.
    order_id: OrderId;
}

/// Reads a request id; empty means none.
///
/// # Errors
/// [`InvalidField`]; a retry does not help.
pub fn request_id(text: &str) -> Result<Option<RequestId>, InvalidField> {
    if text.is_empty() {
        return Ok(None);
    }
    RequestId::new(text).map(Some).map_err(|error| InvalidField::new("request_id", error))
}

/// Reads the call that a transaction belongs to. None without a request id, and none from release
/// 0.1, which does not hash calls.
///
/// # Errors
/// [`InvalidField`]; a retry does not help.
pub fn client_call(
    id: &str,
    fingerprint: u64,
    not_after_ms: u64,
    call_id: &str,
    began_ts: u64,
) -> Result<Option<ClientCall>, InvalidField> {
    let Some(id) = request_id(id)?.filter(|_| fingerprint != 0) else { return Ok(None) };
    let not_after = (not_after_ms > 0).then_some(UnixMillis(not_after_ms));
    let call_id = match call_id {
        "" => None,
        text => Some(RequestId::new(text).map_err(|error| InvalidField::new("call_id", error))?),
    };
    let began = (began_ts > 0).then_some(Timestamp(began_ts));
    Ok(Some(ClientCall { id, fingerprint, not_after, call_id, began }))
}

/// Reads an amount of money of at least `least`.
///
/// # Errors
/// [`InvalidField`]; a retry does not help.
pub fn money(field: &'static str, value: u64, least: u64) -> Result<Money, InvalidField> {
    at_least(field, value, least)?;
    Money::new(value).map_err(|error: AmountError| InvalidField::new(field, error))
}

/// Reads a number of units of at least `least`.
///
/// # Errors
/// [`InvalidField`]; a retry does not help.
pub fn quantity(field: &'static str, value: u64, least: u64) -> Result<Quantity, InvalidField> {
    at_least(field, value, least)?;
    Quantity::new(value).map_err(|error: AmountError| InvalidField::new(field, error))
}

/// Upper bound, exclusive, of the record numbers that a batch_init writes.
pub const BATCH_COUNT_MAX: u64 = 10_000_000;

/// Reads the numbers of the records that a batch_init writes.
///
/// # Errors
/// [`InvalidField`]; a retry does not help.
pub fn batch_numbers(first: u64, count: u64) -> Result<Range<u64>, InvalidField> {
    match first.checked_add(count) {
        Some(end) if end <= BATCH_COUNT_MAX => Ok(first..end),
        _ => {
            let problem = format!("and `first` must be at most {BATCH_COUNT_MAX} together");
            Err(InvalidField::new("count", problem))
        }
    }
}

/// Reads how many numbered records there are to draw from, at least one.
///
/// # Errors
/// [`InvalidField`]; a retry does not help.
pub fn pool(field: &'static str, count: u64) -> Result<u64, InvalidField> {
    quantity(field, count, 1).map(Quantity::get)
}

fn at_least(field: &'static str, value: u64, least: u64) -> Result<(), InvalidField> {
    if value < least {
        return Err(InvalidField::new(field, format!("must be at least {least}")));
    }
    Ok(())
}

/// Reads a transaction id.
///
/// # Errors
/// [`InvalidField`]; a retry does not help.
pub fn tx_id(bytes: &[u8]) -> Result<TxId, InvalidField> {
    TxId::from_slice(bytes).map_err(|error| InvalidField::new("tx_id", error))
}

impl TryFrom<&wire::Branch> for Branch {
    type Error = InvalidField;

    fn try_from(branch: &wire::Branch) -> Result<Self, InvalidField> {
        let service = Service::new(&branch.service)
            .map_err(|error| InvalidField::new("branch.service", error))?;
        let shard = u16::try_from(branch.shard)
            .map_err(|_| InvalidField::new("branch.shard", "must be below 65536"))?;
        Ok(Self { service, shard: ShardId(shard) })
    }
}

impl From<&Branch> for wire::Branch {
    fn from(branch: &Branch) -> Self {
        Self { service: branch.service.as_str().to_owned(), shard: u32::from(branch.shard.0) }
    }
}

/// Reads a branch, which must be present.
///
/// # Errors
/// [`InvalidField`]; a retry does not help.
pub fn branch(branch: Option<&wire::Branch>) -> Result<Branch, InvalidField> {
    branch.ok_or_else(|| InvalidField::new("branch", "is missing"))?.try_into()
}

/// Reads a transaction, which must be present.
///
/// # Errors
/// [`InvalidField`]; a retry does not help.
pub fn tx_meta(meta: Option<&wire::TxMeta>) -> Result<TxMeta, InvalidField> {
    meta.ok_or_else(|| InvalidField::new("tx", "is missing"))?.try_into()
}

/// True if some branch occurs more than once.
fn has_twice(branches: &[Branch]) -> bool {
    // Comparing all pairs is cheaper than sorting for the few branches of a usual transaction.
    const FEW: usize = 8;
    if branches.len() <= FEW {
        let after = |at: usize| branches.iter().skip(at.saturating_add(1));
        return branches.iter().enumerate().any(|(at, one)| after(at).any(|other| other == one));
    }
    let mut sorted: Vec<&Branch> = branches.iter().collect();
    sorted.sort();
    sorted.windows(2).any(|pair| pair[0] == pair[1])
}

impl TryFrom<&wire::TxMeta> for TxMeta {
    type Error = InvalidField;

    fn try_from(meta: &wire::TxMeta) -> Result<Self, InvalidField> {
        let priority =
            meta.priority.ok_or_else(|| InvalidField::new("tx.priority", "is missing"))?;
        let branches = meta.branches.iter().map(Branch::try_from).collect::<Result<Vec<_>, _>>()?;
        if branches.is_empty() || branches.len() > BRANCHES_MAX {
            return Err(InvalidField::new("tx.branches", "must be 1 to 256"));
        }
        if has_twice(&branches) {
            return Err(InvalidField::new("tx.branches", "must all be different"));
        }
        Ok(Self {
            tx_id: tx_id(&meta.tx_id)?,
            priority: Priority { begin_ts: priority.begin_ts, nonce: priority.nonce },
            deadline: UnixMillis(meta.deadline_ms),
            branches: branches.into(),
            call: client_call(
                &meta.request_id,
                meta.request_fingerprint,
                meta.not_after_ms,
                &meta.call_id,
                meta.call_began_ts,
            )?,
        })
    }
}

impl From<&TxMeta> for wire::TxMeta {
    fn from(meta: &TxMeta) -> Self {
        let call = meta.call.as_ref();
        let call_id = call.and_then(|call| call.call_id.as_ref());
        Self {
            tx_id: meta.tx_id.0.to_vec().into(),
            priority: Some(wire::Priority {
                begin_ts: meta.priority.begin_ts,
                nonce: meta.priority.nonce,
            }),
            deadline_ms: meta.deadline.0,
            branches: meta.branches.iter().map(wire::Branch::from).collect(),
            request_id: call.map(|call| call.id.to_string()).unwrap_or_default(),
            request_fingerprint: call.map_or(0, |call| call.fingerprint),
            not_after_ms: call.and_then(|call| call.not_after).map_or(0, |at| at.0),
            call_id: call_id.map(ToString::to_string).unwrap_or_default(),
            call_began_ts: call.and_then(|call| call.began).map_or(0, |at| at.0),
        }
    }
}

impl From<BranchState> for participant::BranchState {
    fn from(state: BranchState) -> Self {
        match state {
            BranchState::Absent => Self::Absent,
            BranchState::Prepared => Self::Prepared,
            BranchState::Committed => Self::Committed,
            BranchState::Aborted => Self::Aborted,
        }
    }
}

/// The number of a branch state on the wire.
pub fn branch_state_number(state: BranchState) -> u32 {
    // All numbers of the enum are small and positive.
    u32::try_from(i32::from(participant::BranchState::from(state))).unwrap_or(0)
}

/// Reads a branch state.
///
/// # Errors
/// [`InvalidField`]; a retry does not help.
pub fn branch_state(number: i32) -> Result<BranchState, InvalidField> {
    match participant::BranchState::try_from(number) {
        Ok(participant::BranchState::Absent) => Ok(BranchState::Absent),
        Ok(participant::BranchState::Prepared) => Ok(BranchState::Prepared),
        Ok(participant::BranchState::Committed) => Ok(BranchState::Committed),
        Ok(participant::BranchState::Aborted) => Ok(BranchState::Aborted),
        Ok(participant::BranchState::Unspecified) | Err(_) => {
            Err(InvalidField::new("state", "must be a known state"))
        }
    }
}

impl From<&Vote> for participant::Vote {
    fn from(vote: &Vote) -> Self {
        use participant::vote::{Contended, Fenced, No, Vote as Wire, Yes};
        let vote = match vote {
            Vote::Yes { receipt } => Wire::Yes(Yes { receipt: receipt.clone().into() }),
            Vote::No { reason, metadata } => {
                Wire::No(No { reason: reason.clone(), metadata: metadata.clone() })
            }
            Vote::Contended { blocker } => {
                let blocker = participant::Blocker { tx: Some((&**blocker).into()) };
                Wire::Contended(Contended { blocker: Some(blocker) })
            }
            Vote::Fenced => Wire::Fenced(Fenced {}),
        };
        Self { vote: Some(vote) }
    }
}

/// Reads a vote, which must be present.
///
/// # Errors
/// [`InvalidField`]; a retry does not help.
pub fn vote(vote: Option<&participant::Vote>) -> Result<Vote, InvalidField> {
    use participant::vote::Vote as Wire;
    let missing = || InvalidField::new("vote", "is missing");
    Ok(match vote.and_then(|vote| vote.vote.as_ref()).ok_or_else(missing)? {
        Wire::Yes(yes) => Vote::Yes { receipt: yes.receipt.to_vec() },
        Wire::No(no) => Vote::No { reason: no.reason.clone(), metadata: no.metadata.clone() },
        Wire::Contended(contended) => {
            let blocker = contended.blocker.as_ref().and_then(|blocker| blocker.tx.as_ref());
            Vote::Contended { blocker: Box::new(tx_meta(blocker)?) }
        }
        Wire::Fenced(_) => Vote::Fenced,
    })
}

impl From<&Refusal> for participant::vote::No {
    fn from(refusal: &Refusal) -> Self {
        let Refusal { reason, metadata } = refusal.clone();
        Self { reason: reason.as_str().to_owned(), metadata }
    }
}

/// Makes the Refuse for a call. `began` is when the attempt that led to the refusal began.
pub fn refuse_request(
    branch: &Branch,
    call: &ClientCall,
    began: Timestamp,
    refusal: participant::vote::No,
) -> participant::RefuseRequest {
    participant::RefuseRequest {
        branch: Some(branch.into()),
        request_id: call.id.to_string(),
        request_fingerprint: call.fingerprint,
        not_after_ms: call.not_after.map_or(0, |at| at.0),
        call_id: call.call_id.as_ref().map(ToString::to_string).unwrap_or_default(),
        call_began_ts: call.began.map_or(0, |at| at.0),
        began_ts: began.0,
        refusal: Some(refusal),
    }
}
