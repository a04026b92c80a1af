//! The kit over real sockets: what a caller sees of a role that starts, works, is overloaded, and
//! shuts down.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bundle;
mod drain;
mod requests;
mod shop;
mod tls;
mod wire;
