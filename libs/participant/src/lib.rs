//! Lanes and the generic participant service: what order, stock and payment have in common.
//!
//! Must not know: what an order, an item or a user is (a service gives it a [`core::Domain`]); which
//! store it is.
//!
//! Modules: [`records`] a service's data; [`balance`] what can be set aside; [`fill`] batch_init; [`core`] a shard's
//! state machine, pure; [`lane`] the writer of a shard; [`shards`] the lanes of a service; [`service`] the gRPC face
//! of `till.participant.v1`; [`role`] what the three executables have in common; `rig` (feature) a shard for the tests
//! of domains.
//!
//! Invariants: nothing is answered before it is durable, or before the journal was looked at as of a timestamp
//! taken after the call arrived; a batch that did not commit leaves no trace in memory.

pub mod balance;
pub mod core;
pub mod fill;
pub mod lane;
pub mod records;
#[cfg(feature = "rig")]
pub mod rig;
pub mod role;
pub mod service;
pub mod shards;
