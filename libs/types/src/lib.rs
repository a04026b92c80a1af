//! The vocabulary of every crate: ids, [`Money`], [`Quantity`], [`Timestamp`], [`Clock`], error
//! kinds.
//!
//! Must not know: async, I/O, randomness, the wire, the store. Domain types are not serializable,
//! because a serializable type is a compatibility promise.
//!
//! Modules: [`id`] (item, user, order, transaction and request ids, shards and branches),
//! [`amount`], [`time`], [`error`], [`tx`] (transactions, votes and states), [`host`] (the host
//! that a request is meant for), [`roles`] (the processes of a shop), [`mutation`] (rules that the
//! simulation may break).
//!
//! Invariants: an amount is at most 2^53 - 1 and has only checked arithmetic; a text id is checked
//! when it is made.

#![deny(clippy::arithmetic_side_effects, clippy::as_conversions)]

pub mod amount;
pub mod error;
pub mod host;
pub mod id;
pub mod mutation;
pub mod roles;
pub mod time;
pub mod tx;

pub use amount::{AMOUNT_MAX, Amount, AmountError, Money, Quantity};
pub use error::{Classify, ErrorKind, Reason, Refusal};
pub use id::{
    Branch, IdError, ItemId, OrderId, Priority, RequestId, SHARDS_MAX, Service, ShardId, TxId,
    UserId, fnv1a, shard_of,
};
pub use mutation::Mutation;
pub use roles::Role;
pub use time::{
    CALL_AHEAD_MAX_MS, CALL_LIFE_MAX_MS, Clock, Entropy, Stamp, StampError, Timestamp, UnixMillis,
};
pub use tx::{BranchState, ClientCall, TxMeta, Vote};
