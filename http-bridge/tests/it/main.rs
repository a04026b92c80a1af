//! The bridge against a shop in memory: every endpoint, every refusal, malformed and repeated
//! calls, lost messages, and what HTTP itself demands. Every answer is checked against openapi.json
//! on the way.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bad_input;
mod browsers;
mod conformance;
mod console;
mod contract;
mod endpoints;
mod fuzz;
mod hostile;
mod http_rules;
mod keys;
mod memory;
mod once;
mod overload;
mod persistence;
mod ready;
mod refusals;
mod shop;
mod sockets;
mod wire;
