//! Wire to types and back. Syntactic validation happens here and only here.

use types::{
    AmountError, Branch, IdError, ItemId, Money, OrderId, Priority, Quantity, RequestId, Service,
    ShardId, TxId, UnixMillis, UserId,
};

use crate::{participant::v1 as participant, types::v1 as wire};

/// Greatest number of branches of a transaction.
pub const BRANCHES_MAX: usize = 256;

/// A field that does not convert. A retry does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct InvalidField {
    /// Path of the field in the request message.
    pub field: &'static str,
    /// What is wrong with it, as the end of a sentence that begins with its name.
    pub problem: String,
}

impl InvalidField {
    /// Names a field and what is wrong with it.
    pub fn new(field: &'static str, problem: impl ToString) -> Self {
        Self {
            field,
            problem: problem.to_string(),
        }
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
    RequestId::new(text)
        .map(Some)
        .map_err(|error| InvalidField::new("request_id", error))
}

/// Reads an amount of money, `least` or more.
///
/// # Errors
/// [`InvalidField`]; a retry does not help.
pub fn money(field: &'static str, value: u64, least: u64) -> Result<Money, InvalidField> {
    at_least(field, value, least)?;
    Money::new(value).map_err(|error: AmountError| InvalidField::new(field, error))
}

/// Reads a number of units, `least` or more.
///
/// # Errors
/// [`InvalidField`]; a retry does not help.
pub fn quantity(field: &'static str, value: u64, least: u64) -> Result<Quantity, InvalidField> {
    at_least(field, value, least)?;
    Quantity::new(value).map_err(|error: AmountError| InvalidField::new(field, error))
}

fn at_least(field: &'static str, value: u64, least: u64) -> Result<(), InvalidField> {
    if value < least {
        return Err(InvalidField::new(
            field,
            format!("must be at least {least}"),
        ));
    }
    Ok(())
}

/// What every branch knows of a transaction, validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxMeta {
    /// The transaction.
    pub tx_id: TxId,
    /// Who goes first.
    pub priority: Priority,
    /// No vote is written at or after it (the store's clock).
    pub deadline: UnixMillis,
    /// 1 to 256, all different; the first is the primary.
    pub branches: Vec<Branch>,
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
            .map_err(|_| InvalidField::new("branch.shard", "must be below 4096"))?;
        Ok(Self {
            service,
            shard: ShardId(shard),
        })
    }
}

impl From<&Branch> for wire::Branch {
    fn from(branch: &Branch) -> Self {
        Self {
            service: branch.service.as_str().to_owned(),
            shard: u32::from(branch.shard.0),
        }
    }
}

/// Reads a branch that must be there.
///
/// # Errors
/// [`InvalidField`]; a retry does not help.
pub fn branch(branch: Option<&wire::Branch>) -> Result<Branch, InvalidField> {
    branch
        .ok_or_else(|| InvalidField::new("branch", "is missing"))?
        .try_into()
}

/// Reads a transaction that must be there.
///
/// # Errors
/// [`InvalidField`]; a retry does not help.
pub fn tx_meta(meta: Option<&wire::TxMeta>) -> Result<TxMeta, InvalidField> {
    meta.ok_or_else(|| InvalidField::new("tx", "is missing"))?
        .try_into()
}

impl TryFrom<&wire::TxMeta> for TxMeta {
    type Error = InvalidField;

    fn try_from(meta: &wire::TxMeta) -> Result<Self, InvalidField> {
        let priority = meta
            .priority
            .ok_or_else(|| InvalidField::new("tx.priority", "is missing"))?;
        let branches = meta
            .branches
            .iter()
            .map(Branch::try_from)
            .collect::<Result<Vec<_>, _>>()?;
        if branches.is_empty() || branches.len() > BRANCHES_MAX {
            return Err(InvalidField::new("tx.branches", "must be 1 to 256"));
        }
        let mut sorted: Vec<&Branch> = branches.iter().collect();
        sorted.sort();
        if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(InvalidField::new("tx.branches", "must all be different"));
        }
        Ok(Self {
            tx_id: tx_id(&meta.tx_id)?,
            priority: Priority {
                begin_ts: priority.begin_ts,
                nonce: priority.nonce,
            },
            deadline: UnixMillis(meta.deadline_ms),
            branches,
            request_id: request_id(&meta.request_id)?,
        })
    }
}

impl From<&TxMeta> for wire::TxMeta {
    fn from(meta: &TxMeta) -> Self {
        Self {
            tx_id: meta.tx_id.0.to_vec().into(),
            priority: Some(wire::Priority {
                begin_ts: meta.priority.begin_ts,
                nonce: meta.priority.nonce,
            }),
            deadline_ms: meta.deadline.0,
            branches: meta.branches.iter().map(wire::Branch::from).collect(),
            request_id: meta
                .request_id
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        }
    }
}

impl participant::Vote {
    /// A YES with its receipt.
    pub fn yes(receipt: impl Into<bytes::Bytes>) -> Self {
        let yes = participant::vote::Yes {
            receipt: receipt.into(),
        };
        Self {
            vote: Some(participant::vote::Vote::Yes(yes)),
        }
    }

    /// Too late, or fenced by somebody else.
    pub fn fenced() -> Self {
        Self {
            vote: Some(participant::vote::Vote::Fenced(
                participant::vote::Fenced {},
            )),
        }
    }
}
