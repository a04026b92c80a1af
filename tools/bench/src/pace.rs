//! When calls are due.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;

/// How calls are spread over time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    /// This many callers, each of which asks again as soon as it is answered.
    Closed { callers: usize },
    /// This many calls per second on average, regardless of earlier ones, by at most this many
    /// callers.
    Open { rate: f64, callers: usize },
    /// This many callers, each of which thinks between two calls.
    Thinking { callers: usize, think: Duration },
}

impl Pace {
    /// Connections that the pace needs.
    pub(crate) const fn callers(self) -> usize {
        match self {
            Self::Closed { callers }
            | Self::Open { callers, .. }
            | Self::Thinking { callers, .. } => callers,
        }
    }

    /// The name in tables.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Closed { callers } => format!("closed loop, {callers} callers"),
            Self::Open { rate, .. } => format!("open loop, {rate}/s"),
            Self::Thinking { callers, think } => {
                format!("{callers} users who think {} ms", think.as_millis())
            }
        }
    }
}

/// The moments at which calls of an open loop are due. They are independent of each other (a
/// Poisson process), as the calls of many people are, and independent of how earlier calls fare.
#[derive(Debug)]
pub(crate) struct Arrivals {
    rng: StdRng,
    begin: Instant,
    after: f64,
    rate: f64,
}

impl Arrivals {
    /// `rate` calls per second on average, from `begin` on. The same seed gives the same moments.
    pub(crate) fn new(begin: Instant, rate: f64, seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), begin, after: 0.0, rate }
    }

    /// When the next call is due.
    pub(crate) fn next(&mut self) -> Instant {
        // Inverse of the exponential distribution; the draw is below 1, so the logarithm is finite.
        let draw: f64 = self.rng.random();
        self.after += -(1.0 - draw).ln() / self.rate;
        self.begin + Duration::from_secs_f64(self.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_keep_their_rate_and_their_order() {
        let begin = Instant::now();
        let mut arrivals = Arrivals::new(begin, 1_000.0, 7);
        let mut last = begin;
        for _ in 0..20_000 {
            let next = arrivals.next();
            assert!(next >= last);
            last = next;
        }
        let seconds = last.duration_since(begin).as_secs_f64();
        assert!((19.0..21.0).contains(&seconds), "{seconds}");
    }

    #[test]
    fn gaps_are_those_of_people_not_of_a_metronome() {
        let begin = Instant::now();
        let mut arrivals = Arrivals::new(begin, 1_000.0, 7);
        let mut last = begin;
        let mut short = 0;
        for _ in 0..10_000 {
            let next = arrivals.next();
            short += u32::from(next.duration_since(last) < Duration::from_micros(100));
            last = next;
        }
        // 1 - e^-0.1 of all gaps are below a tenth of the mean.
        assert!((850..1_050).contains(&short), "{short}");
    }
}
