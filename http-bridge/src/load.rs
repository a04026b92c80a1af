//! Whether one more request can be answered in time.
//!
//! By Little's law, a request waits as long as those before it take: the number in flight divided
//! by the number answered per second. If that is more than half of the time that a request has, the
//! request is refused before it starts. So requests that have begun are answered, and no work is
//! wasted. A crowd that can be served is never refused for its size.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// Up to this many requests in flight, none is refused for lack of time, whatever the rate. This
/// covers a sudden crowd, and a store that pauses.
const NEVER_REFUSED: usize = 4_000;
/// Answers are counted over windows of this length.
const WINDOW: Duration = Duration::from_secs(1);
/// A new window has a weight of one in this many, so that a pause of seconds does not look like an
/// outage.
const SMOOTHING: u64 = 8;

/// How fast requests are answered. It only triggers refusals and decides no outcome.
#[derive(Debug)]
pub(crate) struct Load {
    answered: AtomicU64,
    rate: Mutex<Rate>,
}

#[derive(Debug)]
struct Rate {
    since: Instant,
    /// Total number of answers at `since`.
    answered: u64,
    /// Answers per 1,000 seconds. None before the first window with an answer.
    millis: Option<u64>,
}

impl Load {
    pub(crate) fn new(now: Instant) -> Self {
        let rate = Rate { since: now, answered: 0, millis: None };
        Self { answered: AtomicU64::new(0), rate: Mutex::new(rate) }
    }

    /// Counts a request as answered.
    pub(crate) fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// True when a request behind `in_flight` others would wait longer than `patience`. Always
    /// false up to [`NEVER_REFUSED`] of them.
    pub(crate) fn is_overloaded(&self, in_flight: usize, patience: Duration, now: Instant) -> bool {
        if in_flight <= NEVER_REFUSED {
            return false;
        }
        // A poisoned lock is safe to use: each field is valid by itself.
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        rate.catch_up(self.answered.load(Ordering::Relaxed), now);
        let Some(millis) = rate.millis else { return false };
        let servable = u128::from(millis) * patience.as_millis() / 1_000_000;
        u128::try_from(in_flight).is_ok_and(|in_flight| in_flight > servable)
    }
}

impl Rate {
    fn catch_up(&mut self, answered: u64, now: Instant) {
        let elapsed_ms = now.saturating_duration_since(self.since).as_millis();
        if elapsed_ms < WINDOW.as_millis() {
            return;
        }
        let more = u128::from(answered.saturating_sub(self.answered));
        let latest = u64::try_from(more * 1_000_000 / elapsed_ms).unwrap_or(u64::MAX);
        // After a long gap the latest window counts alone.
        let windows =
            u64::try_from(elapsed_ms / WINDOW.as_millis()).unwrap_or(SMOOTHING).min(SMOOTHING);
        self.millis = match self.millis {
            None if latest == 0 => None,
            None => Some(latest),
            Some(before) => Some(mix(before, latest, windows)),
        };
        self.since = now;
        self.answered = answered;
    }
}

/// Weighted mean: `latest` has a weight of `windows` in [`SMOOTHING`], `before` has the rest.
fn mix(before: u64, latest: u64, windows: u64) -> u64 {
    let sum = u128::from(before) * u128::from(SMOOTHING - windows.min(SMOOTHING))
        + u128::from(latest) * u128::from(windows.min(SMOOTHING));
    u64::try_from(sum / u128::from(SMOOTHING)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(15);

    /// A load that has answered `rate` requests per second for some time.
    fn steady(rate: u64) -> (Load, Instant) {
        let mut now = Instant::now();
        let load = Load::new(now);
        for _ in 0..20 {
            now += WINDOW;
            load.answered.fetch_add(rate, Ordering::Relaxed);
            load.is_overloaded(NEVER_REFUSED + 1, PATIENCE, now);
        }
        (load, now)
    }

    #[test]
    fn a_crowd_that_can_be_served_is_served() {
        let (load, now) = steady(1_000);
        assert!(!load.is_overloaded(14_999, PATIENCE, now));
        assert!(load.is_overloaded(15_001, PATIENCE, now));
    }

    #[test]
    fn some_thousand_are_served_however_slow_that_is() {
        let (load, now) = steady(10);
        assert!(!load.is_overloaded(NEVER_REFUSED, PATIENCE, now));
        assert!(load.is_overloaded(NEVER_REFUSED + 1, PATIENCE, now));
    }

    #[test]
    fn nobody_is_refused_before_the_first_answer() {
        let now = Instant::now();
        let load = Load::new(now);
        for second in 0..60 {
            assert!(!load.is_overloaded(19_000, PATIENCE, now + Duration::from_secs(second)));
        }
    }

    #[test]
    fn a_pause_of_the_store_refuses_nobody_and_an_outage_does() {
        let (load, mut now) = steady(1_000);
        for second in 0..60 {
            now += WINDOW;
            let overloaded = load.is_overloaded(6_000, PATIENCE, now);
            assert!(!overloaded || second >= 5, "{second}");
            assert!(overloaded || second < 15, "{second}");
        }
        // And it recovers as fast.
        for _ in 0..8 {
            now += WINDOW;
            load.answered.fetch_add(1_000, Ordering::Relaxed);
            load.is_overloaded(6_000, PATIENCE, now);
        }
        assert!(!load.is_overloaded(6_000, PATIENCE, now));
    }
}
