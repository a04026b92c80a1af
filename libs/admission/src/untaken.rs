//! Answers that wait for their client to take them.
//!
//! A client may keep its window shut or leave its socket unread, and answer pings all the same. Its
//! answers would then hold their places for as long as it likes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The answers of one connection that wait for the client. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Untaken(Arc<Counts>);

/// Counts of two generations: answers that began to wait since the last look, and older ones.
#[derive(Debug, Default)]
struct Counts {
    young: AtomicUsize,
    waiting: [AtomicUsize; 2],
}

impl Untaken {
    /// Call at a steady interval. True if an answer has waited for at least one interval, and at
    /// most two: its connection is to be cut.
    pub fn look(&self) -> bool {
        let young = self.0.young.load(Ordering::Relaxed);
        let old = 1 - young;
        let waits = self.0.waiting[old].load(Ordering::Relaxed) > 0;
        if !waits {
            // No answer is left of the older generation, so the next one takes its place.
            self.0.young.store(old, Ordering::Relaxed);
        }
        waits
    }
}

/// Part of an answer, which waits for as long as this lives.
#[derive(Debug)]
pub(crate) struct Wait {
    of: Untaken,
    generation: usize,
}

impl Wait {
    pub(crate) fn begin(of: Untaken) -> Self {
        let generation = of.0.young.load(Ordering::Relaxed);
        of.0.waiting[generation].fetch_add(1, Ordering::Relaxed);
        Self { of, generation }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.of.0.waiting[self.generation].fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_waits_for_one_interval_is_seen() {
        let untaken = Untaken::default();
        assert!(!untaken.look());
        let wait = Wait::begin(untaken.clone());
        assert!(!untaken.look(), "it has begun a moment ago");
        assert!(untaken.look());
        assert!(untaken.look());
        drop(wait);
        assert!(!untaken.look());
    }

    #[test]
    fn an_answer_of_which_something_is_taken_in_each_interval_is_not() {
        let untaken = Untaken::default();
        let mut wait = Wait::begin(untaken.clone());
        for _ in 0..9 {
            assert!(!untaken.look());
            wait = Wait::begin(untaken.clone());
        }
        drop(wait);
        assert!(!untaken.look() && !untaken.look(), "nothing is there to be taken");
    }
}
