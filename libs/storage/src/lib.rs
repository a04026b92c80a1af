//! The store beneath every service: the [`Kv`] and [`Txn`] seam, its backend, the registry of
//! keys, a shard's head and journal, and the schema gate.
//!
//! Must not know: what an order, an item or a user is, or which store it runs on (only [`tikv`]
//! names `tikv_client`).
//!
//! Modules: [`kv`] the seam; [`tikv`] the backend; [`keys`] the registry of key spaces; [`codec`]
//! the format byte; [`schema`] the gate; [`shard`] a shard's head and journal as they are stored;
//! [`tx_meta`] transactions as they are stored; [`claims`] request ids bound to calls; [`janitor`]
//! the chore that keeps the store clean; [`metered`] metrics and traces of any backend; [`args`]
//! the settings. The tests' store in memory is in the crate `testkit`.
//!
//! Invariants: a commit error is *undetermined* unless it is proved definite. Every stored value
//! begins with a format byte, and an unknown one is `Corrupt`, never guessed at. Only a writer that
//! knows the end of a shard's journal appends to it ([`shard`]).

/// Implements [`kv::Reads`] for a type: reads, overlaid with a transaction's own writes. Takes a
/// name for `self`, and expressions for the reads and for the writes.
macro_rules! reads_over {
    ($type:ty, |$this:ident| $reads:expr, $own:expr) => {
        #[async_trait]
        impl Reads for $type {
            fn read_ts(&self) -> Timestamp {
                let $this = self;
                $reads.at()
            }

            async fn get(&mut self, key: &[u8]) -> Result<Option<Value>, KvError> {
                let $this = self;
                $reads.get_over(key, $own).await
            }

            async fn batch_get(&mut self, keys: Vec<Key>) -> Result<Vec<(Key, Value)>, KvError> {
                let $this = self;
                $reads.batch_get_over(keys, $own).await
            }

            async fn scan(
                &mut self,
                range: Range<Key>,
                limit: u32,
            ) -> Result<Vec<(Key, Value)>, KvError> {
                let $this = self;
                $reads.scan_over(range, limit, $own).await
            }
        }
    };
}

pub mod args;
pub mod claims;
pub mod codec;
pub mod janitor;
pub mod keys;
pub mod kv;
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
