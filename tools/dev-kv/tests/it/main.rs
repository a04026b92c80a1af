//! Tests of the server with the real client and with hand-written messages.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as the tests do")]

mod basics;
mod bounds;
mod crash;
mod damage;
mod faults;
mod full;
mod garbage;
mod hostile;
mod locks;
mod pessimistic;
mod phases;
mod raw;
mod regions;
mod support;
mod timestamps;
mod tls;
mod transactions;
mod wire;
