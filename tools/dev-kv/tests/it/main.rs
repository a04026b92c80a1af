//! The server against the real client, and against hand-written messages.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod basics;
mod locks;
mod phases;
mod support;
mod transactions;
mod wire;
