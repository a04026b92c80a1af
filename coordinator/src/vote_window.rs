//! How long branches have to vote.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use types::CALL_LIFE_MAX_MS;

/// The time that branches have to vote: at least the setting, and more while the store is too slow
/// for that, because otherwise every vote would come too late.
#[derive(Debug)]
pub(crate) struct VoteWindow {
    least_ms: u64,
    now_ms: AtomicU64,
}

impl VoteWindow {
    /// Longest window in milliseconds, and the greatest value that the setting allows.
    pub(crate) const MAX_MS: u64 = CALL_LIFE_MAX_MS / 2;

    /// Makes a window that starts with this many milliseconds and never shrinks below.
    pub(crate) const fn new(least_ms: u64) -> Self {
        Self { least_ms, now_ms: AtomicU64::new(least_ms) }
    }

    /// The window now, in milliseconds.
    pub(crate) fn get(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    /// Doubles the window, up to its maximum: a transaction got no votes in time.
    pub(crate) fn missed(&self) {
        let most = Self::MAX_MS.max(self.least_ms);
        self.now_ms.store(self.get().saturating_mul(2).min(most), Ordering::Relaxed);
    }

    /// A transaction got its votes in time: the window shrinks slowly, and never below four times
    /// `took`.
    pub(crate) fn kept(&self, took: Duration) {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let enough = took_ms.saturating_mul(4).max(self.least_ms);
        let now = self.get();
        if enough < now {
            let step = ((now - enough) / 8).max(1);
            self.now_ms.store(now - step, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_widens_while_votes_are_late_and_goes_back() {
        let window = VoteWindow::new(2_000);
        for expected in [4_000, 8_000, 16_000, 30_000, 30_000] {
            window.missed();
            assert_eq!(window.get(), expected);
        }
        for _ in 0..200 {
            window.kept(Duration::from_millis(2_500));
        }
        assert_eq!(window.get(), 10_000, "four times what it took");
        for _ in 0..200 {
            window.kept(Duration::from_millis(10));
        }
        assert_eq!(window.get(), 2_000, "never below the setting");
    }
}
