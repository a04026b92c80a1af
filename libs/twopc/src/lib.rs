//! The commit protocol as sans-IO state machines: what stands in storage decides, and everybody who
//! looks comes to the same outcome.
//!
//! Must not know: async, clocks, randomness, I/O, the wire, and what is bought or paid: plans and holds
//! are opaque. Collections are ordered, so that one input sequence has one output sequence.
//!
//! Modules: [`participant`] a shard's table of transactions; [`undo`] the map beneath it; [`coordinator`]
//! the machine that brings one transaction to its outcome, and `resolver` its half that asks when votes
//! are missing, [`message`] what goes in and out. `model` (tests only) explores tables and machines
//! together, exhaustively.
//!
//! Invariants: docs/protocol.md numbers them and names their tests.

#![deny(clippy::arithmetic_side_effects, clippy::as_conversions)]

pub mod coordinator;
pub mod message;
#[cfg(test)]
mod model;
pub mod participant;
mod resolver;
mod rules;
pub mod undo;
