//! The commit protocol as sans-IO state machines. The durable state in storage decides each
//! outcome, so every observer reaches the same one.
//!
//! Must not know: async, clocks, randomness, I/O, the wire, and what is bought or paid. Plans and
//! holds are opaque. Collections are ordered, so the same inputs always yield the same outputs.
//!
//! Modules: [`participant`] is a shard's table of transactions, and [`undo`] the map beneath it.
//! [`coordinator`] is the machine that brings one transaction to its outcome, `resolver` its part
//! that asks when votes are missing, and [`message`] has its inputs and outputs. `rules` names the
//! machine's rules, so that a test can remove one. `model` (tests only) explores tables and
//! machines together, exhaustively.
//!
//! Invariants: docs/protocol.md numbers them; docs/invariants.md names their tests.

#![deny(clippy::arithmetic_side_effects, clippy::as_conversions)]

pub mod coordinator;
pub mod message;
#[cfg(test)]
mod model;
pub mod participant;
mod resolver;
mod rules;
pub mod undo;
