//! The store beneath every service: the [`Kv`] and [`Txn`] seam, its backends, the registry of keys,
//! a shard's head and journal, and the schema gate.
//!
//! Must not know: what an order, an item or a user is; which store it is (only [`tikv`] names
//! `tikv_client`).
//!
//! Modules: [`kv`] the seam; [`tikv`] and [`mem`] the backends; [`keys`] the registry of key spaces;
//! [`codec`] the format byte; [`schema`] the gate; [`conformance`] the suite that every backend passes;
//! [`metered`] what is measured of any of them; [`janitor`] the chore that keeps the store clean; [`claims`] request ids bound to calls;
//! [`tx_meta`] transactions as they are stored.
//!
//! Invariants: a commit error is *undetermined* unless it is proved definite; whatever stands in the
//! store begins with a format byte, and an unknown one is `Corrupt`, never a guess; nothing is
//! appended to a shard's journal by who does not know its end ([`shard`]).

pub mod args;
pub mod claims;
pub mod codec;
pub mod conformance;
pub mod janitor;
pub mod keys;
pub mod kv;
pub mod mem;
pub mod metered;
pub mod schema;
pub mod shard;
pub mod tikv;
pub mod tx_meta;

pub use kv::{CommitError, Key, Kv, KvError, Reads, SharedKv, Txn, Value};

/// The stored messages, `till.storage.v1`.
#[allow(
    missing_docs,
    clippy::pedantic,
    clippy::large_enum_variant,
    unused_qualifications,
    reason = "generated code"
)]
pub mod record {
    include!(concat!(env!("OUT_DIR"), "/till.storage.v1.rs"));
}
