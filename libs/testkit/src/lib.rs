//! What the tests of several crates share. Only tests depend on this crate.
//!
//! Must not know: what an order, an item or a user is.
//!
//! Modules: [`mem`] a store in memory with faults on demand; [`conformance`] the suite that every
//! store passes; [`env`] a repeatable clock and source of random numbers; [`net`] a network in one
//! process, and requests over it; [`certificates`] an authority and what it signs;
//! [`mod@participant`] a participant whose answers a test decides; [`rig`] a shard without a lane
//! or a store, for the tests of domains. [`branch`] and [`tx`] are the parts of transactions.
//!
//! Invariant: apart from keys of certificates, nothing here depends on the wall clock or on the
//! machine's randomness, so a test under paused time takes the same course each time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

pub mod certificates;
pub mod conformance;
pub mod env;
pub mod mem;
pub mod net;
pub mod participant;
pub mod rig;

use std::sync::Arc;

use types::{Branch, Priority, Service, ShardId, TxId, TxMeta, UnixMillis};

pub use env::{ORIGIN, SeededEntropy, TokioClock};
pub use mem::MemKv;

/// Shard 0 of a service.
pub fn branch(service: &str) -> Branch {
    Branch { service: Service::new(service).unwrap(), shard: ShardId(0) }
}

/// Transaction `number` of no client's call. Lower numbers are older.
pub fn tx(number: u8, deadline: UnixMillis, branches: impl Into<Arc<[Branch]>>) -> TxMeta {
    TxMeta {
        tx_id: TxId([number; 16]),
        priority: Priority { begin_ts: u64::from(number), nonce: 0 },
        deadline,
        branches: branches.into(),
        call: None,
    }
}
