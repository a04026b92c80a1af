//! PD's and TiKV's wire protocol in one durable process, for laptops, tests and faults.
//!
//! It is one node: no Raft, no replicas, and its data does not survive the loss of its disk.
//! Clients see exactly TiKV's behaviour: snapshot isolation by Percolator's rules, timestamps,
//! regions and errors. An acknowledged write is on disk.
//!
//! It knows nothing of a shop. Of the project's crates it depends only on `types`.
//!
//! Modules: [`wire`] (the protocol, compiled), `model` (Percolator's rules, pure), `store` (tables
//! on disk), `engine` (the state between the two: locks, cache, group commit), `tso` (timestamps),
//! `regions`, `keyspaces` and `gc` (the cluster's records, pure), `cluster` (keeps these on disk),
//! `tikv` (the store's service), `kv` and `raw` (its calls), `pd` (PD's service), `members` (of
//! PD), `convert` (messages to types), `faults`, `traffic` (counters of calls), `dispatch` (routes
//! calls to services), `http` (status and administration), `server` (the port).
//!
//! Invariants:
//! 1. A reply is sent only when everything it reports is on disk (engine: groups; test
//!    `nothing_acknowledged_is_lost_with_what_was_not_synced`).
//! 2. A request changes state within one critical section and one atomic batch, or not at all.
//! 3. A timestamp is given out once, and none is below an earlier one, across restarts and clock
//!    jumps.
//! 4. A read at R sees every commit at or below R (test
//!    `no_read_misses_a_commit_below_its_timestamp`).
//! 5. No request makes the process panic.

mod args;
mod cluster;
mod convert;
mod dispatch;
mod engine;
mod error;
mod faults;
mod gc;
mod http;
mod keyspaces;
mod kv;
mod members;
mod model;
mod pd;
mod problem;
mod raw;
mod regions;
mod server;
mod store;
mod tikv;
mod traffic;
mod tso;
pub mod wire;

pub use args::{Args, Bounds, Config, TlsPaths};
pub use error::Error;
pub use faults::{Delay, Fault, Loss, Rule};
pub use gc::PdVersion;
pub use server::run;

/// Admits a client by its certificate (DER), or returns why it is refused.
pub type Admit = std::sync::Arc<dyn Fn(&[u8]) -> Result<(), String> + Send + Sync>;

/// Called with the path of the data directory after each sync of it, before the write is
/// acknowledged. An error counts as an error of the disk.
pub type SyncProbe = std::sync::Arc<dyn Fn(&std::path::Path) -> std::io::Result<()> + Send + Sync>;
