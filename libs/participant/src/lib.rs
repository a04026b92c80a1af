//! Lanes and the generic participant service: the common part of order, stock and payment.
//!
//! Must not know: what an order, an item or a user is (a service supplies a [`core::Domain`]), or
//! which store it runs on.
//!
//! Modules: [`records`] a service's data; [`balance`] amounts and holds on them; [`fill`]
//! batch_init; [`core`] a shard's pure state machine; [`lane`] the writer of a shard; [`shards`]
//! the lanes of a service; [`service`] the gRPC service `till.participant.v1`; [`role`] the common
//! part of the three roles.
//!
//! Invariants: an answer that depends on an entry goes out only once that entry is durable. Any
//! other answer, such as a read's or a refusal's, goes out only after a look at the journal at a
//! timestamp taken after the call arrived. A batch that did not commit leaves no trace in memory.

pub mod balance;
pub mod core;
pub mod fill;
pub mod lane;
pub mod records;
pub mod role;
pub mod service;
pub mod shards;
