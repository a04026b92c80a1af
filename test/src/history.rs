//! What people asked of a shop and what they were told, and whether it could have happened one call at a time.
//!
//! [`calls`] the calls, [`grpc`] over the services' own wire; [`people`] clients that make them, on few orders,
//! items and users and in the same moment; [`models`] what one call at a time may do; [`linear`] whether there is
//! an order of the calls that explains all answers; [`judge`] that for a whole history; [`json`] for other
//! checkers; [`coverage`] which calls really met.

pub mod calls;
pub mod coverage;
pub mod grpc;
pub mod json;
pub mod judge;
pub mod linear;
pub mod models;
pub mod people;

use std::{cell::RefCell, rc::Rc};

use calls::{Ask, Said};

/// One call of a client, retries included.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The call.
    pub ask: Ask,
    /// Steps of a clock that all clients share.
    pub began: u64,
    /// None when the outcome is unknown.
    pub ended: Option<u64>,
    /// What it was told; none when the outcome is unknown.
    pub said: Option<Said>,
    /// Asked when nothing was in trouble any more and nothing was under way.
    pub quiet: bool,
}

/// Everything that was asked and said.
#[derive(Debug, Default)]
pub struct History {
    /// In the order in which the calls ended.
    pub entries: Vec<Entry>,
    step: u64,
    quiet: bool,
}

/// The history as clients share it.
pub type Book = Rc<RefCell<History>>;

impl History {
    /// The next step of the clock.
    fn step(&mut self) -> u64 {
        self.step += 1;
        self.step
    }

    /// Orders that somebody made, as far as anybody was told.
    fn made(&self) -> Vec<String> {
        let id = |entry: &Entry| match &entry.said {
            Some(Said::Id(order)) => Some(order.clone()),
            _ => None,
        };
        self.entries.iter().filter_map(id).collect()
    }
}
