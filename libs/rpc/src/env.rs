//! The real clock and the real entropy. Everything else takes them as `dyn Clock` and `dyn
//! Entropy`, so that a simulation can control both.

use std::time::{SystemTime, UNIX_EPOCH};

use rand::RngCore as _;
use types::{Clock, Entropy, UnixMillis};

/// The machine's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the seam that the ban points to")]
    fn now(&self) -> UnixMillis {
        // A clock before 1970 reads as 1970. That is harmless, because this clock decides nothing.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The operating system's randomness, through a generator per thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn next_u64(&self) -> u64 {
        rand::rng().next_u64()
    }
}
