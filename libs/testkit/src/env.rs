//! A repeatable clock and source of random numbers, for simulation and tests.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;
use types::{Clock, Entropy, UnixMillis};

/// The moment at which the clocks of tests start, unless told otherwise.
pub const ORIGIN: UnixMillis = UnixMillis(1_700_000_000_000);

/// A wall clock that starts at a given moment and follows tokio's clock. It stands still while
/// tokio's clock is paused.
#[derive(Debug, Clone, Copy)]
pub struct TokioClock {
    origin: UnixMillis,
    started: Instant,
}

impl TokioClock {
    /// A clock that shows `origin` now.
    pub fn starting_at(origin: UnixMillis) -> Self {
        Self { origin, started: Instant::now() }
    }
}

impl Default for TokioClock {
    /// A clock that shows [`ORIGIN`] now.
    fn default() -> Self {
        Self::starting_at(ORIGIN)
    }
}

impl Clock for TokioClock {
    fn now(&self) -> UnixMillis {
        let passed = self.started.elapsed().as_millis();
        self.origin.plus_ms(u64::try_from(passed).unwrap_or(u64::MAX))
    }
}

/// Random numbers from a seed.
pub struct SeededEntropy(Mutex<ChaCha8Rng>);

impl SeededEntropy {
    /// A stream of its own, from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(ChaCha8Rng::seed_from_u64(seed)))
    }
}

impl Entropy for SeededEntropy {
    fn next_u64(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }
}

impl fmt::Debug for SeededEntropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeededEntropy").finish_non_exhaustive()
    }
}
