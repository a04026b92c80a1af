//! Memory that clients make this process hold: long heads, and answers that they do not read. The
//! small fixed amount for each connection and stream is not counted. One count covers all
//! connections.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Maximum number of bytes that may be held.
pub(crate) const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The count of held bytes. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held(Arc<AtomicUsize>);

/// A part of the held bytes. Dropping it gives them back.
#[derive(Debug)]
pub(crate) struct Share {
    held: Held,
    bytes: usize,
}

impl Held {
    /// Counts more bytes as held. None when they would exceed the limit.
    pub(crate) fn take(&self, bytes: usize) -> Option<Share> {
        let share = self.add(bytes);
        (!self.is_scarce()).then_some(share)
    }

    /// Counts more bytes that are already held, even beyond the limit.
    pub(crate) fn add(&self, bytes: usize) -> Share {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        telemetry::metrics().http_held.add(signed(bytes));
        Share { held: self.clone(), bytes }
    }

    /// True when more than [`HELD_BYTES_MAX`] is held.
    pub(crate) fn is_scarce(&self) -> bool {
        self.0.load(Ordering::Relaxed) > HELD_BYTES_MAX
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.held.0.fetch_sub(self.bytes, Ordering::Relaxed);
        telemetry::metrics().http_held.add(-signed(self.bytes));
    }
}

/// A size in memory as a signed number. No size exceeds its range.
fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_held_than_may_be_and_what_is_given_back_may_be_again() {
        let held = Held::default();
        let most = held.take(HELD_BYTES_MAX).unwrap();
        assert!(!held.is_scarce());
        assert!(held.take(1).is_none());
        let over = held.add(1);
        assert!(held.is_scarce());
        drop((most, over));
        assert!(held.take(HELD_BYTES_MAX).is_some());
    }

    #[test]
    fn operators_see_what_is_held() {
        // More than all other tests of this process count together.
        let much = 1 << 40;
        let is_seen = || telemetry::metrics().http_held.get() >= signed(much / 2);
        let share = Held::default().add(much);
        assert!(is_seen());
        drop(share);
        assert!(!is_seen());
    }
}
