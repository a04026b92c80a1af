//! The coordinator with scripted participants. Goal: what a client and the participants see of a
//! checkout, step by step. Method: real gRPC services in this process behind the network seam, each
//! with a table of transactions and a script of verdicts and troubles; time is paused and advances
//! by itself.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod calls;
mod checkout;
mod fake;
mod operator;
mod plans;
mod resolve;
mod shop;
mod watch;
