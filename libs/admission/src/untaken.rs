//! Answers that wait for their client to read them.
//!
//! A client may keep its window closed or its socket unread, and still answer pings. Its answers
//! would then hold their places without limit.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::LATE;

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
    /// Completes once an answer has waited for its client for `interval`, or up to twice as long.
    /// The connection must then be cut.
    pub async fn stalled(self, interval: Duration) {
        loop {
            let due = Instant::now() + interval;
            sleep_until(due).await;
            // If this process was stopped, clients have not had their time.
            if due.elapsed() < LATE && self.look() {
                return;
            }
        }
    }

    /// Whether an answer waits that waited at the look before this one.
    pub(crate) fn look(&self) -> bool {
        let young = self.0.young.load(Ordering::Relaxed);
        let old = 1 - young;
        let waits = self.0.waiting[old].load(Ordering::Relaxed) > 0;
        if !waits {
            // The older generation has no answers left, so the young one takes its place.
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
    use futures::FutureExt as _;
    use tokio::time::{advance, timeout};

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

    #[tokio::test(start_paused = true)]
    async fn a_stopped_process_gives_its_clients_their_time() {
        let interval = Duration::from_secs(30);
        let untaken = Untaken::default();
        let mut stalled = Box::pin(untaken.clone().stalled(interval));
        let _wait = Wait::begin(untaken);
        assert!(timeout(interval, &mut stalled).await.is_err(), "it has waited for one interval");
        assert!((&mut stalled).now_or_never().is_none());
        advance(interval * 10).await;
        assert!((&mut stalled).now_or_never().is_none(), "the process was stopped");
        let woken = Instant::now();
        stalled.await;
        assert_eq!(woken.elapsed(), interval);
    }
}
