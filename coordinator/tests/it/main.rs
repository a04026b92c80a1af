//! The coordinator over participants that do as they are told. Goal: what a client and the participants see
//! of a checkout, step by step. Method: real gRPC services in this process behind the network seam, each
//! with a book of transactions and a script of verdicts and troubles; time is paused and runs by itself.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod calls;
mod checkout;
mod fake;
mod operator;
mod plans;
mod resolve;
mod shop;
mod watch;
