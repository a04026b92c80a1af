//! PD's and TiKV's wire protocol in one durable process, for laptops, tests and faults.
//!
//! It is one node: no Raft, no replicas, nothing that survives the loss of its disk. What it is exact in is
//! what a client can see: snapshot isolation by Percolator's rules, timestamps, regions, errors, and that an
//! acknowledged write is on the disk.
//!
//! What it must not know: anything of a shop. It depends on the project only for `types` and `telemetry`.
//!
//! Modules: [`wire`] (the protocol, compiled), `model` (Percolator's rules, pure), `store` (tables on disk),
//! `engine` (the state between the two: locks, cache, group commit), `tso` (timestamps), `regions`,
//! `keyspaces`, `gc` and `cluster` (which keep themselves on disk), `tikv` (the store's service), `kv` and
//! `raw` (what it answers), `pd` (PD's service), `members` (of PD), `convert` (messages to types), `faults`, `traffic`
//! (what was asked for), `dispatch` (brings calls to their services), `http` (status and administration), `server`
//! (the port).
//!
//! Invariants:
//! 1. A reply leaves only when everything it tells of is on disk (engine: groups; test
//!    `nothing_acknowledged_is_lost_with_what_was_not_synced`).
//! 2. A request changes state within one critical section and one atomic batch, or not at all.
//! 3. A timestamp is never given out twice, nor below one given out before, across restarts and clocks.
//! 4. Whoever reads at R misses nothing that commits at or below R (test
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

/// Lets a client in by its certificate, in DER, or says why not.
pub type Admit = std::sync::Arc<dyn Fn(&[u8]) -> Result<(), String> + Send + Sync>;

/// Called after each sync of the data directory, with its path, before anybody is told. An error counts as
/// the disk's own.
pub type SyncProbe = std::sync::Arc<dyn Fn(&std::path::Path) -> std::io::Result<()> + Send + Sync>;
