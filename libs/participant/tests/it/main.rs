//! Tests lanes over the store in memory, with the stock service's domain. Goal: every rule of a
//! participant holds through conflicts, crashes and undetermined commits. Method: paused time, one
//! thread.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test that panics has failed"
)]

mod batches;
mod calls;
mod checkpoint;
mod fill;
mod lane;
mod pace;
mod service;
mod shop;
mod transactions;
mod trouble;
