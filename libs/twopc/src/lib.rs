//! The commit protocol as sans-IO state machines: what stands in storage decides, and everybody who
//! looks comes to the same outcome.
//!
//! Must not know: async, clocks, randomness, I/O, the wire, and what is bought or paid: plans and holds
//! are opaque. Collections are ordered, so that one input sequence has one output sequence.
//!
//! Modules: [`participant`] a shard's book of transactions; [`undo`] the map beneath it.
//!
//! Invariants: docs/protocol.md numbers them and names their tests.

#![deny(clippy::arithmetic_side_effects, clippy::as_conversions)]

pub mod participant;
pub mod undo;
