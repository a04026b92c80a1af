//! The server against the real client, and against hand-written messages.

#![allow(
    dead_code,
    unused_qualifications,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::let_underscore_must_use,
    let_underscore_drop,
    reason = "the cases share one set of helpers, and a test fails by panicking"
)]

mod basics;
mod crash;
mod faults;
mod garbage;
mod hostile;
mod locks;
mod pessimistic;
mod phases;
mod raw;
mod regions;
mod support;
mod timestamps;
mod transactions;
mod wire;
