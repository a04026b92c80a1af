//! Runs the conformance suite on every backend, and tests the wrapper's rules on a server with
//! faults.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod claims;
mod formats;
mod garbage;
mod janitor;
mod mem;
mod members;
mod proxy;
mod schema;
mod server;
mod silence;
mod suite;
mod tikv;
