//! Tests of the whole shop.
//!
//! Over real processes: `tests/it` and `tests/history`, and in Python `consistency`, `contract` and
//! `system` (`python3 -m pytest` in this directory), which know the executable, an address and the
//! published contracts alone.
//!
//! In one process: `tests/sim` links the roles' own modules, over a simulated network, store and
//! clock; `tests/sequences` runs the services' cores alone.
//!
//! [`process`] runs a shop of real processes. [`history`] has the clients, what they were told, and
//! whether it could have happened one call at a time.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    clippy::wildcard_enum_match_arm,
    reason = "a test's own parts: what panics has failed, and calls are named as the API names them"
)]

pub mod history;
pub mod process;
