//! Why a checkout, or another transaction, did not succeed.

use std::{borrow::Cow, collections::BTreeMap};

use rpc::status::Failure;
use types::{Classify, ErrorKind, Reason, Refusal, TxId};

/// Why a checkout did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckoutError {
    /// A business refusal. It is definite and leaves nothing behind.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A refusal by a participant, for a reason that is not one of ours.
    #[error("a participant refused: {reason}")]
    RefusedElsewhere {
        /// The participant's reason.
        reason: String,
        /// Ids and amounts for people.
        metadata: BTreeMap<String, String>,
    },
    /// The order service refused or did not answer.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// Time ran out before any transaction took effect. Retry.
    #[error("no transaction could be begun in time")]
    Unavailable,
    /// The order service is of release 0.1, which may sell an order as it was in the middle of a
    /// batch that changed it again (P13).
    #[error("the order service is of an older release that sends no etag")]
    Outdated,
    /// Time ran out, and a decision may exist. Repeat the call with the same request id.
    #[error("the outcome is not known yet")]
    OutcomeUnknown,
    /// A rule of the protocol was broken. An operator must look into it.
    #[error("the transaction {0} broke the protocol")]
    Broken(TxId),
}

impl Classify for CheckoutError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused(refusal) => refusal.kind(),
            Self::RefusedElsewhere { .. } => ErrorKind::Rejected,
            Self::Failed(failure) => failure.kind(),
            Self::Unavailable | Self::Outdated | Self::OutcomeUnknown => ErrorKind::Unavailable,
            Self::Broken(_) => ErrorKind::Internal,
        }
    }

    fn reason(&self) -> Cow<'static, str> {
        match self {
            Self::Refused(refusal) => refusal.reason(),
            Self::RefusedElsewhere { reason, .. } => Cow::Owned(reason.clone()),
            Self::Failed(failure) => failure.reason(),
            Self::Unavailable | Self::Outdated => Reason::Unavailable.as_str().into(),
            Self::OutcomeUnknown => Reason::OutcomeUnknown.as_str().into(),
            Self::Broken(_) => Reason::Internal.as_str().into(),
        }
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        match self {
            Self::Refused(refusal) => refusal.metadata(),
            Self::RefusedElsewhere { metadata, .. } => metadata.clone(),
            Self::Failed(failure) => failure.metadata(),
            Self::Unavailable | Self::Outdated | Self::OutcomeUnknown | Self::Broken(_) => {
                BTreeMap::new()
            }
        }
    }
}

impl CheckoutError {
    /// True for a definite refusal, which is answered only once nothing is held any more.
    pub(crate) const fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::RefusedElsewhere { .. })
    }
}

/// The error for a refusal, whose reason need not be one of ours.
pub(crate) fn refused(reason: String, metadata: BTreeMap<String, String>) -> CheckoutError {
    match Reason::parse(&reason) {
        Some(reason) => Refusal { reason, metadata }.into(),
        None => CheckoutError::RefusedElsewhere { reason, metadata },
    }
}
