//! The few `google.rpc` messages that a status carries, with ordered maps.

use std::{collections::BTreeMap, time::Duration};

use prost::{Message, Name};

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Status {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) details: Vec<prost_types::Any>,
}

/// `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ErrorInfo {
    #[prost(string, tag = "1")]
    pub(super) reason: String,
    #[prost(string, tag = "2")]
    pub(super) domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub(super) metadata: BTreeMap<String, String>,
}

/// `google.rpc.BadRequest`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct BadRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) field_violations: Vec<FieldViolation>,
}

/// `google.rpc.BadRequest.FieldViolation`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct FieldViolation {
    #[prost(string, tag = "1")]
    pub(super) field: String,
    #[prost(string, tag = "2")]
    pub(super) description: String,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

impl RetryInfo {
    pub(super) fn of(pause: Duration) -> Self {
        Self { retry_delay: prost_types::Duration::try_from(pause).ok() }
    }

    pub(super) fn duration(&self) -> Option<Duration> {
        self.retry_delay.and_then(|delay| Duration::try_from(delay).ok())
    }
}

macro_rules! named {
    ($($message:ident)*) => {$(
        impl Name for $message {
            const PACKAGE: &'static str = "google.rpc";
            const NAME: &'static str = stringify!($message);

            fn type_url() -> String {
                format!("type.googleapis.com/{}", Self::full_name())
            }
        }
    )*};
}

named! { ErrorInfo BadRequest RetryInfo }

pub(super) fn pack<M: Message + Name>(message: &M) -> prost_types::Any {
    prost_types::Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// `None` for a detail of another type, and for a damaged one.
pub(super) fn unpack<M: Message + Name + Default>(any: &prost_types::Any) -> Option<M> {
    (any.type_url == M::type_url()).then(|| M::decode(any.value.as_slice()).ok()).flatten()
}
