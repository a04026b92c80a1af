//! What clients asked of a shop, what they were told, and whether a sequence of single calls
//! explains it.
//!
//! [`calls`] has the calls, and [`grpc`] makes them over the services' own wire. [`people`] are
//! clients that make them at the same time, on few orders, items and users. [`models`] say what one
//! call at a time may do. [`linear`] searches for an order of the calls that explains all answers,
//! and [`judge`] does so for a whole history. [`json`] writes histories for other checkers.
//! [`coverage`] counts which calls overlapped or followed each other on one record.

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

/// One call of a client, including its retries.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The call.
    pub ask: Ask,
    /// When it began, in steps of a clock that all clients share.
    pub began: u64,
    /// When it ended; none if the outcome is unknown.
    pub ended: Option<u64>,
    /// The answer; none if the outcome is unknown.
    pub said: Option<Said>,
    /// True if trouble was over and nothing else was under way.
    pub quiet: bool,
}

/// All calls and their answers.
#[derive(Debug, Default)]
pub struct History {
    /// In the order in which the calls ended.
    pub entries: Vec<Entry>,
    step: u64,
    quiet: bool,
}

/// A history that clients share.
pub type Book = Rc<RefCell<History>>;

impl History {
    /// The next step of the clock.
    fn step(&mut self) -> u64 {
        self.step += 1;
        self.step
    }

    /// The new orders whose ids some client was told.
    fn made(&self) -> Vec<String> {
        let id = |entry: &Entry| match &entry.said {
            Some(Said::Id(order)) => Some(order.clone()),
            _ => None,
        };
        self.entries.iter().filter_map(id).collect()
    }
}
