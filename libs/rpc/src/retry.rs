//! Pauses between attempts: exponential, capped, jittered.

use std::{fmt, sync::Arc, time::Duration};

use types::Entropy;

/// An endless iterator of pauses. The n-th is drawn evenly from the upper half of `least * 2^n`,
/// capped at `most`. A pause is never zero, so a retry is never a busy loop; and it is random, so
/// callers that failed together do not retry together.
#[derive(Clone)]
pub struct Backoff {
    entropy: Arc<dyn Entropy>,
    least: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses from `least` up to `most`.
    pub fn new(entropy: Arc<dyn Entropy>, least: Duration, most: Duration) -> Self {
        Self { entropy, least, most, next: least.min(most) }
    }

    /// Starts again at the shortest pause, after a success.
    pub fn reset(&mut self) {
        self.next = self.least.min(self.most);
    }

    /// The next pause. The sequence never ends.
    pub fn pause(&mut self) -> Duration {
        let full = self.next;
        self.next = full.saturating_mul(2).min(self.most);
        let half = full / 2;
        let span = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).saturating_add(1);
        half + Duration::from_nanos(self.entropy.next_u64() % span)
    }
}

impl Iterator for Backoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.pause())
    }
}

impl fmt::Debug for Backoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backoff")
            .field("least", &self.least)
            .field("most", &self.most)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(u64);

    impl Entropy for Fixed {
        fn next_u64(&self) -> u64 {
            self.0
        }
    }

    fn pauses(bits: u64, count: usize) -> Vec<u128> {
        let (least, most) = (Duration::from_millis(10), Duration::from_millis(100));
        Backoff::new(Arc::new(Fixed(bits)), least, most)
            .take(count)
            .map(|pause| pause.as_millis())
            .collect()
    }

    #[test]
    fn pauses_double_up_to_the_cap() {
        assert_eq!(pauses(0, 6), [5, 10, 20, 40, 50, 50]);
    }

    #[test]
    fn jitter_stays_in_the_upper_half() {
        for bits in [0, 1, 12_345_678_901, u64::MAX] {
            for (pause, full) in pauses(bits, 6).into_iter().zip([10, 20, 40, 80, 100, 100]) {
                assert!(pause >= full / 2 && pause <= full, "{pause} of {full}");
            }
        }
    }

    #[test]
    fn a_reset_begins_again() {
        let mut backoff =
            Backoff::new(Arc::new(Fixed(0)), Duration::from_millis(10), Duration::from_secs(1));
        let first = backoff.pause();
        assert!(backoff.pause() > first);
        backoff.reset();
        assert_eq!(backoff.pause(), first);
    }
}
